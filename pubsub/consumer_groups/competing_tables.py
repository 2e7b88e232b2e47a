"""The tables of the competing groups, and one such group in the hands of an operation.

Where an event of the group is:

    after the cursor   nobody has looked at it
    leased             with a member until the lease's deadline   (competing_leases)
    waiting            to be delivered again when it is due       (competing_waiting)
    dying              its letter found the list full             (competing_waiting, due_ms NULL)
    held               behind an earlier event of its key         (competing_keys, not the first)
    completed          none of these

A lease is a row for all events of one fetch. The group's one partition has no owner; its floor is
the low watermark: every event up to there is completed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub.apply import Apply
from pubsub.consumer_groups import group_settings
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.group_settings import Settings
from pubsub.consumer_groups.group_tables import Letter
from pubsub.limits import DEAD_LETTERS_MAX
from pubsub.rejection import Rejection

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS competing_groups(
    group_id INTEGER PRIMARY KEY,
    cursor INTEGER NOT NULL,         -- every event up to here was looked at
    in_flight INTEGER NOT NULL,      -- events in competing_leases
    waiting INTEGER NOT NULL,        -- rows of competing_waiting with a due_ms
    dying INTEGER NOT NULL,          -- and those without
    held INTEGER NOT NULL            -- rows of competing_keys behind the first of their key
) STRICT;
CREATE TABLE IF NOT EXISTS competing_leases(
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL,
    token INTEGER NOT NULL,
    member TEXT,                     -- NULL: given back by a member that left
    deadline_ms INTEGER NOT NULL,    -- on the elapsed clock
    first_revision INTEGER NOT NULL, -- the lowest of the events
    events BLOB NOT NULL             -- msgpack [[revision, attempt, bytes, order key | nil], ...]
) STRICT;
CREATE INDEX IF NOT EXISTS competing_leases_by_token ON competing_leases(group_id, token);
CREATE INDEX IF NOT EXISTS competing_leases_by_revision
    ON competing_leases(group_id, first_revision);
CREATE INDEX IF NOT EXISTS competing_leases_by_deadline ON competing_leases(deadline_ms);
CREATE TABLE IF NOT EXISTS competing_waiting(
    group_id INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    attempt INTEGER NOT NULL,        -- deliveries so far
    due_ms INTEGER,                  -- on the elapsed clock; NULL: for room in the dead letters
    size_bytes INTEGER NOT NULL,
    order_key TEXT,
    error TEXT,                      -- of the letter to be
    PRIMARY KEY(group_id, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS competing_waiting_by_due
    ON competing_waiting(group_id, due_ms, revision);
CREATE TABLE IF NOT EXISTS competing_keys(
    group_id INTEGER NOT NULL,
    order_key TEXT NOT NULL,
    revision INTEGER NOT NULL,       -- the first of a key is leased, waiting or dying
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY(group_id, order_key, revision)
) STRICT, WITHOUT ROWID;
"""

TABLES_BY_GROUP: Final = (
    "competing_groups", "competing_leases", "competing_waiting", "competing_keys",
)  # fmt: skip

_SELECT: Final = f"""
SELECT g.id, name, pattern, g.token, dead_held, floor, cursor, in_flight, waiting, dying, held,
    {group_settings.stands_still("g.id")},
    mode, protected, cooldown_ms, lease_ms, max_deliveries, backoff_ms, max_in_flight, ordered
FROM consumer_groups AS g JOIN competing_groups AS c ON c.group_id = g.id
    JOIN group_settings AS s ON s.group_id = g.id
    JOIN group_partitions AS p ON p.group_id = g.id AND partition = 0
"""
_BY_NAME: Final = _SELECT + "WHERE name = ?"
_BY_ID: Final = _SELECT + "WHERE g.id = ?"


class Pending(NamedTuple):
    """An event that was read and is not completed."""

    revision: int
    attempt: int  # deliveries so far, with the one that is under way
    size_bytes: int
    order_key: str | None  # None when the group did not keep the order of keys


class CompetingGroup:
    """A competing group while an operation changes it: `store` writes what it counted."""

    __slots__ = (
        "_apply",
        "_written",
        "completed",
        "cursor",
        "dead",
        "dead_held",
        "dying",
        "floor",
        "held",
        "id",
        "in_flight",
        "name",
        "pattern",
        "paused",
        "settings",
        "token",
        "waiting",
    )

    def __init__(self, apply: Apply, row: Sequence[Any]) -> None:
        self._apply = apply
        (
            self.id,
            self.name,
            self.pattern,
            self.token,  # the last one handed out
            self.dead_held,
            self.floor,
            self.cursor,
            self.in_flight,
            self.waiting,
            self.dying,
            self.held,
            paused,
            *settings,
        ) = row
        self.paused = bool(paused)
        self.settings: Settings = group_settings.from_row(*settings)
        self.completed = 0  # by this operation
        self.dead = 0
        self._written = self._counts()

    def lease(self, member: str, token: int, deadline_ms: int, events: Sequence[Pending]) -> None:
        """Write a lease of events that are counted as in flight already."""
        self._apply.connection.execute(
            "INSERT INTO competing_leases VALUES(NULL, ?, ?, ?, ?, ?, ?)",
            (self.id, token, member, deadline_ms, *pack_events(events)),
        )

    def wait(self, event: Pending, attempts: int, due_ms: int) -> None:
        """Have an event, in nobody's hands any more, delivered again when it is due."""
        self._apply.connection.execute(
            "INSERT INTO competing_waiting VALUES(?, ?, ?, ?, ?, ?, NULL)",
            (self.id, event.revision, attempts, due_ms, event.size_bytes, event.order_key),
        )
        self.waiting += 1

    def complete(self, event: Pending) -> None:
        """An event is dealt with: the next one of its key may go."""
        self.completed += 1
        self._next_of_key(event)

    def bury(self, event: Pending, error: str) -> None:
        """Give an event up: a dead letter, or, when there is no room, one that waits for room."""
        if self.dead_held < DEAD_LETTERS_MAX:
            letter = Letter(event.revision, event.attempt, error)
            self.dead_held += tables.store_letters(self._apply, self.id, [(0, letter)])
            self.dead += 1
            self._next_of_key(event)
            return
        self._apply.connection.execute(
            "INSERT INTO competing_waiting VALUES(?, ?, ?, NULL, ?, ?, ?)",
            (self.id, *event, tables.cut_error(error)),
        )
        self.dying += 1

    def bury_dying(self, limit: int) -> None:
        """Write the letters that found the list full, as far as there is room now."""
        room = min(limit, DEAD_LETTERS_MAX - self.dead_held)
        if not self.dying or room <= 0:
            return
        rows: list[Any] = self._apply.connection.execute(
            "SELECT revision, attempt, size_bytes, order_key, error FROM competing_waiting"
            " WHERE group_id = ? AND due_ms IS NULL ORDER BY revision LIMIT ?",
            (self.id, room),
        ).fetchall()
        for *event, error in rows:
            self.take_waiting([event[0]])
            self.dying -= 1
            self.bury(Pending(*event), error)

    def take_waiting(self, revisions: Iterable[int]) -> None:
        """Take events out of those that wait; the caller counts them."""
        self._apply.connection.executemany(
            "DELETE FROM competing_waiting WHERE group_id = ? AND revision = ?",
            [(self.id, revision) for revision in revisions],
        )

    def forget(self, event: Pending) -> None:
        """An event is gone from the log: nobody can handle it any more."""
        self._next_of_key(event)

    def is_busy(self, order_key: str) -> bool:
        """Whether an event of this key was read and is not completed."""
        return (
            self._apply.connection.execute(
                "SELECT 1 FROM competing_keys WHERE group_id = ? AND order_key = ? LIMIT 1",
                (self.id, order_key),
            ).get
            is not None
        )

    def hold(self, revision: int, order_key: str, size_bytes: int) -> None:
        """Note an event of a key in its turn."""
        self._apply.connection.execute(
            "INSERT INTO competing_keys VALUES(?, ?, ?, ?)",
            (self.id, order_key, revision, size_bytes),
        )

    @property
    def is_changed(self) -> bool:
        """Whether `store` has anything to write."""
        return self._counts() != self._written

    def store(self) -> None:
        """Write the counts, the cursor and the floor, as far as they changed."""
        execute = self._apply.connection.execute
        if self.is_changed:
            execute(
                "UPDATE consumer_groups SET token = ?, dead_held = ?, completed = completed + ?,"
                " dead = dead + ? WHERE id = ?",
                (self.token, self.dead_held, self.completed, self.dead, self.id),
            )
            execute(
                "UPDATE competing_groups SET cursor = ?, in_flight = ?, waiting = ?, dying = ?,"
                " held = ? WHERE group_id = ?",
                (self.cursor, self.in_flight, self.waiting, self.dying, self.held, self.id),
            )
        floor = self._lowest() - 1
        if floor != self.floor:
            execute(
                "UPDATE group_partitions SET floor = ? WHERE group_id = ? AND partition = 0",
                (floor, self.id),
            )

    def _lowest(self) -> int:
        """The lowest revision that is not completed. What is held has an earlier one of its key."""
        lowest: int = self.cursor + 1
        execute = self._apply.connection.execute
        if self.in_flight:
            found = execute(
                "SELECT min(first_revision) FROM competing_leases WHERE group_id = ?", (self.id,)
            ).get
            lowest = min(lowest, found)
        if self.waiting or self.dying:
            found = execute(
                "SELECT min(revision) FROM competing_waiting WHERE group_id = ?", (self.id,)
            ).get
            lowest = min(lowest, found)
        return lowest

    def _next_of_key(self, event: Pending) -> None:
        """The first event of a key is gone: the one after it, if it was held, is due at once."""
        if event.order_key is None:
            return
        execute = self._apply.connection.execute
        execute(
            "DELETE FROM competing_keys WHERE group_id = ? AND order_key = ? AND revision = ?",
            (self.id, event.order_key, event.revision),
        )
        if not self.held:
            return
        row = execute(
            "SELECT revision, size_bytes FROM competing_keys WHERE group_id = ? AND order_key = ?"
            " ORDER BY revision LIMIT 1",
            (self.id, event.order_key),
        ).fetchone()
        if row is not None:
            revision, size_bytes = row
            self.held -= 1
            due = Pending(revision, 0, size_bytes, event.order_key)
            self.wait(due, 0, self._apply.elapsed_ms)

    def _counts(self) -> tuple[int, ...]:
        return (
            self.token, self.dead_held, self.completed, self.dead, self.cursor,
            self.in_flight, self.waiting, self.dying, self.held,
        )  # fmt: skip


def load(apply: Apply, name: object) -> CompetingGroup | None:
    """The competing group of that name, or None."""
    if not isinstance(name, str):
        return None
    row = apply.connection.execute(_BY_NAME, (name,)).fetchone()
    return None if row is None else CompetingGroup(apply, row)


def not_competing(connection: apsw.Connection, name: object) -> Rejection:
    """Why there is no competing group of that name."""
    row = tables.load_group(connection, name)
    if row is None:
        return tables.unknown_group(name)
    return Rejection(
        "wrong_mode", f'group "{row.name}" is partitioned: its members own what they read'
    )


def skipped(connection: apsw.Connection, group_id: int) -> dict[int, None]:
    """Revisions after the cursor that the group is not to get."""
    rows = connection.execute(
        "SELECT revision FROM group_completions WHERE group_id = ? ORDER BY revision", (group_id,)
    )
    return {revision: None for (revision,) in rows}


def forget_skipped(connection: apsw.Connection, group_id: int, cursor: int) -> None:
    """The cursor has passed them."""
    connection.execute(
        "DELETE FROM group_completions WHERE group_id = ? AND revision <= ?", (group_id, cursor)
    )


def load_by_id(apply: Apply, group_id: int) -> CompetingGroup:
    """The competing group of that id."""
    row = apply.connection.execute(_BY_ID, (group_id,)).fetchone()
    assert row is not None, "a lease has a group"
    return CompetingGroup(apply, row)


def pack_events(events: Sequence[Pending]) -> tuple[int, bytes]:
    """The last two columns of a lease: its lowest revision and its events."""
    return min(events)[0], msgpack.packb(events)


def unpack_events(blob: bytes) -> list[Pending]:
    """The events in the last column of a lease, in their order."""
    return list(map(Pending._make, msgpack.unpackb(blob)))


def rewrite_lease(connection: apsw.Connection, identity: int, events: Sequence[Pending]) -> None:
    """Leave a lease with these of its events; without any it is gone."""
    if not events:
        connection.execute("DELETE FROM competing_leases WHERE id = ?", (identity,))
        return
    connection.execute(
        "UPDATE competing_leases SET first_revision = ?, events = ? WHERE id = ?",
        (*pack_events(events), identity),
    )


def create(connection: apsw.Connection, group_id: int, cursor: int) -> None:
    """Write the row of a new competing group."""
    connection.execute("INSERT INTO competing_groups VALUES(?, ?, 0, 0, 0, 0)", (group_id, cursor))


def reset(connection: apsw.Connection, group_id: int, cursor: int) -> None:
    """Begin anew at `cursor`: what is leased, waits or is held is forgotten."""
    for table in TABLES_BY_GROUP:
        connection.execute(f"DELETE FROM {table} WHERE group_id = ?", (group_id,))
    create(connection, group_id, cursor)


def describe(connection: apsw.Connection, group_id: int) -> dict[str, Any]:
    """Where the events of a competing group are, and who has how many of them."""
    names = ("cursor", "in_flight", "waiting", "dying", "held")
    row = connection.execute(
        "SELECT cursor, in_flight, waiting, dying, held FROM competing_groups WHERE group_id = ?",
        (group_id,),
    ).fetchone()
    assert row is not None, "a competing group has a cursor"
    events: dict[str, int] = {}
    deadlines: dict[str, int] = {}
    leases = connection.execute(
        "SELECT member, deadline_ms, events FROM competing_leases"
        " WHERE group_id = ? AND member IS NOT NULL ORDER BY member, deadline_ms",
        (group_id,),
    )
    for member, deadline_ms, blob in leases:
        events[member] = events.get(member, 0) + len(msgpack.unpackb(blob))
        deadlines.setdefault(member, deadline_ms)
    return dict(zip(names, row, strict=True)) | {
        "leases": [
            {"member": member, "events": count, "deadline_elapsed_ms": deadlines[member]}
            for member, count in events.items()
        ]
    }
