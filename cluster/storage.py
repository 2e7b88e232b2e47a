"""The node's durable state for Raft: the machine, its checkpoints, copies going out and coming in.

Long blocking work (checkpointing, copying) runs in a thread on a connection of its own; a lock
keeps it apart from the moment in which an installed copy replaces the file.

May not: decide what is replicated. It only moves whole states.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import msgpack
import trio

from cluster import state
from cluster.blocking import Blocking, in_thread
from cluster.corruption import CorruptState, storage_error
from cluster.datadir import DataDir, swap_in
from cluster.machine import Applied, Machine
from cluster.operations import VERSION
from cluster.raft.log import StorageFailed
from cluster.raft.membership import Membership
from cluster.raft.snapshot import SnapshotSink, SnapshotSource
from pubsub.log import Tail

VERIFIED_AT_START_BYTES_MAX = 1 << 30
"""Up to this size a node reads its whole state before it serves (about a second and a half), so
that it never answers from a file that has a flipped byte; above it pages are checked when read."""


class Storage:
    """Implements the driver's StateMachine. `on_installed` is told when a copy became the state.

    `applied_index_min` is where the Raft log begins: an older state could never catch up with it.
    """

    def __init__(
        self,
        directory: DataDir,
        on_applied: Callable[[Applied], None],
        applied_index_min: int,
        blocking: Blocking = in_thread,
    ) -> None:
        self._directory = directory
        self._blocking = blocking
        self._on_applied = on_applied
        self._lock = threading.Lock()
        self._nursery: trio.Nursery | None = None
        self._copies = 0
        self.on_installed: Callable[[], None] = lambda: None
        for stale in directory.path.glob("state.db.copy-*"):
            stale.unlink()
        self.machine = self._open(applied_index_min)
        self.tail = Tail()

    def _open(self, applied_index_min: int) -> Machine:
        path = self._directory.state_path
        try:
            return self._open_at(path, applied_index_min)
        except apsw.Error as error:
            raise storage_error(str(path), error) from error

    def _open_at(self, path: Path, applied_index_min: int) -> Machine:
        connection = state.open_state(path, applied_index_min=applied_index_min)
        # a page that a power cut tore in the last checkpoint stands whole in the write-ahead file
        state.checkpoint(connection)
        if path.stat().st_size <= VERIFIED_AT_START_BYTES_MAX:
            state.verify_pages(connection)
        meta = state.load(connection)
        if meta.cluster_id is None:
            identity = self._directory.identity
            connection.execute(
                "UPDATE meta SET cluster_id = ?, members = ?",
                (identity.cluster_id, msgpack.packb(identity.founders)),
            )
            if not identity.applicant:  # a cluster that begins now has no member that knows less
                state.note_entry_version(connection, VERSION)
        elif meta.cluster_id != self._directory.identity.cluster_id:
            raise CorruptState(str(path), f"it belongs to cluster {meta.cluster_id}")
        return Machine(connection)

    def run_in(self, nursery: trio.Nursery) -> None:
        """Where copies for peers may be made."""
        self._nursery = nursery

    @property
    def wall_ms(self) -> int:
        return self.machine.wall_ms

    @property
    def elapsed_ms(self) -> int:
        return self.machine.elapsed_ms

    @property
    def entry_version(self) -> int:
        return self.machine.entry_version

    def apply(self, index: int, term: int, command: bytes) -> list[object]:
        applied = self.machine.apply(index, term, command)
        if applied.trimmed_to:
            self.tail.forget(applied.trimmed_to)
        if applied.batch is not None:
            self.tail.append(applied.batch)
        self._on_applied(applied)
        return applied.results

    def connect(self) -> apsw.Connection:
        """To the whole applied state, which is finished for that."""
        return self.machine.connection

    def write(self) -> None:
        """When nobody waits: store what applying left in memory, and commit if it is much."""
        self.machine.finish()
        if self.machine.is_commit_due:
            self.machine.commit()

    async def checkpoint(self) -> int | None:
        """Make what is applied durable; returns the log index up to which the log may be cut."""
        self.machine.commit()
        await self._blocking(self._checkpoint_in_thread)
        self.machine.commit()
        # the rest is little by now, and only the writer's own turn finds nothing more to move
        return state.checkpoint(self.machine.connection).applied_index

    def _checkpoint_in_thread(self) -> None:
        with self._lock:
            connection = state.connect(self._directory.state_path)
            try:
                state.checkpoint(connection)
            finally:
                connection.close()

    def open_reader(self) -> apsw.Connection:
        """Another connection to what is committed of the state, for a read in a thread, and opened
        there: a checkpoint may be in the way. The caller commits before, and closes it."""
        with self._lock:
            return state.connect(self._directory.state_path)

    # --- a copy for a peer ---

    def copy(self, ready: Callable[[SnapshotSource | None], None]) -> None:
        """Begin to make a consistent copy; `ready` is called from the loop's thread, later."""
        assert self._nursery is not None, "copies are made while the node runs"
        self.machine.commit()
        self._nursery.start_soon(self._copy, ready)

    async def _copy(self, ready: Callable[[SnapshotSource | None], None]) -> None:
        self._copies += 1
        path = self._directory.path / f"state.db.copy-{self._copies}"
        try:
            source = await self._blocking(self._copy_in_thread, path)
        except (StorageFailed, OSError):
            path.unlink(missing_ok=True)  # no room for a copy: the peer waits, the node goes on
            ready(None)
            return
        ready(source)

    def _copy_in_thread(self, path: Path) -> _FileSource:
        with self._lock:
            connection = state.connect(self._directory.state_path)
            try:
                state.backup(connection, path)
            finally:
                connection.close()
        copy = state.connect(path)
        try:
            meta = state.load(copy)
        finally:
            copy.close()
        return _FileSource(path, meta)

    # --- a copy from a peer ---

    def receive(self) -> SnapshotSink:
        return _FileSink(self._directory.incoming_path, self._adopt)

    def _adopt(self) -> None:
        with self._lock:
            self.machine.connection.close()
            swap_in(self._directory.incoming_path, self._directory.state_path)
            self.machine = self._open(0)
        self.tail.clear()
        self.on_installed()

    def close(self) -> None:
        """Finish cleanly: the next start has nothing to recover."""
        self.machine.commit()
        try:
            state.checkpoint(self.machine.connection)
            self.machine.connection.close()
        except apsw.Error as error:
            raise storage_error(str(self._directory.state_path), error) from error


class _FileSource:
    def __init__(self, path: Path, meta: state.Meta) -> None:
        self.index, self.term = meta.applied_index, meta.applied_term
        self.members = Membership.decode(meta.members)
        self._file = path.open("rb")
        path.unlink()  # the open file is all that is needed: nothing is left behind by a crash
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        self._file.close()


class _FileSink:
    def __init__(self, path: Path, adopt: Callable[[], None]) -> None:
        self._path = path
        self._adopt = adopt
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise StorageFailed(str(path), str(error)) from error

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise StorageFailed(str(self._path), str(error)) from error

    def seal(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise StorageFailed(str(self._path), str(error)) from error

    def adopt(self) -> None:
        self._adopt()

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
