"""The hook workload: one handler on every node, with effects, and what must be true of it.

Each event of its pattern is handled at least once, in order per key, by one node at a time; its
effect, and the news that it was handled, are in the log exactly once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from hooks import effects
from hooks.effects import Effect
from hooks.registry import HookContext, Registry, hook
from pubsub import groups
from pubsub.events import Event
from simulation.node.machine import Machine
from simulation.violation import Violation

if TYPE_CHECKING:
    from simulation.node.world import World

NAME = "recorder"
GROUP = f"hook.{NAME}"
PATTERN = "hooks.kv.write_committed"
EFFECT_TOPIC = "handled"
EXECUTED = "hooks.hook.executed"
TAKES_S = 0.05
FAILS = 0.1

HARMLESS = frozenset(("reload", "transfer"))
"""Faults after which nothing is handled again."""

AWAKENS_S = 0.1
"""A node that was stopped notices soon that its attempts are not its own any more."""


class _Attempt:
    """A handler that runs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def is_awake(self) -> bool:
        """Whether its node can stop it when the lease ends: not while that is stopped itself."""
        return trio.current_time() > self._machine.frozen_until_s + AWAKENS_S


class Handlers:
    """Keeps what the handler did, on all nodes, and judges it."""

    def __init__(self, world: World, random: Random) -> None:
        self.ended: list[tuple[str, int]] = []  # (key, revision), in the order of their ends
        self.overlaps = 0
        self._running: defaultdict[str, list[_Attempt]] = defaultdict(list)
        self._world = world
        self._random = random

    def register(self, machine: Machine, registry: Registry) -> None:
        """The handler of one node, which does nothing any more once its node is dead."""

        @hook(
            PATTERN,
            name=NAME,
            start="earliest",
            retry_count=10,
            timeout_ms=2000,
            report_executions=True,
        )
        async def handler(context: HookContext) -> list[Effect]:
            life, key = machine.lives, context.key or ""
            running = self._running[key]
            self.overlaps += any(other.is_awake for other in running)
            running.append(attempt := _Attempt(machine))
            try:
                await trio.sleep(self._random.random() * TAKES_S)
                if self._random.random() < FAILS:
                    raise ValueError("now and then")
                if machine.is_connected and machine.lives == life:
                    self.ended.append((key, context.revision))
            finally:
                running.remove(attempt)
            return [effects.publish(EFFECT_TOPIC, str(context.revision), key=key)]

        registry.add(handler)

    def begin(self, nursery: trio.Nursery) -> None:
        """The nodes run it."""

    @property
    def _nothing_repeats(self) -> bool:
        """No node was lost, replaced or cut off: they only read their hooks again."""
        options = self._world.options
        return options.faults.keys() <= HARMLESS and not options.membership_rate

    def stop(self) -> None:
        """Events end when the other workloads do."""

    def is_done(self) -> bool:
        """Whether the cluster knows that every write was handled."""
        node = self._world.any_node()
        if node is None:
            return False
        described = groups.describe(node.machine.connection, GROUP)
        if described is None:
            return False
        events = node.read_events(1, 1 << 30, 1 << 40)
        writes = [e.revision for e in events if isinstance(e, Event) and e.topic == PATTERN]
        floors = [int(partition["floor"]) for partition in described["partitions"]]
        return not writes or min(floors) >= writes[-1]

    def check(self, events: Sequence[Event]) -> None:
        """Hold what was recorded against the log."""
        wanted = {event.revision for event in events if event.topic == PATTERN}
        seen = {revision for _, revision in self.ended}
        if missing := wanted - seen:
            raise Violation(f"never handled: revisions {sorted(missing)[:10]}")
        if self._nothing_repeats and len(seen) != len(self.ended):
            twice = [r for (_, r), times in Counter(self.ended).items() if times > 1]
            raise Violation(f"handled again though no node failed: revisions {twice[:10]}")
        if self.overlaps:
            raise Violation(f"{self.overlaps} times two attempts at one key ran at once")
        by_key: dict[str, list[int]] = defaultdict(list)
        for key, revision in self.ended:
            by_key[key].append(revision)
        for key, revisions in by_key.items():
            firsts = list(dict.fromkeys(revisions))
            if firsts != sorted(firsts):
                raise Violation(f"{key} was handled out of order: {firsts}")
        done = Counter(int(e.data[0]) for e in events if e.topic == EFFECT_TOPIC)
        if lost := wanted - set(done):
            raise Violation(f"no effect of revisions {sorted(lost)[:10]}")
        if repeated := [revision for revision, times in done.items() if times > 1]:
            raise Violation(f"effects more than once of revisions {repeated[:10]}")
        told = Counter(int(e.data[1]) for e in events if e.topic == EXECUTED)
        if told != done:
            differing = sorted(r for r in told | done if told[r] != done[r])
            raise Violation(f"not told exactly once that they were handled: {differing[:10]}")
