"""Consumer groups at the client port: the stream of a member, and what groups look like.

`group.consume` is to a partitioned group what `subscribe` is to the log. It begins behind a
barrier: the node's state is then at least as new as all that the member was told before, by
whichever node, so that what it does not mention is no longer the member's.

May not: decide what a member gets (pubsub/consumer_groups/consumption.py does).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import apsw

from cluster.errors import LimitExceeded, Rejected, TremulaError
from cluster.protocol import BOOKMARK, CHANGE, EVENTS
from cluster.server.arguments import count, is_linearizable, shaped, text
from cluster.server.node import Read, ServedNode
from cluster.server.streams import Stream, Streams
from pubsub import groups
from pubsub.consumer_groups.consumption import Consumption
from pubsub.limits import CREDITS_MAX, READ_ROWS_MAX
from pubsub.rejection import Rejection
from pubsub.topics import closest

if TYPE_CHECKING:
    from cluster.server.connection import Connection
    from cluster.server.server import Server

COMPETING = "competing"


class GroupStream(Stream):
    """One member's stream of one group."""

    __slots__ = ("consumption",)

    def __init__(
        self, streams: Streams, connection: Connection, request_id: int, consumption: Consumption
    ) -> None:
        super().__init__(streams, connection, request_id)
        self.consumption = consumption

    def grant(self, credits: int) -> None:
        """See `Stream`."""
        self.consumption.grant(credits)
        self.wake()

    def tell_position(self) -> None:
        """See `Stream`; while nothing is held, a sign of life."""
        revision = self.consumption.bookmark() or 0
        self.connection.send(self.request_id, BOOKMARK, revision)

    def begin(self, node: ServedNode) -> None:
        """Tell of every partition that is held; the bookmark after them says that it was all."""
        self.pump(node, 0)
        if not self.is_over:
            self.tell_position()

    def pump(self, node: ServedNode, events_max: int) -> bool:
        """See `Stream`."""
        sent = self.consumption.pump(node, node.machine.connection, events_max)
        for change in sent.changes:
            self.connection.send(self.request_id, CHANGE, change)
        if sent.events:
            self.connection.send(self.request_id, EVENTS, (sent.first_number, sent.events))
            self.count(len(sent.events))
        if sent.bookmark is not None:
            self.connection.send(self.request_id, BOOKMARK, sent.bookmark)
            self.is_silent = False
        if sent.refusal is not None:
            self.finish(Rejected.of(sent.refusal))
        return sent.more


def consume(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`group.consume [group, member, credits]`: what the member owns, until it is none any more."""
    group, member, credits = shaped(args, 3, text, text, count)
    if len(connection.streams) >= server.limits.subscriptions_max:
        actual = len(connection.streams) + 1
        raise LimitExceeded("subscriptions_max", actual, server.limits.subscriptions_max)
    consumption = Consumption(group, member, min(credits, CREDITS_MAX))
    server.node.read_index(partial(_begin, server, connection, request_id, consumption))


def describe(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`group.describe [group, level]`: everything about one group."""
    (group,) = shaped(args, 1, text)
    read = Read(request_id, partial(_describe, group), True)
    connection.read(read, is_linearizable(args, 1))


def list_groups(server: Server, connection: Connection, request_id: int, args: list[Any]) -> None:
    """`group.list [after, limit, level]`: a page of the groups, by name."""
    after, limit = shaped(args, 0, text, count)
    listing = partial(_list, after or "", min(limit or READ_ROWS_MAX, READ_ROWS_MAX))
    # Aside: the floors and members of a thousand groups take longer than a heartbeat.
    read = Read(request_id, lambda node: None, True, listing)
    connection.read(read, is_linearizable(args, 2))


def _begin(
    server: Server,
    connection: Connection,
    request_id: int,
    consumption: Consumption,
    error: TremulaError | None,
) -> None:
    """The barrier was passed."""
    if not connection.is_pending(request_id):  # It took too long, or the client is gone.
        return
    described = groups.describe(server.node.machine.connection, consumption.group)
    if error is None and described is not None and described.get("mode") == COMPETING:
        detail = f'group "{consumption.group}" is competing: its members fetch'
        error = Rejected.of(Rejection("wrong_mode", detail))
    if error is not None:
        connection.answer(request_id, error)
        return
    connection.detach(request_id)
    server.streams.add(GroupStream(server.streams, connection, request_id, consumption))


def _describe(group: str, node: ServedNode) -> object:
    described = groups.describe(node.machine.connection, group)
    if described is None:
        near = closest(group, groups.names(node.machine.connection))
        hint = f'; did you mean "{near}"?' if near else ""
        raise Rejected("unknown_group", f'there is no consumer group "{group}"{hint}')
    return described | {"revision": node.machine.revision}


def _list(after: str, limit: int, connection: apsw.Connection) -> object:
    names = [name for name in groups.names(connection) if name > after]
    return [groups.describe(connection, name) for name in names[:limit]]
