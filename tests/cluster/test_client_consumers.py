"""Consumers of the Python client, both modes: over reconnects, lost sessions, releases and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cluster.client import Client
from cluster.client.consumer import Consumer
from cluster.client.effects import publish, put
from cluster.errors import Fenced, Malformed, Rejected
from pubsub.limits import REDELIVERY_DELAY_MS_MAX
from tests.cluster.client_cluster import Cluster, client_of, cluster_of
from tests.cluster.waiting import until

MODES = pytest.mark.parametrize("mode", ["partitioned", "competing"])


@asynccontextmanager
async def group_of(
    mode: str, events: int = 0, partitions: int = 4
) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster of two ports, its client, and a group "g" with `events` to handle."""
    async with cluster_of(2) as cluster, client_of(cluster) as client:
        count = partitions if mode == "partitioned" else None
        await client.group("g").create("t.>", mode=mode, start="earliest", partitions=count)
        await publish_events(client, 0, events)
        yield cluster, client


async def publish_events(client: Client, first: int, count: int) -> None:
    """Publish events that carry their numbers, in seven keys."""
    if count:
        numbers = range(first, first + count)
        await client.publish_batch([["t.a", f"k{n % 7}", b"%d" % n, None, None] for n in numbers])


async def numbers_of(consumer: Consumer, count: int) -> list[int]:
    """The numbers of the next events; all but the last are acked."""
    return [int((await anext(consumer)).event.data[0]) for _ in range(count)]


async def completed(client: Client) -> int:
    """How many events the cluster knows to be dealt with."""
    return int((await client.group("g").describe())["completed"])


@MODES
async def test_every_event_comes_once_over_reconnects(mode: str) -> None:
    """Old ones and new ones, while every connection is cut again and again."""
    async with group_of(mode, 40) as (cluster, client):
        got: list[int] = []
        async with client.group("g").consume(prefetch=8) as consumer:
            async for delivery in consumer:
                got.append(int(delivery.event.data[0]))
                assert (delivery.attempt, delivery.is_valid) == (1, True)
                if len(got) % 25 == 10:
                    cluster.cut()
                if len(got) == 40:
                    await publish_events(client, 40, 40)
                if len(got) == 80:
                    await delivery.ack()
                    break
        assert sorted(got) == list(range(80))
        assert await completed(client) == 80


@MODES
async def test_what_is_not_acked_goes_to_the_next_member(mode: str) -> None:
    """Leaving gives back at once what was in hand, and keeps what was acked."""
    async with group_of(mode, 20) as (_, client):
        async with client.group("g").consume() as consumer:
            first = await numbers_of(consumer, 5)  # the fifth is not acked
        assert await completed(client) == 4
        async with client.group("g").consume() as consumer:
            rest = await numbers_of(consumer, 16)
        assert sorted(first[:4] + rest) == list(range(20))


@MODES
async def test_a_lost_session_voids_what_is_in_hand(mode: str) -> None:
    """The ack is fenced; the consumer joins again and gets the event again."""
    async with group_of(mode, 3) as (_, client):
        consumer = client.group("g").consume(auto_ack=False, ttl_ms=600)
        async with consumer:
            delivery = await anext(consumer)
            await client.request("group.leave", [consumer.member])
            await until(lambda: consumer.lost == 1)
            assert not delivery.is_valid
            with pytest.raises(Fenced):
                await delivery.ack()
            again = [await anext(consumer) for _ in range(3)]
            assert delivery.revision in [item.revision for item in again]
            for item in again:
                await item.ack()
        assert await completed(client) == 3


@MODES
async def test_effects_are_applied_with_the_ack(mode: str) -> None:
    """Once, or not at all: a refused effect makes the event a dead letter."""
    async with group_of(mode, 2) as (_, client):
        async with client.group("g").consume(auto_ack=False) as consumer:
            delivery = await anext(consumer)
            await delivery.ack([put("seen", b"1"), publish("u.seen", b"")])
            delivery = await anext(consumer)
            with pytest.raises(Rejected) as raised:
                await delivery.ack([put("seen", b"2", expected_revision=99)])
            assert raised.value.code == "revision_mismatch"
        entry = await client.get("seen")
        assert entry is not None
        assert entry.value == b"1"
        assert (await client.group("g").describe())["dead_held"] == 1


@MODES
async def test_what_is_sent_back_comes_again(mode: str) -> None:
    """As another attempt, and later ones of its key after it in a partitioned group."""
    async with group_of(mode, 8) as (_, client):
        async with client.group("g").consume(auto_ack=False) as consumer:
            seen: list[tuple[int, int]] = []
            while len(seen) < 9:
                delivery = await anext(consumer)
                number = int(delivery.event.data[0])
                seen.append((number, delivery.attempt))
                if (number, delivery.attempt) == (0, 1):
                    await delivery.nack(0, "not now")
                else:
                    await delivery.ack()
        assert sorted(seen) == sorted([(0, 1), (0, 2), *((n, 1) for n in range(1, 8))])
        if mode == "partitioned":
            assert seen.index((0, 2)) < seen.index((7, 1))  # the same key
        assert await completed(client) == 8


async def test_a_batch_that_is_sent_back_keeps_the_order_of_its_key() -> None:
    """A program that takes several events of a key and sends all of them back, in a partitioned
    group: they come again as they were, before what follows."""
    async with group_of("partitioned", partitions=1) as (_, client):
        await client.publish_batch([["t.a", "k", b"%d" % n] for n in range(6)])
        async with client.group("g").consume(auto_ack=False) as consumer:
            for delivery in [await anext(consumer) for _ in range(4)]:
                await delivery.nack(1)
            numbers = []
            for _ in range(6):
                delivery = await anext(consumer)
                numbers.append(int(delivery.event.data[0]))
                await delivery.ack()
        assert numbers == [0, 1, 2, 3, 4, 5]


@MODES
async def test_a_member_that_cannot_join_ends_alone(mode: str) -> None:
    """It is told why; the client and its other consumers go on. A group that is full is another
    such reason."""
    async with group_of(mode, 1) as (_, client):
        group = client.group("g")
        async with group.consume() as consumer, group.consume("a b") as other:
            for wrong in (other, group.consume(ttl_ms=1)):
                with pytest.raises(Rejected) as raised:
                    await anext(wrong)
                assert raised.value.code == "malformed"
            for prefetch in (-1, 0, 1.5):
                with pytest.raises(Malformed):
                    group.consume(prefetch=prefetch)  # type: ignore[arg-type]
            assert (await anext(consumer)).event.data[0] == b"0"


@MODES
async def test_a_wrong_answer_settles_nothing(mode: str) -> None:
    """It is told at once, the event stays in hand, and the consumer goes on."""
    async with group_of(mode, 2) as (_, client):
        async with client.group("g").consume(auto_ack=False) as consumer:
            delivery = await anext(consumer)
            for wrong in (
                delivery.nack(-1),
                delivery.nack(REDELIVERY_DELAY_MS_MAX + 1),
                delivery.nack(1.5),  # type: ignore[arg-type]
                delivery.nack(0, 5),  # type: ignore[arg-type]
                delivery.extend(-1),
                delivery.dead_letter(None),  # type: ignore[arg-type]
                delivery.ack([put("\ud800", b"")]),
                delivery.ack([[]]),
            ):
                with pytest.raises(Malformed):
                    await wrong
            with pytest.raises(Malformed):
                delivery.ack_nowait([put("k", b"", ttl_ms=2**70)])
            assert delivery.is_valid
            await delivery.dead_letter("a name of a file: \udcff")
            await (await anext(consumer)).ack()
            assert consumer.lost == 0
        (letter,) = await client.group("g").dead_letters()
        assert letter["error"] == "a name of a file: ?"


@MODES
async def test_what_is_given_up_is_a_dead_letter(mode: str) -> None:
    """It is not delivered again, and the group keeps why."""
    async with group_of(mode, 1) as (_, client):
        async with client.group("g").consume(auto_ack=False) as consumer:
            await (await anext(consumer)).dead_letter("cannot be read")
        described = await client.group("g").describe()
        assert (described["dead_held"], described["completed"]) == (1, 0)


@MODES
async def test_a_dead_letter_that_is_driven_back_comes_again(mode: str) -> None:
    """As the event that it was, under a place of its own in the log, and to this group alone."""
    async with group_of(mode, 1) as (_, client):
        await client.group("other").create(">", start="earliest")
        async with client.group("g").consume(auto_ack=False) as consumer:
            first = await anext(consumer)
            await first.dead_letter("not yet")
            await client.group("g").redrive([first.revision])
            again = await anext(consumer)
            assert (again.event.revision, again.event.data) == (1, first.event.data)
            assert (again.replayed, again.redrives, again.revision) == (True, 1, 2)
            await again.ack()
        async with client.group("other").consume() as consumer:
            await anext(consumer)
            await client.publish("t.b", b"")
            assert (await anext(consumer)).event.topic == "t.b"


@MODES
async def test_a_paused_group_hands_out_nothing(mode: str) -> None:
    """And goes on where it was."""
    async with group_of(mode) as (_, client):
        group = client.group("g")
        await group.pause()
        async with group.consume() as consumer:
            await publish_events(client, 0, 3)
            with trio.move_on_after(0.2):
                raise AssertionError(await anext(consumer))
            await group.resume()
            assert sorted(await numbers_of(consumer, 3)) == [0, 1, 2]


@MODES
async def test_a_group_that_goes_ends_its_consumers(mode: str) -> None:
    """With the error that says so, at once where there never was one."""
    async with group_of(mode, 1) as (_, client):
        with pytest.raises(Rejected) as raised:
            await anext(client.group("other").consume())
        assert raised.value.code == "unknown_group"
        consumer = client.group("g").consume(ttl_ms=600)
        await anext(consumer)
        await client.group("g").delete()
        with pytest.raises(Rejected) as raised:
            await anext(consumer)
        assert raised.value.code == "unknown_group"


async def test_two_members_share_the_partitions() -> None:
    """A second member gets its part when the first has settled what it has of it."""
    async with group_of("partitioned", 60) as (_, client):
        got: list[int] = []
        finished = trio.Event()

        async def consume(wait_for: int) -> None:
            async with client.group("g").consume(prefetch=4) as consumer:
                async for delivery in consumer:
                    got.append(int(delivery.event.data[0]))
                    per_member[consumer.member] = per_member.get(consumer.member, 0) + 1
                    await delivery.ack()
                    if len(got) >= wait_for:
                        return finished.set()

        per_member: dict[str, int] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, 240)
            await until(lambda: len(got) >= 10)
            nursery.start_soon(consume, 240)
            await until(lambda: len(per_member) == 2 or len(got) == 60)
            for first in range(60, 240, 20):
                await publish_events(client, first, 20)
                await until(lambda first=first: len(got) >= first)  # type: ignore[misc]
            await finished.wait()
            nursery.cancel_scope.cancel()
        assert sorted(got) == list(range(240))
        assert len(per_member) == 2


async def test_a_release_waits_for_what_is_in_hand() -> None:
    """The next owner starts after the last ack of the one before."""
    async with group_of("partitioned", 2, partitions=1) as (_, client):
        group = client.group("g")
        # With one partition and two members the owner keeps it; so the owner is asked to leave.
        async with group.consume("a", auto_ack=False) as first:
            held = await anext(first)
            async with group.consume("b", auto_ack=False) as second:
                await held.ack()
                await (await anext(first)).ack()
                await first.aclose()
                await publish_events(client, 2, 1)
                assert (await anext(second)).event.data[0] == b"2"


async def test_an_idle_group_lets_go_of_the_log() -> None:
    """At the end of a consumer the floors are past events that were of no concern to it."""
    async with group_of("partitioned", 1) as (_, client):
        async with client.group("g").consume() as consumer:
            await (await anext(consumer)).ack()
            await client.publish("u.other", b"")
            revision = await client.publish("t.a", b"9", key="k0")
            await (await anext(consumer)).ack()
        described = await client.group("g").describe()
        assert {item["floor"] for item in described["partitions"]} == {revision}


async def test_a_waiting_fetch_costs_no_entry() -> None:
    """A parked fetch is answered by an event, and by nothing before."""
    async with (
        group_of("competing") as (cluster, client),
        client.group("g").consume() as consumer,
    ):
        await until(lambda: sum(server.fetches.parked for server in cluster.servers) == 1)
        before = cluster.node.operations
        await trio.sleep(0.3)
        assert cluster.node.operations == before
        await publish_events(client, 0, 1)
        assert await numbers_of(consumer, 1) == [0]


async def test_a_parked_fetch_does_not_hold_up_other_mutations() -> None:
    """More mutations than the client's window has room for pass a fetch that waits."""
    async with group_of("competing") as (cluster, client), client.group("g").consume():
        await until(lambda: sum(server.fetches.parked for server in cluster.servers) == 1)
        for number in range(300):
            await client.put("k", b"%d" % number)


async def test_members_of_a_competing_group_take_turns() -> None:
    """Each event goes to one of them."""
    async with group_of("competing", 100) as (_, client):
        got: list[int] = []

        async def consume() -> None:
            async with client.group("g").consume(prefetch=10) as consumer:
                async for delivery in consumer:
                    got.append(int(delivery.event.data[0]))
                    await delivery.ack()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume)
            await until(lambda: len(got) == 100)
            nursery.cancel_scope.cancel()
        assert sorted(got) == list(range(100))
        assert await completed(client) == 100
