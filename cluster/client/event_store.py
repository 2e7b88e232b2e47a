"""What a client finds in the event log: one event, those that have something in common, a trace."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple, TypedDict, Unpack

from cluster.client.requesting import Requesting
from cluster.client.subscription import event_from_wire
from cluster.protocol import LINEARIZABLE
from pubsub.events import Event, Identifier


class EventFilter(TypedDict, total=False):
    """What events must have; all bounds include themselves."""

    pattern: str | None
    key: str | None
    actor: str | None
    correlation_id: Identifier | None
    causation_id: Identifier | None
    from_revision: int | None
    to_revision: int | None
    from_ms: int | None
    to_ms: int | None


class EventPage(NamedTuple):
    """Some of the events that match; it may hold none and not be the last."""

    events: list[Event]
    cursor: int | None  # ask again with it; None: that was all
    newest_revision: int  # of the log that was read


class EventStore(Requesting):
    """The half of a client that looks back."""

    async def event(
        self, revision: int, *, level: str = LINEARIZABLE, timeout_ms: int | None = None
    ) -> Event | None:
        """The event of a revision; None if it is not there, yet or any more."""
        fields = await self.request("events.get", [revision, level], timeout_ms=timeout_ms)
        return None if fields is None else event_from_wire(fields)

    async def query_events(
        self,
        *,
        cursor: int | None = None,
        limit: int | None = None,
        descending: bool = False,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
        **wanted: Unpack[EventFilter],
    ) -> EventPage:
        """One page of the events that match, the oldest or the newest first."""
        fields = {name: value for name, value in wanted.items() if value is not None}
        args = [fields, cursor, limit, descending, level]
        rows, following, newest = await self.request("events.query", args, timeout_ms=timeout_ms)
        return EventPage([event_from_wire(row) for row in rows], following, newest)

    async def every_event(
        self,
        *,
        limit: int | None = None,
        descending: bool = False,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
        **wanted: Unpack[EventFilter],
    ) -> AsyncGenerator[EventPage, None]:
        """All pages of at most `limit` events; what is published meanwhile may be among them."""
        cursor: int | None = None
        while True:
            page = await self.query_events(
                cursor=cursor,
                limit=limit,
                descending=descending,
                level=level,
                timeout_ms=timeout_ms,
                **wanted,
            )
            yield page
            cursor = page.cursor
            if cursor is None:
                return

    async def trace_events(
        self,
        correlation_id: Identifier,
        *,
        limit: int | None = None,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> tuple[list[Event], bool]:
        """All events of a correlation, oldest first, and whether there may be more.

        `pubsub.store.trace.tree` shows what caused what.
        """
        args = [correlation_id, limit, level]
        rows, more = await self.request("events.trace", args, timeout_ms=timeout_ms)
        return [event_from_wire(row) for row in rows], more
