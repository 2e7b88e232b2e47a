"""A simulated cluster at the consensus level: nodes, clients, faults, in virtual time.

Runs the production Core and Driver. Every random choice comes from the one seed, every wait from
the one heap. A safety phase with faults, then a liveness phase in which the healed cluster must
elect, apply everything and serve every client within a bounded time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from random import Random
from typing import Any

from cluster import operations
from cluster.raft import peers
from cluster.raft.clock import ClusterClock
from cluster.raft.consensus import Timing
from cluster.raft.core import CLOCK_NOTE, Core
from cluster.raft.driver import Driver
from cluster.raft.membership import Member, Membership
from simulation import linearizability
from simulation.core.checkers import Checker
from simulation.core.churn import Churn
from simulation.core.clients import Client
from simulation.core.disk import Platter, SimulatedLog
from simulation.core.faults import CoreFaults, CoreStage
from simulation.core.network import Network
from simulation.core.process import EPOCH_MS, Process
from simulation.faults import draw_strikes
from simulation.history import History
from simulation.invariants import Invariants
from simulation.linearizability import Linearizable
from simulation.options import Options
from simulation.trace import Trace, kind_of
from simulation.violation import Violation

LIVENESS_S = 20.0
REDIAL_S = 0.05


class World:
    """One run. `run()` raises Violation, or returns after the liveness phase."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        core_class: type[Core] = Core,
        driver_class: type[Driver] = Driver,
        options: Options | None = None,
        honest: bool = True,
        kept: Collection[int] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.options = options or Options.draw_core(self.random, nodes, CoreFaults.KINDS)
        self.core_class = core_class
        self.driver_class = driver_class
        self.honest = honest
        self.timing = Timing()
        self.now = 0.0
        self.checker = Checker()
        self.history = History()
        self.trace = trace or Trace()
        self.platters: dict[str, Platter] = {}  # uid -> disk, of wiped directories as well
        self.invariants = Invariants(self.platters, lambda: self.now, EPOCH_MS, self.note)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._members: dict[str, Membership] = {}  # node -> what it last showed
        self.network = Network(
            self,
            self.random,
            self.options.latency_s,
            self._deliver,
            self._connected,
            self._disconnected,
        )
        if self.trace.keeps_messages:
            self.network.on_message = self._note_message
        names = [f"n{i}" for i in range(1, nodes + 1)]
        self.founders = Membership(Member(n, f"uid-{n}", f"{n}:1", "voter") for n in names)
        self.processes = {n: Process(self, n, f"uid-{n}", self.founders) for n in names}
        self.processes[names[0]].skew_ms = self.options.clock_skew_ms
        self.favourite: str | None = None  # the node that most clients ask, while it lives
        self.clients = [Client(self, number) for number in range(self.options.clients)]
        self.strikes = draw_strikes(self.random, self.options)
        self.faults = CoreFaults(CoreStage(self), self.strikes, kept)
        self.churn = Churn(self)

    # --- time ---

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def run_until(self, time: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._heap and self._heap[0][0] <= time and not done():
            self.now, _, action = heapq.heappop(self._heap)
            action()
        if not done():
            self.now = max(self.now, time)

    def note(self, who: str, what: str) -> None:
        self.trace.add(self.now, who, kind_of(who, what, who in self.processes), what)

    def _note_message(self, sender: str, to: str, message: Any, arrival: float) -> None:
        self.trace.add(self.now, sender, "message", message["type"], to, arrival)

    # --- nodes ---

    def make_log(self, process: Process) -> SimulatedLog:
        return SimulatedLog(
            process.platter,
            process.on_commit,
            lambda removed: self.invariants.cuts(process, removed),
        )

    def make_clock(self, process: Process) -> ClusterClock:
        noted = process.platter.notes.get(CLOCK_NOTE)
        return ClusterClock(
            process.name, process.wall_ms, noted if isinstance(noted, int) else None
        )

    def fsync_honest(self) -> bool:
        return self.honest or self.random.random() < 0.5

    def leader(self) -> Process | None:
        """The living leader of the newest term."""
        leaders = [p for p in self.processes.values() if p.leads]
        return max(leaders, key=lambda p: p.core.term if p.core else 0, default=None)

    def start(self, name: str) -> None:
        self.note(name, "start")
        self.processes[name].start()
        for other in self.processes:
            if other != name:
                self.connect(name, other)

    def crash(self, name: str, power: bool) -> None:
        process = self.processes[name]
        process.bury()
        if process.alive:
            self.note(name, "power loss" if power else "kill -9")
            process.stop(power)
            self.hang_up(name)

    def hang_up(self, name: str) -> None:
        for client in self.clients:
            client.lost(self.processes[name])
        for other in self.processes:
            if other != name:
                self.network.hang_up(name, other)

    def connect(self, one: str, other: str) -> None:
        """Greet; who is not let in dials again."""
        first, second = self.processes[one], self.processes[other]
        if not (first.alive and second.alive) or self.network.is_up(one, other):
            return
        if self.objects(first, second) or self.objects(second, first):
            self.after(REDIAL_S * 5, lambda: self.connect(one, other))
        else:
            self.network.connect(one, other)

    def objects(self, process: Process, other: Process) -> bool:
        core = process.core
        assert core is not None, "only living nodes greet"
        return peers.objection(process.hello(), core.members, other.hello(), None) is not None

    def after_step(self, process: Process) -> None:
        """Look at it; then compaction: a checkpoint of the state, and the log is cut there."""
        core = process.core
        if core is None:
            return
        if core.is_leader:
            self.invariants.leads(process)
        self.invariants.grows(process)
        self.invariants.stamps(process, process.state.wall_ms, process.state.elapsed_ms)
        if core.members is not self._members.get(process.name):
            self._members[process.name] = core.members
            self.insist(process, core.members)
        if len(core.log) > self.options.compact_entries:
            durable = process.state.checkpoint()
            keep = max(durable - self.options.compact_entries // 4, core.log.first.index)
            keep = min(keep, durable, core.log.persisted_index)
            if keep > core.log.first.index:
                core.log.compact(keep)

    def insist(self, process: Process, members: Membership) -> None:
        """Hang up on whoever has a member's name and is another node."""
        for member in members.members:
            if self.processes[member.name].uid != member.uid:
                self.network.disconnect(process.name, member.name)

    def _deliver(self, to: str, sender: str, message: Any) -> None:
        process = self.processes[to]
        if process.alive:
            process.inbox.append((sender, message))
            process.wake(0.0)

    def _connected(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            core = self.processes[name].core
            if core is not None:
                core.peer_connected(self.now, peer)
                self.processes[name].wake(0.0)

    def _disconnected(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            core = self.processes[name].core
            if core is not None:
                core.peer_disconnected(self.now, peer)
                self.processes[name].wake(0.0)
        self.after(REDIAL_S, lambda: self.connect(one, other))

    # --- the run ---

    def run(self) -> None:
        for name in list(self.processes):
            self.start(name)
        clients = self.clients
        for client in clients:
            client.begin()
        self.faults.begin()
        self.churn.begin()
        self.run_until(self.options.safety_s)
        self.churn.stop()
        self.faults.heal_all()
        self.note("world", "liveness phase")
        goal = [client.completed + 5 for client in clients]
        asked = [set(client.unanswered()) for client in clients]

        def live() -> bool:
            served = all(c.completed >= g for c, g in zip(clients, goal, strict=True))
            return served and self._level() and not unanswered()

        def unanswered() -> list[str]:
            return [
                w for c, a in zip(clients, asked, strict=True) for w in c.unanswered() if w in a
            ]

        self.run_until(self.now + LIVENESS_S, live)
        if not live():
            never = f"; never answered: {', '.join(unanswered())}" if unanswered() else ""
            raise Violation(f"not live {LIVENESS_S} s after all faults were healed{never}")
        for client in clients:
            client.stopped = True
        judged = linearizability.check(self.history)
        if not isinstance(judged, Linearizable):
            raise Violation(str(judged))

    def _level(self) -> bool:
        """Every member has applied whatever anybody has applied."""
        newest = max(self.checker.log, default=1)
        leader = self.leader()
        if leader is None or leader.core is None:
            return False
        return all(
            self.processes[m.name].state.rows.index >= newest - 50
            for m in leader.core.members.members
            if self.processes[m.name].uid == m.uid
        )

    def seal_operation(self, key: str, value: str) -> bytes:
        return operations.pack(0, 0, "set", [key, value], "sim", None)

    # --- for reports ---

    @property
    def virtual_s(self) -> float:
        return self.now

    @property
    def acknowledged(self) -> int:
        return self.checker.acknowledged

    @property
    def reads(self) -> int:
        return self.checker.reads

    @property
    def names(self) -> list[str]:
        """Of all nodes that there were."""
        return sorted(self.processes)
