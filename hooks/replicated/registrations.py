"""Which handlers the cluster has, and by which policy every node routes and handles.

    hook.register [node, [[policy, enabled, problem], ...]]   what one node has, all of it

The policy in force is the newest one that was registered with the highest version; an older version
is kept out, and the node that came with it is shown as one that differs. A handler that no node
reports any more is *removed*: retention no longer waits for its groups, whose place and dead
letters stay until it is back, or is forgotten (`switches.forget`).

Deciding code: the operations (first argument `apply`) never raise for bad input; the reads (first
argument `connection`) are for anybody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from hooks.limits import HOOKS_MAX
from hooks.replicated import handler_groups, settings
from hooks.replicated.reported import Reported, parse
from pubsub import groups
from pubsub.apply import Apply
from pubsub.events import HOOK_LOAD_FAILED, HOOK_REGISTERED, HOOK_REMOVED
from pubsub.rejection import Rejection
from pubsub.topics import validate_name

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS hook_state(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    changes INTEGER NOT NULL         -- rises with every change of what stands here
) STRICT;
INSERT OR IGNORE INTO hook_state VALUES(0, 0);
CREATE TABLE IF NOT EXISTS hooks(
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,        -- of the policy in force
    policy BLOB NOT NULL,            -- msgpack map, keys in order
    scope TEXT NOT NULL,             -- the policy's, for those who look at groups
    enabled INTEGER NOT NULL,
    disabled_reason TEXT,
    removed INTEGER NOT NULL,        -- no node reports it any more
    revision INTEGER NOT NULL        -- of the event since which the policy is in force
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hook_nodes(
    node TEXT NOT NULL,
    name TEXT NOT NULL,              -- of a handler, or of what a node could not load
    policy BLOB,                     -- as the node has it; NULL: it does not know
    problem TEXT,                    -- why it does not run there
    PRIMARY KEY(node, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hook_nodes_by_name ON hook_nodes(name, node);
CREATE TABLE IF NOT EXISTS hook_members(
    node TEXT PRIMARY KEY            -- has said what it has, if only that it has nothing
) STRICT, WITHOUT ROWID;
"""

REGISTERED: Final = "registered"  # new, changed, or back: this node's policy is in force
SAME: Final = "same"
KEPT: Final = "kept"  # another policy stays in force


class NodeReport(NamedTuple):
    """What one node says of a handler."""

    same: bool  # it has the policy in force
    problem: str | None  # why it does not run there


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A handler as the cluster knows it."""

    name: str
    version: int
    policy: Mapping[str, Any]  # in force on every node (`HandlerDefinition.with_policy`)
    enabled: bool
    disabled_reason: str | None
    removed: bool  # no node has it any more
    revision: int  # of the event since which the policy is in force
    nodes: Mapping[str, NodeReport]  # by name: those that have it


class LoadProblem(NamedTuple):
    """Something that a node could not load and that is no registered handler."""

    node: str
    name: str  # of the handler, module or file
    problem: str


class _Stored(NamedTuple):
    """One row of hooks."""

    name: str
    version: int
    policy: bytes
    scope: str
    enabled: int
    disabled_reason: str | None
    removed: int
    revision: int


def changes(connection: apsw.Connection) -> int:
    """A number that rises with every change of registrations and settings: a cheap "look again"."""
    return int(connection.execute("SELECT changes FROM hook_state").get)


def load(connection: apsw.Connection) -> dict[str, Registration]:
    """Every registered handler by name, the removed ones too."""
    reports: dict[str, list[Any]] = {}
    for node, name, policy, problem in connection.execute(
        "SELECT node, name, policy, problem FROM hook_nodes ORDER BY node, name"
    ):
        reports.setdefault(name, []).append((node, policy, problem))
    found: dict[str, Registration] = {}
    for row in map(_Stored._make, connection.execute("SELECT * FROM hooks ORDER BY name")):
        policy = msgpack.unpackb(row.policy)
        found[row.name] = Registration(
            name=row.name,
            version=row.version,
            policy=policy,
            enabled=bool(row.enabled),
            disabled_reason=row.disabled_reason,
            removed=bool(row.removed),
            revision=row.revision,
            nodes={
                node: NodeReport(packed is not None and _agrees(packed, policy), problem)
                for node, packed, problem in reports.get(row.name, ())
            },
        )
    return found


def load_problems(connection: apsw.Connection) -> list[LoadProblem]:
    """What nodes could not load and whose handlers nobody knows: modules, files."""
    rows = connection.execute(
        "SELECT node, name, problem FROM hook_nodes AS n WHERE problem IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM hooks AS h WHERE h.name = n.name) ORDER BY node, name"
    )
    return [LoadProblem(*row) for row in rows]


def register(apply: Apply, node: Any, handlers: Any) -> list[list[Any]] | Rejection:
    """Take what a node has, all of it: what it said before is over.

    An item is `[policy, enabled, problem or nil]`: `enabled` is what a new handler begins with,
    `problem` why the handler does not run on this node. In the place of the policy stands the name
    alone of something that the node could not even read.

    Returns `[[name, version in force, "registered" | "same" | "kept", reason | nil], ...]`.
    """
    problem = validate_name(node, "node")
    if problem:
        return Rejection("malformed", problem)
    reported = parse(handlers)
    if isinstance(reported, Rejection):
        return reported
    connection = apply.connection
    before: list[Any] = connection.execute(
        "SELECT name, policy, problem FROM hook_nodes WHERE node = ? ORDER BY name", (node,)
    ).fetchall()
    problems_before: dict[str, str | None] = {name: known for name, _, known in before}
    own_groups = handler_groups.by_handler(connection)
    names = (*problems_before, *(item.name for item in reported))
    used_before = handler_groups.used_by_all(connection, own_groups, names, node)
    connection.execute("INSERT OR IGNORE INTO hook_members VALUES(?)", (node,))
    connection.execute("DELETE FROM hook_nodes WHERE node = ?", (node,))
    connection.executemany(
        "INSERT INTO hook_nodes VALUES(?, ?, ?, ?)",
        [(node, item.name, item.packed, item.problem) for item in reported],
    )
    first_revision = apply.revision
    answers: list[list[Any]] = []
    for item in reported:
        answers.append(_take(apply, node, item, own_groups.get(item.name, [])))
        if item.problem is not None and item.problem != problems_before.get(item.name):
            data = (item.name, node, item.problem)
            apply.emit(HOOK_LOAD_FAILED, None, data, apply.meta)
    if int(connection.execute("SELECT count(*) FROM hooks").get) > HOOKS_MAX:
        return Rejection("limit_exceeded", f"a cluster has at most {HOOKS_MAX} handlers")
    _remove_unreported(apply, node, problems_before)
    for name, groups_before in used_before.items():
        handler_groups.settle(apply, name, groups_before)
    after = sorted((item.name, item.packed, item.problem) for item in reported)
    if apply.revision != first_revision or after != before:
        note_change(connection)
    return answers


def remove_node(apply: Apply, node: str) -> None:
    """A member of the cluster is gone: what it had, and the groups that were its own."""
    if apply.version < 2:
        return
    connection = apply.connection
    rows = connection.execute("SELECT name FROM hook_nodes WHERE node = ? ORDER BY name", (node,))
    names = [str(name) for (name,) in rows]
    own_groups = handler_groups.by_handler(connection)
    used_before = handler_groups.used_by_all(connection, own_groups, names, node)
    connection.execute("DELETE FROM hook_nodes WHERE node = ?", (node,))
    connection.execute("DELETE FROM hook_members WHERE node = ?", (node,))
    _remove_unreported(apply, node, names)
    for name, groups_before in used_before.items():
        handler_groups.settle(apply, name, groups_before)
    handler_groups.remove_of_node(apply, node)
    settings.forget_node(connection, node)
    note_change(connection)


def note_change(connection: apsw.Connection) -> None:
    """Tell those who watch `changes` to look again."""
    connection.execute("UPDATE hook_state SET changes = changes + 1")


def _take(apply: Apply, node: str, item: Reported, own_groups: list[str]) -> list[Any]:
    """Register one handler of a node's list; returns its answer."""
    connection = apply.connection
    row = _find(connection, item.name)
    if item.policy is None:
        if row is not None and row.removed:
            _bring_back(apply, node, row)
        return [item.name, 0 if row is None else row.version, KEPT, item.problem]
    assert item.packed is not None
    version, scope = item.policy["version"], item.policy["scope"]
    if row is None:
        revision = _tell(apply, item.name, version, node, "registered")
        connection.execute(
            "INSERT INTO hooks VALUES(?, ?, ?, ?, ?, NULL, 0, ?)",
            (item.name, version, item.packed, scope, int(item.enabled), revision),
        )
        if not item.enabled:
            handler_groups.hold(apply, own_groups)
        return [item.name, version, REGISTERED, None]
    reason = None
    if not _agrees(item.packed, msgpack.unpackb(row.policy)):
        reason = _why_kept(connection, row, item.policy, own_groups)
        if reason is None:
            change = "back" if row.removed else "changed"
            revision = _tell(apply, item.name, version, node, change)
            connection.execute(
                "UPDATE hooks SET version = ?, policy = ?, scope = ?, removed = 0, revision = ?"
                " WHERE name = ?",
                (version, item.packed, scope, revision, item.name),
            )
            return [item.name, version, REGISTERED, None]
    if row.removed:
        _bring_back(apply, node, row)
        if reason is None:
            return [item.name, row.version, REGISTERED, None]
    return [item.name, row.version, SAME if reason is None else KEPT, reason]


def _why_kept(
    connection: apsw.Connection, row: _Stored, policy: dict[str, Any], own_groups: list[str]
) -> str | None:
    """Why another policy does not take the place of the one in force; None: it does."""
    if policy["version"] < row.version:
        return f"version {row.version} is in force; this node has version {policy['version']}"
    for group in own_groups:
        if handler_groups.fits(group, policy["scope"]):
            described = groups.describe(connection, group)
            count = len(described["partitions"]) if described else policy["partitions"]
            if count != policy["partitions"]:
                return f'partitions: group "{group}" has {count} for ever'
    return None


def _bring_back(apply: Apply, node: str, row: _Stored) -> None:
    """A removed handler is reported again."""
    _tell(apply, row.name, row.version, node, "back")
    apply.connection.execute("UPDATE hooks SET removed = 0 WHERE name = ?", (row.name,))


def _remove_unreported(apply: Apply, node: str, names: Iterable[str]) -> None:
    """Those of `names` that no node has any more are removed."""
    for name in names:
        row = _find(apply.connection, name)
        if row is None or row.removed:
            continue
        if apply.connection.execute("SELECT 1 FROM hook_nodes WHERE name = ?", (name,)).get:
            continue
        apply.connection.execute("UPDATE hooks SET removed = 1 WHERE name = ?", (name,))
        apply.emit(HOOK_REMOVED, None, (name, node), apply.meta)


def _tell(apply: Apply, name: str, version: int, node: str, change: str) -> int:
    return apply.emit(HOOK_REGISTERED, None, (name, version, node, change), apply.meta)


def _find(connection: apsw.Connection, name: str) -> _Stored | None:
    row = connection.execute("SELECT * FROM hooks WHERE name = ?", (name,)).fetchone()
    return None if row is None else _Stored(*row)


def _agrees(packed: bytes, in_force: Mapping[str, Any]) -> bool:
    """Whether a policy says nothing else than the one in force.

    It may say less: a node of an older release does not know every key, and must not take away
    what newer ones have registered.
    """
    policy: dict[str, Any] = msgpack.unpackb(packed)
    return all(
        key in in_force and msgpack.packb(in_force[key]) == msgpack.packb(value)
        for key, value in policy.items()
    )
