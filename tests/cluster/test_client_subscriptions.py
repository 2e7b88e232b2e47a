"""Subscriptions of the Python client, over reconnects and with slow readers."""

from __future__ import annotations

import pytest
import trio

from cluster.client import Client
from cluster.errors import (
    Closed,
    Compacted,
    Malformed,
)
from cluster.operations import pack
from cluster.server import ServerLimits
from pubsub import retention
from tests.cluster.client_cluster import (
    Cluster,
    client_of,
    cluster_of,
)
from tests.cluster.waiting import until


async def test_a_subscription_survives_its_connections() -> None:
    """Every event once and in order, while the connection is cut again and again."""
    async with cluster_of(2) as cluster, client_of(cluster) as client:
        received: list[int] = []
        async with (
            client.subscribe("t.*", "earliest", credits=8) as events,
            trio.open_nursery() as nursery,
        ):

            async def publish() -> None:
                for number in range(60):
                    await client.publish(f"t.{number % 3}", b"%d" % number)
                    await client.publish("other", b"")
                    if number % 20 == 10:
                        cluster.cut()

            nursery.start_soon(publish)
            async for event in events:
                received.append(int(event.data[0]))
                if len(received) == 60:
                    break
        assert received == list(range(60))
        assert events.position is not None


async def test_a_slow_reader_holds_no_more_than_its_credits() -> None:
    """What is not read stays at the node, over a reconnect too."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        events = client.subscribe("t", "earliest", credits=5)
        await client.publish_batch([["t", None, b"", None, None]] * 30)
        await until(lambda: cluster.servers[0].streams.events_delivered == 5)
        cluster.cut()
        await client.get("k")
        assert cluster.servers[0].streams.events_delivered == 5
        assert [(await anext(events)).revision for _ in range(30)] == list(range(1, 31))
        events.close()
        with pytest.raises(Closed):
            await anext(events)


async def test_a_bookmark_moves_the_position() -> None:
    """A reader of a quiet topic knows how far it is."""
    limits = ServerLimits(bookmark_s=0.01)
    async with (
        cluster_of(1, limits) as cluster,
        client_of(cluster) as client,
        client.subscribe("quiet") as events,
    ):
        await client.publish("loud", b"")
        await until(lambda: events.position == 1)
        assert events.next_nowait() is None


async def _keep_newest(cluster: Cluster, client: Client, pattern: str) -> None:
    """What the leader does for a rule that keeps one event."""
    await client.request("retention.set", [pattern, None, 1])
    cluster.node.submit(pack(0, 0, "retention.trim", [1_000]), lambda result: None)
    await client.request("ping")
    await until(
        lambda: not retention.is_due(cluster.node.machine.connection, cluster.node.clock_ms)
    )


async def test_a_reader_behind_retention_gets_compacted() -> None:
    """The iterator ends with the revision from which on nothing is missing; so does a page."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        for _ in range(3):
            await client.publish("t", b"")
        await _keep_newest(cluster, client, "t")
        events = client.subscribe("t", 1)
        with pytest.raises(Compacted) as raised:
            await anext(events)
        assert raised.value.first_revision == 3
        with pytest.raises(Compacted) as raised:
            await client.read_events(1)
        assert raised.value.first_revision == 3
        found, _, _ = await client.read_events(3)
        assert [event.revision for event in found] == [3]


async def test_a_reader_of_other_topics_does_not_notice() -> None:
    """Retention took nothing that it wants."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        for topic in ("a", "t", "t", "a"):
            await client.publish(topic, b"")
        await _keep_newest(cluster, client, "t")
        async with client.subscribe("a", 1) as events:
            assert [(await anext(events)).revision for _ in range(2)] == [1, 4]
        found, following, newest = await client.read_events(1, pattern="a")
        assert ([event.revision for event in found], following, newest) == ([1, 4], 5, 4)


async def test_the_earliest_is_what_is_left() -> None:
    """Who asks for it is not told of what went before, also after a reconnect in the middle."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        for topic in ("a", "t", "t", "a", "t"):
            await client.publish(topic, b"")
        await _keep_newest(cluster, client, "t")
        async with client.subscribe(">", "earliest", credits=1) as events:
            assert (await anext(events)).revision == 1
            cluster.cut()
            assert [(await anext(events)).revision for _ in range(2)] == [4, 5]
        async with client.subscribe(">", ["time", 0]) as events:
            assert [(await anext(events)).revision for _ in range(3)] == [1, 4, 5]


async def test_a_wrong_pattern_is_definite() -> None:
    """A subscription that can never match is refused, not silent."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        with pytest.raises(Malformed):
            await anext(client.subscribe("a..b"))


async def test_watching_keys() -> None:
    """Only changes of keys with the prefix, with what happened to them."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        async with client.watch("a/", 1) as changes:
            await client.put("a/1", b"v")
            await client.put("b/1", b"v")
            await client.delete("a/1")
            seen = [await anext(changes) for _ in range(2)]
        assert [(event.revision, event.key) for event in seen] == [(1, "a/1"), (3, "a/1")]
        assert seen[1].topic == "hooks.kv.delete_committed"


async def test_the_setting_filters_subscriptions_and_nothing_else() -> None:
    """Over a reconnect too: a watch of keys, the log and a consumer group see every change."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.request("hook.settings", [{"publish_topics": ["hooks.cluster.*"]}])
        await client.group("readers").create(">", mode="competing", start="earliest")
        await client.request("group.join", ["readers", "m", 60_000])
        async with client.subscribe(">", "earliest") as events, client.watch("k/") as changes:
            for number in range(3):
                revision = await client.put(f"k/{number}", b"")
                assert (await anext(changes)).revision == revision
                published = await client.publish("t", b"")
                assert (await anext(events)).revision == published
                cluster.cut()
            page, _, newest = await client.read_events(1)
            assert [event.revision for event in page] == list(range(1, newest + 1))
        fetched = await client.request("group.fetch", ["readers", "m", 100, 1_000_000, 0])
        assert [item[1][0] for item in fetched[2]] == list(range(1, newest + 1))
