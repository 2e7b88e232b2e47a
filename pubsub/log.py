"""The ordered event log: one row per Raft entry that made events.

A batch row holds the events of its entry as one msgpack array, so that a thousand events cost one
insert and no secondary index. Revisions are contiguous over the whole log. The newest batch is
never trimmed, so the table alone knows which revision comes next.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import apsw

from pubsub.events import Event, array_header, decode
from pubsub.limits import TAIL_BYTES_MAX, TAIL_EVENTS_MAX

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS event_batches(
    first_revision INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    log_index INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    events BLOB NOT NULL
) STRICT;
"""


class Compacted(NamedTuple):
    """The answer to a reader behind retention: what it asked for is gone."""

    first_revision: int  # the oldest that is still there


class Batch:
    """The events of one Raft entry; decoded when somebody reads them."""

    __slots__ = ("_events", "blob", "count", "first_revision", "log_index", "wall_ms")

    def __init__(
        self, first_revision: int, count: int, log_index: int, wall_ms: int, blob: bytes
    ) -> None:
        self.first_revision = first_revision
        self.count = count
        self.log_index = log_index
        self.wall_ms = wall_ms
        self.blob = blob
        self._events: list[Event] | None = None

    def events(self, from_revision: int, events_max: int) -> list[Event]:
        """The events from `from_revision` on; only those are decoded."""
        skip = max(0, from_revision - self.first_revision)
        if self._events is not None:
            return self._events[skip : skip + events_max]
        return decode(
            self.blob, self.first_revision, self.log_index, self.wall_ms, skip, events_max
        )

    def keep_decoded(self) -> None:
        """Decode once for all readers to come (the tail's batches have many)."""
        if self._events is None:
            self._events = self.events(self.first_revision, self.count)


def append(
    connection: apsw.Connection,
    first_revision: int,
    log_index: int,
    wall_ms: int,
    packed_events: Sequence[bytes],
) -> None:
    """Store the packed events of one entry; `first_revision` follows the newest one stored."""
    connection.execute(
        "INSERT INTO event_batches VALUES(?, ?, ?, ?, ?)",
        (first_revision, len(packed_events), log_index, wall_ms, _join(packed_events)),
    )


def read(
    connection: apsw.Connection, from_revision: int, events_max: int, bytes_max: int
) -> list[Event] | Compacted:
    """Events from `from_revision` on, in order: at most `events_max`, and at most `bytes_max` of
    stored size unless the first one alone is larger; empty past the end of the log."""
    oldest = first_revision(connection)
    if from_revision < oldest:
        return Compacted(oldest)
    collected = _Collected(events_max, bytes_max)
    rows = connection.execute(
        "SELECT first_revision, count, log_index, wall_ms, events FROM event_batches"
        " WHERE first_revision >= (SELECT coalesce(max(first_revision), 0) FROM event_batches"
        " WHERE first_revision <= ?) ORDER BY first_revision",
        (from_revision,),
    )
    for row in rows:
        if not collected.add(Batch(*row), from_revision):
            break
    return collected.events


def first_revision(connection: apsw.Connection) -> int:
    """The oldest revision that can be read; 1 while the log is empty."""
    return int(connection.execute("SELECT coalesce(min(first_revision), 1) FROM event_batches").get)


def last_revision(connection: apsw.Connection) -> int:
    """The newest revision; 0 while the log is empty."""
    row = connection.execute(
        "SELECT first_revision + count - 1 FROM event_batches ORDER BY first_revision DESC LIMIT 1"
    ).get
    return int(row or 0)


def revision_at_or_after(connection: apsw.Connection, wall_ms: int) -> int:
    """The first revision whose time is `wall_ms` or later; past the end if there is none.

    A binary search by revision, because the cluster clock never runs backwards along the log: the
    write path pays for no index on time.
    """
    low, high = first_revision(connection), last_revision(connection) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT first_revision, count, wall_ms FROM event_batches"
            " WHERE first_revision <= ? ORDER BY first_revision DESC LIMIT 1",
            (middle,),
        ).fetchone()
        assert row is not None, "revisions are contiguous"
        first, count, at = row
        if at < wall_ms:
            low = first + count
        else:
            high = first
    return low


def trim(connection: apsw.Connection, below_revision: int, rows_max: int) -> int:
    """Delete the oldest batches that lie wholly below `below_revision`; returns how many.

    At most `rows_max` of them, so that one command stays short; never the newest batch.
    """
    connection.execute(
        "DELETE FROM event_batches WHERE first_revision IN"
        " (SELECT first_revision FROM event_batches"
        " WHERE first_revision < ?1 AND first_revision + count <= ?1"
        " AND first_revision < (SELECT max(first_revision) FROM event_batches)"
        " ORDER BY first_revision LIMIT ?2)",
        (below_revision, rows_max),
    )
    return connection.changes()


class Tail:
    """The newest batches in memory, so that readers at the head do not touch SQLite.

    Bounded in events and bytes; one batch larger than the bounds is kept alone.
    """

    def __init__(self, events_max: int = TAIL_EVENTS_MAX, bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._batches: deque[Batch] = deque()
        self._events = 0
        self._bytes = 0

    @property
    def first_revision(self) -> int | None:
        """The oldest revision held, or None while the tail is empty."""
        return self._batches[0].first_revision if self._batches else None

    def append(
        self, first_revision: int, log_index: int, wall_ms: int, packed_events: Sequence[bytes]
    ) -> None:
        """Remember a batch that was just applied; a gap (a snapshot came in) empties the tail."""
        if not packed_events:
            return
        batches = self._batches
        if batches and batches[-1].first_revision + batches[-1].count != first_revision:
            self.clear()
        blob = _join(packed_events)
        batches.append(Batch(first_revision, len(packed_events), log_index, wall_ms, blob))
        self._events += len(packed_events)
        self._bytes += len(blob)
        while (self._events > self._events_max or self._bytes > self._bytes_max) and (
            len(batches) > 1
        ):
            oldest = batches.popleft()
            self._events -= oldest.count
            self._bytes -= len(oldest.blob)

    def clear(self) -> None:
        """Forget everything; readers go to the log until new batches arrive."""
        self._batches.clear()
        self._events = self._bytes = 0

    def read(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event] | None:
        """As `read` of the log; None when the tail does not reach back that far."""
        batches = self._batches
        if not batches or from_revision < batches[0].first_revision:
            return None
        position = len(batches) - 1
        if from_revision < batches[position].first_revision:
            position = bisect_right(batches, from_revision, key=_first_revision) - 1
        collected = _Collected(events_max, bytes_max)
        for index in range(position, len(batches)):
            batch = batches[index]
            batch.keep_decoded()
            if not collected.add(batch, from_revision):
                break
        return collected.events


def read_events(
    tail: Tail, connection: apsw.Connection, from_revision: int, events_max: int, bytes_max: int
) -> list[Event] | Compacted:
    """As `read`, from memory if the tail reaches back that far."""
    events = tail.read(from_revision, events_max, bytes_max)
    return read(connection, from_revision, events_max, bytes_max) if events is None else events


class _Collected:
    """Events gathered from batches within a count and a byte bound."""

    __slots__ = ("bytes_left", "events", "events_max")

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self.events: list[Event] = []
        self.events_max = events_max
        self.bytes_left = bytes_max

    def add(self, batch: Batch, from_revision: int) -> bool:
        """Take what fits of a batch; False once a bound is reached."""
        events = self.events
        found = batch.events(from_revision, self.events_max - len(events))
        if len(found) == batch.count and len(batch.blob) <= self.bytes_left:
            events += found  # the common case, without looking at each event
            self.bytes_left -= len(batch.blob)
            return len(events) < self.events_max
        for event in found:
            if event.size_bytes > self.bytes_left and events:
                return False
            self.bytes_left -= event.size_bytes
            events.append(event)
        return len(events) < self.events_max and self.bytes_left > 0


def _join(packed_events: Sequence[bytes]) -> bytes:
    return array_header(len(packed_events)) + b"".join(packed_events)


def _first_revision(batch: Batch) -> int:
    return batch.first_revision
