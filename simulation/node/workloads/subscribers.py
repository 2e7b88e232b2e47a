"""Subscribers of the whole-node level: they must see every event once and in order, or be told what
retention took before they came to it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from cluster.errors import Compacted
from hooks.registry import Registry
from pubsub.events import Event
from simulation.node.machine import Machine
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

PATIENCE_S = 2.0
COUNT = 2
NUMBER_FROM = 100
"""Their hosts are not those of other clients."""


class Subscribers:
    """Some of them, each on its own."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._subscribers = [
            Subscriber(world, number, Random(random.getrandbits(64))) for number in range(COUNT)
        ]

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        for subscriber in self._subscribers:
            nursery.start_soon(subscriber.run)

    def stop(self) -> None:
        """They go on until they have seen everything."""

    def is_done(self) -> bool:
        newest = self._world.revision()
        return all(subscriber.newest == newest for subscriber in self._subscribers)

    def check(self, events: Sequence[Event]) -> None:
        """Each checks what it sees when it sees it; here is what it was told."""
        node = self._world.any_node()
        assert node is not None, "checked when all agree"
        kept = {event.revision for event in node.read_events(1, 1 << 30, 1 << 40)}
        for subscriber in self._subscribers:
            if vain := [revision for revision in subscriber.told if revision in kept]:
                raise Violation(f"a subscriber was told that these are gone: {vain}")


class Subscriber:
    """Follows the whole log from its beginning over links that break."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.newest = 0
        self.told: list[int] = []  # the last revision of each gap that it was told of
        self._world = world
        self._number = number
        self._random = random

    async def run(self) -> None:
        world = self._world
        while True:
            # a client of its own now and then: another node, and a resume by revision
            with trio.move_on_after(PATIENCE_S + self._random.random() * 5 * PATIENCE_S):
                async with world.open_client(NUMBER_FROM + self._number, self._random) as client:
                    try:
                        await self._follow(client)
                    except Compacted as gap:
                        self.newest = gap.first_revision - 1
                        self.told.append(self.newest)

    async def _follow(self, client: Client) -> None:
        async with client.subscribe(">", self.newest + 1, credits=64) as events:
            async for event in events:
                if event.revision != self.newest + 1:
                    raise Violation(
                        f"subscriber {self._number} saw revision {event.revision} "
                        f"after {self.newest}"
                    )
                self.newest = event.revision
