"""The ordered event log on disk and its tail in memory."""

from collections.abc import Sequence

import apsw
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub import log
from pubsub.events import Event

MANY = 1_000_000


def pack(size: int) -> bytes:
    packed: bytes = msgpack.packb(["t", "k", [b"x" * size, None, None], None])
    return packed


def make_log(batches: Sequence[Sequence[int]]) -> tuple[apsw.Connection, log.Tail]:
    """A log and a tail with one batch per item: the payload sizes of its events."""
    connection = apsw.Connection(":memory:")
    connection.execute(log.SCHEMA)
    tail = log.Tail()
    revision = 1
    for index, sizes in enumerate(batches, 1):
        packed = [pack(size) for size in sizes]
        log.append(connection, log.Batch.joined(revision, index, index * 10, packed))
        tail.append(log.Batch.joined(revision, index, index * 10, packed))
        revision += len(packed)
    return connection, tail


def revisions(found: list[Event] | None) -> list[int]:
    assert found is not None
    return [event.revision for event in found]


sizes_of_batches = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=20), max_size=8)


@given(sizes_of_batches, st.integers(1, 100), st.integers(1, 40), st.integers(1, 500))
def test_reads_like_a_list(
    batches: list[list[int]], start: int, events_max: int, bytes_max: int
) -> None:
    """Disk and memory return the same events as a plain list under both bounds."""
    connection, tail = make_log(batches)
    expected: list[int] = []
    left = bytes_max
    for revision, size in enumerate((size for sizes in batches for size in sizes), 1):
        if revision < start:
            continue
        left -= len(pack(size))
        if len(expected) == events_max or (expected and left < 0):
            break
        expected.append(revision)

    from_disk = log.read(connection, start, events_max, bytes_max)

    assert expected == revisions(from_disk)
    assert from_disk == log.read_events(tail, lambda: connection, start, events_max, bytes_max)


@given(sizes_of_batches, st.integers(0, 100))
def test_finds_a_time_like_a_linear_search(batches: list[list[int]], wall_ms: int) -> None:
    """The first revision at or after a time is found by binary search, or the end of the log."""
    connection, _ = make_log(batches)
    events = log.read(connection, 1, MANY, MANY)
    later = [event.revision for event in events if event.wall_ms >= wall_ms]

    assert (later or [len(events) + 1])[0] == log.revision_at_or_after(connection, wall_ms)


def test_an_empty_log() -> None:
    """An empty log starts at revision 1, ends at 0 and reads as empty."""
    connection, tail = make_log([])

    assert (log.first_revision(connection), log.last_revision(connection)) == (1, 0)
    assert log.read_events(tail, lambda: connection, 1, 10, MANY) == []
    assert log.revision_at_or_after(connection, 5) == 1


def test_a_reader_past_the_end_gets_nothing() -> None:
    """A revision that does not exist yet reads as empty, from disk and from memory."""
    connection, tail = make_log([[0, 0], [0]])

    assert log.read(connection, 4, 10, MANY) == tail.read(4, 10, MANY) == []
    assert log.read(connection, 9, 10, MANY) == tail.read(9, 10, MANY) == []


@given(
    sizes_of_batches,
    st.sets(st.integers(1, 160)),
    st.integers(1, 100),
    st.integers(1, 40),
    st.integers(1, 500),
    st.integers(0, 100),
)
def test_what_was_taken_out_is_passed_over(
    batches: list[list[int]],
    gone: set[int],
    start: int,
    events_max: int,
    bytes_max: int,
    wall_ms: int,
) -> None:
    """Wherever events are missing, reads give the rest, under both bounds, with their revisions."""
    connection, _ = make_log(batches)
    every = log.read(connection, 1, MANY, MANY)
    last = len(every)
    left = [event for event in every if event.revision not in gone or event.revision == last]
    kept = {event.revision for event in left}
    for batch in list(log.batches(connection, 1)):
        places = log.places(batch)
        log.take_out(connection, batch, [place for place in places if place.revision in kept])

    expected: list[Event] = []
    size = bytes_max
    for event in left:
        if event.revision >= start:
            size -= event.size_bytes
            if len(expected) == events_max or (expected and size < 0):
                break
            expected.append(event)
    found = log.read(connection, start, events_max, bytes_max)

    assert expected == found
    reach = found[-1].revision if found else 0
    assert log.has_gap(found, start) == any(
        revision not in kept for revision in range(start, reach + 1)
    )
    assert last == log.last_revision(connection)
    later = [event.revision for event in left if event.wall_ms >= wall_ms]
    begin = log.revision_at_or_after(connection, wall_ms)
    assert [e.revision for e in log.read(connection, begin, MANY, MANY)] == later
    assert [log.event_at(connection, event.revision) for event in every] == [
        event if event.revision in kept else None for event in every
    ]


def test_a_place_knows_its_topic_and_its_bytes() -> None:
    """What retention looks at is what reading finds, without the cost of decoding it."""
    connection, _ = make_log([[3, 5], [7]])

    found = [place for batch in log.batches(connection, 2) for place in log.places(batch)]

    events = log.read(connection, 1, 10, MANY)
    assert [(place.revision, place.topic, place.end - place.start) for place in found] == [
        (event.revision, event.topic, event.size_bytes) for event in events
    ]


def test_memory_forgets_what_retention_took() -> None:
    """A batch that begins at or below what went is read from the disk, which knows the gaps."""
    tail = log.Tail()
    for first in (1, 3, 5):
        tail.append(log.Batch.joined(first, first, first, [pack(0), pack(0)]))

    tail.forget(3)

    assert tail.first_revision == 5
    assert tail.read(4, 10, MANY) is None
    tail.forget(9)
    assert tail.read(5, 10, MANY) is None
    tail.append(log.Batch.joined(7, 7, 7, [pack(0)]))
    assert revisions(tail.read(7, 10, MANY)) == [7]


def test_events_of_a_batch_share_its_entry() -> None:
    """Events of one entry carry its log index and time, and their place in it."""
    connection, _ = make_log([[0], [0, 0, 0]])

    events = log.read(connection, 3, 10, MANY)

    assert [(event.log_index, event.ordinal, event.wall_ms) for event in events] == [
        (2, 1, 20),
        (2, 2, 20),
    ]


def test_revisions_are_never_stored_twice() -> None:
    """Storing a batch over another one is a broken invariant and raises."""
    connection, _ = make_log([[0, 0]])

    with pytest.raises(apsw.ConstraintError):
        log.append(connection, log.Batch.joined(1, 9, 90, [pack(0)]))


def test_the_tail_keeps_the_newest() -> None:
    """The tail drops its oldest batches at its bounds and says how far back it reaches."""
    tail = log.Tail(events_max=4, bytes_max=MANY)
    for first in (1, 3, 5):
        tail.append(log.Batch.joined(first, first, first, [pack(0), pack(0)]))

    assert tail.first_revision == 3
    assert tail.read(2, 10, MANY) is None
    assert revisions(tail.read(3, 10, MANY)) == [3, 4, 5, 6]


def test_the_tail_is_bounded_in_bytes() -> None:
    """A batch larger than the byte bound is kept alone, because readers are about to ask for it."""
    tail = log.Tail(events_max=100, bytes_max=300)
    tail.append(log.Batch.joined(1, 1, 1, [pack(10)]))
    tail.append(log.Batch.joined(2, 2, 2, [pack(1_000)]))

    assert tail.first_revision == 2
    assert revisions(tail.read(2, 10, 1)) == [2]


def test_a_gap_empties_the_tail() -> None:
    """After a jump in revisions (an installed snapshot) the tail starts anew."""
    tail = log.Tail()
    tail.append(log.Batch.joined(1, 1, 1, [pack(0)]))
    tail.append(log.Batch.joined(9, 9, 9, [pack(0)]))

    assert tail.first_revision == 9


def test_an_empty_tail_sends_readers_to_the_log() -> None:
    """A node that has just started serves its readers from disk."""
    connection, _ = make_log([[0, 0]])

    assert revisions(log.read_events(log.Tail(), lambda: connection, 1, 10, MANY)) == [1, 2]
