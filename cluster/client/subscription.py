"""A subscription that outlives connections: events in order, from where the reader is.

Delivery is at least once over reconnects and exactly once on one connection: after a reconnect the
node is asked for what follows the last event received, so nothing is lost and, as long as this
object lives, nothing comes twice. A reader that starts again elsewhere goes on from `position`.

May not: hold more events than the credits that it granted.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any

import trio

from cluster.client.dispatcher import Dispatcher
from cluster.client.link import Link
from cluster.errors import (
    Closed,
    NoLeader,
    NotLeader,
    Overloaded,
    Stopping,
    TremulaError,
    from_wire,
)
from pubsub.events import Event

Start = int | str | list[Any]
"""A revision, "latest", "earliest", ["time", wall_ms] or ["earliest", revision]."""


class Subscription:
    """An asynchronous iterator of events. Leave it with `close`, or use it as `async with`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        pattern: str,
        start: Start,
        credits: int,
        key_prefix: str | None = None,
    ) -> None:
        """With a `key_prefix` it is a watch of keys, from which no setting keeps anything."""
        self.position: int | None = None  # everything up to this revision has been handed out
        self._dispatcher = dispatcher
        self._pattern = pattern
        self._start = start  # where the next link has to start
        # Who begins with the earliest or at a time takes what retention has left, on each link.
        self._takes_what_is_left = start == "earliest" or isinstance(start, list)
        self._credits = credits
        self._key_prefix = key_prefix
        self._link: Link | None = None
        self._id = 0
        self._next_number = 1
        # Events and bookmarks (integers) that were received and not handed out.
        self._received: deque[Event | int] = deque()
        self._spent = 0  # credits used up and not granted again
        self._ended: TremulaError | None = None
        self._news = trio.Event()
        dispatcher.subscribe(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        """The next event; raises Compacted and what else ends a subscription for good."""
        while True:
            event = self.next_nowait()
            if event is not None:
                return event
            if self._ended is not None:
                raise self._ended
            self._news = trio.Event()
            await self._news.wait()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def next_nowait(self) -> Event | None:
        """The next event that has arrived, or None; `position` moves on in either case."""
        while self._received:
            item = self._received.popleft()
            if isinstance(item, int):
                self.position = item
                continue
            self.position = item.revision
            self._spend()
            if item.key is None or item.key.startswith(self._key_prefix or ""):
                return item
        return None

    def close(self) -> None:
        """End the subscription; what was received stays readable."""
        self._dispatcher.unsubscribe(self)
        if self._link is not None:
            self._link.close_sink(self._id)
            self._link = None
        self._end(Closed())

    def link_up(self, link: Link) -> None:
        """See `Resumable`."""
        waiting = sum(1 for item in self._received if not isinstance(item, int))
        self._link = link
        self._next_number = 1
        self._spent = 0
        granted = max(0, self._credits - waiting)
        self._spent = self._credits - waiting - granted
        args = [self._pattern, self._start, granted]
        self._id = link.open_sink(self, args if self._key_prefix is None else [*args, True])

    def link_lost(self) -> None:
        """See `Resumable`."""
        self._link = None

    def client_closed(self) -> None:
        """See `Resumable`."""
        self._link = None
        self._end(Closed())

    def take_events(self, first_number: int, events: list[Any]) -> None:
        """See `Sink`. A gap in the numbers would be a lost event: the link is not to be trusted."""
        if first_number != self._next_number and self._link is not None:
            self._link.session.close(f"event {self._next_number} of a subscription is missing")
            return
        self._next_number += len(events)
        for fields in events:
            self._received.append(event_from_wire(fields))
        self._go_on_at(events[-1][0] + 1)
        self._news.set()

    def take_bookmark(self, revision: int) -> None:
        """See `Sink`."""
        self._go_on_at(revision + 1)
        if self._received and isinstance(self._received[-1], int):
            self._received[-1] = revision
        elif self._received:
            self._received.append(revision)
        else:
            self.position = revision

    def take_change(self, kind: str, partition: int, token: int) -> None:
        """See `Sink`; a subscription has no partitions."""

    def take_end(self, error: list[Any] | None) -> None:
        """See `Sink`."""
        problem = Closed() if error is None else from_wire(error)
        link, self._link = self._link, None
        if isinstance(problem, (Stopping, NoLeader, NotLeader, Overloaded)):
            if link is not None:  # The next link goes on.
                link.session.close(f"trying another endpoint: {problem}")
            return
        self._dispatcher.unsubscribe(self)
        self._end(problem)

    def _go_on_at(self, revision: int) -> None:
        self._start = ["earliest", revision] if self._takes_what_is_left else revision

    def _spend(self) -> None:
        """Grant again in halves, so that the node never waits for a reader that keeps up."""
        self._spent += 1
        if self._link is not None and self._spent * 2 >= self._credits:
            self._link.grant(self._id, self._spent)
            self._spent = 0

    def _end(self, error: TremulaError) -> None:
        if self._ended is None:
            self._ended = error
        self._news.set()


def event_from_wire(fields: list[Any]) -> Event:
    """An event in the form of the wire; fields of a newer node are left out."""
    revision, topic, key, data, *rest = fields[: len(Event._fields)]
    return Event(revision, topic, key, tuple(data), *rest)
