"""The event index answers as a scan of all events does, however far it is and whatever it lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubsub import log
from pubsub.events import Event
from pubsub.store import event_index, event_merge, event_query, event_terms
from pubsub.store.event_merge import Merger
from pubsub.store.event_query import Filter, Source
from pubsub.store.event_terms import Recent
from pubsub.topics import Pattern

HIGHEST = 1 << 62
TOPICS = ("a", "a.b", "a.c", "b.c.d", "hooks.kv.write_committed")
PATTERNS = ("a", "a.b", "a.*", "a.>", ">", "*", "b.>", "x.*", "x", "*.c.d", "hooks.>")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes many events happens with few."""
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs, blocks, merges and reads."""
    monkeypatch.setattr(event_terms, "RUN_EVENTS", 8)
    monkeypatch.setattr(event_index, "BLOCK_POSTINGS", 4)
    monkeypatch.setattr(event_merge, "FAN_IN", 2)
    monkeypatch.setattr(event_merge, "LEVEL_MAX", 3)
    monkeypatch.setattr(event_merge, "MERGE_POSTINGS", 16)
    monkeypatch.setattr(event_merge, "DROP_BLOCKS", 3)
    monkeypatch.setattr(event_merge, "STRETCHES_MAX", 3)
    monkeypatch.setattr(event_query, "_BATCH_MIN", 2)
    monkeypatch.setattr(event_query, "_BATCH_MAX", 16)
    monkeypatch.setattr(event_query, "_CHUNK_MIN", 2)
    monkeypatch.setattr(event_query, "_CHUNK_MAX", 8)


class Home:
    """A log, and an index of it that is built step by step."""

    def __init__(self, first_revision: int = 1) -> None:
        self.state = apsw.Connection(":memory:")
        self.state.execute(log.SCHEMA)
        self.following = first_revision
        self.log_index = 0
        self.everything: list[Event] = []
        self.disk = apsw.Connection(":memory:")
        event_index.create(self.disk, "test")
        self.merger = Merger(self.disk)
        self.recent = Recent(first_revision)

    def append(self, entry: Sequence[Sequence[Any]]) -> None:
        """One entry of events `[topic, key, actor, correlation id, causation id]`."""
        packed = [
            msgpack.packb([topic, key, [b"x", None, None], [actor, correlation, causation]])
            for topic, key, actor, correlation, causation in entry
        ]
        self.log_index += 1
        batch = log.Batch.joined(self.following, self.log_index, 10 * self.log_index, packed)
        log.append(self.state, batch)
        found = log.read(self.state, self.following, len(packed), 1 << 20)
        assert isinstance(found, list)
        self.everything += found
        self.following += len(packed)

    def index(self, steps: int) -> None:
        """Do what a node's task does."""
        for _ in range(steps):
            following = max(self.recent.last_revision + 1, log.first_revision(self.state))
            found = None
            if self.recent.takes(following):
                found = log.columns(self.state, following, 4, 1 << 20)
                following = following if found is None else found.revisions[0]
            if not self.recent.takes(following):
                event_index.flush(self.disk, self.recent)
                self.merger.flushed()
                self.recent = Recent(self.recent.last_revision + 1)
                continue
            if found is not None:
                if self.recent.newest is None:
                    self.recent = Recent(following)
                self.recent.add(found)
            self.merger.step(log.first_revision(self.state))

    def restart(self) -> None:
        """All that is in memory is lost."""
        known = event_index.position(self.disk)
        assert known is not None
        self.merger = Merger(self.disk)
        following = max(known.revision + 1, log.first_revision(self.state))
        self.recent = Recent(following)

    def trim(self, below: int) -> None:
        """Retention takes the oldest events, and the index hears of it."""
        self.take(lambda event: event.revision < below)

    def take(self, is_given_up: Callable[[Event], bool]) -> None:
        """Retention takes events from anywhere but the end."""
        gone = {event.revision for event in self.everything[:-1] if is_given_up(event)}
        self.everything = [event for event in self.everything if event.revision not in gone]
        for batch in list(log.batches(self.state, 1)):
            places = log.places(batch)
            kept = [place for place in places if place.revision not in gone]
            if len(kept) < len(places):
                log.take_out(self.state, batch, kept)
        first = log.first_revision(self.state)
        self.merger.trimmed(first)
        if first > self.recent.last_revision + 1:
            self.recent = Recent(first)

    def sources(self) -> list[Source]:
        return event_query.sources(self.disk, self.recent)

    def pages(self, wanted: Filter, low: int, high: int, **options: Any) -> Iterator[Any]:
        """All pages of a query."""
        options = {"limit": 3, "bytes_max": 1 << 20, "examined_max": 50, **options}
        while True:
            page = event_query.query(self.state, self.sources(), wanted, low, high, **options)
            yield page
            if page.next_revision is None:
                return
            if options.get("descending"):
                assert page.next_revision <= high
                high = page.next_revision
            else:
                assert page.next_revision >= low
                low = page.next_revision

    def query(self, wanted: Filter, low: int = 1, high: int = HIGHEST, **options: Any) -> list[int]:
        """The revisions of all events that are found."""
        pages = self.pages(wanted, low, high, **options)
        return [event.revision for page in pages for event in page.events]

    def scan(self, wanted: Filter, low: int = 1, high: int = HIGHEST) -> list[int]:
        """The same, the dumb way."""
        return [
            event.revision
            for event in self.everything
            if low <= event.revision <= high and wanted.matches(event)
        ]


names = st.sampled_from(["k1", "k2", "k3", "5"])
maybe = st.none() | names
identifiers = st.none() | names | st.integers(1, 5)
events = st.tuples(
    st.sampled_from(TOPICS), maybe, st.sampled_from([None, "ann", "bob"]), identifiers, identifiers
)
entries = st.lists(events, min_size=1, max_size=9)
uniform = st.builds(lambda event, count: [event] * count, events, st.integers(8, 40))
filters = st.builds(
    Filter,
    pattern=st.none() | st.sampled_from(PATTERNS).map(Pattern),
    key=maybe,
    actor=st.sampled_from([None, None, "ann", "nobody"]),
    correlation_id=identifiers,
    causation_id=st.none() | st.just(5),
)
steps = st.one_of(
    st.tuples(st.just("append"), entries),
    st.tuples(st.just("append"), entries | uniform),
    st.tuples(st.just("index"), st.integers(1, 12)),
    st.tuples(st.just("index"), st.integers(1, 12)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("trim"), st.integers(1, 40)),
    st.tuples(st.just("take"), st.sampled_from(TOPICS)),
    st.tuples(
        st.just("query"),
        st.tuples(filters, st.integers(0, 60), st.integers(0, 90), st.booleans()),
    ),
)
BEGINNINGS = (1, (1 << 32) - 20)  # a run never crosses a multiple of 2**32


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40), st.sampled_from(BEGINNINGS))
def test_a_query_finds_what_a_scan_finds(does: list[Any], beginning: int) -> None:
    """Appended, indexed, merged, trimmed and restarted in any order, in both directions."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        home = Home(beginning)
        for name, argument in does:
            if name == "append":
                home.append(argument)
            elif name == "index":
                home.index(argument)
            elif name == "restart":
                home.restart()
            elif name == "trim":
                home.trim(beginning + argument)
            elif name == "take":
                home.take(lambda event, topic=argument: event.topic == topic)  # type: ignore[misc]
            else:
                wanted, low, width, descending = argument
                low += beginning - 1
                found = home.query(wanted, low, low + width, descending=descending)
                expected = home.scan(wanted, low, low + width)
                assert found == (expected[::-1] if descending else expected)


def filled(events_count: int = 300, **fields: Any) -> Home:
    """A home whose event number n has the key n, among others; all of it is indexed."""
    home = Home()
    for number in range(1, events_count + 1):
        topic = "rare.topic" if number % 100 == 0 else f"orders.{number % 3}"
        home.append([[topic, f"key-{number}", "ann", number // 10 or None, None]])
    home.index(2 * events_count)
    return home


def test_a_finished_index_leaves_few_runs() -> None:
    """Merging goes on until no level has enough neighbours, and what was merged is deleted."""
    home = filled(1_000)
    while home.merger.has_work:
        home.merger.step(1)
    levels = [run.level for run in event_index.runs(home.disk)]
    assert levels == sorted(levels, reverse=True)
    assert all(levels.count(level) < 2 for level in range(event_merge.LEVEL_MAX))
    stored = home.disk.execute("SELECT count(*) FROM runs").get
    assert stored == len(levels)
    blocks = sum(run.blocks for run in event_index.runs(home.disk))
    assert home.disk.execute("SELECT count(*) FROM blocks").get == blocks
    assert home.disk.execute("SELECT count(*) FROM fences").get == blocks


def test_a_query_by_a_rare_term_reads_few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is proportional to what it finds: nothing else is read from the log."""
    home = filled()
    read: list[int] = []
    whole = log.read

    def counted(*arguments: Any) -> Any:
        found = whole(*arguments)
        assert isinstance(found, list)
        read.append(len(found))
        return found

    monkeypatch.setattr(log, "read", counted)
    assert home.query(Filter(pattern=Pattern("rare.topic"))) == [100, 200, 300]
    assert home.query(Filter(pattern=Pattern("rare.*"), actor="ann")) == [100, 200, 300]
    assert home.query(Filter(key="key-123", pattern=Pattern("orders.>"))) == [123]
    assert home.query(Filter(correlation_id=7, actor="ann")) == list(range(70, 80))
    assert home.query(Filter(key="nobody's")) == []
    assert sum(read) < 60


def test_what_all_events_of_a_run_have_takes_no_room() -> None:
    """A stream of one topic by one actor has postings of its keys alone, in merged runs as well."""
    home = Home()
    home.append([["a", None, "ann", None, None]] * 16)
    home.index(20)
    assert [run.blocks for run in event_index.runs(home.disk)] == [0]
    ann = Filter(actor="ann", pattern=Pattern("a"))
    assert home.query(ann) == list(range(1, 17))
    assert home.query(ann, descending=True) == list(range(16, 0, -1))
    home.append([["b", None, "ann", None, None]] * 16)
    home.index(40)
    (run,) = event_index.runs(home.disk)
    assert run.blocks == 0
    assert {(each.first_revision, each.last_revision) for each in run.stretches} == {
        (1, 32), (1, 16), (17, 32),
    }  # fmt: skip
    assert home.query(ann) == list(range(1, 17))
    assert home.query(Filter(actor="ann"), 10, 20) == list(range(10, 21))


def test_terms_of_one_kind_are_not_those_of_another() -> None:
    """A key is no actor, and a number no text."""
    home = Home()
    home.append([["a", "ann", "bob", 5, "5"], ["a", "bob", "ann", "5", 5]])
    home.index(20)
    assert home.query(Filter(key="ann")) == [1]
    assert home.query(Filter(actor="ann")) == [2]
    assert home.query(Filter(correlation_id=5)) == [1]
    assert home.query(Filter(correlation_id="5")) == [2]
    assert home.query(Filter(causation_id=5)) == [2]


def test_terms_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index names candidates; the events themselves decide."""
    monkeypatch.setattr(event_terms, "crc32", lambda data, seed: 7)
    home = filled(60)
    assert home.query(Filter(key="key-33")) == [33]
    assert home.query(Filter(pattern=Pattern("orders.1"), key="key-31")) == [31]
    assert home.query(Filter(correlation_id=3), descending=True) == list(range(39, 29, -1))


def test_a_page_is_bounded_in_what_it_looks_at() -> None:
    """A query that finds nothing in much says where to go on instead of holding up a node."""
    home = filled(100)
    pages = list(home.pages(Filter(pattern=Pattern(">"), actor="nobody"), 1, HIGHEST))
    assert [page.events for page in pages] == [[] for _ in pages]
    pages = list(home.pages(Filter(key="key-1", pattern=None, actor=None), 1, HIGHEST))
    assert len(pages) == 1
    home.recent = Recent(10_000)  # nothing of the tail is indexed
    home.disk.execute("UPDATE runs SET state = 2")
    pages = list(home.pages(Filter(actor="nobody"), 1, HIGHEST, examined_max=30))
    assert len(pages) >= 3
    assert {page.newest_revision for page in pages} == {100}


def test_a_page_is_bounded_in_bytes() -> None:
    """The first event always fits, so that every page gets further."""
    home = filled(20)
    size = home.everything[0].size_bytes
    pages = list(home.pages(Filter(), 1, HIGHEST, bytes_max=1, limit=10))
    assert [len(page.events) for page in pages if page.events] == [1] * 20
    pages = list(home.pages(Filter(), 1, HIGHEST, bytes_max=5 * size, limit=10))
    assert all(len(page.events) <= 5 for page in pages)
    assert sum(len(page.events) for page in pages) == 20


def test_too_many_topics_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part with more topics than it lists is scanned for a pattern with wildcards."""
    monkeypatch.setattr(event_index, "INDEX_RUN_TOPICS_MAX", 20)
    home = Home()
    home.append([[f"many.{number}", None, None, None, None] for number in range(100)])
    home.index(300)
    known = [event_index.topics(home.disk, run) for run in event_index.runs(home.disk)]
    assert None in known
    assert home.query(Filter(pattern=Pattern("many.*")), 1, 50) == list(range(1, 51))
    assert home.query(Filter(pattern=Pattern("many.17"))) == [18]


def test_what_the_log_lost_leaves_the_index() -> None:
    """Runs that lie wholly below the log's beginning go, in slices."""
    home = filled(200)
    home.trim(150)
    while home.merger.has_work:
        home.merger.step(150)
    assert all(run.last_revision >= 150 for run in event_index.runs(home.disk))
    assert home.query(Filter(key="key-100")) == []
    assert home.query(Filter(key="key-170")) == [170]
    left = home.disk.execute("SELECT count(*) FROM blocks").get
    assert left == sum(run.blocks for run in event_index.runs(home.disk))


def test_a_position_is_stored_with_the_run() -> None:
    """Either both are there after a crash or neither is."""
    home = filled(8)
    home.index(2)
    known = event_index.position(home.disk)
    assert known == ("test", 8, 8, 80)
    (run,) = event_index.runs(home.disk)
    assert (run.first_revision, run.last_revision) == (1, 8)


def test_a_foreign_file_has_no_position() -> None:
    """Another format is built anew rather than believed."""
    connection = apsw.Connection(":memory:")
    assert event_index.position(connection) is None


def test_a_trace_begins_with_its_cause() -> None:
    """A correlation that is a revision names the event that all others go back to."""
    home = Home()
    home.append([["a", "k", None, None, None]])
    home.append([["b", None, None, 1, 1], ["c", None, None, "x", 1], ["d", None, None, 1, 2]])
    found, more = trace(home, 1)
    assert ([event.revision for event in found], more) == ([1, 2, 4], False)
    found, more = trace(home, 1, limit=2)
    assert ([event.revision for event in found], more) == ([1, 2], True)
    assert [event.revision for event in trace(home, "x")[0]] == [3]
    assert trace(home, 77) == ([], False)


def trace(home: Home, correlation_id: int | str, limit: int = 10) -> tuple[list[Event], bool]:
    """All events of a correlation."""
    return event_query.trace(
        home.state, home.sources(), correlation_id,
        limit=limit, bytes_max=1 << 20, examined_max=1_000,
    )  # fmt: skip


def test_an_event_is_got_by_its_revision() -> None:
    """One that is not there yet or no more is no event."""
    home = filled(20)
    got = event_query.get(home.state, 7)
    assert got is not None
    assert got.key == "key-7"
    assert event_query.get(home.state, 21) is None
    home.trim(10)
    assert event_query.get(home.state, 7) is None
