"""Consumer groups: who reads which part of the log, and how far everybody is.

The operations (first argument `apply`) change the replicated state and belong to the state machine;
they return a plain value or a Rejection. The reads (first argument `connection`) are for anybody.
Joining and leaving (`membership`), moving forward (`checkpoint`; `competing` for groups whose
members compete for each event) and an operator's hand (`group_control`) have their own files; this
one is where the state machine and the readers find all of them.
"""

from typing import Any, Final, NamedTuple

import apsw

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups import (
    competing_tables,
    group_settings,
    letter_copies,
    membership,
    replays,
)
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.assignment import Partition
from pubsub.consumer_groups.checkpoint import checkpoint
from pubsub.consumer_groups.group_control import (
    hold,
    pause,
    protect,
    release,
    resume,
    skip,
)
from pubsub.consumer_groups.group_settings import Settings, protected_floors
from pubsub.consumer_groups.group_tables import Group, is_count, malformed, unknown_group
from pubsub.consumer_groups.membership import (
    expire,
    join,
    keepalive,
    leave,
    next_deadline,
    next_rebalance,
    rebalance,
)
from pubsub.limits import GROUPS_MAX, LETTERS_WRITTEN_MAX, PARTITIONS_MAX, READ_ROWS_MAX
from pubsub.rejection import Rejection
from pubsub.retention_rules import compacted
from pubsub.topics import validate_name, validate_pattern

__all__ = [
    "SCHEMA",
    "Assignment",
    "assignments",
    "assignments_version",
    "checkpoint",
    "completions",
    "dead_letters",
    "define",
    "describe",
    "discard",
    "expire",
    "floor_min",
    "hold",
    "is_completed",
    "join",
    "keepalive",
    "leave",
    "names",
    "next_deadline",
    "next_rebalance",
    "pause",
    "protect",
    "protected_floors",
    "rebalance",
    "release",
    "remove",
    "resume",
    "seek",
    "skip",
]

SCHEMA: Final = (
    tables.SCHEMA
    + group_settings.SCHEMA
    + membership.SCHEMA
    + competing_tables.SCHEMA
    + letter_copies.SCHEMA
    + replays.SCHEMA
)
_TABLES_BY_GROUP: Final = (
    *tables.TABLES_BY_GROUP,
    *group_settings.TABLES_BY_GROUP,
    *membership.TABLES_BY_GROUP,
    *competing_tables.TABLES_BY_GROUP,
    *letter_copies.TABLES_BY_GROUP,
    *replays.TABLES_BY_GROUP,
)


class Assignment(NamedTuple):
    """A partition as its owner sees it."""

    group: str
    partition: int
    token: int
    floor: int
    releasing: bool  # drain, then checkpoint with release: another member is waiting for it
    paused: bool = False  # start nothing new of this group: it is paused, or held


def define(
    apply: Apply,
    group: Any,
    pattern: Any,
    partitions: Any,
    start: Any,
    version: Any,
    options: Any = None,
) -> int | Rejection:
    """Define a group, or confirm or renew its definition; returns the lowest floor.

    `start` ("latest", "earliest", the first revision to read, or `["time", wall_ms]`) counts only
    for a new group. The partition count stays for ever, 1 for a competing group, and so does the
    mode. The pattern and the other options (`group_settings`) change with a higher `version`.
    Options are the whole of a definition, what they leave out is the default; nil leaves them as
    they are.
    """
    problem = validate_name(group, "group") or validate_pattern(pattern)
    if problem:
        return malformed(problem)
    if not is_count(partitions, 1) or partitions > PARTITIONS_MAX or partitions & (partitions - 1):
        return malformed(f"partitions: a power of two up to {PARTITIONS_MAX} is needed")
    if not is_count(version):
        return malformed("version: an integer from 0 is needed")
    settings = group_settings.parse(options)
    if isinstance(settings, Rejection):
        return settings
    row = tables.load_group(apply.connection, group)
    if row is None:
        if settings.is_competing and partitions != 1:
            return malformed("partitions: a competing group has 1")
        named = None if options is None else settings
        return _create(apply, group, pattern, partitions, start, version, named)
    known = group_settings.load(apply.connection, row.id)
    if options is None:
        settings = known
    if settings.mode != known.mode:
        return Rejection("mode_fixed", f'group "{group}" is {known.mode} for ever')
    if row.partitions != partitions:
        return Rejection(
            "partitions_fixed",
            f'group "{group}" has {row.partitions} partitions for ever, not {partitions}',
        )
    is_same = pattern == row.pattern and settings == known
    if version < row.version or (version == row.version and not is_same):
        return Rejection(
            "definition_conflict",
            f'group "{group}" is defined with pattern "{row.pattern}" at version {row.version}; '
            "another definition needs a higher version",
        )
    if version > row.version:
        apply.connection.execute(
            "UPDATE consumer_groups SET pattern = ?, version = ? WHERE id = ?",
            (pattern, version, row.id),
        )
    if settings != known:
        group_settings.store(apply.connection, row.id, settings)
    return _floor_of(apply.connection, row)


def remove(apply: Apply, group: Any) -> bool | Rejection:
    """Forget a group with everything that it holds; it lets go of retention."""
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    for table in _TABLES_BY_GROUP:
        apply.connection.execute(f"DELETE FROM {table} WHERE group_id = ?", (row.id,))
    apply.connection.execute("DELETE FROM consumer_groups WHERE id = ?", (row.id,))
    tables.note_change(apply.connection)
    return True


def seek(apply: Apply, group: Any, start: Any) -> int | Rejection:
    """Set a group to `start` (as in `define`); returns the floor that every partition has now.

    The owners stay and get new tokens: checkpoints of the work that they had in hand are refused.
    Of a competing group every lease is over, and what waited is forgotten. Effects of events that
    are read again are applied again: that is what a replay is.
    """
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    floor = _start_floor(apply, row.pattern, start)
    if isinstance(floor, Rejection):
        return floor
    apply.connection.execute("DELETE FROM group_completions WHERE group_id = ?", (row.id,))
    if group_settings.load(apply.connection, row.id).is_competing:
        competing_tables.reset(apply.connection, row.id, floor)
        tables.store_partitions(apply.connection, row.id, [Partition(0, None, 0, None, floor)])
        tables.note_change(apply.connection)
        return floor
    token = row.token
    moved: list[Partition] = []
    for partition in tables.load_partitions(apply.connection, row.id):
        token += 1
        moved.append(partition._replace(floor=floor, token=token))
    tables.store_partitions(apply.connection, row.id, moved)
    tables.store_token(apply.connection, row.id, token)
    tables.note_change(apply.connection)
    return floor


def discard(apply: Apply, group: Any, revisions: Any) -> int | Rejection:
    """Delete dead letters of a group; returns how many. Those that waited for room follow."""
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    if not tables.are_revisions(revisions):
        return malformed(f"revisions: a list of at most {READ_ROWS_MAX} revisions is needed")
    discarded = sum(tables.delete_letter(apply.connection, row.id, each) for each in revisions)
    apply.connection.execute(
        "UPDATE consumer_groups SET dead_held = dead_held - ? WHERE id = ?", (discarded, row.id)
    )
    competing = competing_tables.load(apply, row.name)
    if competing is not None:
        competing.bury_dying(LETTERS_WRITTEN_MAX)
        competing.store()
    return discarded


def names(connection: apsw.Connection) -> list[str]:
    """The names of all groups, in order."""
    rows = connection.execute("SELECT name FROM consumer_groups ORDER BY name")
    return [str(name) for (name,) in rows]


def describe(connection: apsw.Connection, group: str) -> dict[str, Any] | None:
    """Everything about a group but its completions and dead letters, or None if there is none."""
    row = tables.load_group(connection, group)
    if row is None:
        return None
    members = connection.execute(
        "SELECT member, ttl_ms, deadline_ms FROM group_members NATURAL JOIN group_sessions"
        " WHERE group_id = ? ORDER BY member",
        (row.id,),
    )
    settings = group_settings.load(connection, row.id)
    found: dict[str, Any] = (
        {}
        if not settings.is_competing
        else {"competing": competing_tables.describe(connection, row.id)}
    )
    return found | {
        "name": row.name,
        "pattern": row.pattern,
        "version": row.version,
        "mode": settings.mode,
        "settings": group_settings.describe(settings),
        "paused": group_settings.is_paused(connection, row.id),
        "held": group_settings.is_held(connection, row.id),
        "token": row.token,
        "completed": row.completed,
        "dead": row.dead,
        "dead_held": row.dead_held,
        "members": [
            {"member": member, "ttl_ms": ttl_ms, "deadline_elapsed_ms": deadline_ms}
            for member, ttl_ms, deadline_ms in members
        ],
        "partitions": [
            {
                "partition": partition.number,
                "owner": partition.owner,
                "token": partition.token,
                "next_owner": partition.next_owner,
                "floor": partition.floor,
            }
            for partition in tables.load_partitions(connection, row.id)
        ],
        "competing": competing_tables.describe(connection, row.id)
        if settings.is_competing
        else None,
    }


def assignments_version(connection: apsw.Connection) -> int:
    """A number that rises with every change of any assignment: a cheap "look again"."""
    return int(connection.execute("SELECT changes FROM group_state").get)


def assignments(connection: apsw.Connection, member: str) -> list[Assignment]:
    """What `member` owns in all groups, by group name and partition."""
    rows = connection.execute(
        "SELECT name, partition, p.token, floor, next_owner IS NOT NULL,"
        f" {group_settings.stands_still('m.group_id')}"
        " FROM group_members AS m JOIN consumer_groups AS g ON g.id = m.group_id"
        " JOIN group_partitions AS p ON p.group_id = m.group_id AND p.owner = m.member"
        " WHERE m.member = ? ORDER BY name, partition",
        (member,),
    )
    return [
        Assignment(group, partition, token, floor, bool(releasing), bool(paused))
        for group, partition, token, floor, releasing, paused in rows
    ]


def completions(connection: apsw.Connection, group: str, partition: int) -> list[int]:
    """The completed revisions above a partition's floor, in order: a new owner skips them."""
    rows = connection.execute(
        "SELECT revision FROM group_completions AS c JOIN consumer_groups AS g ON g.id = c.group_id"
        " WHERE g.name = ? AND partition = ? ORDER BY revision",
        (group, partition),
    )
    return [int(revision) for (revision,) in rows]


def is_completed(
    connection: apsw.Connection, group: str, partition: int, revision: int
) -> bool | None:
    """Whether a group is done with an event of a partition, in whatever way; None without it."""
    floor = connection.execute(
        "SELECT floor FROM consumer_groups AS g JOIN group_partitions AS p ON p.group_id = g.id"
        " WHERE name = ? AND partition = ?",
        (group, partition),
    ).get
    if floor is None:
        return None
    if revision <= floor:
        return True
    found = connection.execute(
        "SELECT 1 FROM consumer_groups AS g JOIN group_completions AS c ON c.group_id = g.id"
        " WHERE name = ? AND partition = ? AND revision = ?",
        (group, partition, revision),
    ).get
    return found is not None


def dead_letters(
    connection: apsw.Connection, group: str, after_revision: int = 0, limit: int = READ_ROWS_MAX
) -> list[dict[str, Any]]:
    """A page of a group's dead letters, by revision."""
    rows = connection.execute(
        "SELECT revision, partition, attempts, d.wall_ms, error FROM dead_letters AS d"
        " JOIN consumer_groups AS g ON g.id = d.group_id"
        " WHERE g.name = ? AND revision > ? ORDER BY revision LIMIT ?",
        (group, after_revision, min(limit, READ_ROWS_MAX)),
    )
    columns = ("revision", "partition", "attempts", "wall_ms", "error")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def floor_min(connection: apsw.Connection) -> int | None:
    """The lowest floor of all protected groups, which retention does not pass; None without any."""
    floors = [floor for _, _, floor in protected_floors(connection)]
    return min(floors, default=None)


def _create(
    apply: Apply,
    group: str,
    pattern: str,
    partitions: int,
    start: Any,
    version: int,
    settings: Settings | None,
) -> int | Rejection:
    execute = apply.connection.execute
    if int(execute("SELECT count(*) FROM consumer_groups").get) >= GROUPS_MAX:
        return Rejection("limit_exceeded", f"a cluster has at most {GROUPS_MAX} consumer groups")
    floor = _start_floor(apply, pattern, start)
    if isinstance(floor, Rejection):
        return floor
    group_id = int(execute("SELECT next_group_id FROM group_state").get)
    execute("UPDATE group_state SET next_group_id = next_group_id + 1")
    execute(
        "INSERT INTO consumer_groups VALUES(?, ?, ?, ?, ?, 0, 0, 0, 0)",
        (group_id, group, pattern, partitions, version),
    )
    rows = [Partition(number, None, 0, None, floor) for number in range(partitions)]
    tables.store_partitions(apply.connection, group_id, rows)
    if settings is not None:
        group_settings.store(apply.connection, group_id, settings)
        if settings.is_competing:
            competing_tables.create(apply.connection, group_id, floor)
    return floor


def _start_floor(apply: Apply, pattern: str, start: Any) -> int | Rejection:
    """The floor that makes `start` the first revision read."""
    if start == "latest":
        return apply.revision
    oldest = log.first_revision(apply.connection)
    if start == "earliest":
        return _oldest_whole(apply, pattern, oldest) - 1
    if apply.version >= 2 and _is_time(start):
        if start[1] > apply.wall_ms:
            return apply.revision  # from now on, then: what comes has a later time
        at = log.revision_at_or_after(apply.connection, start[1])
        return _oldest_whole(apply, pattern, at) - 1
    if not is_count(start, 1) or start > apply.revision + 1:
        return malformed(
            'start: "latest", "earliest", ["time", wall_ms] or a revision from 1 to the next one'
            " is needed"
        )
    oldest = max(oldest, _oldest_whole(apply, pattern, start))
    if start < oldest:
        return Rejection("compacted", f"the oldest revision that is still there is {oldest}")
    return int(start) - 1


def _oldest_whole(apply: Apply, pattern: str, from_revision: int) -> int:
    """The first revision, from `from_revision` on, after which nothing of a pattern is gone."""
    found = compacted(apply.connection, pattern, from_revision)
    return from_revision if found is None else found.first_revision


def _is_time(start: Any) -> bool:
    """`["time", wall_ms]`"""
    return (
        isinstance(start, list | tuple)
        and len(start) == 2
        and start[0] == "time"
        and is_count(start[1])
    )


def _floor_of(connection: apsw.Connection, row: Group) -> int:
    return min(partition.floor for partition in tables.load_partitions(connection, row.id))
