"""Stock PySyncObj 0.3.17 on the bench: no socket, no poller, no thread, no real clock.

The module is loaded a second time under a private name, and only that copy has its clock, its
random numbers, its poller and its journal replaced: nothing that others import is touched, and
not a line of the class itself. The journal is durable at once, which is more than the stock class
does (it never fsyncs): no violation shown here is for want of a disk.
"""

from __future__ import annotations

import importlib.util
import pickle
import zlib
from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import pysyncobj
from pysyncobj.config import FAIL_REASON
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.paper.laboratory import Crashed, Entry, Laboratory, Outcome, Request

READING_COST_S = 2e-6
"""What one reading of the clock costs: loops that run "for 0.1 s" must end in virtual time too."""
REGULAR = 0


class Member(Node):  # type: ignore[misc]
    """A node whose hash is the same in every process: the stock class iterates sets of them."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


class Disk(Journal):  # type: ignore[misc]
    """A journal in memory. `persist` marks what a crash keeps, `crash` goes back to the mark."""

    def __init__(self) -> None:
        self._entries: list[tuple[bytes, int, int]] = []
        self._facts: dict[str, Any] = {"commit": 1, "term": 0, "vote": None}
        self.persist()

    def persist(self) -> None:
        self._persisted = (list(self._entries), dict(self._facts))

    def crash(self) -> None:
        self._entries, self._facts = list(self._persisted[0]), dict(self._persisted[1])

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._entries.append((command, idx, term))

    def clear(self) -> None:
        self._entries = []

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        del self._entries[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:
        del self._entries[:entryTo]

    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._facts["commit"] = raftCommitIndex

    def getRaftCommitIndex(self) -> Any:
        return self._facts["commit"]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._facts["term"], self._facts["vote"] = term, votedForNodeId

    def getCurrentTerm(self) -> Any:
        return self._facts["term"]

    def getVotedForNodeId(self) -> Any:
        return self._facts["vote"]


class Wire(Transport):  # type: ignore[misc]
    """Messages go to the bench. A dropped node's messages that are under way still arrive, as in
    stock: a second connection of the same peer outlives `dropNode`."""

    def __init__(self, laboratory: Laboratory, name: str) -> None:
        super().__init__(None, None, None)
        self._laboratory = laboratory
        self._name = name

    def send(self, node: Node, message: Any) -> bool:
        self._laboratory.post(self._name, node.id, message)
        return self._laboratory.joined(self._name, node.id)

    def hand_over(self, source: str, message: Any) -> None:
        self._onMessageReceived(Member(source), message)

    def link_changed(self, peer: str, up: bool) -> None:
        (self._onNodeConnected if up else self._onNodeDisconnected)(Member(peer))

    def destroy(self) -> None:
        pass


class StockLaboratory(Laboratory):
    """`SyncObj` with its default settings, except for what the keyword arguments change."""

    def __init__(self, names: Iterable[str], **settings: Any) -> None:
        super().__init__(names)
        self._module = load_private_copy(self._read_clock)
        self._class = register_class(self._module)
        self._settings = settings
        defaults = self._module.SyncObjConf()
        self.heartbeat_s = defaults.appendEntriesPeriod
        self.election_min_s = defaults.raftMinTimeout
        self.election_max_s = defaults.raftMaxTimeout
        self._driven = self.names[0]
        self._disks = {name: Disk() for name in self.names}
        self._wires: dict[str, Wire] = {}
        self._nodes: dict[str, Any] = {}
        self.power_on()

    def start(self, name: str) -> None:
        self._driven = name
        self._wires[name] = Wire(self, name)
        conf = self._module.SyncObjConf(
            autoTick=False, journalFile=self._disks[name], **self._settings
        )
        others = [Member(other) for other in self.names if other != name]
        self._nodes[name] = self._class(
            Member(name), others, conf, nodeClass=Member, transport=self._wires[name]
        )
        self._disks[name].persist()

    def stop(self, name: str) -> None:
        del self._nodes[name]
        self._disks[name].crash()

    def drive(self, name: str) -> None:
        self._guarded(name, self._nodes[name].doTick)

    def receive(self, source: str, target: str, message: Any) -> None:
        self._guarded(target, lambda: self._wires[target].hand_over(source, message))

    def link_changed(self, name: str, peer: str, up: bool) -> None:
        self._wires[name].link_changed(peer, up)

    def submit(self, request: Request, size: int) -> None:
        padded = request.label.ljust(size, ".")
        self._nodes[request.node].write(padded, callback=_answer(request))

    def submit_removal(self, request: Request, member: str) -> None:
        self._nodes[request.node].removeNodeFromCluster(Member(member), _answer(request))

    def compact(self, name: str) -> None:
        """Two ticks: one makes the snapshot, the next one cuts the log."""
        self._nodes[name].forceLogCompaction()
        self.tick(name)
        self.tick(name)

    def begin_compaction(self, name: str) -> None:
        self._nodes[name].forceLogCompaction()
        self.drive(name)

    def leads(self, name: str) -> bool:
        return bool(self._nodes[name]._isLeader())

    def log(self, name: str) -> list[Entry]:
        return [Entry(index, term, _labels(command)) for command, index, term in self._disks[name]]

    def commit_index(self, name: str) -> int:
        return int(self._nodes[name].raftCommitIndex)

    def applied(self, name: str) -> list[str]:
        return list(self._nodes[name].labels)

    def voters(self, name: str) -> list[str]:
        node = self._nodes[name]
        return sorted([node.selfNode.id, *(other.id for other in node.otherNodes)])

    def _guarded(self, name: str, call: Callable[[], object]) -> None:
        self._driven = name
        try:
            call()
        except Exception as error:
            raise Crashed(name, error) from error
        finally:
            self._disks[name].persist()

    def _read_clock(self) -> float:
        self.pass_time(READING_COST_S, self._driven)
        return self.clock(self._driven)


def load_private_copy(read_clock: Callable[[], float]) -> ModuleType:
    """`pysyncobj.syncobj` once more, under another name, in the hands of the bench."""
    name = "pysyncobj._on_the_bench"  # the package part is for its relative imports
    path = f"{pysyncobj.__path__[0]}/syncobj.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    silence = SimpleNamespace(
        setTimeouts=lambda *_: None, setPreferredAddrFamily=lambda *_: None, poll=lambda *_: None
    )
    replacements: dict[str, object] = {
        "monotonicTime": read_clock,
        "random": SimpleNamespace(random=lambda: 0.999),  # always the longest election timeout
        "createPoller": lambda _: silence,
        "globalDnsResolver": lambda: silence,
        "createJournal": lambda disk: disk,
        "PIPE_NOTIFIER_ENABLED": False,
    }
    for attribute, replacement in replacements.items():
        if not hasattr(module, attribute):
            raise AttributeError(f"{path} has no {attribute}")
        setattr(module, attribute, replacement)
    return module


def register_class(module: ModuleType) -> Any:
    """The state machine of the bench: a list of labels."""

    class Register(module.SyncObj):  # type: ignore[name-defined, misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.labels: list[str] = []

        @module.replicated  # type: ignore[untyped-decorator]
        def write(self, padded: str) -> None:
            self.labels.append(padded.rstrip("."))

    return Register


def _labels(command: bytes) -> tuple[str, ...]:
    if command[0] != REGULAR:
        return ()
    return (pickle.loads(command[1:])[1][0].rstrip("."),)


def _answer(request: Request) -> Callable[[object, int], None]:
    def answered(_: object, reason: int) -> None:
        if reason == FAIL_REASON.SUCCESS:
            request.outcome = Outcome.ACKNOWLEDGED
        elif reason == FAIL_REASON.REQUEST_DENIED:
            request.outcome = Outcome.REFUSED
        else:
            request.outcome = Outcome.UNKNOWN

    return answered
