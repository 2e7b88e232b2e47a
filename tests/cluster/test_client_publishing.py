"""What a client publishes, over real client ports: options, delays, listings."""

from __future__ import annotations

import pytest

from cluster.client import DelayedEvent
from cluster.errors import Malformed, Rejected
from pubsub.limits import READ_ROWS_MAX
from tests.cluster.client_cluster import client_of, cluster_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_options_travel() -> None:
    """Message id, expectation, schema version, and what the event belongs to."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        first = await client.publish(
            "t", b"p", message_id="m", schema_version="2", correlation_id="c", causation_id="d",
            traceparent=TRACEPARENT,
        )  # fmt: skip
        assert await client.publish("t", b"q", message_id="m") == first
        with pytest.raises(Rejected) as refused:
            await client.publish("t", b"", expected_last_revision=0)
        assert refused.value.code == "revision_mismatch"
        (event,), *_ = await client.read_events(first)
        assert event.data == (b"p", None, None, "2")
        assert (event.correlation_id, event.causation_id) == ("c", "d")
        assert event.traceparent == TRACEPARENT


async def test_a_batch_with_repetitions() -> None:
    """Each event's revision, the old ones included."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        events = [
            ["t", None, b"%d" % number, None, None, {"message_id": name} if name else None]
            for number, name in enumerate(["a", "", "a", "b"])
        ]
        assert await client.publish_all(events) == [1, 2, 1, 3]
        assert await client.publish_all(events) == [1, 4, 1, 3]
        assert await client.publish_all([events[1]]) == [5]
        assert await client.publish_batch(events) == (6, 1)


async def test_what_is_no_traceparent_is_refused_by_both_ends() -> None:
    """The client says so before anything is sent; the node whatever the client thinks."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        with pytest.raises(Malformed, match="traceparent"):
            await client.publish("t", b"", traceparent="00-ab-cd-01")
        with pytest.raises(Malformed, match="traceparent"):
            await client.request(
                "publish", ["t", None, b""], trace=[None, None, None, "00-ab-cd-01"]
            )
        assert cluster.node.machine.revision == 0


async def test_delays_are_listed_and_cancelled() -> None:
    """Page by page; what was cancelled is not there any more."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        first = await client.publish_later("t", b"p", delay_ms=60_000, key="k")
        second = await client.publish_later("u", b"", at_ms=10**9, message_id="m")
        assert await client.publish_later("u", b"", at_ms=10**9, message_id="m") == second
        page, more = await client.delayed_events(limit=1)
        assert more
        assert page[0][:1] == (first,)
        assert (page[0].topic, page[0].key) == ("t", "k")
        assert page[0].due_ms > 60_000
        assert await client.cancel_delayed(first)
        assert not await client.cancel_delayed(first)
        (left,), more = await client.delayed_events()
        assert left == DelayedEvent(second, 10**9, "u", None, left.size_bytes)
        assert not more


async def test_topics_are_listed_in_pages() -> None:
    """No page is longer than a listing may be, whatever was asked for."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        names = [f"t.{number:04}" for number in range(READ_ROWS_MAX + 1)]
        await client.publish_batch([[name, None, b""] for name in names[:1000]])
        await client.publish_batch([[name, None, b""] for name in names[1000:]])
        page, more = await client.topics(limit=10**6, level="local")
        assert (len(page), more) == (READ_ROWS_MAX, True)
        rest, more = await client.topics(page[-1][0])
        assert ([topic for topic, _ in page + rest], more) == (names, False)
        with pytest.raises(Malformed):
            await client.request("topics.list", [5])
        with pytest.raises(Malformed):
            await client.request("delayed.list", [-1])
