"""The clients for asyncio and for no event loop at all, against a real node."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client import Client, blocking
from cluster.client import asyncio as in_asyncio
from cluster.client.connector import Endpoint
from cluster.client.delivery import Delivery
from cluster.client.effects import put
from cluster.client.group import Group
from cluster.client.hooks import Hooks
from cluster.client.options import ClientOptions
from cluster.errors import Closed, Fenced, Rejected, Unreachable
from tests.cluster.cli_node import running_node

BOUND_S = 20.0
NOT_OFFERED = {"request_nowait", "dispatcher", "nursery", "random", "consumers"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A node that runs for all tests of this file."""
    folder: Path = tmp_path_factory.mktemp("node")
    with running_node(folder) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (blocking.BlockingClient, Client),
        (in_asyncio.AsyncioClient, Client),
        (blocking.BlockingGroup, Group),
        (in_asyncio.AsyncioGroup, Group),
        (blocking.BlockingHooks, Hooks),
        (in_asyncio.AsyncioHooks, Hooks),
    ],
)
def test_a_facade_has_every_method(ours: type, theirs: type) -> None:
    """With the same parameters, so that a method added to the client is not forgotten here."""
    for name, method in inspect.getmembers(theirs):
        if name.startswith("_") or name in NOT_OFFERED:
            continue
        assert hasattr(ours, name), name
        if inspect.isfunction(method):
            offered = list(inspect.signature(getattr(ours, name)).parameters)
            assert offered == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize("facade", [blocking.BlockingDelivery, in_asyncio.AsyncioDelivery])
def test_a_delivery_has_its_verdicts(facade: type) -> None:
    """Whatever can be said of an event in hand."""
    for name in ("ack", "ack_nowait", "nack", "dead_letter", "extend", "is_valid"):
        assert hasattr(facade, name)
        assert hasattr(Delivery, name)


def test_blocking_reads_and_writes(endpoint: Endpoint) -> None:
    """Results and errors are those of the client."""
    with blocking.open_client([endpoint]) as client:
        revision = client.put("b/1", b"v")
        entry = client.get("b/1")
        assert entry is not None
        assert (entry.value, entry.mod_revision) == (b"v", revision)
        with pytest.raises(Rejected) as raised:
            client.put("b/1", b"w", expected_revision=revision + 5)
        assert raised.value.code == "revision_mismatch"
        assert client.node == "solo"
        pages = list(client.every_event(from_revision=revision, to_revision=revision))
        assert [event.key for page in pages for event in page.events] == ["b/1"]
    with pytest.raises(Closed):
        client.get("b/1")


def test_blocking_subscribes(endpoint: Endpoint) -> None:
    """Events arrive in order, those from before and new ones."""
    with blocking.open_client([endpoint]) as client:
        first = client.publish("bs.a", b"0")
        with client.subscribe("bs.>", first) as events:
            client.publish_batch([["bs.a", None, b"%d" % n, None, None] for n in range(1, 200)])
            got = [int(next(events).data[0]) for _ in range(200)]
        assert got == list(range(200))
        with pytest.raises(Closed):
            next(events)


@pytest.mark.parametrize("mode", ["partitioned", "competing"])
def test_blocking_consumes(endpoint: Endpoint, mode: str) -> None:
    """Acks the one before when the next is asked for; leaves with the block."""
    with blocking.open_client([endpoint]) as client:
        group = client.group(f"bc-{mode}")
        group.create("bc.>", mode=mode)
        client.publish_batch([["bc.a", f"k{n}", b"%d" % n, None, None] for n in range(150)])
        got: list[int] = []
        with group.consume() as deliveries:
            for delivery in deliveries:
                got.append(int(delivery.event.data[0]))
                if len(got) == 150:
                    delivery.ack([put(f"done/{mode}", b"1")])
                    with pytest.raises(Fenced):
                        delivery.ack()
                    break
        assert sorted(got) == list(range(150))
        described = group.describe()
        assert (described["completed"], described["members"]) == (150, [])
        assert client.count("done/", None) == 0
        assert client.get(f"done/{mode}") is not None
        group.delete()


def test_many_threads_share_a_blocking_client(endpoint: Endpoint) -> None:
    """Their requests are pipelined on one connection."""
    with blocking.open_client([endpoint]) as client:

        def write(name: int) -> None:
            for number in range(20):
                client.put(f"thread/{name}/{number}", b"")

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND_S)
        assert client.count("thread/", "thread0") == 160


def test_a_cluster_that_is_not_there(endpoint: Endpoint) -> None:
    """The error is that of the client, within its timeout."""
    options = ClientOptions(timeout_ms=200)
    with (
        blocking.open_client([("127.0.0.1", 1)], options=options) as client,
        pytest.raises(Unreachable),
    ):
        client.get("k")


def test_asyncio_reads_writes_and_subscribes(endpoint: Endpoint) -> None:
    """Results and errors are those of the client, and requests can be under way together."""

    async def main() -> None:
        async with in_asyncio.open_client([endpoint]) as client:
            await asyncio.gather(*(client.put(f"a/{n}", b"v") for n in range(50)))
            assert await client.count("a/", "a0") == 50
            with pytest.raises(Rejected):
                await client.put("a/1", b"w", expected_revision=0)
            async with client.subscribe("as.>") as events:
                await client.publish("as.a", b"1")
                assert (await anext(events)).data[0] == b"1"
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(events), 0.05)
                await client.publish("as.a", b"2")
                assert (await anext(events)).data[0] == b"2"
        with pytest.raises(Closed):
            await client.get("a/1")

    asyncio.run(asyncio.wait_for(main(), BOUND_S))


@pytest.mark.parametrize("mode", ["partitioned", "competing"])
def test_asyncio_consumes(endpoint: Endpoint, mode: str) -> None:
    """In both modes, acking by itself or by hand."""

    async def main() -> None:
        async with in_asyncio.open_client([endpoint]) as client:
            group = client.group(f"ac-{mode}")
            await group.create("ac.>", mode=mode)
            await client.publish_batch(
                [["ac.a", f"k{n}", b"%d" % n, None, None] for n in range(100)]
            )
            got: list[int] = []
            async with group.consume() as deliveries:
                async for delivery in deliveries:
                    got.append(int(delivery.event.data[0]))
                    if len(got) == 100:
                        await delivery.ack()
                        break
            assert sorted(got) == list(range(100))
            assert (await group.describe())["completed"] == 100
            await group.delete()

    asyncio.run(asyncio.wait_for(main(), BOUND_S))
