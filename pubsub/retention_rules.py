"""Which events the log keeps: the rules, what they took already, and who needs what is left.

An event belongs to the first rule that matches its topic, the most specific first
(`topics.specificity`), and to no rule when none matches: then it stays for ever. Beside the rules
there is one cap for the whole log, under the empty pattern.

Every rule takes its oldest events first, so one revision per rule says what is gone: `gone_to`. A
reader is told about gaps by `retention_trims`, which outlives the rules.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub.apply import Apply
from pubsub.consumer_groups.addressing import ADDRESSED
from pubsub.consumer_groups.group_settings import protected_floors
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import OVERLAPS_REMEMBERED_MAX, RETENTION_RULES_MAX, RETENTION_TRIMS_MAX
from pubsub.log import Compacted
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, closest, pattern_covers, patterns_overlap, specificity
from pubsub.topics import validate_pattern as pattern_problem

CAP: Final = ""
"""In place of a pattern: the cap of the whole log, which every event belongs to."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS retention_rules(
    pattern TEXT PRIMARY KEY,        -- '' is the cap of the whole log
    max_age_ms INTEGER,
    max_events INTEGER,
    max_bytes INTEGER,
    gone_to INTEGER NOT NULL,        -- no event of the rule is left up to here
    counted_to INTEGER NOT NULL,     -- those after gone_to are counted up to here,
    events INTEGER NOT NULL,         -- this many
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retention_trims(
    pattern TEXT PRIMARY KEY,        -- of a rule that took events, whether or not it still exists
    trimmed_to INTEGER NOT NULL      -- the newest one that it took
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retention_losers(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    names BLOB NOT NULL              -- groups that lost unread events to the cap, as was told
) STRICT;
"""


class Rule:
    """A rule while it is looked at; `store` writes what changed."""

    __slots__ = (
        "bytes", "counted_to", "events", "gone_to", "matches", "max_age_ms", "max_bytes",
        "max_events", "pattern",
    )  # fmt: skip

    def __init__(
        self,
        pattern: str,
        max_age_ms: int | None,
        max_events: int | None,
        max_bytes: int | None,
        gone_to: int = 0,
        counted_to: int = 0,
        events: int = 0,
        bytes: int = 0,
    ) -> None:
        self.pattern = pattern
        self.max_age_ms = max_age_ms
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.gone_to = gone_to
        self.counted_to = counted_to
        self.events = events
        self.bytes = bytes
        self.matches: Callable[[str], bool] = Pattern(pattern).matches if pattern else _anything

    @property
    def is_cap(self) -> bool:
        """Whether it is the cap of the whole log instead of a rule."""
        return self.pattern == CAP

    @property
    def is_counting(self) -> bool:
        """Whether it must know how much there is."""
        return self.max_events is not None or self.max_bytes is not None

    def is_over(self) -> bool:
        """Whether more is there than the rule allows."""
        return (self.max_events is not None and self.events > self.max_events) or (
            self.max_bytes is not None and self.bytes > self.max_bytes
        )

    def takes(self, event_wall_ms: int, wall_ms: int) -> bool:
        """Whether its oldest event, made at that time, is to go now."""
        too_old = self.max_age_ms is not None and event_wall_ms + self.max_age_ms <= wall_ms
        return too_old or self.is_over()

    def forget(self, revision: int, size_bytes: int) -> None:
        """An event that belongs to it is gone."""
        if self.is_counting and self.gone_to < revision <= self.counted_to:
            self.events -= 1
            self.bytes -= size_bytes

    def count_again(self, gone_to: int) -> None:
        """Other events belong to it from now on."""
        self.gone_to = self.counted_to = gone_to
        self.events = self.bytes = 0

    def row(self) -> tuple[Any, ...]:
        """The columns of its row."""
        return (
            self.pattern, self.max_age_ms, self.max_events, self.max_bytes, self.gone_to,
            self.counted_to, self.events, self.bytes,
        )  # fmt: skip


class Holder(NamedTuple):
    """A protected group, and how far the slowest part of it has got."""

    floor: int
    group: str
    pattern: str


def load(connection: apsw.Connection) -> list[Rule]:
    """The rules, most specific first, and last the cap of the whole log."""
    rows: Iterable[Any] = connection.execute("SELECT * FROM retention_rules ORDER BY pattern")
    return sorted((Rule(*row) for row in rows), key=lambda rule: (rule.is_cap, _order(rule)))


def store(connection: apsw.Connection, rules: Iterable[Rule]) -> None:
    """Write new or changed rules."""
    connection.executemany(
        "INSERT OR REPLACE INTO retention_rules VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
        [rule.row() for rule in rules],
    )


def note_trim(connection: apsw.Connection, pattern: str, trimmed_to: int) -> None:
    """Remember for readers that events of a pattern are gone up to there."""
    connection.execute(
        "INSERT INTO retention_trims VALUES(?1, ?2) ON CONFLICT(pattern)"
        " DO UPDATE SET trimmed_to = max(trimmed_to, ?2)",
        (pattern, trimmed_to),
    )
    # Rules that come and go must not pile up: what is told of the oldest is told of all topics.
    count = int(connection.execute("SELECT count(*) FROM retention_trims").get)
    if count > RETENTION_TRIMS_MAX:
        oldest, up_to = connection.execute(
            "SELECT pattern, trimmed_to FROM retention_trims WHERE pattern != ''"
            " ORDER BY trimmed_to, pattern LIMIT 1"
        ).get
        connection.execute("DELETE FROM retention_trims WHERE pattern = ?", (oldest,))
        note_trim(connection, CAP, up_to)


def compacted(connection: apsw.Connection, pattern: str, from_revision: int) -> Compacted | None:
    """Whether a reader of `pattern` that goes on at `from_revision` has missed events, and from
    where on it misses nothing.

    Never silent, and not always exact: a rule for `logs.>` that took events tells a reader of
    `logs.debug`, too, which may have lost none of its own.
    """
    trims: list[Any] = connection.execute(
        "SELECT pattern, trimmed_to FROM retention_trims WHERE trimmed_to >= ?"
        " ORDER BY trimmed_to DESC, pattern",
        (from_revision,),
    ).fetchall()
    if not trims:
        return None
    # A rule that covers the pattern keeps all less specific ones away from it.
    rules = [rule for rule in load(connection) if not rule.is_cap]
    shield = next((_order(rule) for rule in rules if pattern_covers(rule.pattern, pattern)), None)
    for trimmed, trimmed_to in trims:
        if trimmed == CAP:
            return Compacted(trimmed_to + 1)
        if shield is not None and specificity(trimmed) > shield:
            continue
        if overlaps(trimmed, pattern):
            return Compacted(trimmed_to + 1)
    return None


def trimmed_to(connection: apsw.Connection) -> int:
    """The newest revision that any rule has taken; 0 when none has."""
    value = connection.execute("SELECT max(trimmed_to) FROM retention_trims").get
    return 0 if value is None else int(value)


def holders(connection: apsw.Connection) -> list[Holder]:
    """The groups that retention waits for, those that are furthest behind first."""
    found = protected_floors(connection)
    return sorted(Holder(floor, name, pattern) for name, pattern, floor in found)


def holder_of(rule: Rule, found: Iterable[Holder]) -> Holder | None:
    """The first of the groups that needs events of a rule."""
    # What is replayed to a group stands under topics of its own, whatever the group's pattern is.
    if any(map(rule.matches, sorted(ADDRESSED))):
        return next(iter(found), None)
    return next((one for one in found if overlaps(one.pattern, rule.pattern)), None)


@lru_cache(OVERLAPS_REMEMBERED_MAX)
def overlaps(left: str, right: str) -> bool:
    """As `patterns_overlap`: a pure function, so remembering it is no state of any node."""
    return patterns_overlap(left, right)


# --- operations ---


def set_rule(
    apply: Apply, pattern: Any, max_age_ms: Any, max_events: Any = None, max_bytes: Any = None
) -> bool | Rejection:
    """`retention.set`: keep events of the topics that match no older than `max_age_ms`, no more
    than `max_events` and `max_bytes`; nil is no limit, and three of them keep everything for ever,
    whatever a less specific rule says. Returns whether the pattern is new.
    """
    problem = pattern_problem(pattern)
    if problem:
        return malformed(problem)
    if not all(map(_is_limit, (max_age_ms, max_events, max_bytes))):
        return malformed("max_age_ms, max_events and max_bytes: integers from 1 or nil are needed")
    rules = load(apply.connection)
    known = next((rule for rule in rules if rule.pattern == pattern), None)
    if known is not None:
        was_counting = known.is_counting
        known.max_age_ms, known.max_events, known.max_bytes = max_age_ms, max_events, max_bytes
        if not was_counting:
            known.count_again(known.gone_to)
        store(apply.connection, [known])
        return False
    if len(rules) - any(rule.is_cap for rule in rules) >= RETENTION_RULES_MAX:
        return Rejection(
            "limit_exceeded", f"a cluster has at most {RETENTION_RULES_MAX} retention rules"
        )
    new = Rule(pattern, max_age_ms, max_events, max_bytes)
    changed = [new]
    for rule in rules:
        if not rule.is_cap and _order(rule) > _order(new) and overlaps(rule.pattern, pattern):
            rule.count_again(rule.gone_to)  # it has lost events to the new one
            changed.append(rule)
    store(apply.connection, changed)
    _inherit(apply.connection, new)
    return True


def delete_rule(apply: Apply, pattern: Any) -> bool | Rejection:
    """`retention.delete`: the events belong to the next rule that matches; true."""
    rules = load(apply.connection)
    known = next((r for r in rules if r.pattern == pattern and not r.is_cap), None)
    if known is None:
        if not isinstance(pattern, str):
            return malformed("pattern: a text is needed")
        nearest = closest(pattern, [rule.pattern for rule in rules if not rule.is_cap])
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return Rejection("unknown_rule", f'there is no retention rule "{pattern}"{hint}')
    apply.connection.execute("DELETE FROM retention_rules WHERE pattern = ?", (pattern,))
    changed: list[Rule] = []
    for rule in rules:
        if not rule.is_cap and _order(rule) > _order(known) and overlaps(rule.pattern, pattern):
            rule.count_again(0)  # the events that it gets may be older than what it took so far
            changed.append(rule)
    store(apply.connection, changed)
    return True


def set_cap(apply: Apply, max_events: Any, max_bytes: Any = None) -> bool | Rejection:
    """`retention.cap`: the whole log has at most so much, whoever needs it; two nils take the cap
    away. What groups had not read goes with an event that names them."""
    if not (_is_limit(max_events) and _is_limit(max_bytes)):
        return malformed("max_events and max_bytes: integers from 1 or nil are needed")
    if max_events is None and max_bytes is None:
        apply.connection.execute("DELETE FROM retention_rules WHERE pattern = ''")
        return True
    cap = next((rule for rule in load(apply.connection) if rule.is_cap), None)
    cap = cap or Rule(CAP, None, None, None)
    cap.max_events, cap.max_bytes = max_events, max_bytes
    store(apply.connection, [cap])
    return True


def listing(connection: apsw.Connection) -> list[dict[str, Any]]:
    """`retention.list`: the rules in the order in which they are asked, and last the cap, whose
    pattern is nil."""
    taken: Iterable[Any] = connection.execute("SELECT pattern, trimmed_to FROM retention_trims")
    trims = dict(taken)
    found = holders(connection)
    rows: list[dict[str, Any]] = []
    for rule in load(connection):
        holder = None if rule.is_cap else holder_of(rule, found)
        rows.append(
            {
                "pattern": rule.pattern or None,
                "max_age_ms": rule.max_age_ms,
                "max_events": rule.max_events,
                "max_bytes": rule.max_bytes,
                "trimmed_to": trims.get(rule.pattern, 0),
                # nil: the rule need not know
                "events": rule.events if rule.is_counting else None,
                "bytes": rule.bytes if rule.is_counting else None,
                "counted_to": rule.counted_to if rule.is_counting else None,
                # the group that retention would have to wait for next, and from where on
                "holder": holder.group if holder else None,
                "holder_floor": holder.floor if holder else None,
            }
        )
    return rows


def told_losers(connection: apsw.Connection) -> list[str]:
    """The groups that lost unread events to the cap, of which an event has said so."""
    packed: Any = connection.execute("SELECT names FROM retention_losers").get
    return [] if packed is None else list(msgpack.unpackb(packed))


def store_losers(connection: apsw.Connection, names: list[str]) -> None:
    """Remember them."""
    connection.execute(
        "INSERT OR REPLACE INTO retention_losers VALUES(0, ?)", (msgpack.packb(names),)
    )


def _inherit(connection: apsw.Connection, new: Rule) -> None:
    """What less specific rules took of its topics before it was there counts as its own."""
    rows: Iterable[Any] = connection.execute(
        "SELECT * FROM retention_trims WHERE pattern != '' ORDER BY pattern"
    )
    taken = [
        trimmed_to
        for pattern, trimmed_to in rows
        if specificity(pattern) > _order(new) and overlaps(pattern, new.pattern)
    ]
    if taken:
        note_trim(connection, new.pattern, max(taken))


def _is_limit(value: Any) -> bool:
    return value is None or is_count(value, 1)


def _order(rule: Rule) -> tuple[tuple[int, str], ...]:
    return specificity(rule.pattern)


def _anything(topic: str) -> bool:
    return True
