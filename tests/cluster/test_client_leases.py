"""Leases and redeliveries of a competing group, against a real node with its own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cluster.client import Client, open_client
from cluster.client.connector import Endpoint
from tests.cluster.cli_node import running_node

BOUND_S = 20.0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A node that runs for all tests of this file."""
    folder: Path = tmp_path_factory.mktemp("node")
    with running_node(folder) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port)


@asynccontextmanager
async def group_of(endpoint: Endpoint, name: str, **options: int) -> AsyncIterator[Client]:
    """A client, and a competing group of that name with one event."""
    async with open_client([endpoint]) as client:
        await client.group(name).create(f"{name}.>", mode="competing", **options)  # type: ignore[arg-type]
        await client.publish(f"{name}.a", b"")
        with trio.fail_after(BOUND_S):
            yield client


async def test_what_a_member_took_and_forgot_comes_again(endpoint: Endpoint) -> None:
    """Its lease ends without an answer; another member's parked fetch gets the event."""
    async with group_of(endpoint, "forgotten", lease_ms=500) as client:
        await client.request("group.join", ["forgotten", "careless", 10_000])
        taken = await client.request("group.fetch", ["forgotten", "careless", 5, 1_000])
        assert [attempt for attempt, _ in taken[2]] == [1]
        async with client.group("forgotten").consume() as consumer:
            assert (await anext(consumer)).attempt == 2


async def test_what_is_in_hand_is_extended(endpoint: Endpoint) -> None:
    """A program may take longer than the lease; nobody else gets its event."""
    async with (
        group_of(endpoint, "slow", lease_ms=500) as client,
        client.group("slow").consume(auto_ack=False) as consumer,
    ):
        delivery = await anext(consumer)
        await trio.sleep(1.5)
        assert delivery.is_valid
        await delivery.extend(5_000)
        await delivery.ack()
        described = await client.group("slow").describe()
        assert (described["completed"], described["dead_held"]) == (1, 0)


async def test_what_is_sent_back_comes_after_its_delay(endpoint: Endpoint) -> None:
    """Until it was delivered often enough: then it is a dead letter, and can be driven back."""
    async with (
        group_of(endpoint, "sick", max_deliveries=2) as client,
        client.group("sick").consume(auto_ack=False) as consumer,
    ):
        first = await anext(consumer)
        await first.nack(100, "no")
        second = await anext(consumer)
        assert (second.attempt, second.revision) == (2, first.revision)
        await second.nack(None, "no again")
        (letter,) = await client.group("sick").dead_letters()
        assert letter["revision"] == first.revision
        await client.group("sick").redrive([first.revision])
        third = await anext(consumer)
        assert third.replayed
        assert (third.event.revision, third.redrives) == (first.event.revision, 1)
        assert third.revision > first.revision
        await third.ack()
