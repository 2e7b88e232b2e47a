"""`raft.db`: the Raft log and (term, vote) in SQLite.

Each entry's checksum is chained to its predecessor, so that a flipped byte, a gap or a foreign
tail is found when the file is opened; the term, the vote and where the log begins have one too.
That SQLite did not drop an end of it, wal_tail.py finds out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgpack

from cluster.raft.log import CorruptLog, Entry, Fact, MemoryTail, StorageFailed
from cluster.raft.wal_tail import check_tail

FORMAT = 1
_HEADER = struct.Struct("<QQ")
_REFUSED = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.BusyError,
    OSError,
)


class SqliteLog(MemoryTail):
    """`raft.db`. Not thread-safe; used by the engine's task only."""

    def __init__(self, connection: apsw.Connection, path: str) -> None:
        self._connection = connection
        # told (durable term, last index) before a commit that makes the log shorter
        self.on_shorter: Callable[[int, int], None] = lambda term, last: None
        self._path = path
        self._facts = _read_facts(connection, path)
        base = int(self._facts["base"] or 0)
        entries: list[Entry] = []
        chain = int(self._facts["chain_before"] or 0)
        rows: Any = connection.execute(
            "SELECT idx, term, command, chain FROM entries WHERE idx >= ? ORDER BY idx", (base,)
        )
        for index, term, command, stored in rows:
            expected = entries[-1].index + 1 if entries else base
            if index != expected:
                raise CorruptLog(path, f"entries {expected} to {index - 1} are missing")
            chain = _chain(chain, index, term, command)
            if chain != stored:
                raise CorruptLog(path, f"the checksum of entry {index} does not fit")
            entries.append(Entry(command, index, term))
        if not entries:
            raise CorruptLog(path, "it has no entry at all")
        vote = self._facts["voted_for"]
        super().__init__(
            entries, int(self._facts["term"] or 0), None if vote is None else str(vote)
        )
        self.persisted_term = self.term
        self._chain = chain
        self._open = False  # a transaction
        # appended, and written with the commit: a leader's messages need not wait for it
        self._unwritten: list[tuple[int, int, bytes, int]] = []
        self._facts_dirty = False
        self.term_dirty = False

    @property
    def dirty(self) -> bool:
        return self._open or bool(self._unwritten)

    @classmethod
    def create(cls, path: Path) -> None:
        """A fresh log: entry 1 of term 0, which every node begins with, and no vote. Raises
        StorageFailed."""
        try:
            connection = _connect(path)
            try:
                _fill(connection)
                _keep_write_ahead_file(connection, False)
            finally:
                connection.close()
        except apsw.Error as error:
            raise StorageFailed(str(path), str(error) or type(error).__name__) from error

    @classmethod
    def open(cls, path: Path) -> SqliteLog:
        """Open and verify. Raises CorruptLog for anything that is not a whole log, StorageFailed
        where the disk does not let us look."""
        connection: apsw.Connection | None = None
        try:
            connection = _connect(path)
            recovered, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            check_tail(path, recovered)
            log = cls(connection, str(path))
            # A process that was killed may not have synced what was found, and may have left a part
            # of a transaction: make the one durable, and let no later transaction meet the other.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            _keep_write_ahead_file(connection, False)
            return log
        except Exception as error:
            if connection is not None:
                connection.close(True)
            if isinstance(error, _REFUSED):
                raise StorageFailed(str(path), str(error)) from error
            if isinstance(error, apsw.Error | KeyError | TypeError | ValueError):
                raise CorruptLog(str(path), str(error) or type(error).__name__) from error
            raise

    def note(self, name: str, value: Fact) -> None:
        """Keep a small fact in the same transaction as the log."""
        self._begin()
        self._set(name, value)

    def noted(self, name: str) -> Fact:
        return self._facts.get(name)

    def append(self, entry: Entry) -> None:
        self._add(entry)
        self._chain = _chain(self._chain, entry.index, entry.term, entry.command)
        self._unwritten.append((entry.index, entry.term, entry.command, self._chain))

    def truncate(self, index: int) -> None:
        self._cut_from(index)
        self.on_shorter(self.persisted_term, index - 1)
        self._begin()
        self._write("DELETE FROM entries WHERE idx >= ?", (index,))
        self._chain = self._chain_at(index - 1)

    def compact(self, index: int) -> None:
        """Make `index` the base. Its rows go in slices, by `sweep`: at once they stall the tick."""
        if index == self.first.index:
            return
        self._cut_to(index)
        self._begin()
        self._set("chain_before", self._chain_at(index - 1))
        self._set("base", index)

    def sweep(self, rows_max: int, bytes_max: int = 1 << 20) -> bool:
        """Delete some rows below the base; True while there are more."""
        base = self.first.index
        rows: Any = self._connection.execute(
            "SELECT idx, length(command) FROM entries WHERE idx < ? ORDER BY idx LIMIT ?",
            (base, rows_max),
        ).fetchall()
        if not rows:
            return False
        until, size = 0, 0
        for index, length in rows:
            size += length
            if until and size > bytes_max:
                break
            until = index + 1
        self._begin()
        self._write("DELETE FROM entries WHERE idx < ?", (until,))
        return until < base

    def reset(self, base: Entry) -> None:
        if base.index < self.last.index:
            self.on_shorter(self.persisted_term, base.index)
        self._restart_at(base)
        self._begin()
        self._write("DELETE FROM entries", ())
        self._chain = _chain(0, base.index, base.term, base.command)
        self._write(
            "INSERT INTO entries VALUES(?, ?, ?, ?)",
            (base.index, base.term, base.command, self._chain),
        )
        self._set("chain_before", 0)
        self._set("base", base.index)

    def set_term(self, term: int, voted_for: str | None) -> None:
        self.term = term
        self.voted_for = voted_for
        self.term_dirty = True
        self._begin()
        self._set("term", term)
        self._set("voted_for", voted_for)

    def commit(self) -> None:
        """One transaction, one fsync. Raises StorageFailed, after which nothing may be sent."""
        if not self.dirty:
            return
        self._begin()
        if self._facts_dirty:
            self._write(_SET_FACT, ("check", _facts_check(self._facts)))
            self._facts_dirty = False
        self._write("COMMIT", ())
        self._open = False
        self.term_dirty = False
        self.persisted_term = self.term
        self.persisted_index = self.last.index

    def close(self) -> None:
        """Raises StorageFailed: SQLite writes its last checkpoint here."""
        try:
            self._connection.close()
        except apsw.Error as error:
            raise StorageFailed(self._path, str(error)) from error

    def _set(self, name: str, value: Fact) -> None:
        self._facts[name] = value
        self._facts_dirty = True
        self._write(_SET_FACT, (name, value))

    def _chain_at(self, index: int) -> int:
        assert not self._unwritten, "what is asked for may not be written yet"
        row: Any = self._connection.execute(
            "SELECT chain FROM entries WHERE idx = ?", (index,)
        ).fetchone()
        assert row is not None, "an entry of the log, or the one before its base, is on the disk"
        return int(row[0])

    def _begin(self) -> None:
        """Before anything else is written: what was appended comes first."""
        if not self._open:
            self._write("BEGIN IMMEDIATE", ())
            self._open = True
        unwritten, self._unwritten = self._unwritten, []
        for row in unwritten:
            self._write("INSERT INTO entries VALUES(?, ?, ?, ?)", row)

    def _write(self, statement: str, bindings: tuple[bytes | Fact, ...]) -> None:
        try:
            self._connection.execute(statement, bindings)
        except apsw.Error as error:
            raise StorageFailed(self._path, str(error)) from error


_SET_FACT = "INSERT OR REPLACE INTO meta VALUES(?, ?)"


def _read_facts(connection: apsw.Connection, path: str) -> dict[str, Fact]:
    rows: Any = connection.execute("SELECT name, value FROM meta")
    facts: dict[str, Fact] = {str(name): value for name, value in rows}
    check = facts.pop("check", None)
    if facts.get("format") != FORMAT:
        raise CorruptLog(path, f"format {facts.get('format')!r}, this version reads {FORMAT}")
    if check != _facts_check(facts):
        raise CorruptLog(path, "the checksum of its term, vote and base does not fit")
    return facts


def _facts_check(facts: dict[str, Fact]) -> int:
    return zlib.crc32(msgpack.packb(sorted(facts.items())))


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    # until it is trusted: a log that is refused must be refused by the next start as well
    _keep_write_ahead_file(connection, True)
    connection.pragma("locking_mode", "EXCLUSIVE")
    connection.pragma("journal_mode", "WAL")
    connection.pragma("synchronous", "FULL")
    # a checkpoint inline every few MiB keeps its stall short
    connection.pragma("wal_autocheckpoint", 1000)
    connection.pragma("journal_size_limit", 16 << 20)
    return connection


def _fill(connection: apsw.Connection) -> None:
    first = Entry(b"\x01", 1, 0)
    facts: dict[str, Fact] = {
        "format": FORMAT, "term": 0, "voted_for": None, "base": 1, "chain_before": 0,
    }  # fmt: skip
    with connection:
        connection.execute(
            "CREATE TABLE entries(idx INTEGER PRIMARY KEY, term INTEGER NOT NULL,"
            " command BLOB NOT NULL, chain INTEGER NOT NULL)"
        )
        connection.execute("CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID")
        connection.executemany(
            "INSERT INTO meta VALUES(?, ?)", [*facts.items(), ("check", _facts_check(facts))]
        )
        connection.execute(
            "INSERT INTO entries VALUES(?, ?, ?, ?)",
            (first.index, first.term, first.command, _chain(0, 1, 0, first.command)),
        )


def _keep_write_ahead_file(connection: apsw.Connection, keep: bool) -> None:
    """Whether closing leaves it as it is, or moves what it holds and deletes it."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep))


def _chain(previous: int, index: int, term: int, command: bytes) -> int:
    return zlib.crc32(command, zlib.crc32(_HEADER.pack(index, term), previous))
