"""Requests that look for events: by revision, by what they have in common, by what caused them.

Queries run in a thread, on connections of their own to the state and to the index; one that is
behind, or gone, makes them slower and changes no answer.

May not: look at more for one answer than the limits of pubsub say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from cluster.errors import Malformed
from cluster.server.arguments import boolean, count, is_linearizable, shaped, text
from cluster.server.node import Read, ServedNode
from pubsub import log
from pubsub.events import Event
from pubsub.limits import (
    QUERY_EXAMINED_MAX,
    READ_BYTES_MAX,
    TRACE_EVENTS_MAX,
    TRACE_EXAMINED_MAX,
)
from pubsub.store import event_query
from pubsub.store.event_query import Filter, Page, Source
from pubsub.topics import Pattern, closest, validate_pattern

if TYPE_CHECKING:
    from cluster.server.connection import Connection
    from cluster.server.server import Server

T = TypeVar("T")

_TEXTS = ("pattern", "key", "actor")
_IDENTIFIERS = ("correlation_id", "causation_id")
_COUNTS = ("from_revision", "to_revision", "from_ms", "to_ms")
FILTER_FIELDS = (*_TEXTS, *_IDENTIFIERS, *_COUNTS)

_HIGHEST = 2**63 - 1


def get(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`events.get [revision, level]` -> event, or nil if it is not there, yet or any more."""
    (revision,) = shaped(args, 1, count)
    connection.read(Read(request_id, partial(_get, revision), True), is_linearizable(args, 1))


def query(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`events.query [filter, cursor, limit, descending, level]`
    -> [events, next cursor or nil, newest revision]."""
    fields, cursor, limit, descending = shaped(args, 0, _filter, count, count, boolean)
    limits = server.limits
    find = partial(
        _query,
        fields=fields or {},
        cursor=cursor,
        limit=min(limit or limits.page_rows_max, limits.page_rows_max),
        bytes_max=limits.page_bytes_max,
        descending=bool(descending),
    )
    _aside(server.node, connection, request_id, find, is_linearizable(args, 4))


def trace(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`events.trace [correlation id, limit, level]` -> [events, whether there may be more]."""
    correlation_id, limit = shaped(args, 1, identifier, count)
    find = partial(
        event_query.trace,
        correlation_id=correlation_id,
        limit=min(limit or TRACE_EVENTS_MAX, TRACE_EVENTS_MAX),
        bytes_max=server.limits.page_bytes_max,
        examined_max=TRACE_EXAMINED_MAX,
    )
    _aside(server.node, connection, request_id, find, is_linearizable(args, 2))


def find_events(
    node: ServedNode, state: apsw.Connection, fields: dict[str, Any], limit: int
) -> list[Event]:
    """The oldest events that a filter lets through, for a question of the node's own. In a
    thread, with a connection of its own to the state."""
    found: list[Event] = []
    cursor: int | None = None
    while True:
        page = _find(node, partial(_oldest, fields, cursor, limit - len(found)), state)
        found += page.events
        cursor = page.next_revision
        if cursor is None or len(found) >= limit:
            return found
        state.execute("COMMIT")  # `_find` begins anew


def _oldest(
    fields: dict[str, Any],
    cursor: int | None,
    limit: int,
    state: apsw.Connection,
    parts: list[Source],
) -> Page:
    return _query(
        state, parts, fields=fields, cursor=cursor, limit=limit,
        bytes_max=READ_BYTES_MAX, descending=False,
    )  # fmt: skip


def _aside(
    node: ServedNode,
    connection: Connection,
    request_id: int,
    find: Callable[[apsw.Connection, list[Source]], object],
    linearizable: bool,
) -> None:
    read = Read(request_id, lambda node: None, True, partial(_find, node, find))
    connection.read(read, linearizable)


def _find(
    node: ServedNode,
    find: Callable[[apsw.Connection, list[Source]], T],
    state: apsw.Connection,
) -> T:
    """The answer with the index, or without it if it cannot be read. In a thread."""
    state.execute("BEGIN")  # one state of the log for all that is read
    parts = node.open_index()
    try:
        return find(state, parts.sources)
    except apsw.Error as error:
        if parts.connection is None:
            raise  # then it was the state that could not
        parts.distrust(error)
        return find(state, [])
    finally:
        parts.close()


def _get(revision: int, node: ServedNode) -> object:
    found = node.read_events(revision, 1, READ_BYTES_MAX)
    is_there = isinstance(found, list) and bool(found) and found[0].revision == revision
    return found[0] if is_there else None


def _query(
    state: apsw.Connection,
    parts: list[Source],
    *,
    fields: dict[str, Any],
    cursor: int | None,
    limit: int,
    bytes_max: int,
    descending: bool,
) -> Page:
    low, high = _bounds(state, fields)
    if cursor is not None:
        low, high = (low, min(high, cursor)) if descending else (max(low, cursor), high)
    pattern = fields.get("pattern")
    wanted = Filter(
        None if pattern is None else Pattern(pattern),
        *(fields.get(name) for name in ("key", "actor", *_IDENTIFIERS)),
    )
    return event_query.query(
        state, parts, wanted, low, high,
        limit=limit, bytes_max=bytes_max, examined_max=QUERY_EXAMINED_MAX, descending=descending,
    )  # fmt: skip


def _bounds(state: apsw.Connection, fields: dict[str, Any]) -> tuple[int, int]:
    """The first and the last revision that a filter lets through."""
    low, high = fields.get("from_revision") or 1, fields.get("to_revision")
    high = _HIGHEST if high is None else high
    if (from_ms := fields.get("from_ms")) is not None:
        low = max(low, log.revision_at_or_after(state, from_ms))
    if (to_ms := fields.get("to_ms")) is not None:
        high = min(high, log.revision_at_or_after(state, to_ms + 1) - 1)
    return low, high


def _filter(item: Any) -> bool:
    """A map of the fields of a filter; says itself what is wrong with one."""
    if not isinstance(item, dict):
        return False
    for name, value in item.items():
        if name not in FILTER_FIELDS:
            nearest = closest(str(name), FILTER_FIELDS)
            hint = f'; did you mean "{nearest}"?' if nearest else ""
            raise Malformed(f'a filter has no field "{name}"{hint}')
        check = text if name in _TEXTS else identifier if name in _IDENTIFIERS else count
        if value is not None and not check(value):
            raise Malformed(f"{name} must be {check.__name__}")
    if item.get("pattern") is not None and (problem := validate_pattern(item["pattern"])):
        raise Malformed(problem)
    return True


def identifier(item: Any) -> bool:
    """A correlation or causation id: a text, or the revision of an event."""
    return isinstance(item, str) or count(item)
