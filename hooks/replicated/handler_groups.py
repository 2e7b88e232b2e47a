"""The consumer groups of handlers, where what is known of a handler decides about them.

A handler has one group, and with scope node one for each node. Whoever disables a handler holds
them, whoever else pauses them. Groups that nobody uses any more, because no node has the handler,
or this node has not, or the scope is another one now, keep their place and their dead letters, and
retention does not wait for them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import apsw

from hooks.configuration.definition import (
    GROUP_PREFIX,
    NODE_MARK,
    Scope,
    group_name,
    handler_of,
)
from pubsub import groups
from pubsub.apply import Apply
from pubsub.rejection import Rejection

_NODE: Final = Scope.NODE.value
HOLDS_SINCE: Final = 3  # entries before this version paused the groups of a disabled handler


def by_handler(connection: apsw.Connection) -> dict[str, list[str]]:
    """The groups of each handler, by name."""
    found: dict[str, list[str]] = {}
    for group in groups.names(connection):
        handler = handler_of(group)
        if handler is not None:
            found.setdefault(handler, []).append(group)
    return found


def fits(group: str, scope: str) -> bool:
    """Whether it is a group that handlers of this scope have."""
    return (NODE_MARK in group) == (scope == _NODE)


def used(connection: apsw.Connection, handler: str, own_groups: Iterable[str]) -> dict[str, bool]:
    """Which of its groups a handler uses. Of one that nobody registered nothing else is known.

    With scope node, the group of a node that has the handler, or that never said what it has.
    """
    row: Any = connection.execute(
        "SELECT removed, scope FROM hooks WHERE name = ?", (handler,)
    ).fetchone()
    if row is None:
        return dict.fromkeys(own_groups, True)
    removed, scope = row
    return {
        group: not removed
        and fits(group, scope)
        and (scope != _NODE or _may_have(connection, group.partition(NODE_MARK)[2], handler))
        for group in own_groups
    }


def used_by_all(
    connection: apsw.Connection,
    own_groups: Mapping[str, list[str]],
    handlers: Iterable[str],
    node: str,
) -> dict[str, dict[str, bool]]:
    """`used` of each of some handlers, and of those that have a group on a node."""
    with_group = (name for name, own in own_groups.items() if group_name(name, node) in own)
    return {
        name: used(connection, name, own_groups.get(name, []))
        for name in dict.fromkeys((*handlers, *with_group))
    }


def settle(apply: Apply, handler: str, used_before: Mapping[str, bool]) -> None:
    """Retention waits for groups that are used from now on, and no longer for those that were.

    What an operator said about the others stands.
    """
    now = used(apply.connection, handler, used_before)
    for group, was_used in used_before.items():
        if now[group] != was_used:
            groups.protect(apply, group, now[group])


def hold(apply: Apply, own_groups: Iterable[str]) -> None:
    """The groups of a handler hand out nothing: it is disabled."""
    for group in own_groups:
        if apply.version >= HOLDS_SINCE:
            groups.hold(apply, group)
        else:
            groups.pause(apply, group)


def release(apply: Apply, own_groups: Iterable[str]) -> None:
    """The groups of a handler go on, but for those that somebody paused.

    What an older entry disabled is paused and not held: it goes on, too.
    """
    for group in own_groups:
        if apply.version < HOLDS_SINCE or not groups.release(apply, group):
            groups.resume(apply, group)


def remove_of_node(apply: Apply, node: str) -> None:
    """Forget the groups of one node's own handlers."""
    for group in groups.names(apply.connection):
        if group.startswith(GROUP_PREFIX) and group.partition(NODE_MARK)[2] == node:
            groups.remove(apply, group)


def define(apply: Apply, group: Any, *arguments: Any) -> int | Rejection:
    """`group.define`: as for any group; that of a disabled handler is held from the beginning, and
    that of a removed one does not hold retention."""
    floor = groups.define(apply, group, *arguments)
    if apply.version < 2 or isinstance(floor, Rejection):
        return floor
    handler = handler_of(group)
    if handler is not None:
        if _is_disabled(apply.connection, handler):
            _adopt(apply, group)
            hold(apply, [group])
        if not used(apply.connection, handler, [group])[group]:
            groups.protect(apply, group, False)
    return floor


def pause(apply: Apply, group: Any) -> bool | Rejection:
    """`group.pause`: as for any group; that of a disabled handler is paused as well."""
    _adopt(apply, group)
    return groups.pause(apply, group)


def resume(apply: Apply, group: Any) -> bool | Rejection:
    """`group.resume`: as for any group; what a disabled handler holds goes on with the handler."""
    handler = handler_of(group) if isinstance(group, str) else None
    if handler is not None and _is_disabled(apply.connection, handler):
        described = groups.describe(apply.connection, group)
        if not (described and described["paused"] and described["held"]):
            detail = f'handler "{handler}" is disabled; enable it instead'
            return Rejection("handler_disabled", detail)
    return groups.resume(apply, group)


def _adopt(apply: Apply, group: Any) -> None:
    """Make a hold of the pause by which an older entry disabled the handler of a group."""
    handler = handler_of(group) if isinstance(group, str) else None
    if apply.version < HOLDS_SINCE or handler is None:
        return
    described = groups.describe(apply.connection, group)
    if described is None or described["held"] or not described["paused"]:
        return
    if _is_disabled(apply.connection, handler):
        groups.hold(apply, group)
        groups.resume(apply, group)


def _is_disabled(connection: apsw.Connection, handler: str) -> bool:
    enabled: Any = connection.execute("SELECT enabled FROM hooks WHERE name = ?", (handler,)).get
    return bool(enabled == 0)


def _may_have(connection: apsw.Connection, node: str, handler: str) -> bool:
    found: Any = connection.execute(
        "SELECT 1 FROM hook_nodes WHERE node = ?1 AND name = ?2"
        " UNION ALL SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM hook_members WHERE node = ?1)",
        (node, handler),
    ).get
    return found is not None
