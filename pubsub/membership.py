"""Members of consumer groups: sessions, joining and leaving, and what that does to partitions.

A member is one running process under a name. It holds one session, kept alive on the elapsed clock,
for all its groups. Ownership carries a fencing token: what a member sends under an old token is
refused, so a member that was paused beyond its session can no longer complete anything.
"""

from collections.abc import Sequence
from typing import Any

import apsw

from pubsub import group_tables as tables
from pubsub.apply import Apply
from pubsub.assignment import Partition, assign
from pubsub.group_tables import Group, is_count, malformed, unknown_group
from pubsub.limits import (
    EXPIRE_MEMBERSHIPS_MAX,
    MEMBERS_MAX,
    SESSION_TTL_MS_MAX,
    SESSION_TTL_MS_MIN,
)
from pubsub.rejection import Rejection
from pubsub.topics import validate_name


def join(apply: Apply, group: Any, member: Any, ttl_ms: Any) -> int | Rejection:
    """Make `member` share the group's partitions; returns its session's deadline.

    To join means "I start": joining again fences whatever ran under this name before, by new tokens
    for the partitions that the member already owns.
    """
    problem = validate_name(member, "member")
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
        _leave_groups(apply, member, _groups_of(apply.connection, member))
        row = tables.load_group(apply.connection, group) or row  # leaving hands out tokens
    others = _members(apply.connection, row.id)
    if member not in others and len(others) >= MEMBERS_MAX:
        return Rejection("limit_exceeded", f"a group has at most {MEMBERS_MAX} members")
    deadline_ms = apply.elapsed_ms + int(ttl_ms)
    execute("INSERT OR REPLACE INTO group_sessions VALUES(?, ?, ?)", (member, ttl_ms, deadline_ms))
    execute("INSERT OR IGNORE INTO group_members VALUES(?, ?)", (member, row.id))
    if member in others:
        row = _disown(apply.connection, row, member)
    _rebalance(apply.connection, row)
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

    What it owned moves at once. Returns how many groups it left; a member unknown leaves none.
    """
    if not isinstance(member, str):
        return malformed("member: a text is needed")
    groups = _groups_of(apply.connection, member)
    if group is not None:
        groups = [row for row in groups if row.name == group]
    _leave_groups(apply, member, groups)
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
        _leave_groups(apply, member, groups)
        removed += len(groups)
        if removed >= EXPIRE_MEMBERSHIPS_MAX:
            break
    return removed


def next_deadline(connection: apsw.Connection) -> int | None:
    """When the next session ends, on the elapsed clock; None when nobody has one."""
    value = connection.execute("SELECT min(deadline_ms) FROM group_sessions").get
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


def _groups_of(connection: apsw.Connection, member: str) -> list[Group]:
    rows = connection.execute(
        "SELECT g.* FROM group_members AS m JOIN consumer_groups AS g ON g.id = m.group_id"
        " WHERE m.member = ? ORDER BY g.id",
        (member,),
    )
    return [Group(*row) for row in rows]


def _leave_groups(apply: Apply, member: str, groups: Sequence[Group]) -> None:
    """Remove memberships, and the session with the last of them."""
    execute = apply.connection.execute
    for row in groups:
        execute("DELETE FROM group_members WHERE member = ? AND group_id = ?", (member, row.id))
        _rebalance(apply.connection, row)
    execute(
        "DELETE FROM group_sessions WHERE member = ?1"
        " AND NOT EXISTS (SELECT 1 FROM group_members WHERE member = ?1)",
        (member,),
    )


def _disown(connection: apsw.Connection, row: Group, member: str) -> Group:
    """Fence a member's former run: its partitions get new tokens, or go where they were going."""
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


def _rebalance(connection: apsw.Connection, row: Group) -> None:
    """Assign a group's partitions to the members that it has now."""
    before = tables.load_partitions(connection, row.id)
    after, token = assign(row.name, before, _members(connection, row.id), row.token)
    changed = [new for old, new in zip(before, after, strict=True) if new != old]
    if changed:
        tables.store_partitions(connection, row.id, changed)
        tables.store_token(connection, row.id, token)
        tables.note_change(connection)
