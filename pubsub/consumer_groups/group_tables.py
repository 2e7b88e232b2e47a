"""The tables of the consumer groups, and the few statements that more than one operation needs.

Only the operations of groups use this; everything else reads through `groups`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import letter_copies
from pubsub.consumer_groups.assignment import Partition
from pubsub.limits import ERROR_BYTES_MAX, INTEGER_MAX, READ_ROWS_MAX
from pubsub.rejection import Rejection

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS group_state(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    next_group_id INTEGER NOT NULL,
    changes INTEGER NOT NULL         -- rises with every change of an assignment
) STRICT;
INSERT OR IGNORE INTO group_state VALUES(0, 1, 0);
CREATE TABLE IF NOT EXISTS consumer_groups(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    pattern TEXT NOT NULL,
    partitions INTEGER NOT NULL,
    version INTEGER NOT NULL,
    token INTEGER NOT NULL,          -- the last fencing token handed out
    completed INTEGER NOT NULL,      -- events completed, ever
    dead INTEGER NOT NULL,           -- events given up, ever
    dead_held INTEGER NOT NULL       -- rows of this group in dead_letters
) STRICT;
CREATE TABLE IF NOT EXISTS group_sessions(
    member TEXT PRIMARY KEY,
    ttl_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL     -- on the elapsed clock
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_members(
    member TEXT NOT NULL,
    group_id INTEGER NOT NULL,
    PRIMARY KEY(member, group_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS group_members_by_group ON group_members(group_id, member);
CREATE TABLE IF NOT EXISTS group_partitions(
    group_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT,
    token INTEGER NOT NULL,
    next_owner TEXT,
    floor INTEGER NOT NULL,
    PRIMARY KEY(group_id, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_completions(
    group_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    revision INTEGER NOT NULL,       -- always above the partition's floor
    PRIMARY KEY(group_id, partition, revision)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters(
    group_id INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY(group_id, revision)
) STRICT, WITHOUT ROWID;
"""

TABLES_BY_GROUP: Final = ("group_members", "group_partitions", "group_completions", "dead_letters")


class Group(NamedTuple):
    """One row of consumer_groups."""

    id: int
    name: str
    pattern: str
    partitions: int
    version: int
    token: int
    completed: int
    dead: int
    dead_held: int


class Letter(NamedTuple):
    """An event that a group gave up."""

    revision: int
    attempts: int
    error: str


def load_group(connection: apsw.Connection, name: object) -> Group | None:
    """The group of that name, or None."""
    if not isinstance(name, str):
        return None
    row = connection.execute("SELECT * FROM consumer_groups WHERE name = ?", (name,)).fetchone()
    return None if row is None else Group(*row)


def load_partitions(connection: apsw.Connection, group_id: int) -> list[Partition]:
    """All partitions of a group, by number."""
    rows = connection.execute(
        "SELECT partition, owner, token, next_owner, floor FROM group_partitions"
        " WHERE group_id = ? ORDER BY partition",
        (group_id,),
    )
    return [Partition(*row) for row in rows]


def store_partitions(
    connection: apsw.Connection, group_id: int, partitions: Sequence[Partition]
) -> None:
    """Write new or changed partitions."""
    connection.executemany(
        "INSERT OR REPLACE INTO group_partitions VALUES(?, ?, ?, ?, ?, ?)",
        [(group_id, *partition) for partition in partitions],
    )


def store_token(connection: apsw.Connection, group_id: int, token: int) -> None:
    """Write the last fencing token that a group handed out."""
    connection.execute("UPDATE consumer_groups SET token = ? WHERE id = ?", (token, group_id))


def note_change(connection: apsw.Connection) -> None:
    """Tell those who watch `groups.assignments_version` to look again."""
    connection.execute("UPDATE group_state SET changes = changes + 1")


def store_letters(apply: Apply, group_id: int, letters: Sequence[tuple[int, Letter]]) -> int:
    """Keep dead letters, each of a partition; returns by how many the list grew (one may replace
    an older one)."""
    grown = 0
    for partition, letter in letters:
        apply.connection.execute(
            "DELETE FROM dead_letters WHERE group_id = ? AND revision = ?",
            (group_id, letter.revision),
        )
        grown += 1 - apply.connection.changes()
        if apply.version >= 2:
            letter_copies.keep(apply, group_id, letter.revision)
        apply.connection.execute(
            "INSERT INTO dead_letters VALUES(?, ?, ?, ?, ?, ?)",
            (
                group_id,
                letter.revision,
                partition,
                letter.attempts,
                apply.wall_ms,
                cut_error(letter.error),
            ),
        )
    return grown


def delete_letter(connection: apsw.Connection, group_id: int, revision: int) -> bool:
    """Delete a dead letter with its event; whether there was one. Who calls counts `dead_held`."""
    connection.execute(
        "DELETE FROM dead_letters WHERE group_id = ? AND revision = ?", (group_id, revision)
    )
    was_held = connection.changes() > 0
    letter_copies.drop(connection, group_id, revision)
    return was_held


def cut_error(text: str) -> str:
    """As much of an error as is kept."""
    return text.encode("utf-8", "replace")[:ERROR_BYTES_MAX].decode("utf-8", "ignore")


def are_revisions(value: object) -> bool:
    """True for a list of revisions that is no longer than a listing."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= READ_ROWS_MAX
        and all(map(is_count, value))
    )


def is_count(value: object, least: int = 0) -> bool:
    """True for an integer, not a bool, from `least` to what SQLite can store."""
    return type(value) is int and least <= value <= INTEGER_MAX


def unknown_group(name: object) -> Rejection:
    """The refusal of an operation on a group that is not defined."""
    shown = name if isinstance(name, str) else "?"
    return Rejection("unknown_group", f'there is no consumer group "{shown}"')


def malformed(detail: str) -> Rejection:
    """The refusal of arguments of a wrong shape."""
    return Rejection("malformed", detail)
