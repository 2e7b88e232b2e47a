"""Members of consumer groups: sessions, joining and leaving, and what that does to partitions.

A member is one running process under a name. It holds one session, kept alive on the elapsed clock,
for all its groups. Ownership carries a fencing token: what a member sends under an old token is
refused, so a member that was paused beyond its session can no longer complete anything.

In a group with a cooldown what nobody owns is given out at once, and partitions move between living
members only when the last move is that long ago: a rolling restart takes nothing from the living.

A member that starts in the place of another one names it when it joins. The other is leaving from
then on: it keeps what it has until it has released it, and gets nothing more.
"""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import competing_leases, group_settings
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.assignment import Partition, assign
from pubsub.consumer_groups.group_tables import Group, is_count, malformed, unknown_group
from pubsub.limits import (
    EXPIRE_MEMBERSHIPS_MAX,
    MEMBERS_MAX,
    REBALANCED_GROUPS_MAX,
    SESSION_TTL_MS_MAX,
    SESSION_TTL_MS_MIN,
)
from pubsub.rejection import Rejection
from pubsub.topics import validate_name

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS group_moves(
    group_id INTEGER PRIMARY KEY,    -- of groups with a cooldown
    moved_ms INTEGER,                -- when a partition last changed hands, on the elapsed clock
    due_ms INTEGER                   -- when those may move that should; NULL: none should
) STRICT;
CREATE INDEX IF NOT EXISTS group_moves_by_due ON group_moves(due_ms);
CREATE TABLE IF NOT EXISTS group_leavers(
    group_id INTEGER NOT NULL,
    member TEXT NOT NULL,            -- has a successor: what it owns moves as it releases it
    PRIMARY KEY(group_id, member)
) STRICT, WITHOUT ROWID;
"""
TABLES_BY_GROUP: Final = ("group_moves", "group_leavers")


def join(
    apply: Apply, group: Any, member: Any, ttl_ms: Any, predecessor: Any = None
) -> int | Rejection:
    """Make `member` share the group's partitions; returns its session's deadline.

    To join means "I start": joining again fences whatever ran under this name before, by new tokens
    for the partitions that the member already owns. `predecessor` is the member, if it is still
    there, that this one starts in the place of: it is asked to release all that it has.
    """
    problem = validate_name(member, "member")
    if problem is None and predecessor is not None:
        problem = validate_name(predecessor, "predecessor")
        if predecessor == member:
            problem = "predecessor: no member follows itself"
    if problem:
        return malformed(problem)
    if not is_count(ttl_ms) or not SESSION_TTL_MS_MIN <= ttl_ms <= SESSION_TTL_MS_MAX:
        return malformed(f"ttl_ms: from {SESSION_TTL_MS_MIN} to {SESSION_TTL_MS_MAX} is needed")
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    execute = apply.connection.execute
    deadline_ms = _deadline(apply, member)
    if deadline_ms is not None and deadline_ms <= apply.elapsed_ms:
        # The session is over though nobody has cleared it away: it must not come back to life.
        _leave_groups(apply, member, _groups_of(apply.connection, member), left=False)
        row = tables.load_group(apply.connection, group) or row  # leaving hands out tokens
    others = _members(apply.connection, row.id)
    if member not in others and len(others) >= MEMBERS_MAX:
        return Rejection("limit_exceeded", f"a group has at most {MEMBERS_MAX} members")
    deadline_ms = apply.elapsed_ms + int(ttl_ms)
    execute("INSERT OR REPLACE INTO group_sessions VALUES(?, ?, ?)", (member, ttl_ms, deadline_ms))
    execute("INSERT OR IGNORE INTO group_members VALUES(?, ?)", (member, row.id))
    execute("DELETE FROM group_leavers WHERE group_id = ? AND member = ?", (row.id, member))
    if predecessor in others:
        execute("INSERT OR IGNORE INTO group_leavers VALUES(?, ?)", (row.id, predecessor))
    if member in others:
        row = _disown(apply, row, member)
    _rebalance(apply, row)
    _give_back(apply)
    return deadline_ms


def keepalive(apply: Apply, member: Any) -> int | Rejection:
    """Prolong the session of `member` in all its groups; returns the new deadline."""
    deadline_ms = _deadline(apply, member)
    if deadline_ms is None or deadline_ms <= apply.elapsed_ms:
        shown = member if isinstance(member, str) else "?"
        return Rejection("unknown_member", f'member "{shown}" has no session; it must join again')
    apply.connection.execute(
        "UPDATE group_sessions SET deadline_ms = ttl_ms + ? WHERE member = ?",
        (apply.elapsed_ms, member),
    )
    return _deadline(apply, member) or 0


def leave(apply: Apply, member: Any, group: Any = None) -> int | Rejection:
    """Take a member that has checkpointed and stopped out of `group`, or of all its groups.

    What it owned moves at once, what it had leased goes out again as if it never had. Returns how
    many groups it left; a member unknown leaves none.
    """
    if not isinstance(member, str):
        return malformed("member: a text is needed")
    groups = _groups_of(apply.connection, member)
    if group is not None:
        groups = [row for row in groups if row.name == group]
    _leave_groups(apply, member, groups, left=True)
    _give_back(apply)
    return len(groups)


def expire(apply: Apply, up_to_elapsed_ms: Any) -> int | Rejection:
    """Remove members whose session ended by `up_to_elapsed_ms`, a bounded number of memberships.

    Returns how many memberships were removed; `next_deadline` tells whether more is due.
    """
    if not is_count(up_to_elapsed_ms):
        return malformed("up_to_elapsed_ms: an integer from 0 is needed")
    expired = apply.connection.execute(
        "SELECT member FROM group_sessions WHERE deadline_ms <= ? ORDER BY deadline_ms, member",
        (min(up_to_elapsed_ms, apply.elapsed_ms),),
    ).fetchall()
    removed = 0
    for (name,) in expired:
        member = str(name)
        groups = _groups_of(apply.connection, member)[: EXPIRE_MEMBERSHIPS_MAX - removed]
        _leave_groups(apply, member, groups, left=False)
        removed += len(groups)
        if removed >= EXPIRE_MEMBERSHIPS_MAX:
            break
    _give_back(apply)
    return removed


def rebalance(apply: Apply, up_to_elapsed_ms: Any) -> int | Rejection:
    """Move what waited for the end of a cooldown; returns of how many groups, a bounded number."""
    if not is_count(up_to_elapsed_ms):
        return malformed("up_to_elapsed_ms: an integer from 0 is needed")
    rows: list[Any] = apply.connection.execute(
        "SELECT g.* FROM group_moves AS m JOIN consumer_groups AS g ON g.id = m.group_id"
        " WHERE due_ms <= ? ORDER BY due_ms, g.id LIMIT ?",
        (min(up_to_elapsed_ms, apply.elapsed_ms), REBALANCED_GROUPS_MAX),
    ).fetchall()
    for row in rows:
        _rebalance(apply, Group(*row))
    return len(rows)


def next_deadline(connection: apsw.Connection) -> int | None:
    """When the next session ends, on the elapsed clock; None when nobody has one."""
    value = connection.execute("SELECT min(deadline_ms) FROM group_sessions").get
    return None if value is None else int(value)


def next_rebalance(connection: apsw.Connection) -> int | None:
    """When the next cooldown that partitions wait for ends; None when none does."""
    value = connection.execute("SELECT min(due_ms) FROM group_moves").get
    return None if value is None else int(value)


def _deadline(apply: Apply, member: Any) -> int | None:
    if not isinstance(member, str):
        return None
    value = apply.connection.execute(
        "SELECT deadline_ms FROM group_sessions WHERE member = ?", (member,)
    ).get
    return None if value is None else int(value)


def _members(connection: apsw.Connection, group_id: int) -> list[str]:
    rows = connection.execute(
        "SELECT member FROM group_members WHERE group_id = ? ORDER BY member", (group_id,)
    )
    return [str(member) for (member,) in rows]


def _leaving(connection: apsw.Connection, group_id: int) -> list[str]:
    rows = connection.execute(
        "SELECT member FROM group_leavers WHERE group_id = ? ORDER BY member", (group_id,)
    )
    return [str(member) for (member,) in rows]


def _groups_of(connection: apsw.Connection, member: str) -> list[Group]:
    rows = connection.execute(
        "SELECT g.* FROM group_members AS m JOIN consumer_groups AS g ON g.id = m.group_id"
        " WHERE m.member = ? ORDER BY g.id",
        (member,),
    )
    return [Group(*row) for row in rows]


def _leave_groups(apply: Apply, member: str, groups: Sequence[Group], *, left: bool) -> None:
    """Remove memberships, and the session with the last of them; `left`: it said so itself."""
    execute = apply.connection.execute
    for row in groups:
        execute("DELETE FROM group_members WHERE member = ? AND group_id = ?", (member, row.id))
        execute("DELETE FROM group_leavers WHERE member = ? AND group_id = ?", (member, row.id))
        competing_leases.end(apply, row.id, member, left=left)
        _rebalance(apply, row)
    execute(
        "DELETE FROM group_sessions WHERE member = ?1"
        " AND NOT EXISTS (SELECT 1 FROM group_members WHERE member = ?1)",
        (member,),
    )


def _give_back(apply: Apply) -> None:
    """Have what the leases held that just ended be delivered again: one bounded slice at once."""
    due_ms = competing_leases.next_due(apply.connection)
    if due_ms is not None and due_ms <= apply.elapsed_ms:
        competing_leases.expire(apply, apply.elapsed_ms)


def _disown(apply: Apply, row: Group, member: str) -> Group:
    """Fence a member's former run: its partitions get new tokens, or go where they were going."""
    connection = apply.connection
    competing_leases.end(apply, row.id, member, left=False)
    token = row.token
    changed: list[Partition] = []
    for partition in tables.load_partitions(connection, row.id):
        if partition.owner != member:
            continue
        if partition.next_owner is not None:
            # Nothing of the new run is in flight, so there is nothing to drain.
            changed.append(partition._replace(owner=None))
        else:
            token += 1
            changed.append(partition._replace(token=token))
    tables.store_partitions(connection, row.id, changed)
    tables.store_token(connection, row.id, token)
    tables.note_change(connection)
    return row._replace(token=token)


def _rebalance(apply: Apply, row: Group) -> None:
    """Assign a group's partitions to the members that it has now."""
    connection = apply.connection
    settings = group_settings.load(connection, row.id)
    if settings.is_competing:
        return
    members = _members(connection, row.id)
    leaving = _leaving(connection, row.id)
    before = tables.load_partitions(connection, row.id)
    moved_ms = None
    if settings.cooldown_ms:
        moved_ms = connection.execute(
            "SELECT moved_ms FROM group_moves WHERE group_id = ?", (row.id,)
        ).get
    may_move = moved_ms is None or apply.elapsed_ms - moved_ms >= settings.cooldown_ms
    after, token = assign(row.name, before, members, row.token, leaving=leaving, may_move=may_move)
    changed = [new for old, new in zip(before, after, strict=True) if new != old]
    if changed:
        tables.store_partitions(connection, row.id, changed)
        tables.store_token(connection, row.id, token)
        tables.note_change(connection)
    if settings.cooldown_ms:
        if any(map(_has_moved, before, after)):
            moved_ms = apply.elapsed_ms
        is_balanced = assign(row.name, after, members, token, leaving=leaving)[0] == after
        due_ms = None if is_balanced or moved_ms is None else moved_ms + settings.cooldown_ms
        connection.execute(
            "INSERT OR REPLACE INTO group_moves VALUES(?, ?, ?)", (row.id, moved_ms, due_ms)
        )
    else:  # it may have had one once
        connection.execute("DELETE FROM group_moves WHERE group_id = ?", (row.id,))


def _has_moved(before: Partition, after: Partition) -> bool:
    """Whether a partition went, or is to go, from one member to another."""
    if after.next_owner not in (None, before.next_owner):
        return True
    return before.owner != after.owner and None not in (before.owner, after.owner)
