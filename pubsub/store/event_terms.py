"""What an event can be found by, and the terms of the newest events in memory.

A posting is one integer: 30 bits of a term's hash, and the low 32 bits of a revision.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from pubsub.events import Event, Identifier

# A thousand events become a run in one to two milliseconds, so the loop of a node can do it between
# two ticks.
RUN_EVENTS: Final = 1_024

TOPIC, KEY, ACTOR, CORRELATION, CAUSATION = range(5)
LOW: Final = 0xFFFF_FFFF  # of a posting: the revision, whose high bits are those of its run

# The same text as a key and as an actor is two terms.
_SEEDS: Final = tuple(crc32(b"tremula %d" % kind) for kind in range(5))
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

    A list of revisions only ever grows, and `last_revision` follows when all terms are in.
    """

    __slots__ = ("first_revision", "last_revision", "newest", "terms")

    def __init__(self, first_revision: int) -> None:
        self.first_revision = first_revision
        self.last_revision = first_revision - 1
        self.newest: Event | None = None
        self.terms: tuple[defaultdict[Any, list[int]], ...] = tuple(
            defaultdict(list) for _ in range(5)
        )

    def add(self, events: Sequence[Event]) -> None:
        """Take events that follow those taken before. HOT."""
        topics, keys, actors, correlations, causations = self.terms
        for event in events:
            revision, topic, key, _, actor, correlation_id, causation_id = event[:7]
            topics[topic].append(revision)
            if key is not None:
                keys[key].append(revision)
            if actor is not None:
                actors[actor].append(revision)
            if correlation_id is not None:
                correlations[correlation_id].append(revision)
            if causation_id is not None:
                causations[causation_id].append(revision)
        if events:
            self.newest = events[-1]
            self.last_revision = self.newest.revision

    def room(self) -> int:
        """How many more revisions fit: no run crosses a multiple of 2**32."""
        following = self.last_revision + 1
        covered = following - self.first_revision
        if covered and not following & LOW:
            return 0
        return min(RUN_EVENTS - covered, LOW + 1 - (following & LOW))

    def postings(self) -> list[int]:
        """All of them, sorted."""
        by_hash: dict[int, list[int]] = {}
        for kind, terms in enumerate(self.terms):
            hashes = _hashes(kind, terms)
            alone = dict(zip(hashes, terms.values(), strict=True))
            if len(alone) == len(terms) and by_hash.keys().isdisjoint(alone):
                by_hash |= alone
            else:
                for number, revisions in zip(hashes, terms.values(), strict=True):
                    by_hash[number] = sorted({*by_hash.get(number, ()), *revisions})
        found: list[int] = []
        for number in sorted(by_hash):
            revisions = by_hash[number]
            high = number << 32
            if len(revisions) == 1:
                found.append(high | revisions[0] & LOW)
            else:
                found += [high | revision & LOW for revision in revisions]
        return found


def _hash(kind: int, value: Identifier) -> int:
    return _hashes(kind, (value,))[0]


def _hashes(kind: int, values: Iterable[Identifier]) -> list[int]:
    """That of each; the kinds that are always text come first."""
    seed = _SEEDS[kind]
    if kind <= ACTOR:
        return [crc32(value.encode(), seed) & _HASH for value in values]  # type: ignore[union-attr]
    return [
        crc32(value.encode() if isinstance(value, str) else b"#%d" % value, seed) & _HASH
        for value in values
    ]
