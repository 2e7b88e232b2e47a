"""The fault schedule of a whole-node run: one at a time or several at once, as the seed says.

Each run draws its own mix (swarm testing): with all kinds in every run, rare combinations of a few
would never come up.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from simulation.node.machine import Machine
    from simulation.node.world import World

PAUSE_S = 1.5
FAULT_S = 2.5
CLOCK_OFF_MS = 3_600_000


class Faults:
    """Plays faults for a while, then takes all of them back."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        kinds = (
            self._crash, self._crash_silently, self._crash_all, self._stop_in_order,
            self._isolate, self._split, self._cut_one_way, self._bridge, self._slow, self._clock,
        )  # fmt: skip
        self._kinds = random.sample(kinds, random.randint(1, len(kinds)))

    async def run(self, seconds: float) -> None:
        """Returns when every fault is over and every machine runs."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(self._random.random() * PAUSE_S)
                    nursery.start_soon(self._random.choice(self._kinds))
        world = self._world
        world.links.set_cut(set())
        world.links.delay_s.clear()
        for machine in world.machines.values():
            machine.clock_off_ms = 0
            await machine.at_rest()
            if not machine.is_alive:
                machine.start(world.nursery)

    def _any(self) -> Machine:
        """The leader more often than it would be by chance: most happens there."""
        machines = list(self._world.machines.values())
        leaders = [
            machine
            for machine in machines
            if machine.node is not None and machine.node.core and machine.node.core.is_leader
        ]
        return self._random.choice(leaders if leaders and self._random.random() < 0.5 else machines)

    async def _last(self) -> None:
        await trio.sleep(self._random.random() * FAULT_S)

    async def _crash(self, *, silent: bool = False) -> None:
        machine = self._any()
        if machine.is_alive:
            self._world.note(machine.name, "power cut" if silent else "kill -9")
            await machine.crash(silent=silent)
            await self._last()
            self._start(machine)

    async def _crash_silently(self) -> None:
        await self._crash(silent=True)

    async def _crash_all(self) -> None:
        machines = [machine for machine in self._world.machines.values() if machine.is_alive]
        self._world.note("world", "kill -9 of all")
        for machine in machines:
            await machine.crash()
        for machine in machines:
            await trio.sleep(self._random.random() * 0.3)
            self._start(machine)

    async def _stop_in_order(self) -> None:
        machine = self._any()
        if machine.is_alive:
            self._world.note(machine.name, "SIGTERM")
            await machine.stop()
            await self._last()
            self._start(machine)

    def _start(self, machine: Machine) -> None:
        if not machine.is_alive:
            self._world.note(machine.name, "starts")
            machine.start(self._world.nursery)

    async def _isolate(self) -> None:
        await self._partition([[self._any().name]])

    async def _split(self) -> None:
        names = self._random.sample(self._world.names, len(self._world.names))
        at = self._random.randint(1, len(names) - 1)
        await self._partition([names[:at], names[at:]])

    async def _bridge(self) -> None:
        """One node sees both sides, which do not see each other."""
        names = self._random.sample(self._world.names, len(self._world.names))
        await self._partition([names[1:2], names[2:]])

    async def _cut_one_way(self) -> None:
        one, other = self._random.sample(self._world.names, 2)
        await self._cut({(one, other)}, f"nothing gets from {one} to {other}")

    async def _partition(self, sides: list[list[str]]) -> None:
        names = self._world.names
        if len(sides) == 1:
            sides = [sides[0], [name for name in names if name not in sides[0]]]
        left, right = sides
        pairs = {(one, other) for one in left for other in right}
        pairs |= {(other, one) for one, other in pairs}
        await self._cut(pairs, f"{''.join(left)} | {''.join(right)}")

    async def _cut(self, pairs: set[tuple[str, str]], what: str) -> None:
        links = self._world.links
        self._world.note("links", what)
        links.set_cut(links.cut | pairs)
        await self._last()
        links.set_cut(links.cut - pairs)
        self._world.note("links", f"healed: {what}")

    async def _slow(self) -> None:
        one, other = self._random.sample(self._world.names, 2)
        self._world.note("links", f"slow from {one} to {other}")
        self._world.links.delay_s[one, other] = self._random.random() * 0.2
        await self._last()
        self._world.links.delay_s.pop((one, other), None)

    async def _clock(self) -> None:
        machine = self._any()
        machine.clock_off_ms = self._random.choice((-CLOCK_OFF_MS, CLOCK_OFF_MS))
        self._world.note(machine.name, f"clock off by {machine.clock_off_ms} ms")
        await self._last()
        machine.clock_off_ms = 0
