"""An operator who changes the members while faults run: adds nodes, promotes, removes, replaces.

One procedure at a time, each gone through to its end, as docs/operations.md tells people to do it:
a voter whose disk is lost is removed before its successor is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from cluster.client import Client
from cluster.errors import Rejected, TremulaError
from hooks.registry import Registry
from pubsub.events import Event
from simulation.node.machine import PEER_PORT, Machine

if TYPE_CHECKING:
    from simulation.node.world import World

NUMBER = 900
PATIENCE_MS = 2_000
AGAIN_S = 0.2
CATCH_UP_TRIES = 25
NEW_NODES_MAX = 2
LOOKS_PER_S = 0.3
"""How often an operator looks after disks, at least."""
DONE_ALREADY = ("member_exists", "unknown_member", "member_votes")
"""An earlier attempt, whose answer was lost, has done it."""


class Operator:
    """Acts at the rate that the seed drew."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._stopping = False
        self._is_done = False
        self._joined = 0

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._run)

    def stop(self) -> None:
        self._stopping = True

    def is_done(self) -> bool:
        return self._is_done

    def check(self, events: Sequence[Event]) -> None:
        """The members that are left have one state, as every run checks."""

    async def _run(self) -> None:
        world, random = self._world, self._random
        rate = max(world.options.membership_rate, LOOKS_PER_S)
        while True:
            await trio.sleep(min(random.expovariate(rate), 3.0))
            rotten = [machine for machine in world.machines.values() if machine.is_rotten]
            if self._stopping and not rotten:
                break
            ended = [m.name for m in rotten if self._stopping or not m.is_up]
            if world.leader() is None:
                continue
            world.is_operated = True
            async with world.open_client(NUMBER, random) as client:
                if ended:
                    await self.replace(client, ended[0])
                elif not rotten and world.options.membership_rate:
                    await self._act(client)
            world.is_operated = False
        self._is_done = True

    async def _act(self, client: Client) -> None:
        world, random = self._world, self._random
        leader = world.leader()
        if leader is None:
            return
        members = leader.core.members
        others = [name for name in members.voters if name != leader.name]
        absent = [name for name in world.machines if members.get(name) is None]
        choices = []
        if len(others) >= 2:
            choices += [self.remove, self.replace]
        if absent or self._joined < NEW_NODES_MAX:
            choices.append(self.add)
        if not choices:
            return
        act = random.choice(choices)
        if act != self.add:
            name = random.choice(others)
        elif absent and random.random() < 0.7:
            name = random.choice(absent)
        else:
            self._joined += 1
            name = f"j{self._joined}"
            world.add(name, joins=True).start()
        await act(client, name)

    async def add(self, client: Client, name: str) -> None:
        """A node that runs becomes a learner, and a voter once it has caught up. One that does not
        catch up is added again: after a power cut its former directory may still have seemed there.
        """
        while True:
            await self._ask(client, "member.add", [name, f"{name}:{PEER_PORT}"])
            if await self._ask(client, "member.promote", [name], tries=CATCH_UP_TRIES):
                return
            await self.remove(client, name)

    async def remove(self, client: Client, name: str) -> None:
        await self._ask(client, "member.remove", [name])

    async def replace(self, client: Client, name: str) -> None:
        """Its disk is lost; a new one of the same name takes its place."""
        machine = self._world.machines[name]
        while machine.is_alive:
            machine.crash(power=True)
            await machine.gone()
        self._world.note(name, "is wiped")
        machine.wipe()
        machine.start()
        await self.remove(client, name)
        await self.add(client, name)

    async def _ask(
        self, client: Client, request: str, arguments: list[str], tries: int = 1_000_000
    ) -> bool:
        """Until it is done, or was tried so often."""
        for _ in range(tries):
            try:
                await client.request(request, arguments, timeout_ms=PATIENCE_MS)
                outcome = "done"
            except Rejected as refusal:
                outcome = refusal.code
            except TremulaError as error:
                outcome = error.code
            self._world.note("operator", f"{request} {arguments[0]}: {outcome}")
            if outcome == "done" or outcome in DONE_ALREADY:
                return True
            if outcome == "member_leads":
                await self._hand_over(client)
            await trio.sleep(AGAIN_S)
        return False

    async def _hand_over(self, client: Client) -> None:
        try:
            await client.request("leader.transfer", [None], timeout_ms=PATIENCE_MS)
        except TremulaError:
            pass  # it is asked again when it matters
