"""The checkers on whole nodes: sees what every node sends, and its state after every tick.

It hangs on public places of a production node (`on_flush`, its transport's `send`, its log's
`truncate`) and reads attributes; it draws no random number and writes nothing, so that a run is the
same without it. What it finds it raises where it looks, which stops that node, and keeps: whoever
was told first, ask `raise_broken`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import apsw
import trio

from cluster.errors import TremulaError
from cluster.node import Node
from cluster.raft.core import Core
from cluster.raft.log import Entry
from cluster.raft.sqlite_log import SqliteLog
from cluster.raft.stock import Message
from pubsub.log import Batch
from simulation.invariants import Invariants
from simulation.node.archive import Archive
from simulation.node.cursors import Cursors
from simulation.node.machine import EPOCH_MS, Machine
from simulation.violation import Violation


class LogDisk:
    """Implements `Disk`: what a node's log says is on its disk, the last word of a dead one too.
    Whether that was true shows when the next process opens it."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log

    @property
    def term(self) -> int:
        return self.log.persisted_term

    @property
    def last_index(self) -> int:
        return self.log.persisted_index

    def holds(self, index: int, term: int) -> bool:
        log = self.log
        if index < log.first.index:
            return True
        entry = log.get(index)
        return index <= log.persisted_index and entry is not None and entry.term == term


class Kept(NamedTuple):
    """What a directory certainly had on disk."""

    term: int
    last_index: int
    last_term: int


class Life:
    """Implements `Observed`: one process of a node, and what was last seen of it."""

    def __init__(self, machine: Machine, node: Node) -> None:
        self.name = machine.name
        self.node = node
        self.machine = machine
        self.term = self.committed = self.applied = 0
        self.end: object = None  # the last entry of its log
        self.persisted = 0
        self.led = False

    @property
    def uid(self) -> str:
        return self.node.uid

    @property
    def core(self) -> Core | None:
        return self.node.core

    @property
    def skew_ms(self) -> int:
        return self.machine.clock_off_ms

    @property
    def is_current(self) -> bool:
        """It lives, and what it does has an effect."""
        return self.machine.node is self.node and self.machine.is_connected


class Observer:
    """Watches all machines of a run."""

    def __init__(
        self,
        now: Callable[[], float] = trio.current_time,
        note: Callable[[str, str], None] = lambda who, what: None,
    ) -> None:
        self.broken: Violation | None = None  # the first
        self._disks: dict[str, LogDisk] = {}  # by uid
        self._kept: dict[str, Kept] = {}  # by uid
        self._lives: dict[str, Life] = {}  # by name, the newest
        self._digests: dict[int, bytes] = {}  # of the state, by log index
        self._cursors = Cursors()
        self.archive = Archive(now)
        self.invariants = Invariants(self._disks, now, EPOCH_MS, note)

    def watch(self, machine: Machine) -> None:
        """Another life begins: call it when `machine.node` was made and does not run yet."""
        node = machine.node
        assert node is not None, "a life begins with its node"
        life = self._lives[machine.name] = Life(machine, node)
        send = node.transport.send

        def watched_send(to: str, message: Message) -> None:
            self._sends(life, to, message)
            send(to, message)

        read_index = node.read_index

        def watched_read_index(done: Callable[[TremulaError | None], None]) -> None:
            read_index(partial(self._reads, life, self.invariants.committed_index, done))

        redial = node.transport.redial

        def watched_redial() -> None:  # called once the log is open, before the first tick
            self._watch_events(node)
            self.look(machine)
            redial()

        node.transport.send = watched_send  # type: ignore[method-assign]
        node.transport.redial = watched_redial  # type: ignore[method-assign]
        node.read_index = watched_read_index  # type: ignore[method-assign]
        node.on_flush.append(lambda: self.look(machine))

    def _watch_events(self, node: Node) -> None:
        assert node.storage is not None, "its state is open by then"
        tail = node.storage.tail
        append = tail.append

        def watched_append(batch: Batch) -> None:
            self.archive.note(batch)
            append(batch)

        tail.append = watched_append  # type: ignore[method-assign]

    def look(self, machine: Machine) -> None:
        """Something may have happened on `machine`; costs little when nothing has. HOT."""
        life = self._lives[machine.name]
        core = life.core
        if core is None or not life.is_current:
            return
        log = core.log
        if (
            log.last is life.end
            and log.persisted_index == life.persisted
            and core.applied_index == life.applied
            and core.commit_index == life.committed
            and core.term == life.term
            and core.is_leader == life.led
        ):
            return
        with self._keeping():
            self._look(life, core)

    def final(self) -> None:
        """All is quiet: nodes at one index have equal states, row by row."""
        self.raise_broken()
        rows: dict[int, tuple[str, str]] = {}  # applied index -> node, digest of its rows
        for life in self._lives.values():
            if life.core is None or not life.is_current:
                continue
            machine = life.node.machine
            machine.commit()  # some rows are written once for many entries
            found = _digest_rows(machine.connection)
            name, known = rows.setdefault(machine.applied_index, (life.name, found))
            if known != found:
                raise Violation(
                    f"the tables of {name} and {life.name} differ at {machine.applied_index}"
                )

    def raise_broken(self) -> None:
        """Raise what was found, if anything was: a node that raised it is merely dead."""
        if self.broken is not None:
            raise self.broken

    # --- one node ---

    def _sends(self, life: Life, to: str, message: Message) -> None:
        core = life.core
        if core is None or not life.is_current:
            return
        with self._keeping():
            self._meet(life, core)
            self.invariants.sends(life, to, message)

    def _reads(
        self,
        life: Life,
        committed: int,
        done: Callable[[TremulaError | None], None],
        error: TremulaError | None,
    ) -> None:
        """A read is served: what was `committed` when it was asked must be applied (§8)."""
        core = life.core
        if error is None and core is not None and life.is_current:
            with self._keeping():
                if core.applied_index < committed:
                    raise Violation(
                        f"{life.name} serves a read at {core.applied_index}, "
                        f"{committed} was committed when it was asked"
                    )
        done(error)

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except Violation as violation:
            self.broken = self.broken or violation
            raise

    def _meet(self, life: Life, core: Core) -> None:
        """The first sight of a life's log, in its first tick: it is what was left on the disk."""
        known = self._disks.get(life.uid)
        if known is None or known.log is not core.log:
            assert isinstance(core.log, SqliteLog), "production keeps its log in SQLite"
            self._disks[life.uid] = LogDisk(core.log)
            life.term = core.log.persisted_term
            self._watch_cuts(life, core.log)
            kept = self._kept.get(life.uid)
            if kept is not None:
                self.invariants.opens(life, *kept)

    def _watch_cuts(self, life: Life, log: SqliteLog) -> None:
        truncate, reset = log.truncate, log.reset

        def cuts(index: int) -> None:
            if life.is_current:
                removed = log.slice(index, max(log.persisted_index + 1 - index, 0), 1 << 62)
                with self._keeping():
                    self.invariants.cuts(life, removed)

        def watched_truncate(index: int) -> None:
            cuts(index)
            truncate(index)

        def watched_reset(base: Entry) -> None:
            cuts(base.index + 1)
            reset(base)

        commit = log.commit

        def watched_commit() -> None:  # what a leader counts must not wait for this
            core = life.core
            leader = core if core is not None and core.is_leader and life.is_current else None
            if leader is not None and leader.commit_index > self.invariants.committed_index:
                with self._keeping():
                    self.invariants.advances(life)
            commit()

        log.commit = watched_commit  # type: ignore[method-assign]
        log.truncate = watched_truncate  # type: ignore[method-assign]
        log.reset = watched_reset  # type: ignore[method-assign]

    def _look(self, life: Life, core: Core) -> None:
        invariants = self.invariants
        self._meet(life, core)
        if core.term < life.term or core.commit_index < life.committed:
            raise Violation(f"{life.name} went back in its term or its commit index")
        if core.is_leader:
            invariants.leads(life)
        invariants.grows(life)
        if core.is_leader and core.commit_index > invariants.committed_index:
            invariants.advances(life)
        if core.applied_index != life.applied:
            self._applies(life, core)
        life.term, life.committed, life.led = core.term, core.commit_index, core.is_leader
        log = self._disks[life.uid].log
        life.end, life.persisted = log.last, log.persisted_index
        last = log.get(log.persisted_index)
        if not log.dirty and last is not None:
            self._kept[life.uid] = Kept(log.persisted_term, last.index, last.term)

    def _applies(self, life: Life, core: Core) -> None:
        """Entries were applied in this tick, or a snapshot became the state."""
        machine = life.node.machine
        before, index = life.applied, core.applied_index
        if index < before or index != machine.applied_index:
            raise Violation(f"{life.name} applied {machine.applied_index}, {index}, then {before}")
        life.applied = index
        # a new process has applied what its state held, and anything of its first tick
        first = max(before or self._cursors.index, core.log.first.index) + 1
        entries = core.log.slice(first, index + 1 - first, 1 << 62)
        for entry in entries:
            self.invariants.applies(life, entry)
        for at in range(before + 1 if before else min(machine.digests), index + 1):
            digest = machine.digests.get(at)
            if digest is not None and self._digests.setdefault(at, digest) != digest:
                raise Violation(f"the state of {life.name} differs from another's at {at}")
        if index > self._cursors.index:
            self._cursors.advance(
                index, [e for e in entries if e.index > self._cursors.index], machine.connection
            )
        self.invariants.stamps(life, machine.wall_ms, machine.elapsed_ms)


def _digest_rows(connection: apsw.Connection) -> str:
    """Of every table but the one whose row is written with the next transaction."""
    digest = blake2b(digest_size=16)
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'meta'"
        " AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    for (table,) in tables:
        digest.update(repr(table).encode())
        for row in connection.execute(f"SELECT * FROM {table}"):
            digest.update(repr(row).encode())
    return digest.hexdigest()
