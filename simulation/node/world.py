"""One run of whole nodes: a safety phase under faults, then a phase in which all must come right.

The seed decides everything: sizes and speeds, the workloads, faults and their times, latencies, the
order of tasks. The trace is what clients, faults and nodes do, with virtual times; its hash is the
run's fingerprint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random

import trio

from cluster.client import Client, open_client
from cluster.corruption import CorruptState
from cluster.datadir import DataDirError
from cluster.node import Node
from cluster.raft.log import CorruptLog, ForgottenEntries, StorageFailed
from hooks.registry import Registry
from pubsub.events import Event
from simulation.faults import draw_strikes
from simulation.history import History, Kind
from simulation.node.archive import Archive
from simulation.node.determinism import Scheduler
from simulation.node.faults import NodeFaults, NodeStage
from simulation.node.links import Links
from simulation.node.machine import CLIENT_PORT, Machine, Site
from simulation.node.observer import Observer
from simulation.node.sqlite_disk import SimulatedDisks
from simulation.node.workloads import Workload
from simulation.node.workloads.again import Again
from simulation.node.workloads.consumers import Competing, Partitioned
from simulation.node.workloads.debounced import Debounced
from simulation.node.workloads.hooks import Handlers
from simulation.node.workloads.later import Later
from simulation.node.workloads.operator import Operator
from simulation.node.workloads.publishers import Publishers
from simulation.node.workloads.registers import Registers
from simulation.node.workloads.retained import Retained
from simulation.node.workloads.ring import Ring
from simulation.node.workloads.scopes import Scopes
from simulation.node.workloads.subscribers import Subscribers
from simulation.node.workloads.transactions import Transactions
from simulation.node.workloads.ttl import Ttl
from simulation.options import Options
from simulation.trace import Trace, kind_of
from simulation.violation import Violation

BLAMES_THE_DISK = (StorageFailed, CorruptLog, CorruptState, DataDirError, ForgottenEntries)
"""How a node ends whose disk is full, fails or rots: with words for people, and nothing else."""
LOOKS_EVERY_S = 0.25
MEMORY = next((folder for folder in ("/dev/shm",) if os.access(folder, os.W_OK)), None)
"""Where files cost least: the simulated disks say what survives, not this one."""
RECOVERY_S = 30.0
"""Virtual time in which everything must come right once the faults are over."""

WORKLOADS: dict[str, Callable[[World, Random], Workload]] = {
    "again": Again,
    "competing": Competing,
    "debounced": Debounced,
    "handlers": Handlers,
    "later": Later,
    "partitioned": Partitioned,
    "publishers": Publishers,
    "retained": Retained,
    "ring": Ring,
    "scopes": Scopes,
    "subscribers": Subscribers,
    "transactions": Transactions,
    "ttl": Ttl,
}
"""What a run may have beside the registers."""


class World:
    """A cluster of production nodes, its clients and its faults. `run` is its whole life."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        options: Options | None = None,
        kept: Collection[int] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.seed = seed
        self.random = Random(f"{seed}/{nodes}")
        self.options = options or Options.draw_node(
            self.random, nodes, NodeFaults.KINDS, list(WORKLOADS)
        )
        self.founders = [chr(ord("a") + number) for number in range(nodes)]
        self.machines: dict[str, Machine] = {}
        self.trimmed_topics: list[str] = []  # that retention may take events of
        self.registers = Registers(self, self._draw())
        self.workloads: list[Workload] = [
            self.registers,
            *(WORKLOADS[name](self, self._draw()) for name in self.options.workloads),
        ]
        self.is_operated = False
        if self.options.membership_rate or "rot" in self.options.faults:
            self.workloads.append(Operator(self, self._draw()))
        self.favourite: str | None = None  # the node that most clients ask, while it lives
        self.strikes = draw_strikes(self._draw(), self.options)
        self.stage = NodeStage(self)
        self.faults = NodeFaults(self.stage, self.strikes, kept)
        self.trace = trace or Trace()
        self.virtual_s = 0.0
        self.observer = Observer(note=lambda who, what: self.note(who, what))
        self.site: Site
        self._problem: Exception | None = None

    def _draw(self) -> Random:
        """A part of the run has its own: what it draws changes nothing for the others."""
        return Random(self.random.getrandbits(64))

    @property
    def names(self) -> list[str]:
        """Of all nodes that there were."""
        return list(self.machines)

    @property
    def history(self) -> History:
        """What clients of the registers asked and were told."""
        return self.registers.history

    @property
    def archive(self) -> Archive:
        """Every event that was ever applied."""
        return self.observer.archive

    @property
    def acknowledged(self) -> int:
        return self.registers.count(Kind.WRITE)

    @property
    def reads(self) -> int:
        return self.registers.count(Kind.READ)

    def note(self, who: str, what: str) -> None:
        self.virtual_s = trio.current_time()
        self.trace.add(self.virtual_s, who, kind_of(who, what, who in self.machines), what)

    # --- the run ---

    def run(self) -> None:
        """The whole run; raises Violation, or what a node or client raised."""
        with (
            tempfile.TemporaryDirectory(prefix="tremula-", dir=MEMORY) as folder,
            SimulatedDisks.installed() as disks,
        ):
            disks.seed(self._draw())
            scheduler = Scheduler()
            try:
                scheduler.run(self.seed, lambda: self._run(Path(folder), disks, scheduler))
            finally:
                self.observer.raise_broken()  # where it began tells more than where it ended

    async def _run(self, folder: Path, disks: SimulatedDisks, scheduler: Scheduler) -> None:
        async with trio.open_nursery() as nursery:
            links = Links(self._draw(), scheduler, self.options.latency_s)
            links.on_send = self.stage.sends
            self.site = Site(scheduler, links, disks, self.observer, self.trace, folder, nursery)
            try:
                await self._play()
            finally:
                self.trace.is_over = True
            for machine in self.machines.values():
                machine.crash()
                await machine.gone()
            nursery.cancel_scope.cancel()
        if self._problem is not None:
            raise self._problem

    async def _play(self) -> None:
        for name in self.founders:
            self.add(name).start()
        self.machines[self.founders[0]].clock_off_ms = self.options.clock_skew_ms
        for workload in self.workloads:
            workload.begin(self.site.nursery)
        self.faults.begin()
        await self._safety_phase()
        await self._liveness_phase()
        self.observer.final()
        self._check()
        self.virtual_s = trio.current_time()

    def add(self, name: str, *, joins: bool = False) -> Machine:
        """A place for one more node, which starts the cluster with the others or joins it."""
        machine = Machine(name, self.site, self.founders, self._draw(), joins=joins)
        self.machines[name] = machine
        machine.disk.sync_s = self.options.fsync_s
        machine.on_sync = lambda: self.faults.happens(name, "commit", None)
        machine.options = self.options
        machine.registry = Registry()
        for workload in self.workloads:
            workload.register(machine, machine.registry)
        return machine

    async def _safety_phase(self) -> None:
        until = trio.current_time() + self.options.safety_s
        while trio.current_time() < until:
            await trio.sleep(LOOKS_EVERY_S)
            self._look_after_nodes()

    async def _liveness_phase(self) -> None:
        self.faults.heal_all()
        self.note("world", "the faults are over")
        for workload in self.workloads:
            workload.stop()
        for workload in self.workloads:
            name = type(workload).__name__
            await self._until(workload.is_done, f"{name} are done")
        await self._until(self._agree, "all nodes are at one applied index under a leader")

    def _look_after_nodes(self) -> None:
        """Nodes end by themselves only when their disks gave them a reason."""
        self.observer.raise_broken()
        for machine in self.machines.values():
            problem = machine.problem
            if problem is not None:
                while isinstance(problem, ExceptionGroup):
                    problem = problem.exceptions[0]
                if not (machine.may_fail and isinstance(problem, BLAMES_THE_DISK)):
                    raise Violation(f"{machine.name} ended by itself: {problem!r}") from problem
                self.note(machine.name, f"ended: {type(problem).__name__}")
                machine.problem = None

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(RECOVERY_S):
            while not (all(m.is_up for m in self.machines.values()) and condition()):
                self._look_after_nodes()
                for machine in self.machines.values():
                    machine.start()
                await trio.sleep(LOOKS_EVERY_S)
            return
        raise Violation(f"not within {RECOVERY_S:.0f} s after the faults: {what}")

    def guard(self, action: Callable[[], None]) -> None:
        """Do what belongs to no task; what it raises ends the run."""
        try:
            action()
        except Exception as problem:
            self._problem = self._problem or problem
            self.site.nursery.cancel_scope.cancel()

    # --- what must hold ---

    def _agree(self) -> bool:
        members = self.members()
        if not members or not all(machine.has_core for machine in members):
            return False
        cores = [machine.core for machine in members]
        return (
            len({core.leader for core in cores}) == 1
            and cores[0].leader is not None
            and len({core.applied_index for core in cores}) == 1
            and all(core.commit_index == core.applied_index for core in cores)
        )

    def _check(self) -> None:
        digests = {}
        logs: dict[str, list[Event]] = {}
        for machine in self.members():
            name = machine.name
            assert machine.node is not None, "checked when all agree"
            digests[name] = machine.node.machine.digest.hex()
            logs[name] = machine.node.read_events(1, 1 << 30, 1 << 40)
        if len(set(digests.values())) != 1:
            raise Violation(f"the states differ: {digests}")
        for name, events in logs.items():
            self._check_log(name, events)
        first, *others = logs
        for name in others:
            if logs[name] != logs[first]:
                raise Violation(f"the log of {name} is not that of {first}")
        for workload in self.workloads:
            workload.check(self.archive.events)

    def _check_log(self, name: str, log: list[Event]) -> None:
        """It is what was applied, but for what retention may take."""
        kept = dict.fromkeys(event.revision for event in log)
        applied = self.archive.events
        if [event for event in applied if event.revision in kept] != log:
            raise Violation(f"the log of {name} has a repetition, or not what was applied")
        for event in applied:
            if event.revision not in kept and event.topic not in self.trimmed_topics:
                raise Violation(f"the log of {name} has a gap: {event} is not there")

    # --- for workloads and faults ---

    def leader(self) -> Machine | None:
        """The living leader of the newest term."""
        leaders = [machine for machine in self.machines.values() if machine.is_leader]
        return max(leaders, key=lambda machine: machine.core.term, default=None)

    def members(self) -> list[Machine]:
        """Those of whom the leader says that they belong to the cluster; none without a leader."""
        leader = self.leader()
        if leader is None:
            return []
        return [self.machines[member.name] for member in leader.core.members.members]

    def any_node(self) -> Node | None:
        """One that serves, if there is any."""
        leader = self.leader()
        return leader.node if leader is not None else None

    def revision(self) -> int:
        """The newest that any node has applied; one whose disk is new has no state yet."""
        nodes = (machine.node for machine in self.machines.values() if machine.has_core)
        return max((node.machine.revision for node in nodes if node is not None), default=0)

    def wall_ms(self) -> int:
        """The newest time of the cluster's clock that any node has applied."""
        nodes = (machine.node for machine in self.machines.values() if machine.has_core)
        return max((node.machine.wall_ms for node in nodes if node is not None), default=0)

    def open_client(
        self, number: int, random: Random, *, first: str | None = None
    ) -> AbstractAsyncContextManager[Client]:
        """A production client on a host of its own; it tries the nodes in an order of its own."""
        names = random.sample(list(self.machines), len(self.machines))
        if first is not None:
            names.sort(key=lambda name: name != first)
        return open_client(
            [(name, CLIENT_PORT) for name in names],
            network=self.site.links.at(f"client-{number}"),
            random=random,
        )
