"""Requests that look at what is kept: rules of retention and capture, dead letters, replays."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.errors import Malformed, Rejected
from cluster.server.arguments import count, is_linearizable, shaped, text
from cluster.server.node import Read, ServedNode
from hooks.replicated import capture
from pubsub import retention
from pubsub.consumer_groups import dead_letters, replays
from pubsub.consumer_groups.group_tables import unknown_group
from pubsub.limits import READ_ROWS_MAX
from pubsub.rejection import Rejection
from pubsub.topics import validate_pattern

if TYPE_CHECKING:
    from cluster.server.connection import Connection
    from cluster.server.server import Server


def list_rules(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`retention.list [level]` -> maps, in the order in which the rules are asked."""
    connection.read(Read(request_id, _rules, True), is_linearizable(args, 0))


def list_capture(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`capture.list [level]` -> maps, by prefix."""
    connection.read(Read(request_id, _capture, True), is_linearizable(args, 0))


def kept_from(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`events.kept [from revision, pattern or nil, level]` -> the first revision from which on
    retention has taken nothing that matches."""
    first, pattern = shaped(args, 1, count, text)
    if pattern is not None and (problem := validate_pattern(pattern)):
        raise Malformed(problem)
    kept = partial(_kept_from, first, ">" if pattern is None else pattern)
    connection.read(Read(request_id, kept, True), is_linearizable(args, 2))


def list_letters(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`dlq.list [group, after, limit, level]` -> maps, by revision."""
    group, after, limit = shaped(args, 1, text, count, count)
    page = partial(_letters, group, after or 0, min(limit or READ_ROWS_MAX, READ_ROWS_MAX))
    connection.read(Read(request_id, page, True), is_linearizable(args, 3))


def show_letter(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`dlq.show [group, revision, level]` -> a map with the letter's event."""
    group, revision = shaped(args, 2, text, count)
    connection.read(
        Read(request_id, partial(_letter, group, revision), True), is_linearizable(args, 2)
    )


def list_replays(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`replay.list [level]` -> maps, by id."""
    connection.read(Read(request_id, _replays, True), is_linearizable(args, 0))


def _rules(node: ServedNode) -> object:
    return retention.listing(node.machine.connection)


def _capture(node: ServedNode) -> object:
    return [rule._asdict() for rule in capture.listing(node.machine.connection)]


def _kept_from(first: int, pattern: str, node: ServedNode) -> object:
    lost = node.compacted(pattern, first)
    return first if lost is None else lost.first_revision


def _letters(group: str, after: int, limit: int, node: ServedNode) -> object:
    found = dead_letters.listing(node.machine.connection, group, after, limit)
    if found is None:
        raise Rejected.of(unknown_group(group))
    return found


def _letter(group: str, revision: int, node: ServedNode) -> object:
    found = dead_letters.show(node.machine.connection, group, revision)
    if isinstance(found, Rejection):
        raise Rejected.of(found)
    return found


def _replays(node: ServedNode) -> object:
    return replays.listing(node.machine.connection)
