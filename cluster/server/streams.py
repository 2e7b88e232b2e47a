"""Subscriptions of clients: one task reads the log for all of them, a bounded step each in turn.

The write path sets a flag; only where subscriptions are few it delivers the newest events itself,
because another turn of the loop is a good part of the time that an event is under way. A client
that has no credits left, or does not take what it was sent, is left out of the round and loses
nothing: it goes on from its revision, if need be from disk.

May not: skip an event, or keep one in memory for a slow reader.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from cluster.errors import Compacted, NoLeader, Stopping, TremulaError
from cluster.protocol import BOOKMARK, ERROR, EVENTS, OK
from cluster.server.limits import ServerLimits
from cluster.server.node import ServedNode
from pubsub.subscription import Subscription

if TYPE_CHECKING:
    from cluster.server.connection import Connection

AT_ONCE_STREAMS_MAX = 4
AT_ONCE_EVENTS_MAX = 32
"""What the write path may deliver itself: a fraction of a millisecond's work."""


LEADERLESS_S = 2.0
"""So long may a node that knows no leader, or is no member any more, keep a subscription: another
endpoint may have what it will never hear of. An election is over well before."""


class Stream(ABC):
    """A request that is answered again and again: events in order, until one side ends it."""

    __slots__ = ("_streams", "connection", "is_silent", "leaderless", "request_id")

    def __init__(self, streams: Streams, connection: Connection, request_id: int) -> None:
        self.connection = connection
        self.request_id = request_id
        self.is_silent = False  # Nothing was sent since the last round of bookmarks.
        self.leaderless = False  # The node has known no leader since the last look.
        self._streams = streams

    @abstractmethod
    def grant(self, credits: int) -> None:
        """The client takes `credits` more events."""

    @abstractmethod
    def tell_position(self) -> None:
        """Send a bookmark: everything up to this revision was looked at."""

    def begin(self, node: ServedNode) -> None:
        """Send the first response: where it starts."""
        self.tell_position()

    @property
    def is_over(self) -> bool:
        """True once the last response was sent."""
        return self not in self._streams.active

    @abstractmethod
    def pump(self, node: ServedNode, events_max: int) -> bool:
        """Send what comes next, a bounded step of it; True if there may be more at once."""

    def wake(self) -> None:
        """There may be something to send."""
        self._streams.wake()

    def count(self, events: int) -> None:
        """Events were sent."""
        self._streams.events_delivered += events
        self.is_silent = False

    def finish(self, error: TremulaError | None) -> None:
        """Send the last response of the subscription, and end it."""
        if error is None:
            self.connection.send(self.request_id, OK, None)
        else:
            self.connection.send(self.request_id, ERROR, error.to_wire())
        self.end()

    def end(self) -> None:
        """Forget the subscription."""
        self.connection.streams.pop(self.request_id, None)
        self._streams.active.pop(self, None)


class SubscriptionStream(Stream):
    """One subscription of one connection. A watch of keys gets every change of them; any other goes
    by what `publish_topics` says when it is served, also of what is older than the setting."""

    __slots__ = ("is_watch", "subscription")

    def __init__(
        self,
        streams: Streams,
        connection: Connection,
        request_id: int,
        subscription: Subscription,
        is_watch: bool,
    ) -> None:
        super().__init__(streams, connection, request_id)
        self.subscription = subscription
        self.is_watch = is_watch

    def grant(self, credits: int) -> None:
        """See `Stream`."""
        self.subscription.grant(credits)
        self.wake()

    def tell_position(self) -> None:
        """See `Stream`."""
        revision = self.subscription.bookmark()
        if revision is None:
            revision = self.subscription.next_revision - 1
        self.connection.send(self.request_id, BOOKMARK, revision)

    def pump(self, node: ServedNode, events_max: int) -> bool:
        """See `Stream`."""
        is_published = None if self.is_watch else node.machine.is_published
        pumped = self.subscription.pump(node, events_max, is_published=is_published)
        if pumped.events:
            value = (pumped.first_number, pumped.events)
            self.connection.send(self.request_id, EVENTS, value)
            self.count(len(pumped.events))
        if pumped.bookmark is not None:
            self.connection.send(self.request_id, BOOKMARK, pumped.bookmark)
            self.is_silent = False
        if pumped.compacted is not None:
            self.finish(Compacted(pumped.compacted.first_revision))
        return pumped.more


class Streams:
    """All subscriptions of a node's client port."""

    def __init__(self, node: ServedNode, limits: ServerLimits, flush: Callable[[], None]) -> None:
        self.active: dict[Stream, None] = {}
        self.events_delivered = 0
        self._node = node
        self._limits = limits
        self._flush = flush
        self._wake = trio.Event()

    def add(self, stream: Stream) -> None:
        """Start a stream."""
        stream.connection.streams[stream.request_id] = stream
        self.active[stream] = None
        stream.begin(self._node)
        self.wake()

    def wake(self) -> None:
        """Somebody can take more."""
        if self.active:
            self._wake.set()

    def applied(self) -> None:
        """Entries were applied: deliver to a few at once, to many in their turn."""
        if not self.active:
            return
        if len(self.active) > AT_ONCE_STREAMS_MAX:
            self._wake.set()
            return
        more = False
        for stream in list(self.active):
            more |= stream.connection.is_slow or stream.pump(self._node, AT_ONCE_EVENTS_MAX)
        self._flush()
        if more:
            self._wake.set()

    def stop(self) -> None:
        """End all of them: their readers go on at another node."""
        for stream in list(self.active):
            stream.finish(Stopping())

    async def run(self) -> None:
        """Deliver, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_positions)
            nursery.start_soon(self._end_leaderless)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._deliver(nursery)

    async def _deliver(self, nursery: trio.Nursery) -> None:
        ready = deque(self.active)
        while ready:
            stream = ready.popleft()
            if stream not in self.active:
                continue
            if stream.connection.is_slow:
                if not stream.connection.draining:
                    stream.connection.draining = True
                    nursery.start_soon(self._wake_when_drained, stream.connection)
                continue
            if stream.pump(self._node, self._limits.events_per_turn):
                ready.append(stream)
            self._flush()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _wake_when_drained(self, connection: Connection) -> None:
        await connection.session.drain()
        connection.draining = False
        self._wake.set()

    async def _tell_positions(self) -> None:
        """A reader can tell "nothing happened" from "cut off": silence has a longest length."""
        while True:
            await trio.sleep(self._limits.bookmark_s)
            for stream in list(self.active):
                if stream.is_silent and not stream.connection.is_slow:
                    stream.tell_position()
                stream.is_silent = True
            self._flush()

    async def _end_leaderless(self) -> None:
        """Two looks at which nobody leads end a subscription."""
        while True:
            await trio.sleep(LEADERLESS_S / 2)
            is_leaderless = self._node.leader is None
            for stream in list(self.active):
                if is_leaderless and stream.leaderless:
                    stream.finish(NoLeader())
                stream.leaderless = is_leaderless
            self._flush()
