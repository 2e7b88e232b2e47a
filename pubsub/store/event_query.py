"""Pages of events by topic, key, actor, correlation, causation, revision: in either direction.

A query walks over the revisions from one end. Where the index reaches, the candidates come from the
postings of its rarest term, narrowed by those of other terms where that is cheaper than looking;
where it does not (the newest events, a gap, no term at all), every event is one. Each candidate's
event is read from the log and looked at, so that an index that is behind, has collisions or has
events that retention took costs time and never an answer.

The work of a page is proportional to what it finds, and bounded: a page that reached the bound says
where to go on, and may hold few events or none.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import apsw

from pubsub import log
from pubsub.events import Event, Identifier
from pubsub.limits import QUERY_TOPICS_MAX, READ_BYTES_MAX
from pubsub.store import event_index
from pubsub.store.event_index import Run
from pubsub.store.event_terms import ACTOR, CAUSATION, CORRELATION, KEY, TOPIC, Recent, Term
from pubsub.topics import Pattern

_BATCH_MIN, _BATCH_MAX = 16, 1_024  # candidates taken from the index at a time
_NEAR: Final = 8  # events between two candidates that are read along rather than left out
_CHUNK_MIN, _CHUNK_MAX = 16, 256  # candidates read at a time; fewer where events are large
_CHUNK_BYTES: Final = 256 * 1024

# Events in order, each with how many were looked at since the one before; None: to no avail.
Looked = Iterator[tuple[Event | None, int]]


class Filter(NamedTuple):
    """What an event must have; None asks for nothing."""

    pattern: Pattern | None = None
    key: str | None = None
    actor: str | None = None
    correlation_id: Identifier | None = None
    causation_id: Identifier | None = None

    def matches(self, event: Event) -> bool:
        return (
            (self.key is None or event.key == self.key)
            and (self.actor is None or event.actor == self.actor)
            and (self.correlation_id is None or event.correlation_id == self.correlation_id)
            and (self.causation_id is None or event.causation_id == self.causation_id)
            and (self.pattern is None or self.pattern.matches(event.topic))
        )

    def terms(self) -> list[Term]:
        """What each matching event has; a pattern's topics are found where the index is."""
        values = (
            (KEY, self.key),
            (ACTOR, self.actor),
            (CORRELATION, self.correlation_id),
            (CAUSATION, self.causation_id),
        )
        return [Term(kind, value) for kind, value in values if value is not None]


class Page(NamedTuple):
    """Some of the events that match, in the order asked for."""

    events: list[Event]
    next_revision: int | None  # go on from there, itself included; None: that was all
    newest_revision: int  # of the log that was read


class Source(Protocol):
    """A part of the index: the terms of a range of revisions."""

    first_revision: int
    last_revision: int

    def topics(self) -> list[str] | None:
        """All topics, or None if they are too many."""

    def revisions(
        self, term: Term, low: int, high: int, limit: int, *, descending: bool
    ) -> list[int]:
        """As `event_index.revisions`."""

    def among(self, term: Term, candidates: Sequence[int]) -> list[int]:
        """As `event_index.among`."""

    def estimate(self, term: Term, low: int, high: int) -> int:
        """As `event_index.estimate`."""


class RunSource:
    """A run on disk."""

    def __init__(self, connection: apsw.Connection, run: Run) -> None:
        self.first_revision = run.first_revision
        self.last_revision = run.last_revision
        self._connection = connection
        self._run = run

    def topics(self) -> list[str] | None:
        return event_index.topics(self._connection, self._run)

    def revisions(
        self, term: Term, low: int, high: int, limit: int, *, descending: bool
    ) -> list[int]:
        return event_index.revisions(
            self._connection, self._run, term.hash, low, high, limit, descending=descending
        )

    def among(self, term: Term, candidates: Sequence[int]) -> list[int]:
        return event_index.among(self._connection, self._run, term.hash, candidates)

    def estimate(self, term: Term, low: int, high: int) -> int:
        return event_index.estimate(self._connection, self._run, term.hash, low, high)


class RecentSource:
    """The newest events' terms, in memory."""

    def __init__(self, recent: Recent) -> None:
        self.first_revision = recent.first_revision
        self.last_revision = recent.last_revision  # more may come while we read
        self._recent = recent

    def topics(self) -> list[str] | None:
        return sorted(self._recent.topics)  # in one go: a writer may add to it

    def revisions(
        self, term: Term, low: int, high: int, limit: int, *, descending: bool
    ) -> list[int]:
        found = self._recent.revisions(term, low, high)
        return found[::-1] if descending else found

    def among(self, term: Term, candidates: Sequence[int]) -> list[int]:
        known = frozenset(self._recent.revisions(term, candidates[0], candidates[-1]))
        return [each for each in candidates if each in known]

    def estimate(self, term: Term, low: int, high: int) -> int:
        return len(self._recent.revisions(term, low, high))


def sources(connection: apsw.Connection | None, recent: Recent | None) -> list[Source]:
    """The parts of an index, the oldest first; what no part covers is scanned."""
    found: list[Source] = []
    reached = 0
    if connection is not None:
        for run in event_index.runs(connection):
            found.append(RunSource(connection, run))
            reached = run.last_revision
    # what was in memory when the query began may have become a run before the runs were read
    if recent is not None and recent.first_revision > reached:
        found.append(RecentSource(recent))
    return found


def query(
    state: apsw.Connection,
    parts: Sequence[Source],
    wanted: Filter,
    low: int,
    high: int,
    *,
    limit: int,
    bytes_max: int,
    examined_max: int,
    descending: bool = False,
) -> Page:
    """The events from revision `low` to `high`, both included, that match: one page of them.

    At most `limit` events, and at most `bytes_max` of stored size unless the first alone is larger.
    """
    newest = log.last_revision(state)
    low, high = max(low, log.first_revision(state)), min(high, newest)
    events: list[Event] = []
    step = -1 if descending else 1
    bytes_left, examined = bytes_max, 0
    for found, edge, cost in _found(state, parts, wanted, low, high, limit, descending):
        for event, looked in found:
            examined += looked
            if event is None:
                continue
            if wanted.matches(event):
                if events and event.size_bytes > bytes_left:
                    return Page(events, event.revision, newest)
                events.append(event)
                bytes_left -= event.size_bytes
                if len(events) >= limit or bytes_left <= 0:
                    return _page(events, event.revision + step, low, high, newest)
            if examined >= examined_max:
                return _page(events, event.revision + step, low, high, newest)
        examined += cost
        if examined >= examined_max:
            return _page(events, edge + step, low, high, newest)
    return Page(events, None, newest)


def _page(events: list[Event], following: int, low: int, high: int, newest: int) -> Page:
    return Page(events, following if low <= following <= high else None, newest)


def _found(
    state: apsw.Connection,
    parts: Sequence[Source],
    wanted: Filter,
    low: int,
    high: int,
    limit: int,
    descending: bool,
) -> Iterator[tuple[Looked, int, int]]:
    """Events to look at, in order; the revision up to which they are all; what finding them cost,
    in events."""
    exact = wanted.terms()
    for first, last, source in _ranges(parts, low, high, descending):
        edge = first if descending else last
        clauses = None if source is None else _clauses(source, exact, wanted.pattern)
        if source is None or clauses is None:
            yield _scan(state, first, last, descending), edge, 0
        elif all(clauses):
            named = _candidates(source, clauses, first, last, limit, descending)
            for candidates, reached in named:
                # an index entry costs a fraction of an event
                cost = max(len(candidates), _BATCH_MIN) // 8
                yield _read(state, candidates, descending), reached, cost
        else:
            yield iter(()), edge, 1  # a pattern that none of its topics matches


def _ranges(
    parts: Sequence[Source], low: int, high: int, descending: bool
) -> list[tuple[int, int, Source | None]]:
    """The revisions from `low` to `high`, cut where parts of the index begin and end."""
    cut: list[tuple[int, int, Source | None]] = []
    at = low
    for source in parts:
        first, last = max(source.first_revision, at), min(source.last_revision, high)
        if first > last:
            continue
        if first > at:
            cut.append((at, first - 1, None))
        cut.append((first, last, source))
        at = last + 1
    if at <= high:
        cut.append((at, high, None))
    return cut[::-1] if descending else cut


def _clauses(
    source: Source, exact: Sequence[Term], pattern: Pattern | None
) -> list[list[Term]] | None:
    """What a matching event has: one term of each list. None if the index does not help."""
    clauses = [[term] for term in exact]
    if pattern is not None:
        segments = pattern.text.split(".")
        if "*" not in segments and ">" not in segments:
            clauses.append([Term(TOPIC, pattern.text)])
        else:
            known = source.topics() if pattern.text != ">" else None
            if known is not None:
                alike = [Term(TOPIC, topic) for topic in known if pattern.matches(topic)]
                if len(alike) <= QUERY_TOPICS_MAX and len(alike) < len(known):
                    clauses.append(alike)
    return clauses or None


def _candidates(
    source: Source,
    clauses: list[list[Term]],
    first: int,
    last: int,
    limit: int,
    descending: bool,
) -> Iterator[tuple[Sequence[int], int]]:
    """Those that the rarest clause names, and no other clause rules out cheaply."""
    if len(clauses) > 1:
        clauses = sorted(clauses, key=lambda terms: _estimate(source, terms, first, last))
    rarest, *others = clauses
    batch = min(max(limit, _BATCH_MIN), _BATCH_MAX)
    while first <= last:
        low, high = first, last
        found: dict[int, None] = {}
        for term in rarest:
            some = source.revisions(term, low, high, batch, descending=descending)
            found.update(dict.fromkeys(some))
            if len(some) >= batch:  # the index may have more: go no further than this now
                low, high = (some[-1], high) if descending else (low, some[-1])
        candidates = sorted(each for each in found if low <= each <= high)
        for terms in others:
            if candidates:
                candidates = _narrowed(source, terms, candidates)
        if descending:
            candidates.reverse()
            last = low - 1
            yield candidates, low
        else:
            first = high + 1
            yield candidates, high
        batch = min(2 * batch, _BATCH_MAX)


def _narrowed(source: Source, terms: list[Term], candidates: list[int]) -> list[int]:
    """Those that have one of the terms; all, where looking it up is no cheaper than reading."""
    looked_up = _estimate(source, terms, candidates[0], candidates[-1])
    if looked_up > event_index.BLOCK_POSTINGS * max(len(candidates), _BATCH_MIN):
        return candidates
    if len(terms) == 1:
        return source.among(terms[0], candidates)
    named = {each: None for term in terms for each in source.among(term, candidates)}
    return [each for each in candidates if each in named]


def _estimate(source: Source, terms: list[Term], low: int, high: int) -> int:
    return sum(source.estimate(term, low, high) for term in terms)


def _scan(state: apsw.Connection, low: int, high: int, descending: bool) -> Looked:
    """Every event there is."""
    size = _CHUNK_MIN
    while low <= high:
        if descending:
            begin = max(low, high - size + 1)
            events = _between(state, begin, high)
            if not events:  # retention left a gap here
                high = _last_before(state, low, begin)
                continue
            events.reverse()
            high = begin - 1
        else:
            events = log.read(state, low, size, READ_BYTES_MAX)
            if not events:
                return
            low = events[-1].revision + 1
            events = [event for event in events if event.revision <= high]
        for event in events:
            yield event, 1
        size = _next_size(size, events)


def _last_before(state: apsw.Connection, low: int, revision: int) -> int:
    """The newest revision from `low` to before `revision` that has an event; else below `low`.

    The log is read forwards, so it is a search: is there one from the middle on?
    """
    high, step = revision - 1, 1
    below, above = high, high + 1  # nothing from `above` on
    while below >= low and not _between(state, below, above - 1, events_max=1):
        above = below
        step *= 2
        below = max(low, high - step) if below > low else low - 1
    while below >= low and above - below > 1:
        middle = (below + above) // 2
        if _between(state, middle, above - 1, events_max=1):
            below = middle
        else:
            above = middle
    return below


def _read(state: apsw.Connection, candidates: Sequence[int], descending: bool) -> Looked:
    """The events of these revisions, in this order, as far as they are there."""
    at, size = 0, _CHUNK_MIN
    while at < len(candidates):
        chunk = candidates[at : at + size]
        at += len(chunk)
        events, looked = _read_chunk(state, chunk[::-1] if descending else chunk)
        if descending:
            events.reverse()
        for event in events:
            yield event, looked
            looked = 0
        if looked:
            yield None, looked
        size = _next_size(size, events)


def _next_size(size: int, events: Sequence[Event]) -> int:
    """How many to read next: large ones are not held in memory together."""
    is_small = sum(event.size_bytes for event in events) < _CHUNK_BYTES
    return min(2 * size, _CHUNK_MAX) if is_small else max(size // 2, 1)


def _between(
    state: apsw.Connection, low: int, high: int, events_max: int | None = None
) -> list[Event]:
    """The events from `low` to `high`, at most so many of them."""
    events: list[Event] = []
    most = high - low + 1 if events_max is None else events_max
    while low <= high and len(events) < most:
        found = log.read(state, low, min(most, high - low + 1), READ_BYTES_MAX)
        if not found:
            break
        events += [event for event in found if event.revision <= high]
        low = found[-1].revision + 1
    return events


def _read_chunk(state: apsw.Connection, ascending: Sequence[int]) -> tuple[list[Event], int]:
    events: list[Event] = []
    looked = begin = 0
    count = len(ascending)
    while begin < count:
        end = begin + 1
        while end < count and ascending[end] - ascending[end - 1] <= _NEAR:
            end += 1
        from_revision, last = ascending[begin], ascending[end - 1]
        named = set(ascending[begin:end])
        near = _between(state, from_revision, last)
        looked += max(len(near), 1)
        events += [event for event in near if event.revision in named]
        begin = end
    return events, looked


def trace(
    state: apsw.Connection,
    parts: Sequence[Source],
    correlation_id: Identifier,
    *,
    limit: int,
    bytes_max: int,
    examined_max: int,
) -> tuple[list[Event], bool]:
    """All events of one correlation, oldest first, and whether there may be more.

    One that is a revision names the event that all others go back to: it comes first.
    """
    wanted = Filter(correlation_id=correlation_id)
    root: list[Event] = []
    low = 1
    if isinstance(correlation_id, int):
        low = correlation_id + 1  # what an event caused comes after it
        found = get(state, correlation_id)
        root = [] if found is None else [found]
    page = query(
        state, parts, wanted, low, 1 << 62,
        limit=max(limit - len(root), 1), bytes_max=bytes_max, examined_max=examined_max,
    )  # fmt: skip
    return root + page.events, page.next_revision is not None


def get(state: apsw.Connection, revision: int) -> Event | None:
    """The event of this revision, if it is there."""
    found = log.read(state, revision, 1, READ_BYTES_MAX)
    return found[0] if found and found[0].revision == revision else None
