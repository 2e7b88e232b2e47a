"""What a client publishes: events of user topics, at once or later, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

from cluster.client.requesting import Requesting
from cluster.errors import Malformed
from cluster.protocol import LINEARIZABLE
from pubsub.traceparent import validate_traceparent


class DelayedEvent(NamedTuple):
    """An event that waits for its time."""

    id: int
    due_ms: int
    topic: str
    key: str | None
    size_bytes: int


class Publishing(Requesting):
    """The publishing half of a client."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        key: str | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        message_id: str | None = None,
        expected_last_revision: int | None = None,
        schema_version: str | None = None,
        correlation_id: str | int | None = None,
        causation_id: str | int | None = None,
        traceparent: str | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Append an event to the log; returns its revision.

        With a `message_id` that the topic had within two minutes it is no new event, and the answer
        is the first one's revision. With an `expected_last_revision` it is refused if the topic has
        a newer event (0: if it has any).
        """
        args: list[Any] = [topic, key, payload, content_type, headers]
        options = publish_options(message_id, expected_last_revision, schema_version)
        if options:
            args.append(options)
        trace = trace_of(correlation_id, causation_id, traceparent)
        return int(await self.request("publish", args, timeout_ms=timeout_ms, trace=trace))

    async def publish_batch(
        self, events: Iterable[Sequence[Any]], *, timeout_ms: int | None = None
    ) -> tuple[int, int]:
        """All events `[topic, key, payload, content type, headers, options]` or none.

        Returns (first revision, number) of those that are new; `publish_all` says more.
        """
        args = [[list(event) for event in events]]
        first, count, *_ = await self.request("publish_batch", args, timeout_ms=timeout_ms)
        return first, count

    async def publish_all(
        self, events: Iterable[Sequence[Any]], *, timeout_ms: int | None = None
    ) -> list[int]:
        """The same; returns the revision of each, those included that were published before."""
        args = [[list(event) for event in events]]
        first, _, *more = await self.request("publish_batch", args, timeout_ms=timeout_ms)
        before = dict(more[0]) if more else {}
        revisions: list[int] = []
        for position in range(len(args[0])):
            revision = before.get(position)
            if revision is None:
                revision, first = first, first + 1
            revisions.append(revision)
        return revisions

    async def publish_later(
        self,
        topic: str,
        payload: bytes,
        *,
        delay_ms: int | None = None,
        at_ms: int | None = None,
        key: str | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        message_id: str | None = None,
        schema_version: str | None = None,
        correlation_id: str | int | None = None,
        causation_id: str | int | None = None,
        traceparent: str | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Let an event wait `delay_ms`, or until `at_ms` since 1970, on the cluster's clock.

        Returns the id by which it can be cancelled. It comes out once and never early, usually
        within a fifth of a second.
        """
        options = publish_options(message_id, None, schema_version)
        args = [topic, key, payload, content_type, headers, options, delay_ms, at_ms]
        trace = trace_of(correlation_id, causation_id, traceparent)
        return int(await self.request("publish_later", args, timeout_ms=timeout_ms, trace=trace))

    async def cancel_delayed(self, identity: int, *, timeout_ms: int | None = None) -> bool:
        """Whether the event was still waiting: if so, it never comes out."""
        return bool(await self.request("delayed.cancel", [identity], timeout_ms=timeout_ms))

    async def delayed_events(
        self,
        after_id: int = 0,
        *,
        limit: int | None = None,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> tuple[list[DelayedEvent], bool]:
        """One page of the events that wait, by id, and whether there are more."""
        args = [after_id, limit, level]
        rows, more = await self.request("delayed.list", args, timeout_ms=timeout_ms)
        return [DelayedEvent(*row) for row in rows], more

    async def topics(
        self,
        after: str = "",
        *,
        limit: int | None = None,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> tuple[list[tuple[str, int]], bool]:
        """One page of the topics that were published to, with the revision of the newest event of
        each, by name; and whether there are more."""
        args = [after, limit, level]
        rows, more = await self.request("topics.list", args, timeout_ms=timeout_ms)
        return [(topic, revision) for topic, revision in rows], more


def publish_options(
    message_id: str | None, expected_last_revision: int | None, schema_version: str | None
) -> dict[str, Any] | None:
    """The options of a publish as they travel; None when there are none."""
    options = {
        "message_id": message_id,
        "expected_last_revision": expected_last_revision,
        "schema_version": schema_version,
    }
    return {name: value for name, value in options.items() if value is not None} or None


class Meta(TypedDict, total=False):
    """What a request belongs to, and what caused it."""

    correlation_id: str | int | None
    causation_id: str | int | None
    hops: int | None  # from handler to handler, of what caused it and it
    traceparent: str | None  # of W3C trace context


def trace_of(
    correlation_id: str | int | None = None,
    causation_id: str | int | None = None,
    traceparent: str | None = None,
    hops: int | None = None,
) -> list[Any] | None:
    """What an event belongs to, as it travels; raises Malformed for what is no traceparent."""
    if traceparent is not None and (problem := validate_traceparent(traceparent)):
        raise Malformed(problem)
    trace = [correlation_id, causation_id, hops, traceparent]
    return trace if any(item is not None for item in trace) else None


def with_defaults(trace: list[Any] | None, defaults: list[Any] | None) -> list[Any] | None:
    """A trace with what it leaves open taken from another."""
    if trace is None or defaults is None:
        return trace or defaults
    return [own if own is not None else other for own, other in zip(trace, defaults, strict=True)]
