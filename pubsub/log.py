"""The ordered event log: one row per Raft entry that made events.

A batch row holds the events of its entry as one msgpack array, so that a thousand events cost one
insert and no secondary index. Revisions rise without a gap as they are given out; retention takes
events from anywhere but the end: a batch whose events are all gone has no row any more, one that
lost some keeps nil in their places. The newest event always stays, so the table alone knows which
revision comes next, and a reader who gets nothing is at the head.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub.events import Event, Meta, array_header, decode, topic_name
from pubsub.limits import (
    SEGMENT_BYTES_MAX,
    TAIL_BYTES_MAX,
    TAIL_EVENTS_MAX,
    TOPIC_SEGMENTS_MAX,
    TOPICS_REMEMBERED_MAX,
)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS event_batches(
    first_revision INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    log_index INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    events BLOB NOT NULL             -- msgpack array of `count` items: an event, or nil
) STRICT;
"""

_SELECT_FROM: Final = (
    "SELECT first_revision, count, log_index, wall_ms, events FROM event_batches"
    " WHERE first_revision >= (SELECT coalesce(max(first_revision), 0) FROM event_batches"
    " WHERE first_revision <= ?) ORDER BY first_revision"
)
_NIL: Final = b"\xc0"
_TOPIC_BYTES_MAX: Final = TOPIC_SEGMENTS_MAX * (SEGMENT_BYTES_MAX + 1) + 5  # as it is packed


class Compacted(NamedTuple):
    """The answer to a reader behind retention: some of what it asked for is gone."""

    first_revision: int  # from here on nothing is missing


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

    @classmethod
    def joined(
        cls,
        first_revision: int,
        log_index: int,
        wall_ms: int,
        packed_events: Sequence[bytes],
        count: int | None = None,
    ) -> "Batch":
        """Of packed events; with a `count` where some of them stand together already."""
        count = len(packed_events) if count is None else count
        blob = array_header(count) + b"".join(packed_events)
        return cls(first_revision, count, log_index, wall_ms, blob)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and self.stored() == other.stored()

    def stored(self) -> tuple[int, int, int, int, bytes]:
        """Its row."""
        return self.first_revision, self.count, self.log_index, self.wall_ms, self.blob

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


def append(connection: apsw.Connection, batch: Batch) -> None:
    """Store the events of one entry; they follow the newest one stored."""
    connection.execute("INSERT INTO event_batches VALUES(?, ?, ?, ?, ?)", batch.stored())


def read(
    connection: apsw.Connection, from_revision: int, events_max: int, bytes_max: int
) -> list[Event]:
    """Events from `from_revision` on, in order: at most `events_max`, and at most `bytes_max` of
    stored size unless the first one alone is larger; empty past the end of the log.

    What retention took is passed over: who must not miss anything finds a gap in the revisions
    (`has_gap`) and asks `retention.compacted` whether it concerns it.
    """
    collected = _Collected(events_max, bytes_max)
    rows = connection.execute(_SELECT_FROM, (from_revision,))
    for row in rows:
        if not collected.add(Batch(*row), from_revision):
            break
    return collected.events


class Columns(NamedTuple):
    """Events as they are stored, field by field: for whoever looks at all of them and needs no
    `Event` of each. None of the fields is empty."""

    revisions: Sequence[int]
    topics: Sequence[int | str]
    keys: Sequence[str | None]
    metas: Sequence[Meta | None]
    log_index: int  # of the last of them, with its time
    wall_ms: int


def columns(
    connection: apsw.Connection, from_revision: int, events_max: int, bytes_max: int
) -> Columns | None:
    """The events that `read` would give, or one entry more than `bytes_max`; None if none."""
    revisions: list[int] = []
    events: list[Any] = []
    last = 0, 0
    for first, count, *at, blob in connection.execute(_SELECT_FROM, (from_revision,)):
        skip = max(0, from_revision - first)
        if skip >= count:
            continue
        stored = msgpack.unpackb(blob, use_list=False, strict_map_key=False)
        part = stored[skip : skip + events_max - len(events)]
        if None in part:  # retention was here
            there = [n for n, each in enumerate(part) if each is not None]
            revisions += [first + skip + n for n in there]
            part = [part[n] for n in there]
        else:
            revisions += range(first + skip, first + skip + len(part))
        if part:
            events += part
            last = at
        bytes_max -= len(blob)
        if len(events) >= events_max or bytes_max <= 0:
            break
    if not events:
        return None
    topics, keys, _, metas = zip(*events, strict=True)
    return Columns(revisions, topics, keys, metas, *last)


def event_at(connection: apsw.Connection, revision: int) -> Event | None:
    """The event of that revision; None when it is not there yet, or not any more."""
    found = read(connection, revision, 1, 1)
    return found[0] if found and found[0].revision == revision else None


def batches(connection: apsw.Connection, from_revision: int) -> Iterator[Batch]:
    """The batches from the one that `from_revision` is in, or the next, in order."""
    for row in connection.execute(_SELECT_FROM, (from_revision,)):
        batch = Batch(*row)
        if batch.first_revision + batch.count > from_revision:
            yield batch


def has_gap(events: Sequence[Event], from_revision: int) -> bool:
    """Whether something is missing between `from_revision` and the last of the events read."""
    return bool(events) and events[-1].revision - from_revision + 1 != len(events)


def first_revision(connection: apsw.Connection) -> int:
    """Where the oldest batch starts that is still there; 1 while the log is empty."""
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
    write path pays for no index on time. It may be one that retention took out of its batch:
    reading goes on from there with what is left.
    """
    low, high = first_revision(connection), last_revision(connection) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT first_revision, count, wall_ms FROM event_batches"
            " WHERE first_revision <= ? ORDER BY first_revision DESC LIMIT 1",
            (middle,),
        ).fetchone()
        assert row is not None, "no revision below the first batch is looked at"
        first, count, at = row
        if at < wall_ms:
            low = max(first + count, middle + 1)  # between two batches there may be nothing
        else:
            high = first
    following = connection.execute(
        "SELECT min(first_revision) FROM event_batches WHERE first_revision >= ?", (low,)
    ).get
    return low if following is None else int(following)


class Place(NamedTuple):
    """Where one stored event of a batch is, without the cost of decoding it."""

    revision: int
    topic: str
    start: int  # of its bytes in the batch
    end: int


def places(batch: Batch) -> list[Place]:
    """The events that a batch still has. Retention looks at every event like this, so it unpacks
    none: it skips each, and reads the topic from its bytes."""
    blob = batch.blob
    unpacker = msgpack.Unpacker(max_buffer_size=len(blob))
    unpacker.feed(blob)
    count = unpacker.read_array_header()
    skip, tell = unpacker.skip, unpacker.tell
    found: list[Place] = []
    start = tell()
    for revision in range(batch.first_revision, batch.first_revision + count):
        skip()
        end = tell()
        if blob[start] != _NIL[0]:
            found.append(Place(revision, _topic_of(blob, start), start, end))
        start = end
    return found


def _topic_of(blob: bytes, start: int) -> str:
    """The topic of the event that begins there: an array of four whose first item it is."""
    head = blob[start + 1]
    if 0xA0 <= head <= 0xBF:  # a text of up to 31 bytes
        return _text(blob[start + 2 : start + 2 + (head & 0x1F)])
    if head == 0xD9:  # of up to 255
        return _text(blob[start + 3 : start + 3 + blob[start + 2]])
    unpacker = msgpack.Unpacker()
    unpacker.feed(blob[start + 1 : start + 1 + _TOPIC_BYTES_MAX])
    return topic_name(unpacker.unpack())


@lru_cache(TOPICS_REMEMBERED_MAX)
def _text(encoded: bytes) -> str:
    return encoded.decode()


def take_out(connection: apsw.Connection, batch: Batch, kept: Sequence[Place]) -> None:
    """Remove the events of a batch but for those `kept`; nobody's revision changes."""
    if not kept:
        connection.execute(
            "DELETE FROM event_batches WHERE first_revision = ?", (batch.first_revision,)
        )
        return
    parts = [_NIL] * batch.count
    for place in kept:
        parts[place.revision - batch.first_revision] = batch.blob[place.start : place.end]
    connection.execute(
        "UPDATE event_batches SET events = ? WHERE first_revision = ?",
        (array_header(len(parts)) + b"".join(parts), batch.first_revision),
    )


class Tail:
    """The newest batches in memory, so that readers at the head do not touch SQLite.

    It holds nothing at or below what retention took last (`forget`), so memory and disk show the
    same log.

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

    def append(self, batch: Batch) -> None:
        """Remember a batch that was just applied; a gap (a snapshot came in) empties the tail."""
        batches = self._batches
        if batches and batches[-1].first_revision + batches[-1].count != batch.first_revision:
            self.clear()
        batches.append(batch)
        self._events += batch.count
        self._bytes += len(batch.blob)
        while (self._events > self._events_max or self._bytes > self._bytes_max) and (
            len(batches) > 1
        ):
            oldest = batches.popleft()
            self._events -= oldest.count
            self._bytes -= len(oldest.blob)

    def forget(self, up_to_revision: int) -> None:
        """Let go of every batch that begins at or below a revision: retention was there."""
        batches = self._batches
        while batches and batches[0].first_revision <= up_to_revision:
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
    tail: Tail,
    connect: Callable[[], apsw.Connection],
    from_revision: int,
    events_max: int,
    bytes_max: int,
) -> list[Event]:
    """As `read`, from memory if the tail reaches back that far: then nothing is connected to."""
    events = tail.read(from_revision, events_max, bytes_max)
    return read(connect(), from_revision, events_max, bytes_max) if events is None else events


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


def _first_revision(batch: Batch) -> int:
    return batch.first_revision
