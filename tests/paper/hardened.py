"""Our class on the bench: the production `Core` and `Driver`, on the simulator's log and toy state.

Every message makes the round trip through msgpack, a delivery is one step of the driver, and a
crash is a power loss: what was not committed to the log, or checkpointed, is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import msgpack

from cluster import operations
from cluster.errors import DefiniteError
from cluster.raft.clock import ClusterClock
from cluster.raft.consensus import Timing
from cluster.raft.core import Core
from cluster.raft.driver import Driver
from cluster.raft.membership import Member, Membership
from cluster.raft.snapshot import SnapshotSource
from simulation.core.disk import Platter, SimulatedLog
from simulation.core.toy import ToyState
from tests.paper.laboratory import Crashed, Entry, Laboratory, Outcome, Request

EPOCH_MS = 1_700_000_000_000
CopyReady = Callable[[SnapshotSource | None], None]


class LongestTimeout(Random):
    """Always the longest election timeout: who stands for election, the schedule says."""

    def uniform(self, a: float, b: float) -> float:
        return b


class WatchedState(ToyState):
    """Remembers every write that it ever applied. While `busy`, a copy of it is not ready yet."""

    def __init__(self, members: Membership) -> None:
        super().__init__(members)
        self.ever_applied: list[str] = []
        self.busy = False
        self._asked: list[CopyReady] = []

    def apply(self, index: int, term: int, command: bytes) -> list[object]:
        self.ever_applied += _labels(command)
        return super().apply(index, term, command)

    def copy(self, ready: CopyReady) -> None:
        if self.busy:
            self._asked.append(ready)
        else:
            super().copy(ready)

    def copied(self) -> None:
        self.busy = False
        asked, self._asked = self._asked, []
        for ready in asked:
            super().copy(ready)


class HardenedLaboratory(Laboratory):
    """`Core` with its default timing. Each write is an entry of its own, as on the stock bench."""

    def __init__(self, names: Iterable[str], core_class: type[Core] = Core) -> None:
        super().__init__(names)
        self._core_class = core_class
        self._timing = Timing()
        self.heartbeat_s = self._timing.heartbeat
        self.election_min_s = self._timing.election_min
        self.election_max_s = self._timing.election_max
        founders = Membership(Member(name, f"uid-{name}", name, "voter") for name in self.names)
        self._platters = {name: Platter() for name in self.names}
        self._states = {name: WatchedState(founders) for name in self.names}
        self._drivers: dict[str, Driver] = {}
        self.power_on()

    def start(self, name: str) -> None:
        state = self._states[name]
        core = self._core_class(
            name=name,
            uid=f"uid-{name}",
            log=SimulatedLog(self._platters[name]),
            applied_index=state.rows.index,
            members=state.rows.members,
            clock=ClusterClock(name, lambda: EPOCH_MS + int(self.clock(name) * 1000)),
            random=LongestTimeout(0),
            timing=self._timing,
            now=self.clock(name),
        )
        self._drivers[name] = Driver(
            core,
            state,
            lambda peer, message: self.post(name, peer, msgpack.packb(message)),
            lambda: self.clock(name),
        )

    def stop(self, name: str) -> None:
        del self._drivers[name]
        self._states[name].lose_power()

    def drive(self, name: str) -> None:
        self._step(name, [])

    def receive(self, source: str, target: str, message: Any) -> None:
        self._step(target, [(source, msgpack.unpackb(message))])

    def link_changed(self, name: str, peer: str, up: bool) -> None:
        core = self._drivers[name].core
        (core.peer_connected if up else core.peer_disconnected)(self.clock(name), peer)

    def submit(self, request: Request, size: int) -> None:
        arguments = [request.label, "." * (size - len(request.label))]
        payload = operations.pack(0, 0, "set", arguments)
        self._drivers[request.node].core.propose(payload, _answer(request))
        self.drive(request.node)

    def submit_removal(self, request: Request, member: str) -> None:
        core = self._drivers[request.node].core
        core.change_members("removed", member, f"uid-{member}", member, _answer(request))
        self.drive(request.node)

    def compact(self, name: str) -> None:
        log = self._drivers[name].core.log
        log.compact(min(self._states[name].checkpoint(), log.persisted_index))
        self.tick(name)

    def begin_compaction(self, name: str) -> None:
        self.compact(name)
        self._states[name].busy = True

    def finish_compaction(self, name: str) -> None:
        self._states[name].copied()

    def leads(self, name: str) -> bool:
        return self._drivers[name].core.is_leader

    def log(self, name: str) -> list[Entry]:
        log = self._drivers[name].core.log
        kept = log.slice(log.first.index, len(log), 1 << 62)
        return [Entry(entry.index, entry.term, _labels(entry.command)) for entry in kept]

    def commit_index(self, name: str) -> int:
        return self._drivers[name].core.commit_index

    def voters(self, name: str) -> list[str]:
        return list(self._drivers[name].core.members.voters)

    def applied(self, name: str) -> list[str]:
        return list(self._states[name].rows.values)

    def ever_applied(self, name: str) -> list[str]:
        """Every write that the node ever applied, whether or not its state still has it."""
        return self._states[name].ever_applied

    def _step(self, name: str, arrived: list[tuple[str, Any]]) -> None:
        driver = self._drivers[name]
        try:
            more = driver.step(self.clock(name), arrived)
            while more:  # work that waits for nobody is done at once, as in the engine
                more = driver.step(self.clock(name), [])
        except Exception as error:
            raise Crashed(name, error) from error


def _labels(command: bytes) -> tuple[str, ...]:
    if command[:1] != b"\x00":  # the base that a snapshot leaves has no command at all
        return ()
    return tuple(msgpack.unpackb(payload)[3][0] for payload in msgpack.unpackb(command[1:])[3])


def _answer(request: Request) -> Callable[[object], None]:
    def answered(result: object) -> None:
        if request.outcome is not Outcome.NOTHING:
            raise AssertionError(f"{request} was answered twice")
        if isinstance(result, DefiniteError):
            request.outcome = Outcome.REFUSED
        elif isinstance(result, Exception):
            request.outcome = Outcome.UNKNOWN
        else:
            request.outcome = Outcome.ACKNOWLEDGED

    return answered
