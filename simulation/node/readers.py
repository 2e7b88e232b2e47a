"""Subscribers of the whole-node level: they must see every event once and in order."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import trio

from simulation.violation import Violation

if TYPE_CHECKING:
    from simulation.node.world import World

PATIENCE_S = 2.0


class Subscriber:
    """Follows the whole log from its beginning over links that break."""

    def __init__(self, world: World, number: int) -> None:
        self.newest = 0
        self._world = world
        self._number = number
        self._random = Random(world.random.getrandbits(64))

    async def run(self) -> None:
        world = self._world
        while True:
            # a client of its own now and then: another node, and a resume by revision
            with trio.move_on_after(PATIENCE_S + self._random.random() * 5 * PATIENCE_S):
                async with world.open_client(self._number, self._random) as client:
                    start = self.newest + 1
                    async with client.subscribe(">", start, credits=64) as events:
                        async for event in events:
                            if event.revision != self.newest + 1:
                                raise Violation(
                                    f"subscriber {self._number} saw revision {event.revision} "
                                    f"after {self.newest}"
                                )
                            self.newest = event.revision
