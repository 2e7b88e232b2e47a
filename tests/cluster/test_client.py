"""The Python client against real client ports over loopback: interface, sharing, bounds."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from cluster.client import ClientOptions, Entry, open_client
from cluster.client.call import Call
from cluster.client.window import Window
from cluster.errors import (
    Closed,
    ConnectionLost,
    DefiniteError,
    LimitExceeded,
    Malformed,
    Overloaded,
    Rejected,
)
from cluster.server import ServerLimits
from tests.cluster.client_cluster import (
    client_of,
    cluster_of,
)
from tests.cluster.waiting import until


async def test_the_whole_interface() -> None:
    """Each method returns what its documentation says."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        assert await client.put("a/1", b"one") == 1
        assert await client.put("a/2", b"two", ttl_ms=60_000, expected_revision=0) == 2
        assert await client.get("a/1") == Entry("a/1", b"one", 1, 1, 1, None)
        assert await client.get("a/9", level="local") is None
        page = await client.range("a/", "a0", limit=1, keys_only=True)
        assert ([entry.key for entry in page.entries], page.more, page.revision) == (
            ["a/1"],
            True,
            2,
        )
        page = await client.range("a/", "a0", after="a/1")
        assert [entry.value for entry in page.entries] == [b"two"]
        assert await client.count("a/") == 2
        assert await client.delete("a/1") == 3
        assert await client.delete("a/1") == 0
        assert await client.batch([["put", "b", b"", None, None], ["delete", "a/2", None]]) == (
            4,
            2,
        )
        succeeded, results = await client.txn(
            [["b", "version", "=", 1]], [["put", "b", b"x", None, None]], [["get", "b"]]
        )
        assert (succeeded, results) == (True, [6])
        assert await client.publish("t", b"p", key="k", headers={"h": "v"}) == 7
        assert await client.publish_batch([["t", None, b"", None, None]] * 2) == (8, 2)
        events, following, newest = await client.read_events(7, pattern="t", limit=1)
        assert events[0].data == (b"p", None, {"h": "v"})
        assert (following, newest) == (8, 9)
        assert (await client.status())["leader"] == "a"
        assert await client.members() == cluster.node.machine.members
        assert client.node == "a"


async def test_errors_come_out_of_the_block_as_they_are() -> None:
    """`except Rejected` works around `async with open_client(...)` too: no exception group."""
    async with cluster_of(1) as cluster:
        with pytest.raises(Rejected) as raised:
            async with client_of(cluster) as client:
                await client.put("k", b"v", expected_revision=5)
        assert raised.value.code == "revision_mismatch"
        assert isinstance(raised.value, DefiniteError)


async def test_a_session_is_opened_by_the_first_mutation_only() -> None:
    """Reading costs the cluster nothing; many first writers share one session."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.get("k")
        assert cluster.node.machine.sessions_count == 0
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client.put, f"k{number}", b"v")
        assert cluster.node.machine.sessions_count == 1
        assert cluster.node.machine.revision == 20


async def test_a_client_that_leaves_gives_its_session_back() -> None:
    """Short-lived clients leave nothing behind in the replicated state."""
    async with cluster_of(1) as cluster:
        async with client_of(cluster) as client:
            await client.put("k", b"v")
            assert cluster.node.machine.sessions_count == 1
        await until(lambda: cluster.node.machine.sessions_count == 0)


async def test_requests_of_one_pass_leave_together() -> None:
    """Sixty-four tasks that write at the same time make two entries at most, not sixty-four: the
    first leaves alone, because it cannot know of the others."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("warm", b"")
        ticks = cluster.node.ticks
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(client.put, f"k{number}", b"v")
        assert cluster.node.ticks <= ticks + 2
        assert cluster.connected == [1]


async def test_the_callback_style_needs_no_task() -> None:
    """Each callback is called once, and may start the next request."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        results: list[Any] = []

        def done(result: Any) -> None:
            results.append(result)
            if len(results) <= 90:
                client.request_nowait("put", ["k", b"v", None, None], done)

        for _ in range(10):
            client.request_nowait("put", ["k", b"v", None, None], done)
        await until(lambda: len(results) == 100)
        assert sorted(results) == list(range(1, 101))


async def test_the_retry_window_is_never_overrun() -> None:
    """With the oldest mutation unanswered, no more are started than its result can outlive."""
    options = ClientOptions(mutations_in_flight_max=32)
    async with cluster_of(1) as cluster, client_of(cluster, options) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        results: list[Any] = []
        for _ in range(100):
            client.request_nowait("put", ["k", b"v", None, None], results.append)
        client.request_nowait("get", ["k", "local"], results.append)
        await until(lambda: cluster.node.waiting == 32)
        await until(lambda: len(results) == 1)
        assert results[0][1] == b"0"
        cluster.node.release()
        await until(lambda: len(results) == 101)
        assert results[1:] == list(range(2, 102))


@pytest.mark.parametrize(("name", "args"), [("put", [b"v", None, None]), ("get", ["local"])])
async def test_a_new_request_does_not_overtake_those_that_wait(name: str, args: list[Any]) -> None:
    """Not even one that is made by the very answer that makes room."""
    options = ClientOptions(mutations_in_flight_max=1, requests_in_flight_max=1)
    async with cluster_of(1) as cluster, client_of(cluster, options) as client:
        await client.put("k", b"0")
        order: list[str] = []

        def first(_: Any) -> None:
            order.append("first")
            client.request_nowait(name, ["k", *args], lambda _: order.append("made by first"))

        client.request_nowait(name, ["k", *args], first)
        client.request_nowait(name, ["k", *args], lambda _: order.append("waiting"))
        await until(lambda: len(order) == 3)
        assert order == ["first", "waiting", "made by first"]


def test_the_window_counts_from_the_oldest() -> None:
    """Later answers make no room: the distance to the oldest unanswered number is what counts."""
    window = Window(4)
    calls = [Call("put", [], lambda result: None, 1_000, 1.0, None) for _ in range(6)]
    assert not window.identify(calls[0])  # there is no session
    window.client_id = 7
    assert [window.identify(call) for call in calls[:5]] == [True] * 4 + [False]
    for call in calls[1:4]:
        window.release(call)
    assert not window.identify(calls[4])
    window.release(calls[0])
    assert window.identify(calls[4])
    assert [(call.client_id, call.seq) for call in calls[:5]] == [(7, n) for n in range(1, 6)]


async def test_too_many_waiting_requests_are_refused_by_name() -> None:
    """The client's own queue has a bound."""
    options = ClientOptions(requests_waiting_max=3)
    async with cluster_of(1) as cluster, client_of(cluster, options) as client:
        results: list[Any] = []
        for _ in range(4):
            client.request_nowait("get", ["k"], results.append)
        assert isinstance(results[0], Overloaded)
        await until(lambda: len(results) == 4)
        assert results[1:] == [None, None, None]


async def test_an_oversized_request_does_not_leave() -> None:
    """The node's limit is known from its greeting, and the connection survives."""
    limits = ServerLimits(request_bytes_max=100_000)
    async with cluster_of(1, limits) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        with pytest.raises(LimitExceeded) as raised:
            await client.put("k", bytes(200_000))
        assert raised.value.maximum == 100_000
        assert await client.put("k", b"1") == 2
        assert cluster.listeners[0].statistics().accepted == 1


@pytest.mark.parametrize("unsendable", ["half a pair: \ud800", 2**70, {1}])
async def test_a_request_that_cannot_be_sent_ends_alone(unsendable: Any) -> None:
    """Before there is a link as well as after: whoever shares the client notices nothing."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        for _ in range(2):
            with pytest.raises(Malformed):
                await client.request("put", [unsendable, b""])
            with pytest.raises(Malformed):
                await client.request("get", [unsendable])
            async with client.subscribe("t.>", unsendable) as events:
                with pytest.raises(Malformed):
                    await anext(events)
        assert await client.put("k", b"1") == 1
        assert cluster.listeners[0].statistics().accepted == 1


async def test_a_cancelled_request_disturbs_nobody() -> None:
    """Its late answer goes nowhere."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        with trio.move_on_after(0.02) as scope:
            await client.put("k", b"1")
        assert scope.cancelled_caught
        cluster.node.release()
        assert await client.put("k", b"2") == 3


async def test_closing_answers_everything() -> None:
    """What was sent may have happened; what was not did not; afterwards nothing is accepted."""
    sent: list[Any] = []
    unsent: list[Any] = []
    async with cluster_of(1) as cluster:
        async with client_of(cluster, ClientOptions(mutations_in_flight_max=1)) as client:
            await client.put("k", b"0")
            cluster.node.held = True
            client.request_nowait("put", ["k", b"1", None, None], sent.append)
            client.request_nowait("put", ["k", b"2", None, None], unsent.append)
            await until(lambda: cluster.node.waiting == 1)
        with pytest.raises(Closed):
            await client.get("k")
    assert isinstance(sent[0], ConnectionLost)
    assert isinstance(unsent[0], Closed)


async def test_a_client_needs_an_endpoint() -> None:
    """No endpoints is a mistake in the program."""
    with pytest.raises(ValueError, match="at least one endpoint"):
        async with open_client([]):
            pass
