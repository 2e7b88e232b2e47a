"""`index.db`: the node's event index, its file, and the task that keeps it up.

The task follows the log in slices of less than a millisecond, two where it writes what a thousand
events left. It gives way: while much is written it waits until it is INDEX_LAG_EVENTS_MAX behind,
and while anything is written it takes a tenth of the time. The write path does one thing for it: it
tells of events that are alike, as those of a stream mostly are, and those need not be read again.
Queries look themselves at what is not indexed.

The file is derived, so nothing about it stops a node. One that is missing, corrupt, foreign, of
another format or not of this log is built anew; a disk that refuses is tried again later. Nothing
is synced at commit: how far the index is stands in the transaction that brought it there.

May not: be in the way of a tick, or be needed for an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import apsw
import trio

from cluster import state
from cluster.blocking import Blocking
from cluster.corruption import CorruptState, storage_error
from cluster.logs import NodeLog
from cluster.storage import Storage
from pubsub import log
from pubsub.apply import Terms
from pubsub.limits import INDEX_LAG_EVENTS_MAX, READ_BYTES_MAX
from pubsub.log import Columns
from pubsub.store import event_index, event_query
from pubsub.store.event_merge import Merger
from pubsub.store.event_query import Source
from pubsub.store.event_terms import Recent

LOOK_EVERY_S: Final = 0.1  # while events come: they are taken together
PAUSE_S: Final = 0.001  # between two slices
BUSY_LATE_S: Final = 0.002  # who is woken so much too late shares the loop with others
BUSY_EVENTS: Final = 200  # in LOOK_EVERY_S: more than that, and the write path needs the time
BUSY_SHARE: Final = 0.1  # of the loop's time, while entries are applied at all
RETRY_S: Final = 5.0  # after the disk refused
SLICE_S: Final = 0.0003  # then a request that arrived meanwhile has its turn
STEPS_MAX: Final = 4  # of one slice, for a clock that stands still
STEP_EVENTS: Final = 256  # half a millisecond where they have little in common
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024  # written since the last one
CACHE_BYTES: Final = 4 * 1024 * 1024
ALIKE_MAX: Final = 256  # ranges of events that are remembered to be alike
PAGE_BYTES: Final = 4096
_CHECKSUM_BYTES: Final = 8
_BUSY_MS: Final = 1_000


class FollowedLog(Protocol):
    """The event log as the node has applied it."""

    @property
    def revision(self) -> int:
        """Of the newest event."""

    @property
    def first_revision(self) -> int:
        """Of the oldest one that is left."""

    def columns(self, from_revision: int, events_max: int, bytes_max: int) -> Columns | None:
        """As `pubsub.log.columns`."""


class FollowedState:
    """That of a node's storage; what its reading meets is about the state and not about us."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def revision(self) -> int:
        return self._storage.machine.revision

    @property
    def first_revision(self) -> int:
        connection = self._storage.machine.connection
        try:
            return log.first_revision(connection)
        except apsw.Error as error:
            raise storage_error(connection.filename, error) from error

    def columns(self, from_revision: int, events_max: int, bytes_max: int) -> Columns | None:
        connection = self._storage.machine.connection
        try:
            return log.columns(connection, from_revision, events_max, bytes_max)
        except apsw.Error as error:
            raise storage_error(connection.filename, error) from error


class Parts(NamedTuple):
    """What a query needs of the index: taken at once, used in any thread, and then closed."""

    sources: list[Source]
    connection: apsw.Connection | None
    distrust: Callable[[apsw.Error], None] = lambda error: None  # to be told what went wrong

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class _Alike(NamedTuple):
    """Events that all have the same terms."""

    first_revision: int
    last_revision: int
    terms: Terms


class _View(NamedTuple):
    """What readers see, replaced as a whole."""

    is_open: bool
    recent: Recent | None


class EventIndex:
    """The index of one node. `run` is its life."""

    def __init__(
        self,
        path: Path,
        cluster_id: str,
        followed: FollowedLog,
        blocking: Blocking,
        tell: NodeLog,
    ) -> None:
        self.path = path
        self.rebuilds = 0
        self._cluster_id = cluster_id
        self._log = followed
        self._blocking = blocking
        self._tell = tell
        self._connection: apsw.Connection | None = None
        self._merger: Merger | None = None
        self._recent = Recent(1)
        self._view = _View(False, None)
        self._reached = 0  # what was indexed when the file was opened
        self._proven = False  # the index is one of this log
        self._distrusted: str | None = None  # why, when a reader or the task found it wrong
        self._merges_next = False
        self._trimmed_to = 0
        self._written_bytes = 0
        self._is_told = False
        self._is_written_to = False  # entries were applied since the last slice
        self._looked_at = -inf
        self._looked_revision = 0
        self._news = trio.Event()
        self._alike: deque[_Alike] = deque(maxlen=ALIKE_MAX)

    # --- for the node ---

    @property
    def lag(self) -> int:
        """Events that are not indexed yet."""
        return max(0, self._log.revision - self._recent.last_revision)

    def applied(self) -> None:
        """Entries were applied. HOT."""
        self._is_written_to = True
        if not self._is_told:
            self._is_told = True
            self._news.set()

    def note(self, first_revision: int, count: int, terms: Terms) -> None:
        """The events of an entry, which are alike. HOT."""
        last = self._alike[-1] if self._alike else None
        if last is None or (last.last_revision + 1, last.terms) != (first_revision, terms):
            last = _Alike(first_revision, first_revision, terms)
            self._alike.append(last)
        self._alike[-1] = last._replace(last_revision=first_revision + count - 1)

    def installed(self) -> None:
        """A snapshot took the place of the state: look again whether the index is of this log."""
        self._proven = False
        self._alike.clear()
        self.applied()

    async def run(self) -> None:
        """Until cancelled."""
        self.applied()
        while True:
            try:
                if self._connection is None:
                    self._open()
                await self._follow()
            except apsw.Error as error:
                # Waiting first: a process that is being killed does nothing more to its files.
                self._let_go()
                await trio.sleep(RETRY_S)
                if isinstance(storage_error(str(self.path), error), CorruptState):
                    self._distrusted = str(error)
                else:
                    self._tell.warning("the event index has to wait", problem=str(error))
                self._news.set()

    def close(self) -> None:
        """What is in memory alone is indexed again at the next start."""
        try:
            self._let_go()
        except apsw.Error:
            pass  # the file is built anew if it must be

    # --- for readers ---

    def parts(self) -> Parts:
        """The index as it is now, for one query; from any thread."""
        is_open, recent = self._view
        if not is_open:
            return Parts([], None)
        connection: apsw.Connection | None = None
        try:
            connection = _connect(self.path, readonly=True)
            connection.execute("BEGIN")
            sources = event_query.sources(connection, recent)
            return Parts(sources, connection, self.distrust)
        except apsw.Error as error:
            if connection is not None:
                connection.close()
            self.distrust(error)
            return Parts([], None)

    def distrust(self, error: apsw.Error) -> None:
        """A reader could not use it; without it every answer is the same, only later."""
        if isinstance(storage_error(str(self.path), error), CorruptState):
            self._view = _View(False, None)
            self._distrusted = str(error)

    # --- the file ---

    def _open(self) -> None:
        if self._distrusted is not None:
            self._remove(self._distrusted)
        try:
            self._connection = self._opened()
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._remove(str(error))
            self._connection = self._opened()
        known = event_index.position(self._connection)
        assert known is not None, "checked, or created just now"
        self._merger = Merger(self._connection)
        self._recent = Recent(known.revision + 1)
        self._reached = known.revision
        self._proven = False
        self._trimmed_to = 0

    def _opened(self) -> apsw.Connection:
        connection = _connect(self.path)
        try:
            if connection.pragma("page_count") == 0:
                connection.reserve_bytes(reserve=_CHECKSUM_BYTES)
                connection.pragma("page_size", PAGE_BYTES)
                connection.pragma("journal_mode", "WAL")
                event_index.create(connection, self._cluster_id)
            # The VFS believes the header: one that announces no checksums turns them off.
            checked = int(connection.pragma("checksum_verification") or 0) == 1
            known = event_index.position(connection) if checked else None
            if known is None or known.cluster_id != self._cluster_id:
                raise apsw.NotADBError("it is no index of this cluster")
        except BaseException:
            connection.close(True)
            raise
        return connection

    def _remove(self, why: str) -> None:
        self._let_go()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._distrusted = None
        self.rebuilds += 1
        self._tell.warning("the event index is built anew", problem=why)

    def _let_go(self) -> None:
        self._view = _View(False, None)
        connection, self._connection, self._merger = self._connection, None, None
        if connection is not None:
            connection.close(True)

    # --- the work ---

    async def _follow(self) -> None:
        await self._news.wait()
        self._news = trio.Event()
        self._is_told = False
        await trio.sleep(LOOK_EVERY_S)
        pause_s = PAUSE_S
        while self._has_work():
            started = trio.current_time()
            await trio.sleep(pause_s)
            late_s = trio.current_time() - started - pause_s
            is_busy = late_s > BUSY_LATE_S or self._writes_are_busy()
            if is_busy and self.lag <= INDEX_LAG_EVENTS_MAX:
                await trio.sleep(LOOK_EVERY_S)
                continue
            was_written_to, self._is_written_to = self._is_written_to, False
            started = trio.current_time()
            for _ in range(STEPS_MAX):
                self._step()
                if not self._has_work() or trio.current_time() > started + SLICE_S:
                    break
            pause_s = PAUSE_S
            if was_written_to:
                pause_s = max(PAUSE_S, (trio.current_time() - started) / BUSY_SHARE)
            if self._written_bytes >= CHECKPOINT_BYTES:
                self._written_bytes = 0
                await self._blocking(_checkpoint, self.path)

    def _writes_are_busy(self) -> bool:
        """Whether many events came since the last look: then what is indexed now slows the next."""
        now = trio.current_time()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        revision = self._log.revision
        came, self._looked_revision = revision - self._looked_revision, revision
        elapsed, self._looked_at = now - self._looked_at, now
        return came > BUSY_EVENTS * elapsed / LOOK_EVERY_S

    def _has_work(self) -> bool:
        if self._distrusted is not None:
            return True
        if not self._proven:
            return self._log.revision >= self._reached
        assert self._merger is not None, "opened"
        return self.lag > 0 or self._merger.has_work

    def _step(self) -> None:
        """A part of what is new, or of a merge, in turns."""
        if self._distrusted is not None:
            self._open()
        if not self._proven and not self._prove():
            return
        assert self._merger is not None, "opened"
        first = self._log.first_revision
        if first != self._trimmed_to:
            self._trimmed_to = first
            self._merger.trimmed(first)
            if self._recent.last_revision < first - 1:
                self._begin(first)
        if self._merger.has_work and (self._merges_next or not self.lag):
            self._written_bytes += 8 * self._merger.step(first)
            self._merges_next = False
        else:
            self._take()
            self._merges_next = True

    def _take(self) -> None:
        recent = self._recent
        following = recent.last_revision + 1
        events = None
        if recent.takes(following):
            if self._take_alike(following):
                return
            events = self._log.columns(following, STEP_EVENTS, READ_BYTES_MAX)
            if events is None:
                return
            following = events.revisions[0]
        if events is None or not recent.takes(following):
            assert self._connection is not None, "opened"
            assert self._merger is not None, "opened"
            self._written_bytes += 8 * event_index.flush(self._connection, recent)
            self._merger.flushed()
            self._begin(recent.last_revision + 1)
            return
        if recent.newest is None:
            recent = self._begin(following)
        recent.add(events)

    def _take_alike(self, following: int) -> bool:
        """Take events from this one on of which it is known that they are alike; False if it is
        not."""
        alike = self._alike
        while alike and alike[0].last_revision < following:
            alike.popleft()
        if not alike or alike[0].first_revision > following:
            return False
        recent = self._recent
        if recent.newest is None:
            recent = self._begin(following)
        last = min(alike[0].last_revision, recent.end)
        at = self._log.columns(last, 1, 1)
        if at is None or at.revisions[0] != last:
            return False  # retention was there
        recent.add_alike(last, alike[0].terms, at)
        return True

    def _begin(self, first_revision: int) -> Recent:
        self._recent = Recent(first_revision)
        self._view = _View(True, self._recent)
        return self._recent

    def _prove(self) -> bool:
        """Whether the index is of this log, as far as the log is here.

        After a crash the state may be behind the index for a moment; until it has caught up,
        nobody can tell.
        """
        assert self._connection is not None, "opened"
        known = event_index.position(self._connection)
        assert known is not None, "checked when it was opened"
        if known.revision > self._log.revision:
            return False
        if known.revision:
            found = self._log.columns(known.revision, 1, 1)
            is_there = found is not None and found.revisions[0] == known.revision
            if found is not None and is_there and found[-2:] != known[2:]:
                self._distrusted = f"event {known.revision} is another one"
                self._let_go()
                self._open()
        self._proven = True
        self._view = _View(True, self._recent)
        return True


def _connect(path: Path, *, readonly: bool = False) -> apsw.Connection:
    state.register_checksums()
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    if readonly:
        flags = apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags, vfs=state.CHECKSUMS)
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", 2 * CHECKPOINT_BYTES)
    connection.pragma("cache_size", -CACHE_BYTES // 1024)
    connection.pragma("temp_store", "MEMORY")
    return connection


def _checkpoint(path: Path) -> None:
    """In a thread: what was written moves into the file, and the write-ahead file starts anew."""
    connection = _connect(path)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        pass  # a reader is in the way: the next one does it
    finally:
        connection.close()
