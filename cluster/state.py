"""`state.db`: opening, checking, checkpointing and copying the replicated state.

One SQLite database in WAL mode. Nothing here is synced at commit (`synchronous=NORMAL`): what a
power cut takes away, the Raft log still has, because it is cut only up to what a completed
`checkpoint` made durable. Every page carries a checksum (the cksumvfs extension), verified when the
page is read from the file.

May not: decide anything. What the rows mean is the business of the machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import apsw.sqlite_extra
import msgpack

from cluster import kv, sessions
from cluster.corruption import CorruptState, UnsupportedState, storage_error
from hooks.replicated import capture, registrations, reports, settings
from pubsub import groups, log, retention
from pubsub.publishing import delayed, message_ids, topic_tails

FORMAT: Final = 2
APPLICATION_ID: Final = 0x5452454D  # "TREM": what `file` and SQLite's own tools show
CHECKSUMS: Final = "cksmvfs"
MEMORY: Final = ":memory:"

# Puts of 100 and of 1000 bytes at random keys cost a tenth less than with 4096, their checkpoints a
# quarter to a half; 1024 gains nothing more and breaks values of 1000 bytes apart.
PAGE_BYTES: Final = 2048
CACHE_BYTES: Final = 32 * 1024 * 1024
WAL_FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # a larger one is cut after a checkpoint emptied it
_CHECKSUM_BYTES: Final = 8  # at the end of every page
_STATEMENTS: Final = 200  # prepared ones that a connection keeps: more than there are in our code
_BUSY_MS: Final = 1_000  # locks between our own connections last microseconds

_SCHEMA: Final = """
CREATE TABLE meta(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    applied_index INTEGER NOT NULL,
    applied_term INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest BLOB NOT NULL,
    wall_ms INTEGER NOT NULL,
    elapsed_ms INTEGER NOT NULL,
    next_client_id INTEGER NOT NULL,
    leader TEXT,
    leader_term INTEGER NOT NULL,
    cluster_id TEXT,
    members BLOB NOT NULL            -- msgpack [[name, uid, address, role], ...]
) STRICT;
-- Entry 1 of every log does nothing, and Raft counts it as applied from the start.
INSERT INTO meta VALUES(0, 1, 0, 0, zeroblob(32), 0, 0, 1, NULL, 0, NULL, x'90');
"""

_ENTRY_VERSION_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entry_format(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    version INTEGER NOT NULL         -- of the newest kind of entry that was applied
) STRICT;
INSERT OR IGNORE INTO entry_format VALUES(0, 1);
"""
_SCHEMAS_1: Final = (_SCHEMA, kv.SCHEMA, sessions.SCHEMA, log.SCHEMA, groups.SCHEMA)
_SCHEMAS_2: Final = (
    _ENTRY_VERSION_SCHEMA,
    topic_tails.SCHEMA,
    message_ids.SCHEMA,
    delayed.SCHEMA,
    groups.SCHEMA,  # some of its tables are newer than others
    retention.SCHEMA,
    capture.SCHEMA,
    reports.SCHEMA,
    registrations.SCHEMA,
    settings.SCHEMA,
)
"""Tables of format 2, added to a state that lacks them when it is opened: it has none of what
stands in them, and without a row all is as it was."""
_NAMES_2: Final = frozenset(
    name
    for schema in _SCHEMAS_2
    for name in re.findall(r"CREATE (?:TABLE|INDEX) IF NOT EXISTS (\w+)", schema)
)


class Meta(NamedTuple):
    """The one row that says how far the state is."""

    applied_index: int
    applied_term: int
    revision: int
    digest: bytes
    wall_ms: int
    elapsed_ms: int
    next_client_id: int
    leader: str | None
    leader_term: int
    cluster_id: str | None
    members: list[list[str]]


class Checkpoint(NamedTuple):
    """What a checkpoint did. With an `applied_index`, the log up to there may be cut."""

    applied_index: int | None  # None: readers or the writer were in the way, try again
    wal_pages: int
    moved_pages: int


def connect(path: str | Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection with our settings and nothing checked: for another thread's checkpoint or copy.

    `vfs` replaces the checksum VFS, and should be built on it.
    """
    in_memory = str(path) == MEMORY
    if not in_memory:
        register_checksums()
    connection = apsw.Connection(
        str(path), vfs=None if in_memory else vfs or CHECKSUMS, statementcachesize=_STATEMENTS
    )
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", WAL_FILE_BYTES_MAX)
    connection.pragma("cache_size", -CACHE_BYTES // 1024)
    connection.pragma("temp_store", "MEMORY")
    # One plan per statement, whatever is bound to it: without this SQLite plans many of ours anew
    # each time that they run, at ten times the cost of running them.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def open_state(
    path: str | Path, *, applied_index_min: int = 0, vfs: str | None = None
) -> apsw.Connection:
    """Open `state.db`, or create it, and check what is cheap to check.

    `applied_index_min` is what the Raft log knows to have been made durable here: an older state
    lost something. Raises CorruptState, UnsupportedState or StorageFailed.
    """
    name = str(path)
    try:
        connection = connect(path, vfs=vfs)
    except apsw.Error as error:
        raise storage_error(name, error) from error
    try:
        _initialise(connection, name)
        _check(connection, name, applied_index_min)
    except apsw.Error as error:
        connection.close(True)
        raise storage_error(name, error) from error
    except Exception:
        connection.close(True)
        raise
    return connection


def load(connection: apsw.Connection) -> Meta:
    """How far the state is."""
    *columns, members = connection.execute(
        "SELECT applied_index, applied_term, revision, digest, wall_ms, elapsed_ms, next_client_id,"
        " leader, leader_term, cluster_id, members FROM meta"
    ).get
    return Meta._make([*columns, msgpack.unpackb(members)])


def entry_version(connection: apsw.Connection) -> int:
    """The newest version of an entry that was applied, or that the cluster began with."""
    return int(connection.execute("SELECT version FROM entry_format").get)


def note_entry_version(connection: apsw.Connection, version: int) -> None:
    """Entries of this version are applied from now on, or are what the cluster begins with."""
    connection.execute("UPDATE entry_format SET version = ?", (version,))


def checkpoint(connection: apsw.Connection) -> Checkpoint:
    """Move what stands in the write-ahead file into the database, as far as nobody is in the way.

    From another thread and its own connection it moves the bulk while the machine goes on; the
    write-ahead file starts anew only after a call that found nothing more to move.
    """
    try:
        applied_index = connection.execute("SELECT applied_index FROM meta").get
        wal_pages, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        return Checkpoint(None, 0, 0)  # another checkpoint is under way
    except apsw.Error as error:
        raise storage_error(connection.filename, error) from error
    return Checkpoint(applied_index if moved == wal_pages else None, wal_pages, moved)


class Backup:
    """A consistent copy of the state, made in slices while the machine goes on.

    On the machine's own connection, entries applied between two steps go into the copy as well. On
    a connection of its own (in a thread), copy everything in one step: SQLite would start again.
    """

    def __init__(self, connection: apsw.Connection, path: str | Path) -> None:
        self._source = connection
        self._target = apsw.Connection(str(path), vfs=register_checksums())
        try:
            # A first page that says so makes the VFS add checksums to all that follow.
            self._target.reserve_bytes(reserve=connection.reserve_bytes())
            self._target.pragma("page_size", connection.pragma("page_size"))
            self._target.pragma("journal_mode", "OFF")  # a half-made copy is thrown away
            self._target.pragma("user_version", FORMAT)
            self._backup = self._target.backup("main", connection, "main")
        except apsw.Error as error:
            self._target.close(True)
            raise storage_error(connection.filename, error) from error

    def step(self, pages: int) -> bool:
        """Copy some pages (-1 = all); True once the copy is complete and synced."""
        try:
            return self._backup.step(pages)
        except apsw.Error as error:
            raise storage_error(self._source.filename, error) from error

    @property
    def progress(self) -> tuple[int, int]:
        """Pages left and pages in all."""
        return self._backup.remaining, self._backup.page_count

    def close(self) -> None:
        """Let go of both databases; an incomplete copy is of no use."""
        self._backup.close(True)
        self._target.close(True)


def backup(connection: apsw.Connection, path: str | Path) -> None:
    """A complete, consistent copy at `path`, which must not exist."""
    copy = Backup(connection, path)
    try:
        while not copy.step(-1):
            pass
    finally:
        copy.close()


def verify(connection: apsw.Connection) -> int:
    """Read everything: each page of the file against its checksum, each table against its indexes.

    Returns the number of pages; raises CorruptState. It takes seconds per gigabyte: use it in a
    thread with its own connection, or offline.
    """
    path = connection.filename
    pages = verify_pages(connection) if path else 0
    try:
        problem = connection.execute("PRAGMA integrity_check(1)").get
    except apsw.Error as error:
        raise storage_error(path, error) from error
    if problem != "ok":
        raise CorruptState(path, str(problem))
    return pages


def verify_pages(connection: apsw.Connection) -> int:
    """Check each page of the file itself against its checksum, past the cache and with the free
    pages, which no query would read; returns their number. About 1.5 s per gigabyte.
    """
    path = connection.filename
    number = 0
    try:
        page_bytes = int(connection.pragma("page_size"))
        with open(path, "rb", buffering=0) as file:
            while page := file.read(page_bytes):
                number += 1
                for _ in range(3):  # a checkpoint may be writing this very page
                    if connection.execute("SELECT verify_checksum(?)", (page,)).get == 1:
                        break
                    file.seek((number - 1) * page_bytes)
                    page = file.read(page_bytes)
                else:
                    raise CorruptState(path, f"the checksum of page {number} does not fit")
    except apsw.Error as error:
        raise storage_error(path, error) from error
    return number


def register_checksums() -> str:
    """Make the checksum VFS known to this process; leave the default as it is."""
    if CHECKSUMS not in apsw.vfs_names():
        default = apsw.vfs_names()[0]
        loader = apsw.Connection(MEMORY)
        apsw.sqlite_extra.load(loader, "cksumvfs")
        loader.close()
        apsw.set_default_vfs(default)  # raft.db has its own checksums
    return CHECKSUMS


def _initialise(connection: apsw.Connection, path: str) -> None:
    """Create the tables in a database that has no page yet. A crash in the middle leaves none."""
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # finds such a crash
    if connection.pragma("page_count") == 0:
        if path != MEMORY and Path(path).stat().st_size > 0:
            raise CorruptState(path, "it is too short for a database")
        connection.reserve_bytes(reserve=_CHECKSUM_BYTES)
        connection.pragma("page_size", PAGE_BYTES)
        connection.pragma("auto_vacuum", "NONE")
        connection.execute("BEGIN IMMEDIATE")
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", FORMAT)
        for schema in (*_SCHEMAS_1, *_SCHEMAS_2):
            connection.execute(schema).fetchall()
        connection.execute("COMMIT")
    connection.pragma("journal_mode", "WAL")


def _lacks_tables(connection: apsw.Connection) -> bool:
    """Whether the state was made before some of the tables were thought of."""
    rows = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    there = {name for (name,) in rows}
    return not there.issuperset(_NAMES_2)


def _upgrade(connection: apsw.Connection) -> None:
    """Bring an older state to ours, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for schema in _SCHEMAS_2:
        connection.execute(schema).fetchall()
    connection.pragma("user_version", FORMAT)
    connection.execute("COMMIT")


def _check(connection: apsw.Connection, path: str, applied_index_min: int) -> None:
    application: Any = connection.pragma("application_id")
    if application != APPLICATION_ID:
        raise CorruptState(path, "it is not a state of Tremula")
    found = int(connection.pragma("user_version"))
    if found > FORMAT:
        raise UnsupportedState(path, found, FORMAT)
    if found < FORMAT or _lacks_tables(connection):
        _upgrade(connection)
    # The VFS believes the header, so a flipped byte there would turn all other checks off.
    if path != MEMORY and int(connection.pragma("checksum_verification") or 0) != 1:
        raise CorruptState(path, "its header does not announce page checksums")
    meta = load(connection)
    newest = log.last_revision(connection)
    if newest != meta.revision:
        raise CorruptState(path, f"revision {meta.revision}, but the log ends at {newest}")
    if meta.applied_index < applied_index_min:
        raise CorruptState(
            path,
            f"it ends at log index {meta.applied_index}, and {applied_index_min} was on disk",
        )
