"""Retention at work: bounded slices that count what is in the log and take what the rules give up.

The leader proposes `retention.trim` while `is_due`; how much there is to do, and what goes, follows
from the state alone. A rule is limited by the slowest protected group whose pattern overlaps its
own; the cap of the whole log is not, and says so with an event. Nothing is counted on the write
path: a slice counts what was written since the last one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups.addressing import ADDRESSED
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.events import SYSTEM_RETENTION_CAPPED
from pubsub.limits import (
    RETENTION_SLICE_BATCHES_MAX,
    RETENTION_SLICE_BYTES_MAX,
    RETENTION_SLICE_EVENTS_MAX,
)
from pubsub.log import Batch, Place
from pubsub.rejection import Rejection
from pubsub.retention_rules import (
    SCHEMA,
    Holder,
    Rule,
    compacted,
    delete_rule,
    holder_of,
    holders,
    listing,
    load,
    note_trim,
    set_cap,
    set_rule,
    store,
    store_losers,
    told_losers,
    trimmed_to,
)
from pubsub.topics import Pattern

__all__ = [
    "SCHEMA",
    "compacted",
    "delete_rule",
    "is_due",
    "listing",
    "set_cap",
    "set_rule",
    "told_losers",
    "trim",
    "trimmed_to",
]


def is_due(connection: apsw.Connection, wall_ms: int) -> bool:
    """Whether a slice would find something to do. Cheap without rules; else some small queries."""
    rules = load(connection)
    if not rules:
        return False
    last = log.last_revision(connection)
    if any(rule.is_counting and rule.counted_to < last for rule in rules):
        return True
    ready = [rule for rule in rules if _has_work(connection, rule, last - 1, wall_ms)]
    if not ready:
        return False
    found = holders(connection)
    return any(rule.gone_to < _limit(rule, last, found) for rule in ready)


def trim(apply: Apply, batches_max: Any) -> int | Rejection:
    """`retention.trim`: one slice, which looks at no more than `batches_max` batches to count and
    as many to take; returns how many events went."""
    if not is_count(batches_max, 1):
        return malformed("batches_max: an integer from 1 is needed")
    connection = apply.connection
    rules = load(connection)
    if not rules:
        return 0
    bounds = _Bounds(
        min(batches_max, RETENTION_SLICE_BATCHES_MAX),
        RETENTION_SLICE_EVENTS_MAX,
        RETENTION_SLICE_BYTES_MAX,
    )
    belonging = _Belonging(rules)
    last = log.last_revision(connection)
    before = [rule.row() for rule in rules]
    _count(connection, rules, belonging, last, bounds)
    ready = [rule for rule in rules if _has_work(connection, rule, last - 1, apply.wall_ms)]
    removed = 0
    if ready:
        found = holders(connection)
        share = _Bounds._make(bound // len(ready) for bound in bounds)
        for rule in ready:
            walk = _Walk(apply, rule, belonging, _limit(rule, last, found))
            removed += walk.run(share)
            if rule.is_cap:
                _tell_losers(apply, walk, found)
    store(connection, [rule for rule, row in zip(rules, before, strict=True) if rule.row() != row])
    return removed


class _Bounds(NamedTuple):
    """Of what is looked at; the first batch always is."""

    batches: int
    events: int
    bytes: int


class _Belonging:
    """Which rule an event belongs to."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = [rule for rule in rules if not rule.is_cap]
        self.cap = next((rule for rule in rules if rule.is_cap), None)
        self.counts = any(rule.is_counting for rule in rules)
        self._by_topic: dict[str, Rule | None] = {}

    def rule_of(self, topic: str) -> Rule | None:
        """The most specific rule that matches a topic."""
        try:
            return self._by_topic[topic]
        except KeyError:
            found = next((rule for rule in self.rules if rule.matches(topic)), None)
            self._by_topic[topic] = found
            return found

    def owns_all(self, rule: Rule) -> bool:
        """Whether whole batches can go without a look at their events."""
        return not self.counts and len(self.rules) == 1 and rule.pattern == ">"


class _Walk:
    """One rule takes its oldest events, from where it stopped the last time."""

    def __init__(self, apply: Apply, rule: Rule, belonging: _Belonging, limit: int) -> None:
        self._apply = apply
        self.rule = rule
        self._belonging = belonging
        self._limit = limit  # nothing after this revision may go
        self.taken: dict[str, int] = {}  # topic -> the newest event of it that went
        self._edits: list[tuple[Batch, list[Place]]] = []
        self.began_at = rule.gone_to
        self._removed = 0
        self._trimmed_to = 0

    def run(self, bounds: _Bounds) -> int:
        """Take what is to go, within the bounds; returns how many events went."""
        rule, connection = self.rule, self._apply.connection
        start = self.began_at
        if start >= self._limit:
            return 0
        found, reached = _read(connection, start, self._limit, bounds)
        for batch in found:
            stopped_at = self._take(batch, start)
            if stopped_at is not None:
                reached = stopped_at - 1
                break
        for batch, kept in self._edits:
            log.take_out(connection, batch, kept)
        rule.gone_to = max(start, reached)
        if self._removed:
            note_trim(connection, rule.pattern, self._trimmed_to)
            self._apply.trimmed_to = max(self._apply.trimmed_to, self._trimmed_to)
        return self._removed

    def _take(self, batch: Batch, start: int) -> int | None:
        """What goes of one batch; the revision of the first event that stays for now, if any."""
        rule, belonging, wall_ms = self.rule, self._belonging, self._apply.wall_ms
        last = batch.first_revision + batch.count - 1
        if not rule.takes(batch.wall_ms, wall_ms):
            return max(batch.first_revision, start + 1)
        if belonging.owns_all(rule) and last <= self._limit:
            self._edits.append((batch, []))
            self._removed += batch.count
            self._trimmed_to = last
            return None
        kept: list[Place] = []
        stopped_at: int | None = None
        places = log.places(batch)
        for place in places:
            owner = belonging.rule_of(place.topic)
            mine = rule.is_cap or owner is rule
            if stopped_at is not None or place.revision <= start or not mine:
                kept.append(place)
            elif place.revision > self._limit or not rule.takes(batch.wall_ms, wall_ms):
                stopped_at = place.revision
                kept.append(place)
            else:
                self._trimmed_to = self.taken[place.topic] = place.revision
                for each in (owner, belonging.cap):
                    if each is not None:
                        each.forget(place.revision, place.end - place.start)
        if len(kept) < len(places):
            self._removed += len(places) - len(kept)
            self._edits.append((batch, kept))
        return stopped_at


def _count(
    connection: apsw.Connection,
    rules: Sequence[Rule],
    belonging: _Belonging,
    last: int,
    bounds: _Bounds,
) -> None:
    """Count on from where the counting rules are, all of them in one pass."""
    counting = [rule for rule in rules if rule.is_counting]
    behind = min((rule.counted_to for rule in counting), default=last)
    if behind >= last:
        return
    found, reached = _read(connection, behind, last, bounds)
    for batch in found:
        for place in log.places(batch):
            for rule in (belonging.rule_of(place.topic), belonging.cap):
                if rule is not None and rule.is_counting and place.revision > rule.counted_to:
                    rule.events += 1
                    rule.bytes += place.end - place.start
    for rule in counting:
        rule.counted_to = max(rule.counted_to, reached)


def _read(
    connection: apsw.Connection, after: int, up_to: int, bounds: _Bounds
) -> tuple[list[Batch], int]:
    """The batches with events after one revision and up to another, and how far they reach: to
    `up_to`, unless a bound comes first."""
    found: list[Batch] = []
    events = size = 0
    for batch in log.batches(connection, after + 1):
        if batch.first_revision > up_to:
            break
        events += batch.count
        size += len(batch.blob)
        if found and (
            len(found) >= bounds.batches or events > bounds.events or size > bounds.bytes
        ):
            return found, batch.first_revision - 1
        found.append(batch)
    return found, up_to


def _has_work(connection: apsw.Connection, rule: Rule, newest: int, wall_ms: int) -> bool:
    """Whether the rule would take its next event, if nobody held it back."""
    if rule.gone_to >= newest:
        return False
    if rule.is_over():
        return True
    if rule.max_age_ms is None:
        return False
    oldest = connection.execute(
        "SELECT wall_ms FROM event_batches WHERE first_revision + count > ?1"
        " AND first_revision >= (SELECT coalesce(max(first_revision), 0) FROM event_batches"
        " WHERE first_revision <= ?1) ORDER BY first_revision LIMIT 1",
        (rule.gone_to + 1,),
    ).get
    return oldest is not None and int(oldest) + rule.max_age_ms <= wall_ms


def _limit(rule: Rule, last: int, found: Sequence[Holder]) -> int:
    """The newest revision that the rule may take: never the newest event of the log, nothing that
    it has not counted, and nothing that a protected group has yet to read."""
    limit = last - 1
    if rule.is_counting:
        limit = min(limit, rule.counted_to)
    if not rule.is_cap:
        holder = holder_of(rule, found)
        if holder is not None:
            limit = min(limit, holder.floor)
    return limit


def _tell_losers(apply: Apply, walk: _Walk, found: Sequence[Holder]) -> None:
    """The cap took events that protected groups had not read: say so, once for each of them until
    it has caught up."""
    told = told_losers(apply.connection)
    floors = {one.group: one.floor for one in found}
    behind = [name for name in told if floors.get(name, walk.began_at) < walk.began_at]
    new = [
        one.group
        for one in sorted(found, key=lambda one: one.group)
        if one.group not in behind and _lost(one, walk.taken)
    ]
    if new:
        apply.emit(SYSTEM_RETENTION_CAPPED, None, [walk.rule.gone_to + 1, new], apply.meta)
    if new or behind != told:
        store_losers(apply.connection, sorted([*behind, *new]))


def _lost(holder: Holder, taken: Mapping[str, int]) -> bool:
    """Whether a group had not read some of what was taken."""
    matches = Pattern(holder.pattern).matches
    return any(
        revision > holder.floor and (topic in ADDRESSED or matches(topic))
        for topic, revision in taken.items()
    )
