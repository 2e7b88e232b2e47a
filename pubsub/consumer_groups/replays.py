"""Replays: a part of the log is handed out to one group again, without moving the group.

`replay.start` writes down what is wanted, and the leader proposes `replay.step` until it is done:
each step looks at a bounded part of the log and adds one event for each that the group gets again
(`addressing`). The rate is kept in apply, by the elapsed clock. What the group does meanwhile goes
on, in the order of the log. An event that retention took is not replayed.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import apsw

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.addressing import ADDRESSED, meta_of_fact
from pubsub.consumer_groups.group_tables import is_count, malformed, unknown_group
from pubsub.events import GROUP_EVENT_REPLAYED, Event, compress, expand
from pubsub.limits import (
    READ_BYTES_MAX,
    REPLAY_KEY_BYTES_MAX,
    REPLAY_RATE_MAX,
    REPLAY_STEP_EVENTS_MAX,
    REPLAYS_MAX,
)
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, closest, validate_pattern

RUNNING: Final = "running"
DONE: Final = "done"
CANCELLED: Final = "cancelled"

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS replay_state(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    next_replay_id INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS replays(
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL,
    from_revision INTEGER NOT NULL,
    to_revision INTEGER NOT NULL,
    pattern TEXT,
    key TEXT,
    rate_per_s INTEGER,
    state TEXT NOT NULL,             -- running, done or cancelled
    next_revision INTEGER NOT NULL,  -- everything before it was looked at
    emitted INTEGER NOT NULL,
    credit INTEGER NOT NULL,         -- thousandths of an event that the rate allowed at touched_ms
    touched_ms INTEGER NOT NULL,     -- on the elapsed clock
    wall_ms INTEGER NOT NULL,        -- when it was started
    actor TEXT                       -- by whom
) STRICT;
"""

TABLES_BY_GROUP: Final = ("replays",)
_OPTIONS: Final = ("pattern", "key", "rate_per_s")
_LOOK_EVENTS: Final = 64  # read at a time: a slow replay must not decode much for one event


class Replay(NamedTuple):
    """One row of `replays`."""

    id: int
    group_id: int
    from_revision: int
    to_revision: int
    pattern: str | None
    key: str | None
    rate_per_s: int | None
    state: str
    next_revision: int
    emitted: int
    credit: int
    touched_ms: int
    wall_ms: int
    actor: str | None

    def credit_at(self, elapsed_ms: int) -> int:
        """What the rate allows by then; never more than a second's worth."""
        rate = self.rate_per_s or 0
        return min(rate * 1000, self.credit + rate * (elapsed_ms - self.touched_ms))

    def is_due(self, elapsed_ms: int) -> bool:
        """Whether a step would get on."""
        return self.state == RUNNING and (
            self.rate_per_s is None or self.credit_at(elapsed_ms) >= 1000
        )


def start(
    apply: Apply, group: Any, from_revision: Any, to_revision: Any = None, options: Any = None
) -> int | Rejection:
    """`replay.start`: hand out to `group` again its events of these revisions (both included; nil:
    up to the newest now). `options`: nil or a map of `pattern`, `key` and `rate_per_s`, which
    narrow it down. Returns the id of the replay.
    """
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    last = apply.revision if to_revision is None else to_revision
    if not (is_count(from_revision, 1) and is_count(last) and from_revision <= last):
        return malformed("from_revision and to_revision: a range of revisions from 1 is needed")
    if last > apply.revision:
        return malformed(f"to_revision: revision {last} is not in the log yet")
    options = {} if options is None else options
    problem = _options_problem(options)
    if problem:
        return malformed(problem)
    problem_of_room = _make_room(apply.connection)
    if problem_of_room is not None:
        return problem_of_room
    replay_id = int(apply.connection.execute("SELECT next_replay_id FROM replay_state").get or 1)
    apply.connection.execute("INSERT OR REPLACE INTO replay_state VALUES(0, ?)", (replay_id + 1,))
    replay = Replay(
        replay_id, row.id, from_revision, last, options.get("pattern"), options.get("key"),
        options.get("rate_per_s"), RUNNING, from_revision, 0, 1000, apply.elapsed_ms,
        apply.wall_ms, expand(apply.meta)[0],
    )  # fmt: skip
    _store(apply.connection, replay)
    return replay_id


def cancel(apply: Apply, replay_id: Any) -> bool | Rejection:
    """`replay.cancel`: stop; what was handed out stays so. Whether it was still running."""
    if not is_count(replay_id):
        return malformed("id: an integer is needed")
    replay = _load(apply.connection, replay_id)
    if replay is None:
        return Rejection("unknown_replay", f"there is no replay {replay_id}")
    if replay.state != RUNNING:
        return False
    _store(apply.connection, replay._replace(state=CANCELLED))
    return True


def step(apply: Apply, replay_id: Any, events_max: Any) -> int | Rejection:
    """`replay.step`: go on with one replay; returns how many events were handed out."""
    if not is_count(replay_id) or not is_count(events_max, 1):
        return malformed("id and events_max: integers are needed")
    replay = _load(apply.connection, replay_id)
    if replay is None or not replay.is_due(apply.elapsed_ms):
        return 0
    group, own_pattern = apply.connection.execute(
        "SELECT name, pattern FROM consumer_groups WHERE id = ?", (replay.group_id,)
    ).get
    allowed = min(events_max, REPLAY_STEP_EVENTS_MAX)
    credit = 0
    if replay.rate_per_s is not None:
        credit = replay.credit_at(apply.elapsed_ms)
        allowed = min(allowed, credit // 1000)
    wanted, following = _choose(apply.connection, replay, Pattern(own_pattern), allowed)
    for event in wanted:
        meta = meta_of_fact(compress(replay.actor, None, None, 0, None), event)
        apply.emit(GROUP_EVENT_REPLAYED, event.key, (group, event.revision), meta)
    _store(
        apply.connection,
        replay._replace(
            state=DONE if following > replay.to_revision else RUNNING,
            next_revision=following,
            emitted=replay.emitted + len(wanted),
            credit=max(0, credit - 1000 * len(wanted)),
            touched_ms=apply.elapsed_ms,
        ),
    )
    return len(wanted)


def due(connection: apsw.Connection, elapsed_ms: int) -> list[int]:
    """The replays that a step would move on, by id."""
    rows: Iterable[Any] = connection.execute(
        "SELECT * FROM replays WHERE state = 'running' ORDER BY id"
    )
    return [replay.id for replay in map(Replay._make, rows) if replay.is_due(elapsed_ms)]


def listing(connection: apsw.Connection) -> list[dict[str, Any]]:
    """`replay.list`: those under way and those that ended lately, by id."""
    rows: Iterable[Any] = connection.execute(
        "SELECT g.name, r.* FROM replays AS r JOIN consumer_groups AS g ON g.id = r.group_id"
        " ORDER BY r.id"
    )
    shown = (
        "id", "from_revision", "to_revision", "pattern", "key", "rate_per_s", "state",
        "next_revision", "emitted", "wall_ms", "actor",
    )  # fmt: skip
    listed: list[dict[str, Any]] = []
    for name, *columns in rows:
        replay = Replay._make(columns)._asdict()
        listed.append({"group": name, **{column: replay[column] for column in shown}})
    return listed


def _choose(
    connection: apsw.Connection, replay: Replay, own: Pattern, allowed: int
) -> tuple[list[Event], int]:
    """The next events to hand out, and the revision to go on from."""
    narrowed = None if replay.pattern is None else Pattern(replay.pattern)
    wanted: list[Event] = []
    following, looked = replay.next_revision, 0
    while looked < REPLAY_STEP_EVENTS_MAX and following <= replay.to_revision:
        found = log.read(connection, following, _LOOK_EVENTS, READ_BYTES_MAX)
        for event in found:
            if event.revision > replay.to_revision:
                return wanted, event.revision
            is_wanted = (
                event.topic not in ADDRESSED
                and own.matches(event.topic)
                and (narrowed is None or narrowed.matches(event.topic))
                and (replay.key is None or event.key == replay.key)
            )
            if is_wanted:
                if len(wanted) >= allowed:
                    return wanted, event.revision
                wanted.append(event)
            following = event.revision + 1
        if not found:
            return wanted, replay.to_revision + 1
        looked += len(found)
    return wanted, following


def _make_room(connection: apsw.Connection) -> Rejection | None:
    """Forget the oldest of those that ended when there are too many."""
    if int(connection.execute("SELECT count(*) FROM replays").get) < REPLAYS_MAX:
        return None
    connection.execute(
        "DELETE FROM replays WHERE id = (SELECT min(id) FROM replays WHERE state != 'running')"
    )
    if connection.changes():
        return None
    return Rejection("limit_exceeded", f"at most {REPLAYS_MAX} replays are under way at a time")


def _options_problem(options: Any) -> str | None:
    if not isinstance(options, dict):
        return "options: a map or nil is needed"
    for name in options:
        if name not in _OPTIONS:
            nearest = closest(name, _OPTIONS) if isinstance(name, str) else None
            hint = f'; did you mean "{nearest}"?' if nearest else ""
            return f"options: {', '.join(_OPTIONS)} are known, nothing else{hint}"
    pattern, key, rate = (options.get(name) for name in _OPTIONS)
    if pattern is not None and (problem := validate_pattern(pattern)):
        return f"options: {problem}"
    if key is not None and not (isinstance(key, str) and len(key.encode()) <= REPLAY_KEY_BYTES_MAX):
        return f"options: key: a text of at most {REPLAY_KEY_BYTES_MAX} bytes is needed"
    if rate is not None and not (is_count(rate, 1) and rate <= REPLAY_RATE_MAX):
        return f"options: rate_per_s: from 1 to {REPLAY_RATE_MAX} is needed"
    return None


def _load(connection: apsw.Connection, replay_id: int) -> Replay | None:
    row: Any = connection.execute("SELECT * FROM replays WHERE id = ?", (replay_id,)).fetchone()
    return None if row is None else Replay._make(row)


def _store(connection: apsw.Connection, replay: Replay) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO replays VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", replay
    )
