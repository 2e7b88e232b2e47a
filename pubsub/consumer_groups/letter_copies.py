"""Copies of the events that stand in dead letters: retention may take the event, the letter stays.

A group keeps copies up to a bound of bytes; a letter beyond it, or one from before there were
copies, has its event as long as the log has it.
"""

from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups.addressing import rebuilt, recipient, resolve
from pubsub.events import Event, compress
from pubsub.limits import LETTER_COPIES_BYTES_MAX

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS dead_letter_events(
    group_id INTEGER NOT NULL,
    revision INTEGER NOT NULL,       -- of the letter: where the group was when it gave up
    original_revision INTEGER NOT NULL, -- another one after a replay or a redrive
    redrives INTEGER NOT NULL,
    edited INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,        -- of the original
    topic TEXT NOT NULL,
    key TEXT,
    event BLOB NOT NULL,             -- msgpack [topic, key, data, meta]
    PRIMARY KEY(group_id, revision)
) STRICT;
CREATE TABLE IF NOT EXISTS dead_letter_bytes(
    group_id INTEGER PRIMARY KEY,
    bytes INTEGER NOT NULL           -- of the group's copies
) STRICT;
"""

TABLES_BY_GROUP: Final = ("dead_letter_events", "dead_letter_bytes")


class Copy(NamedTuple):
    """The event of a dead letter."""

    event: Event  # the original, or as it was edited, under its own revision
    redrives: int  # how often it was given back to the group before
    edited: bool


class Outline(NamedTuple):
    """What a listing says of the event, without a look at its payload."""

    original_revision: int
    redrives: int
    edited: bool
    wall_ms: int
    topic: str
    key: str | None
    size_bytes: int


def keep(apply: Apply, group_id: int, revision: int) -> None:
    """Copy the event that a group has just given up."""
    connection = apply.connection
    drop(connection, group_id, revision)
    copy = _from_log(connection, group_id, revision)
    if copy is not None:
        _store(connection, group_id, revision, copy)


def find(connection: apsw.Connection, group_id: int, revision: int) -> Copy | None:
    """The event of a dead letter; None when nobody has it any more."""
    row: Any = connection.execute(
        "SELECT original_revision, redrives, edited, wall_ms, event FROM dead_letter_events"
        " WHERE group_id = ? AND revision = ?",
        (group_id, revision),
    ).fetchone()
    if row is None:
        return _from_log(connection, group_id, revision)
    original_revision, redrives, edited, wall_ms, packed = row
    topic, key, data, meta = msgpack.unpackb(packed, use_list=False, strict_map_key=False)
    bare = Event(0, "", key, (), None, None, None, 0, None, 0, 0, 0, len(packed))
    event = rebuilt(bare, original_revision, topic, data, wall_ms, meta)
    return Copy(event, redrives, bool(edited))


def outline(connection: apsw.Connection, group_id: int, revision: int) -> Outline | None:
    """The facts of a letter's event; None when nobody has it any more."""
    row: Any = connection.execute(
        "SELECT original_revision, redrives, edited, wall_ms, topic, key, length(event)"
        " FROM dead_letter_events WHERE group_id = ? AND revision = ?",
        (group_id, revision),
    ).fetchone()
    if row is not None:
        return Outline(row[0], row[1], bool(row[2]), *row[3:])
    copy = _from_log(connection, group_id, revision)
    if copy is None:
        return None
    event = copy.event
    return Outline(
        event.revision, copy.redrives, False, event.wall_ms, event.topic, event.key,
        event.size_bytes,
    )  # fmt: skip


def replace(connection: apsw.Connection, group_id: int, revision: int, copy: Copy) -> bool:
    """Put an edited event in the place of the one that was copied; False when there is no room."""
    drop(connection, group_id, revision)
    return _store(connection, group_id, revision, copy)


def drop(connection: apsw.Connection, group_id: int, revision: int) -> None:
    """Forget the event of a letter."""
    size = connection.execute(
        "SELECT length(event) FROM dead_letter_events WHERE group_id = ? AND revision = ?",
        (group_id, revision),
    ).get
    if size is not None:
        connection.execute(
            "DELETE FROM dead_letter_events WHERE group_id = ? AND revision = ?",
            (group_id, revision),
        )
        _add_bytes(connection, group_id, -int(size))


def _from_log(connection: apsw.Connection, group_id: int, revision: int) -> Copy | None:
    given_up = log.event_at(connection, revision)
    if given_up is None:
        return None
    named = recipient(given_up)
    if named is not None and named != _name_of(connection, group_id):
        return Copy(given_up, 0, False)  # handed out again to another group: a plain fact here
    found = resolve(given_up, lambda original: log.event_at(connection, original))
    return None if found is None else Copy(found.event, found.redrives, False)


def _name_of(connection: apsw.Connection, group_id: int) -> str:
    row = connection.execute("SELECT name FROM consumer_groups WHERE id = ?", (group_id,))
    return str(row.get)


def _store(connection: apsw.Connection, group_id: int, revision: int, copy: Copy) -> bool:
    event = copy.event
    meta = compress(
        event.actor, event.correlation_id, event.causation_id, event.hops, event.traceparent
    )
    packed = msgpack.packb((event.topic, event.key, event.data, meta))
    held = connection.execute(
        "SELECT bytes FROM dead_letter_bytes WHERE group_id = ?", (group_id,)
    ).get
    if int(held or 0) + len(packed) > LETTER_COPIES_BYTES_MAX:
        return False
    connection.execute(
        "INSERT INTO dead_letter_events VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            group_id, revision, event.revision, copy.redrives, int(copy.edited), event.wall_ms,
            event.topic, event.key, packed,
        ),
    )  # fmt: skip
    _add_bytes(connection, group_id, len(packed))
    return True


def _add_bytes(connection: apsw.Connection, group_id: int, size: int) -> None:
    connection.execute(
        "INSERT INTO dead_letter_bytes VALUES(?1, ?2) ON CONFLICT(group_id)"
        " DO UPDATE SET bytes = bytes + ?2",
        (group_id, size),
    )
