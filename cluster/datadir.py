"""The data directory of a node: who it belongs to, and whether it still knows what it promised.

    identity.json   node, uid, cluster id, founders        raft.db    the Raft log and the vote
    raft.mark       how far the log has ever been (lazy)   state.db   the replicated state
                                                           index.db   an index of its events

The uid is minted with the directory. A directory that was wiped gets a new one; so does one that
forgot something that the node may have acknowledged (an older copy, a missing or shortened file):
what is left is moved aside and the node is an applicant, which votes in nothing until it was
removed and added again. An applicant never founds a cluster either: when all nodes forgot at once,
an empty cluster must not take the place of the one that they had. A file that is *corrupt* is
another matter: the node refuses to start.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw

from cluster import state
from cluster.corruption import RECOVERY, CorruptState
from cluster.raft.log import CorruptLog
from cluster.raft.sqlite_log import SqliteLog

FORMAT = 1
IDENTITY, MARK, LOCK = "identity.json", "raft.mark", "lock"
LOG, STATE, INCOMING, INDEX = "raft.db", "state.db", "state.db.incoming", "index.db"
_FILES = (
    LOG, f"{LOG}-wal", f"{LOG}-shm", STATE, f"{STATE}-wal", f"{STATE}-shm", INCOMING, MARK,
    INDEX, f"{INDEX}-wal", f"{INDEX}-shm",
)  # fmt: skip


class DataDirError(Exception):
    """The node must not start on this directory; the message says why and what to do."""


class Identity(NamedTuple):
    """Whose directory it is. Without a cluster id the node has not joined or formed one yet."""

    node: str
    uid: str
    cluster_id: str | None
    founders: list[list[str]]
    applicant: bool = False  # what was here before forgot something: join, never form


class DataDir:
    """An opened and locked directory."""

    def __init__(self, path: Path, identity: Identity, lock: int, forgot: str | None) -> None:
        self.path = path
        self.identity = identity
        self.forgot = forgot  # what was missing, when the old content was just moved aside
        self._lock = lock

    @classmethod
    def open(cls, path: Path, node: str, mint_uid: Callable[[], str]) -> DataDir:
        """Lock the directory (creating it) and judge what is in it. Raises DataDirError."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise DataDirError(f"cannot use the data directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise DataDirError(
                f"{path} is in use by another process: stop it, or give this node its own data_dir"
            ) from error
        try:
            return cls._judge(path, node, mint_uid, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _judge(cls, path: Path, node: str, mint_uid: Callable[[], str], lock: int) -> DataDir:
        identity = _read_identity(path / IDENTITY)
        forgot: str | None = None
        if identity is None and any((path / name).exists() for name in (LOG, STATE)):
            forgot = f"{IDENTITY} is missing"
        if identity is not None and identity.node != node:
            raise DataDirError(
                f"{path} belongs to node {identity.node!r}, this node is {node!r}: "
                "correct node.name or node.data_dir"
            )
        if identity is not None and identity.cluster_id is not None:
            forgot = _forgotten(path)
        elif identity is not None:
            _remove(path)  # forming was interrupted: nothing was promised yet
        if forgot is not None:
            _move_aside(path)
            identity = None
        if identity is None:
            identity = Identity(node, mint_uid(), None, [], forgot is not None)
            _write_identity(path, identity)
        return cls(path, identity, lock, forgot)

    @property
    def log_path(self) -> Path:
        return self.path / LOG

    @property
    def state_path(self) -> Path:
        return self.path / STATE

    @property
    def index_path(self) -> Path:
        return self.path / INDEX

    @property
    def incoming_path(self) -> Path:
        return self.path / INCOMING

    def join(self, cluster_id: str, founders: list[list[str]]) -> None:
        """Belong to a cluster from now on: an empty log, and the promise to keep it."""
        _remove(self.path)
        SqliteLog.create(self.log_path)
        self.identity = self.identity._replace(cluster_id=cluster_id, founders=founders)
        _write_identity(self.path, self.identity)

    def marker(self) -> Marker:
        return Marker(self.path / MARK)

    def finish_installation(self, log: SqliteLog) -> None:
        """A crash between the log's new beginning and the state's: complete it."""
        if log.noted("installing") is not None:
            if self.incoming_path.exists():
                swap_in(self.incoming_path, self.state_path)
            log.note("installing", None)
            log.commit()
        self.incoming_path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._lock)


class Marker:
    """How far the log has ever been, kept outside of the database, in one small record that is
    overwritten in place. Written lazily: what it says was true, and more may be."""

    _FORM = "tremula-mark {:20d} {:20d}"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._known = (0, 0)

    def read(self) -> tuple[int, int]:
        """`(term, last log index)`; zeros when there is none."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0, 0
        if not data.strip(b"\0"):
            return 0, 0  # created, and nothing had reached the disk when the power went
        record, _, check = data.decode("ascii", "replace").rpartition(" ")
        fields = record.split()
        if len(fields) != 3 or check != f"{zlib.crc32(record.encode()):08x}\n":
            raise DataDirError(f"{self._path} is corrupt. {RECOVERY}")
        return int(fields[1]), int(fields[2])

    def write(self, term: int, index: int) -> None:
        """Note a position that is on disk."""
        if (term, index) != self._known:
            self._known = (term, index)
            if self._file is None:
                self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
            record = self._FORM.format(term, index)
            os.pwrite(self._file, f"{record} {zlib.crc32(record.encode()):08x}\n".encode(), 0)

    def lower(self, term: int, index: int) -> None:
        """The log is about to become shorter, rightly: the mark must not outlive that."""
        self.write(term, index)
        assert self._file is not None, "written just now"
        os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def swap_in(incoming: Path, target: Path) -> None:
    """Make a complete copy the database. Its predecessor must be closed; a stale write-ahead
    file goes first, so that it never meets the new database."""
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    os.replace(incoming, target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forgotten(path: Path) -> str | None:
    """What this directory no longer knows although the node once did, or None."""
    if not (path / LOG).exists():
        return f"{LOG} is missing"
    try:
        log = SqliteLog.open(path / LOG)
    except CorruptLog as error:
        raise DataDirError(f"{error}. {RECOVERY}") from error
    try:
        term, index = Marker(path / MARK).read()
        if (log.term, log.last.index) < (term, index) or log.last.index < index:
            return (
                f"{LOG} ends at index {log.last.index} of term {log.term}, "
                f"it had reached index {index} of term {term}"
            )
        if log.noted("installing") is not None and (path / INCOMING).exists():
            return None  # a complete copy waits to become the state
        if (path / STATE).exists():
            applied = _applied_index(path / STATE)
            if applied > log.last.index:
                return f"{LOG} ends at index {log.last.index}, and {STATE} had applied {applied}"
        elif log.first.index > 1 or index > 1:
            return f"{STATE} is missing"  # one that was never created is made from the log
    finally:
        log.close()
    return None


def _applied_index(path: Path) -> int:
    """How far the state is; 0 when it cannot be read, which its own opening will explain."""
    try:
        connection = state.connect(path)
        try:
            return state.load(connection).applied_index
        finally:
            connection.close()
    except (apsw.Error, CorruptState):
        return 0


def _read_identity(path: Path) -> Identity | None:
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise DataDirError(
                f"{path} has format {values['format']!r}, this version reads {FORMAT}"
            )
        return Identity(
            values["node"],
            values["uid"],
            values["cluster_id"],
            values["founders"],
            bool(values.get("applicant", False)),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataDirError(f"{path} is corrupt. {RECOVERY}") from error


def _write_identity(path: Path, identity: Identity) -> None:
    temporary = path / f"{IDENTITY}.tmp"
    with temporary.open("w") as file:
        file.write(json.dumps({"format": FORMAT, **identity._asdict()}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / IDENTITY)
    sync_directory(path)


def _remove(path: Path) -> None:
    for name in _FILES:
        (path / name).unlink(missing_ok=True)


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path / f"forgotten-{number}").exists():
        number += 1
    aside.mkdir()
    for name in (*_FILES, IDENTITY):
        if (path / name).exists():
            shutil.move(path / name, aside / name)
    sync_directory(path)
