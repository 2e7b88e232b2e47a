"""Requests that list what publishers left: topics of users, and delayed events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.server.arguments import count, is_linearizable, shaped, text
from cluster.server.node import Read, ServedNode
from pubsub.limits import READ_ROWS_MAX
from pubsub.publishing import delayed

if TYPE_CHECKING:
    from cluster.server.connection import Connection
    from cluster.server.server import Server


def list_topics(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`topics.list [after, limit, level]` -> [[[topic, last revision], ...], more]."""
    after, limit = shaped(args, 0, text, count)
    page = partial(_topics, after or "", _rows(limit))
    connection.read(Read(request_id, page, True), is_linearizable(args, 2))


def list_delayed(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`delayed.list [after_id, limit, level]` -> [[[id, due_ms, topic, key, bytes], ...], more]."""
    after_id, limit = shaped(args, 0, count, count)
    page = partial(_delayed, after_id or 0, _rows(limit))
    connection.read(Read(request_id, page, True), is_linearizable(args, 2))


def _rows(limit: int | None) -> int:
    return min(limit or READ_ROWS_MAX, READ_ROWS_MAX)


def _topics(after: str, limit: int, node: ServedNode) -> object:
    return node.machine.topics(after, limit)


def _delayed(after_id: int, limit: int, node: ServedNode) -> object:
    return delayed.page(node.machine.connection, after_id, limit)
