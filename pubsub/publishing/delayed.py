"""Delayed events: kept outside of the log until their time has come on the wall clock.

Each comes out once, never early, in the order of (due, id), when the leader proposes it; its
revision, time and place are those of that moment. Actor, correlation and the like are those of the
request that left it here.
"""

from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub.apply import Apply
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import (
    DELAYED_BYTES_MAX,
    DELAYED_EVENTS_MAX,
    DELAYED_PUBLISHED_BYTES_MAX,
    DELAYED_PUBLISHED_MAX,
)
from pubsub.rejection import Rejection

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS delayed_events(
    id INTEGER PRIMARY KEY,
    due_ms INTEGER NOT NULL,         -- on the cluster's wall clock
    topic TEXT NOT NULL,
    key TEXT,
    size_bytes INTEGER NOT NULL,     -- of the payload and what stands beside it
    event BLOB NOT NULL              -- msgpack [data, meta], as in the log
) STRICT;
CREATE INDEX IF NOT EXISTS delayed_events_by_due ON delayed_events(due_ms, id);
CREATE TABLE IF NOT EXISTS delayed_totals(
    zero INTEGER PRIMARY KEY CHECK (zero = 0),
    next_id INTEGER NOT NULL,
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO delayed_totals VALUES(0, 1, 0, 0);
"""


class Delayed(NamedTuple):
    """An event that waits, as a listing shows it."""

    id: int
    due_ms: int
    topic: str
    key: str | None
    size_bytes: int


def keep(
    apply: Apply, due_ms: int, topic: str, key: str | None, data: tuple[Any, ...]
) -> int | Rejection:
    """Let an event wait until `due_ms`; returns its id. The arguments are in order."""
    execute = apply.connection.execute
    next_id, events, size = execute("SELECT next_id, events, bytes FROM delayed_totals").get
    if events >= DELAYED_EVENTS_MAX:
        return Rejection("limit_exceeded", f"at most {DELAYED_EVENTS_MAX} delayed events are kept")
    event = msgpack.packb((data, apply.meta))
    if size + len(event) > DELAYED_BYTES_MAX:
        return Rejection(
            "limit_exceeded", f"at most {DELAYED_BYTES_MAX} bytes of delayed events are kept"
        )
    execute(
        "INSERT INTO delayed_events VALUES(?, ?, ?, ?, ?, ?)",
        (next_id, due_ms, topic, key, len(event), event),
    )
    execute(
        "UPDATE delayed_totals SET next_id = ?, events = ?, bytes = ?",
        (next_id + 1, events + 1, size + len(event)),
    )
    return int(next_id)


def cancel(apply: Apply, identity: Any) -> bool | Rejection:
    """`delayed.cancel [id]` -> whether it was still waiting: if so it never comes out."""
    if not is_count(identity):
        return malformed("delayed.cancel: an id is an integer from 0")
    execute = apply.connection.execute
    size = execute("SELECT size_bytes FROM delayed_events WHERE id = ?", (identity,)).get
    if size is None:
        return False
    execute("DELETE FROM delayed_events WHERE id = ?", (identity,))
    _subtract(apply.connection, 1, size)
    return True


def publish(apply: Apply, up_to_wall_ms: Any, events_max: Any) -> int | Rejection:
    """`delayed.publish [up_to_wall_ms, events_max]` -> how many events came out.

    Never beyond the cluster's clock, whatever the proposer says, and no more bytes than a request
    could bring.
    """
    if not is_count(up_to_wall_ms) or not is_count(events_max):
        return malformed("delayed.publish: a time and a number of events are needed")
    rows = apply.connection.execute(
        "SELECT id, topic, key, size_bytes, event FROM delayed_events WHERE due_ms <= ?"
        " ORDER BY due_ms, id LIMIT ?",
        (min(up_to_wall_ms, apply.wall_ms), min(events_max, DELAYED_PUBLISHED_MAX)),
    )
    out: list[tuple[int]] = []
    total = 0
    for identity, topic, key, size, event in rows:
        if out and total + size > DELAYED_PUBLISHED_BYTES_MAX:
            break
        total += size
        out.append((identity,))
        data, meta = msgpack.unpackb(event, use_list=False, strict_map_key=False)
        apply.published[topic] = apply.emit(topic, key, data, meta)
    rows.close()
    if not out:
        return 0
    apply.connection.executemany("DELETE FROM delayed_events WHERE id = ?", out)
    _subtract(apply.connection, len(out), total)
    return len(out)


def next_due(connection: apsw.Connection) -> int | None:
    """When the next event is due, on the cluster's wall clock; None when none waits."""
    due_ms = connection.execute("SELECT min(due_ms) FROM delayed_events").get
    return None if due_ms is None else int(due_ms)


def page(connection: apsw.Connection, after_id: int, limit: int) -> tuple[list[Delayed], bool]:
    """Waiting events in the order of their ids after `after_id`, and whether there are more."""
    rows = connection.execute(
        "SELECT id, due_ms, topic, key, size_bytes FROM delayed_events WHERE id > ?"
        " ORDER BY id LIMIT ?",
        (after_id, limit + 1),
    ).fetchall()
    return [Delayed._make(row) for row in rows[:limit]], len(rows) > limit


def _subtract(connection: apsw.Connection, events: int, size: int) -> None:
    connection.execute(
        "UPDATE delayed_totals SET events = events - ?, bytes = bytes - ?", (events, size)
    )
