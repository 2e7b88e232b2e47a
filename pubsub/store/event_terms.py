"""What an event can be found by, and the terms of the newest events in memory.

A posting is one integer: 30 bits of a term's hash, and the low 32 bits of a revision.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from pubsub.apply import Terms
from pubsub.events import Identifier, Meta, expand, topic_name
from pubsub.log import Columns

# A thousand events become a run in one to two milliseconds, so the loop of a node can do it between
# two ticks.
RUN_EVENTS: Final = 1_024

_KINDS: Final = 5
TOPIC, KEY, ACTOR, CORRELATION, CAUSATION = range(_KINDS)
LOW: Final = 0xFFFF_FFFF  # of a posting: the revision, whose high bits are those of its run

# The same text as a key and as an actor is two terms.
_SEEDS: Final = tuple(crc32(b"tremula %d" % kind) for kind in range(_KINDS))
_HASH: Final = 0x3FFF_FFFF  # 30 bits: a posting is one of SQLite's integers, a hash is sorted fast


class Term(NamedTuple):
    """What an event can be found by."""

    kind: int
    value: Identifier

    @property
    def hash(self) -> int:
        return _hash(self.kind, self.value)


class Recent:
    """The terms of the newest events, in memory; one writer, and readers in other threads.

    A term that all of them have has no posting: `everywhere` holds its hash, by kind. The lists are
    in the order of the revisions, and `last_revision` follows when all is in.
    """

    __slots__ = (
        "_postings", "_revisions", "everywhere", "first_revision", "last_revision", "newest",
        "topics",
    )  # fmt: skip

    def __init__(self, first_revision: int) -> None:
        self.first_revision = first_revision
        self.last_revision = first_revision - 1
        self.newest: tuple[int, int] | None = None  # log index and time of that event
        self.topics: set[str] = set()
        self.everywhere: list[int | None] = [None] * _KINDS
        self._revisions: list[int] = []
        self._postings: list[list[int]] = [[] for _ in range(_KINDS)]

    def add(self, events: Columns) -> None:
        """Take events that follow those taken before, up to where a run must end. HOT."""
        revisions, topics, keys, metas, log_index, wall_ms = events
        count = bisect_right(revisions, self.first_revision | LOW)
        if count < len(revisions):
            revisions, topics, keys = revisions[:count], topics[:count], keys[:count]
            metas = metas[:count]
        names = [topic_name(topic) for topic in set(topics)]
        self.topics.update(names)
        if len(names) > 1:
            names = [topic_name(topic) for topic in topics]
        for kind, values in enumerate((names, keys, *_fields(metas))):
            first = values[0]
            if values.count(first) < len(values):
                self._part(kind)
                self._postings[kind] += self._postings_of(kind, values, revisions)
            else:  # as it mostly is with neighbours
                self._note_all(kind, None if first is None else _hash(kind, first), revisions)
        self._revisions += revisions
        self.newest = log_index, wall_ms
        self.last_revision = revisions[-1]

    @property
    def end(self) -> int:
        """The last revision that it takes, if none is missing."""
        return min(self.first_revision + RUN_EVENTS - 1, self.first_revision | LOW)

    def add_alike(self, last_revision: int, terms: Terms, at: Columns) -> None:
        """Take all up to this revision, which have the same terms; `at` is of the last one."""
        topic, key, meta = terms
        name = topic_name(topic)
        self.topics.add(name)
        revisions = range(self.last_revision + 1, last_revision + 1)
        for kind, value in enumerate((name, key, *expand(meta)[:3])):
            self._note_all(kind, None if value is None else _hash(kind, value), revisions)
        self._revisions += revisions
        self.newest = at.log_index, at.wall_ms
        self.last_revision = last_revision

    def _note_all(self, kind: int, number: int | None, revisions: Sequence[int]) -> None:
        """All of these events have the same term of a kind, or none."""
        if not self._revisions:
            self.everywhere[kind] = number
        elif number != self.everywhere[kind]:
            self._part(kind)
            if number is not None:
                offset = self._offset(number)
                self._postings[kind] += [offset + revision for revision in revisions]

    def _part(self, kind: int) -> None:
        """No term of this kind is everywhere any more."""
        number = self.everywhere[kind]
        if number is not None:
            offset = self._offset(number)
            self._postings[kind] = [offset + revision for revision in self._revisions]
            self.everywhere[kind] = None  # last: readers look at it first

    def _offset(self, number: int) -> int:
        """What makes a posting of a revision."""
        return (number << 32) - (self.first_revision & ~LOW)

    def _postings_of(self, kind: int, values: Sequence[Any], revisions: Sequence[int]) -> list[int]:
        """Of those events that have a value. HOT."""
        base = self.first_revision & ~LOW
        return [
            (_hash(kind, value) << 32) + revision - base
            for value, revision in zip(values, revisions, strict=True)
            if value is not None
        ]

    def takes(self, revision: int) -> bool:
        """Whether the next event belongs here: what there is may be enough for a run, and none
        crosses a multiple of 2**32."""
        fits = revision - self.first_revision < RUN_EVENTS
        return self.newest is None or (fits and revision <= self.first_revision | LOW)

    def revisions(self, term: Term, low: int, high: int) -> list[int]:
        """Those of events that may have the term, in order; from any thread."""
        number = term.hash
        if self.everywhere[term.kind] == number:
            found = self._revisions
            return found[bisect_left(found, low) : bisect_right(found, high)]
        low, high = max(low, self.first_revision), min(high, self.first_revision | LOW)
        offset = self._offset(number)
        begin, end = offset + low, offset + high
        return [each - offset for each in self._postings[term.kind] if begin <= each <= end]

    def postings(self) -> tuple[list[int], list[int]]:
        """All of them, sorted, each once; and the hashes of the terms that all events have."""
        if self.last_revision - self.first_revision + 1 != len(self._revisions):
            for kind in range(_KINDS):  # a run says of its first to its last
                self._part(kind)
        everywhere = {number for number in self.everywhere if number is not None}
        every = [posting for postings in self._postings for posting in postings]
        every.sort()
        # terms of two kinds may have one hash
        once = [each for each in dict.fromkeys(every) if each >> 32 not in everywhere]
        return once, sorted(everywhere)


def _fields(metas: Sequence[Meta | None]) -> Sequence[Sequence[Any]]:
    """Actors, correlation ids and causation ids; one of each where all events have the same."""
    if metas.count(metas[0]) == len(metas):
        return [(value,) for value in expand(metas[0])[:3]]
    return [
        [meta[at] if meta is not None and len(meta) > at else None for meta in metas]
        for at in range(3)
    ]


def _hash(kind: int, value: Identifier) -> int:
    encoded = value.encode() if isinstance(value, str) else b"#%d" % value
    return crc32(encoded, _SEEDS[kind]) & _HASH
