"""A handler that every node runs, and one that only the leader's node runs.

Each node of the end has handled every write, and its effect is in the log once for each node that
was a member all the time; the leader's handler leaves one effect of each write, in order per key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from hooks import effects
from hooks.configuration.definition import group_name
from hooks.effects import Effect
from hooks.registry import HookContext, Registry, hook
from pubsub import groups
from pubsub.events import Event
from simulation.node.machine import Machine
from simulation.violation import Violation

if TYPE_CHECKING:
    from simulation.node.world import World

EVERYWHERE = "everywhere"
LEADING = "leading"
PATTERN = "hooks.kv.write_committed"
TAKES_S = 0.03
FAILS = 0.05


class Scopes:
    """What the handlers of all nodes left in the log, judged."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def register(self, machine: Machine, registry: Registry) -> None:
        """The two handlers of one node."""

        @hook(PATTERN, name=EVERYWHERE, scope="node", start="earliest", retry_count=10)
        async def everywhere(context: HookContext) -> list[Effect]:
            await self._work()
            return [effects.publish(f"done.{EVERYWHERE}", f"{machine.name} {context.revision}")]

        @hook(PATTERN, name=LEADING, scope="leader", start="earliest", retry_count=10)
        async def leading(context: HookContext) -> list[Effect]:
            await self._work()
            return [effects.publish(f"done.{LEADING}", str(context.revision), key=context.key)]

        registry.add(everywhere)
        registry.add(leading)

    async def _work(self) -> None:
        await trio.sleep(self._random.random() * TAKES_S)
        if self._random.random() < FAILS:
            raise ValueError("now and then")

    def begin(self, nursery: trio.Nursery) -> None:
        """The nodes run them."""

    def stop(self) -> None:
        """Events end when the other workloads do."""

    def is_done(self) -> bool:
        """Whether the cluster knows that every write was dealt with, everywhere."""
        node = self._world.any_node()
        if node is None:
            return False
        events = node.read_events(1, 1 << 30, 1 << 40)
        newest = max((e.revision for e in events if e.topic == PATTERN), default=0)
        names = [group_name(EVERYWHERE, machine.name) for machine in self._world.members()]
        for name in [group_name(LEADING), *names]:
            described = groups.describe(node.machine.connection, name)
            if not described or min(each["floor"] for each in described["partitions"]) < newest:
                return False
        return True

    def check(self, events: Sequence[Event]) -> None:
        """Hold the effects against the writes."""
        key_of = {event.revision: event.key for event in events if event.topic == PATTERN}
        led = [int(e.data[0]) for e in events if e.topic == f"done.{LEADING}"]
        self._check_once(LEADING, led, key_of)
        by_key: dict[str | None, list[int]] = defaultdict(list)
        for revision in led:
            by_key[key_of[revision]].append(revision)
        for key, revisions in by_key.items():
            if revisions != sorted(revisions):
                raise Violation(f"{LEADING}: {key} out of order: {revisions}")
        done: dict[str, list[int]] = defaultdict(list)
        for event in events:
            if event.topic == f"done.{EVERYWHERE}":
                name, revision = event.data[0].decode().split()
                done[name].append(int(revision))
        for machine in self._world.members():
            found = done[machine.name]
            if self._world.options.membership_rate:  # who was removed begins anew
                found = list(dict.fromkeys(found))
            self._check_once(f"{EVERYWHERE} on {machine.name}", found, key_of)

    def _check_once(self, who: str, done: list[int], wanted: dict[int, str | None]) -> None:
        if missing := wanted.keys() - set(done):
            raise Violation(f"{who}: no effect of revisions {sorted(missing)[:10]}")
        if repeated := [revision for revision, times in Counter(done).items() if times > 1]:
            raise Violation(f"{who}: effects more than once of revisions {repeated[:10]}")
