"""What nodes say of themselves and the leader of others, as events of the log.

A node repeats a report until it knows that it was applied, so each carries a number: per start of
the node, a report that is not newer than the last one says nothing again. Health is a state: only
its change is an event. Deciding code: never raises for bad input.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.events import (
    SYSTEM_CONFIG_RELOADED,
    SYSTEM_HEALTH_CHANGED,
    SYSTEM_NODE_STARTED,
    SYSTEM_NODE_STOPPED,
    SYSTEM_SNAPSHOT_CREATED,
    SYSTEM_SNAPSHOT_INSTALLED,
)
from pubsub.limits import (
    NAME_BYTES_MAX,
    REPORT_TEXT_BYTES_MAX,
    REPORT_TEXTS_MAX,
    REPORTING_NODES_MAX,
)
from pubsub.rejection import Rejection

HEALTHY: Final = "healthy"
UNREACHABLE: Final = "unreachable"
STATES: Final = (HEALTHY, UNREACHABLE)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS node_reports(
    node TEXT PRIMARY KEY,
    start INTEGER NOT NULL,          -- drawn by the node when it started
    number INTEGER NOT NULL          -- of its newest report since then
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node_health(
    node TEXT PRIMARY KEY,           -- a node without a row is healthy
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


def report(
    apply: Apply, code: Any, node: Any, start: Any, number: Any, data: Any
) -> int | Rejection:
    """`system.report [code, node, start, number, data]` -> the event's revision, 0 for a repeat.

    `data` are the items after the node's name in the table at `pubsub.events.SYSTEM_TOPICS`.
    """
    shape = _SHAPES.get(code) if code.__class__ is int else None
    if shape is None:
        return malformed("system.report: no node reports an event of this code")
    if not _is_name(node) or not is_count(start) or not is_count(number, 1):
        return malformed("system.report: a node, a start and a number from 1 are needed")
    if not isinstance(data, list | tuple) or len(data) != len(shape):
        return malformed(f"system.report: {len(shape)} items of data are needed")
    if not all(is_right(item) for is_right, item in zip(shape, data, strict=True)):
        return malformed("system.report: an item of data has a wrong type or is too large")
    connection = apply.connection
    known = connection.execute("SELECT start, number FROM node_reports WHERE node = ?", (node,)).get
    if known is None and _count(connection, "node_reports") >= REPORTING_NODES_MAX:
        return Rejection("limit_exceeded", f"at most {REPORTING_NODES_MAX} nodes report")
    if known is not None and known[0] == start and number <= known[1]:
        return 0
    connection.execute("INSERT OR REPLACE INTO node_reports VALUES(?, ?, ?)", (node, start, number))
    return apply.emit(code, None, (node, *data), apply.meta)


def health(apply: Apply, node: Any, state: Any, reason: Any = None) -> int | Rejection:
    """`health.report [node, state, reason]` -> the event's revision, 0 when nothing changed."""
    if not _is_name(node) or state not in STATES or not _is_optional_text(reason):
        return malformed("health.report: a node, a state and a reason are needed")
    connection = apply.connection
    previous = state_of(connection, node)
    if state == previous:
        return 0
    if state == HEALTHY:
        connection.execute("DELETE FROM node_health WHERE node = ?", (node,))
    elif _count(connection, "node_health") >= REPORTING_NODES_MAX:
        return Rejection("limit_exceeded", f"at most {REPORTING_NODES_MAX} nodes are reported")
    else:
        connection.execute("INSERT OR REPLACE INTO node_health VALUES(?, ?)", (node, state))
    return apply.emit(SYSTEM_HEALTH_CHANGED, None, (node, previous, state, reason), apply.meta)


def unhealthy(connection: apsw.Connection) -> dict[str, str]:
    """The nodes that are not healthy, with their state."""
    rows: Iterable[Any] = connection.execute("SELECT node, state FROM node_health ORDER BY node")
    return dict(rows)


def state_of(connection: apsw.Connection, node: str) -> str:
    """How a node is, by what was reported last."""
    state = connection.execute("SELECT state FROM node_health WHERE node = ?", (node,)).get
    return HEALTHY if state is None else str(state)


def forget(connection: apsw.Connection, node: str) -> None:
    """The node is no member any more; how it is concerns nobody."""
    connection.execute("DELETE FROM node_reports WHERE node = ?", (node,))
    connection.execute("DELETE FROM node_health WHERE node = ?", (node,))


def _count(connection: apsw.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").get)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= NAME_BYTES_MAX


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value.encode()) <= REPORT_TEXT_BYTES_MAX


def _is_optional_text(value: Any) -> bool:
    return value is None or _is_text(value)


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= REPORT_TEXTS_MAX
        and all(map(_is_text, value))
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_SHAPES: Final[Mapping[int, tuple[Callable[[Any], bool], ...]]] = {
    SYSTEM_SNAPSHOT_CREATED: (is_count, is_count, is_count),
    SYSTEM_SNAPSHOT_INSTALLED: (is_count, is_count, is_count, _is_optional_text),
    SYSTEM_NODE_STARTED: (_is_text, _is_text),
    SYSTEM_NODE_STOPPED: (_is_optional_text,),
    SYSTEM_CONFIG_RELOADED: (_is_flag, _are_texts, _are_texts),
}
