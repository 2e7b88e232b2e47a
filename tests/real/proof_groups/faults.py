"""What is done to the nodes and to the consumers while events are published and handled."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from cluster.client import Client
from cluster.errors import TremulaError
from tests.real.processes import RealCluster, eventually
from tests.real.proof.faults import Progress
from tests.real.proof_groups.programs import Program

GIVEN_UP_S: Final = 60.0  # of a session of ten seconds, on a machine that is busy
ASK_MS: Final = 1_000
LAST_HOLD: Final = 0.95

Fault = Callable[[], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Faults:
    """The course of faults; each waits until so much of the input is in the log."""

    cluster: RealCluster
    client: Client
    publishers: list[Program]
    partitioned: list[Program]
    competing: list[Program]
    progress: Progress
    bound_s: float
    say: Callable[[str], None]
    nodes_killed: list[str] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)  # process ids of consumers
    stopped: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    left_with: list[int] = field(default_factory=list)  # their exit codes
    published_at: list[float] = field(default_factory=list)  # the share at each fault
    held_s: float = 0.0  # the publishers were stopped

    async def run(self) -> None:
        """All of it."""
        await self._go_through(
            (0.12, self.kill_leader),
            (0.28, self.kill_consumers),
            (0.40, self.stop_consumers),
            (0.60, self.kill_other),
            (0.75, self.leave),
            (0.85, self.kill_consumers),
        )

    async def run_short(self) -> None:
        """The leader, and a consumer of each group."""
        await self._go_through((0.25, self.kill_leader), (0.5, self.kill_consumers))

    async def _go_through(self, *steps: tuple[float, Fault]) -> None:
        ends = [share for share, _ in steps[1:]] + [LAST_HOLD]
        for (share, fault), end in zip(steps, ends, strict=True):
            await self.progress.reach(share, self.bound_s)
            self.published_at.append(self.progress())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hold, end)
                await fault()
                nursery.cancel_scope.cancel()

    async def _hold(self, share: float) -> None:
        """A fault that lasts long stops the publishers where the next one belongs."""
        await self.progress.reach(share, self.bound_s)
        began = trio.current_time()
        for program in self.publishers:
            program.send(signal.SIGSTOP)
        try:
            await trio.sleep_forever()
        finally:
            self.held_s += trio.current_time() - began
            for program in self.publishers:
                program.send(signal.SIGCONT)

    async def kill_leader(self) -> None:
        """kill -9 of the leader; started again at once."""
        await self._kill_node(await self.cluster.leader())

    async def kill_other(self) -> None:
        """The same with a node that does not lead, and was not killed before."""
        leader = await self.cluster.leader()
        others = (name for name in self.cluster.nodes if name not in (leader, *self.nodes_killed))
        await self._kill_node(next(others))

    async def _kill_node(self, name: str) -> None:
        self.say(f"kill -9 of node {name} at {self.progress():.0%}")
        self.nodes_killed.append(name)
        await self.cluster.kill(name)
        await self.cluster.nodes[name].start()
        await self.cluster.ready(name)

    async def kill_consumers(self) -> None:
        """kill -9 of one of each group, others than before; started again at once."""
        for programs in (self.partitioned, self.competing):
            program = next(each for each in programs if each.pid not in self._hurt(programs))
            self.say(f"kill -9 of consumer {program.name} at {self.progress():.0%}")
            self.killed.append(program.pid)
            await program.kill()
            await program.start()

    def _hurt(self, programs: list[Program]) -> set[int]:
        """The present processes of those that something was done to before."""
        done = {*self.killed, *self.stopped}
        return {program.pid for program in programs if done & set(program.lives)}

    async def stop_consumers(self) -> None:
        """SIGSTOP of one of each group until the cluster has given up its session and leases."""
        for programs in (self.partitioned, self.competing):
            program = programs[1]
            self.say(f"SIGSTOP of consumer {program.name} at {self.progress():.0%}")
            self.stopped.append(program.pid)
            program.send(signal.SIGSTOP)
        for programs in (self.partitioned, self.competing):
            await self._given_up(programs[1])
        for programs in (self.partitioned, self.competing):
            self.say(f"SIGCONT of consumer {programs[1].name} at {self.progress():.0%}")
            programs[1].send(signal.SIGCONT)

    async def _given_up(self, program: Program) -> None:
        group, member = program.settings["group"], program.settings["member"]

        async def ask() -> bool:
            try:
                found = await self.client.group(group).describe(timeout_ms=ASK_MS)
            except TremulaError:
                return False
            leases = (found["competing"] or {}).get("leases", [])
            owners = [partition["owner"] for partition in found["partitions"]]
            members = [row["member"] for row in (*found["members"], *leases)]
            return member not in (*members, *owners)

        await eventually(ask, f"the cluster has given up {member} of {group}", GIVEN_UP_S)

    async def leave(self) -> None:
        """SIGTERM of one of each group, which leaves it; started again."""
        for programs in (self.partitioned, self.competing):
            program = programs[2]
            self.say(f"SIGTERM of consumer {program.name} at {self.progress():.0%}")
            self.left.append(program.pid)
            program.send(signal.SIGTERM)
            self.left_with.append(await program.ended())
            await program.start()
