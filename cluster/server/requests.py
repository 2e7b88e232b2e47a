"""What each request that is no mutation means: a table from names to functions.

A function checks the arguments and starts the work; it raises a `DefiniteError` for what it
refuses. Answers go through `connection.answer`, now or later.

May not: wait, or read more than one bounded page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw

from cluster import kv
from cluster.errors import Compacted, LimitExceeded, Malformed, UnknownRequest
from cluster.protocol import MUTATIONS
from cluster.server import consumption, event_store, listings, retained
from cluster.server.arguments import anything as _anything
from cluster.server.arguments import boolean as _boolean
from cluster.server.arguments import count as _count
from cluster.server.arguments import is_linearizable as _is_linearizable
from cluster.server.arguments import shaped as _shaped
from cluster.server.arguments import text as _text
from cluster.server.node import Read, ServedNode
from cluster.server.streams import SubscriptionStream
from pubsub import log, retention
from pubsub.limits import CREDITS_MAX
from pubsub.subscription import Subscription
from pubsub.topics import Pattern, closest, validate_pattern

if TYPE_CHECKING:
    from cluster.server.connection import Connection
    from cluster.server.server import Server

EARLIEST = "earliest"
LATEST = "latest"
TIME = "time"


Start = Callable[["Server", "Connection", int, list[Any]], None]


def start(
    server: Server, connection: Connection, request_id: int, name: str, args: list[Any]
) -> None:
    """Start a request that is no mutation."""
    known = _REQUESTS.get(name)
    if known is not None:
        known(server, connection, request_id, args)
        return
    extra = server.extra.get(name)
    if extra is None:
        raise UnknownRequest(name, closest(name, [*MUTATIONS, *_REQUESTS, *server.extra]))
    extra(args, connection.actor, partial(connection.answer_now, request_id))


def start_one_way(connection: Connection, name: str, args: list[Any]) -> None:
    """Do what a message without an id asks for."""
    one_way = _ONE_WAY.get(name)
    if one_way is None:
        raise Malformed("id 0 is for credit and cancel only")
    one_way(connection, args)


def request_names() -> list[str]:
    """Every request of the protocol that needs no `extra`, for the tests of its documentation."""
    return sorted([*MUTATIONS, *_REQUESTS, *_ONE_WAY])


def _get(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    if not args or type(args[0]) is not str:  # `_shaped` by hand: this is the hot read.
        raise Malformed("argument 0 must be text")
    if _is_linearizable(args, 1):
        connection.gets.append((request_id, args[0]))
    else:
        connection.read(single_read(request_id, args[0]), False)


def single_read(request_id: int, key: str) -> Read:
    """A read of one key that may have to wait for its turn."""
    return Read(request_id, partial(_read_row, key), False)


def _range(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    start_key, end_key, limit, after, keys_only = _shaped(
        args, 1, _text, _text, _count, _text, _boolean
    )
    limits = server.limits
    rows_max = min(limit or limits.page_rows_max, limits.page_rows_max)
    page = partial(
        _read_page, start_key, end_key, rows_max, after, bool(keys_only), limits.page_bytes_max
    )
    connection.read(Read(request_id, page, True), _is_linearizable(args, 5))


def _count_keys(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    start_key, end_key = _shaped(args, 1, _text, _text)
    aside = partial(_count_rows, start_key, end_key)
    read = Read(request_id, lambda node: None, True, aside)
    connection.read(read, _is_linearizable(args, 2))


def _read_log(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    from_revision, pattern, limit = _shaped(args, 1, _count, _text, _count)
    events_max = min(limit or server.limits.page_rows_max, server.limits.page_rows_max)
    compiled = None if pattern is None else _pattern(pattern)
    page = partial(_read_events, from_revision, compiled, events_max, server.limits.page_bytes_max)
    connection.read(Read(request_id, page, True), _is_linearizable(args, 3))


def _subscribe(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    if len(connection.streams) >= server.limits.subscriptions_max:
        actual = len(connection.streams) + 1
        raise LimitExceeded("subscriptions_max", actual, server.limits.subscriptions_max)
    pattern, begin, credits, watch = _shaped(args, 3, _text, _anything, _count, _boolean)
    first, intact_from = _start_of(server.node, begin)
    credits = min(credits, CREDITS_MAX)
    subscription = Subscription(_pattern(pattern), first, credits, intact_from)
    connection.detach(request_id)
    streams = server.streams
    streams.add(SubscriptionStream(streams, connection, request_id, subscription, bool(watch)))


def _credit(connection: Connection, args: list[Any]) -> None:
    request_id, credits = _shaped(args, 2, _count, _count)
    stream = connection.streams.get(request_id)
    if stream is not None:  # It may have ended while the credits were on their way.
        stream.grant(credits)


def _cancel(connection: Connection, args: list[Any]) -> None:
    (request_id,) = _shaped(args, 1, _count)
    stream = connection.streams.get(request_id)
    if stream is not None:
        stream.finish(None)


def _ping(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    connection.answer(request_id, None)


def _status(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    connection.answer(request_id, server.node.status())


def _members(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    connection.read(Read(request_id, _read_members, False), _is_linearizable(args, 0))


def _member_add(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    name, address = _shaped(args, 2, _text, _text)
    server.node.add_member(name, address, partial(connection.answer_now, request_id))


def _member_promote(
    server: Server, connection: Connection, request_id: int, args: list[Any]
) -> None:
    (name,) = _shaped(args, 1, _text)
    server.node.promote(name, partial(connection.answer_now, request_id))


def _member_remove(
    server: Server, connection: Connection, request_id: int, args: list[Any]
) -> None:
    (name,) = _shaped(args, 1, _text)
    server.node.remove_member(name, partial(connection.answer_now, request_id))


def _leader_transfer(
    server: Server, connection: Connection, request_id: int, args: list[Any]
) -> None:
    (name,) = _shaped(args, 0, _text)
    server.node.transfer_leadership(name, partial(connection.answer_now, request_id))


_REQUESTS: dict[str, Start] = {
    "get": _get,
    "range": _range,
    "count": _count_keys,
    "events.read": _read_log,
    "events.get": event_store.get,
    "events.kept": retained.kept_from,
    "events.query": event_store.query,
    "events.trace": event_store.trace,
    "subscribe": _subscribe,
    "ping": _ping,
    "status": _status,
    "members": _members,
    "topics.list": listings.list_topics,
    "delayed.list": listings.list_delayed,
    "group.consume": consumption.consume,
    "group.describe": consumption.describe,
    "group.list": consumption.list_groups,
    "retention.list": retained.list_rules,
    "capture.list": retained.list_capture,
    "dlq.list": retained.list_letters,
    "dlq.show": retained.show_letter,
    "replay.list": retained.list_replays,
    "member.add": _member_add,
    "member.promote": _member_promote,
    "member.remove": _member_remove,
    "leader.transfer": _leader_transfer,
}

_ONE_WAY: dict[str, Callable[[Connection, list[Any]], None]] = {
    "credit": _credit,
    "cancel": _cancel,
}


def _read_row(key: str, node: ServedNode) -> object:
    return node.machine.get(key)


def _read_page(
    start_key: str,
    end_key: str | None,
    rows_max: int,
    after: str | None,
    keys_only: bool,
    bytes_max: int,
    node: ServedNode,
) -> object:
    """[rows, more, revision]; a subscription from `revision` + 1 sees every later change."""
    machine = node.machine
    rows, more = kv.range_(
        machine.connection, start_key, end_key, rows_max, after, keys_only, bytes_max
    )
    return rows, more, machine.revision


def _count_rows(start_key: str, end_key: str | None, connection: apsw.Connection) -> object:
    return kv.count(connection, start_key, end_key)


def _read_events(
    from_revision: int,
    pattern: Pattern | None,
    events_max: int,
    bytes_max: int,
    node: ServedNode,
) -> object:
    """[events, next_revision, last_revision]; a page may be empty and still not be the last."""
    found = node.read_events(from_revision, events_max, bytes_max)
    if log.has_gap(found, from_revision):
        lost = node.compacted(">" if pattern is None else pattern.text, from_revision)
        if lost is not None:
            raise Compacted(lost.first_revision)
    next_revision = found[-1].revision + 1 if found else from_revision
    if pattern is not None:
        matches = pattern.matches
        found = [event for event in found if matches(event.topic)]
    return found, next_revision, node.machine.revision


def _read_members(node: ServedNode) -> object:
    return node.machine.members


def _start_of(node: ServedNode, begin: Any) -> tuple[int, int]:
    """The revision at which a subscription starts: a number, a word, ["time", wall_ms] or
    ["earliest", revision]; and the one from which on nothing may be missing. Who begins with
    the earliest or at a time takes what retention has left until then."""
    if begin == LATEST:
        first = node.machine.revision + 1
        return first, first
    if type(begin) is int and 1 <= begin < 2**63:
        return begin, begin
    connection = node.machine.connection
    intact_from = retention.trimmed_to(connection) + 1
    if begin == EARLIEST:
        return log.first_revision(connection), intact_from
    if isinstance(begin, list) and len(begin) == 2 and _count(begin[1]):
        if begin[0] == TIME:
            return log.revision_at_or_after(connection, begin[1]), intact_from
        if begin[0] == EARLIEST:
            return max(begin[1], log.first_revision(connection)), intact_from
    raise Malformed('a start is a revision from 1 on, "latest", "earliest" or ["time", wall_ms]')


def _pattern(text: str) -> Pattern:
    problem = validate_pattern(text)
    if problem is not None:
        raise Malformed(problem)
    return Pattern(text)
