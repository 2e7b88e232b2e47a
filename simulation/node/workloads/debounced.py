"""A debounced handler on every node: the newest event of a key is never the one that is lost.

Each effect is in the log once and those of a key are in the order of its events; the newest write
of each key has one. What came before it may stand for itself or be left to a later one.
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

NAME = "debounced"
PATTERN = "hooks.kv.write_committed"
EFFECT_TOPIC = "debounced"
WAITS_MS = 200
WAITS_MS_MAX = 1_000
TAKES_S = 0.05
FAILS = 0.1


class Debounced:
    """What the handlers of all nodes stand for, judged by what they left in the log."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def register(self, machine: Machine, registry: Registry) -> None:
        @hook(
            PATTERN,
            name=NAME,
            start="earliest",
            retry_count=10,
            timeout_ms=2000,
            debounce_ms=WAITS_MS,
            debounce_ms_max=WAITS_MS_MAX,
        )
        async def handler(context: HookContext) -> list[Effect]:
            await trio.sleep(self._random.random() * TAKES_S)
            if self._random.random() < FAILS:
                raise ValueError("now and then")
            return [effects.publish(EFFECT_TOPIC, str(context.revision), key=context.key)]

        registry.add(handler)

    def begin(self, nursery: trio.Nursery) -> None:
        """The nodes run it."""

    def stop(self) -> None:
        """Events end when the other workloads do."""

    def is_done(self) -> bool:
        """Whether the cluster knows that every write was dealt with."""
        node = self._world.any_node()
        described = node and groups.describe(node.machine.connection, group_name(NAME))
        if node is None or not described:
            return False
        events = node.read_events(1, 1 << 30, 1 << 40)
        writes = [event.revision for event in events if event.topic == PATTERN]
        floors = [int(partition["floor"]) for partition in described["partitions"]]
        return not writes or min(floors) >= writes[-1]

    def check(self, events: Sequence[Event]) -> None:
        """Hold the effects against the writes."""
        newest = {event.key: event.revision for event in events if event.topic == PATTERN}
        by_key: dict[str | None, list[int]] = defaultdict(list)
        for event in events:
            if event.topic == EFFECT_TOPIC:
                by_key[event.key].append(int(event.data[0]))
        for key, revision in newest.items():
            found = by_key.get(key, [0])
            if found[-1] != revision:
                raise Violation(f"debounced: the newest write of {key} is {revision}: {found[-5:]}")
            if found != sorted(found):
                raise Violation(f"debounced: {key} out of order: {found}")
            if repeated := [each for each, times in Counter(found).items() if times > 1]:
                raise Violation(f"debounced: effects more than once of {repeated[:10]}")
