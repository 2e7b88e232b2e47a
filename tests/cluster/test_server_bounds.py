"""The client port under load, against strangers, and when either side leaves."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from cluster.server import ServerLimits
from tests.cluster.served_node import BOOKMARK, ERROR, NO_SESSION, OK, served
from tests.cluster.waiting import BOUND_S, until


async def test_large_answers_wait_for_their_reader() -> None:
    """Many large reads at once do not pile up in memory: they are read as the client takes them."""
    async with served(ServerLimits(unsent_bytes_max=1_000_000)) as port:
        client = await port.open()
        value = bytes(500_000)
        await client.ask(1, "put", "k", value, None, None, meta=NO_SESSION)
        client.send(*([i, "get", ["k"], None] for i in range(2, 102)))
        client.send(*([i, "range", ["k", None], None] for i in range(102, 112)))
        await until(lambda: port.server.requests == 111)
        (connection,) = port.server.connections
        assert connection.session.buffered_bytes < 10_000_000
        answers = [await client.receive() for _ in range(110)]
        assert sorted(answer[0] for answer in answers) == list(range(2, 112))
        assert all(answer[1] == OK for answer in answers)


async def test_a_deadline_that_passes_is_an_unknown_outcome() -> None:
    """A mutation that waits too long is answered as timeout, and its late result goes nowhere."""
    async with served() as port:
        client = await port.open()
        port.node.held = True
        status, error = await client.ask(1, "put", "k", b"v", None, None, meta=[0, 0, 20])
        assert status == ERROR
        assert error[:2] == [1, "timeout"]
        assert error[3] == {"timeout_ms": 20}
        port.node.release()
        assert (await client.ask(2, "get", "k"))[1][1] == b"v"
        assert port.count("timeouts") == 1
        assert port.server.inflight_bytes == 0


async def test_too_much_under_way_stops_the_reading_only() -> None:
    """More pipelined requests than allowed wait unread; every one is answered in the end."""
    async with served(ServerLimits(pipelined_requests_max=8)) as port:
        client = await port.open()
        port.node.held = True
        client.send(*([i, "put", [f"k{i}", b"v", None, None], NO_SESSION] for i in range(1, 101)))
        await until(lambda: port.node.waiting == 8)
        assert port.count("stalls") > 0
        port.node.release()
        answers = [await client.receive() for _ in range(100)]
        assert [answer[0] for answer in answers] == list(range(1, 101))
        assert port.node.machine.revision == 100


async def test_bytes_under_way_stop_the_reading_too() -> None:
    """The bound holds for few large requests as for many small ones."""
    limits = ServerLimits(
        request_bytes_max=100_000, pipelined_bytes_max=200_000, inflight_bytes_max=10_000_000
    )
    async with served(limits) as port:
        client = await port.open()
        port.node.held = True
        value = bytes(90_000)
        client.send(*([i, "put", ["k", value, None, None], NO_SESSION] for i in range(1, 21)))
        await until(lambda: port.count("stalls") > 0)
        assert port.node.waiting < 8
        port.node.release()
        assert [(await client.receive())[1] for _ in range(20)] == [OK] * 20
        assert port.server.inflight_bytes == 0


async def test_a_full_node_refuses_by_name() -> None:
    """Above the bytes that all clients together may have under way, a request is overloaded."""
    limits = ServerLimits(
        request_bytes_max=100_000, pipelined_bytes_max=100_000, inflight_bytes_max=100_000
    )
    async with served(limits) as port:
        first, second, third = [await port.open() for _ in range(3)]
        port.node.held = True
        for client in (first, second):
            client.send([1, "put", ["k", bytes(60_000), None, None], NO_SESSION])
        await until(lambda: port.node.waiting == 2)
        status, error = await third.ask(1, "put", "k", b"v", None, None, meta=NO_SESSION)
        assert (status, error[:2]) == (ERROR, [0, "overloaded"])
        first.session.close()
        port.node.release()
        assert (await second.receive())[1] == OK
        await until(lambda: port.server.inflight_bytes == 0)
        assert (await third.ask(2, "put", "k", b"v", None, None, meta=NO_SESSION))[0] == OK


@pytest.mark.parametrize(
    "message",
    [
        5,
        [1, "ping", []],
        ["1", "ping", [], None],
        [1, 2, [], None],
        [1, "ping", {}, None],
        [-1, "ping", [], None],
        [0, "ping", [], None],
        [0, "credit", [], None],
        [True, "ping", [], None],
    ],
    ids=repr,
)
async def test_what_is_no_request_ends_the_connection(message: Any) -> None:
    """The reason comes with id 0, then the connection is closed and counted."""
    async with served() as port:
        client = await port.open()
        client.send(message)
        request_id, status, error = await client.receive()
        assert (request_id, status, error[1]) == (0, ERROR, "malformed")
        assert await client.receive() is None
        assert port.count("violations") == 1


async def test_an_id_may_not_come_twice() -> None:
    """A late answer could otherwise be taken for that of another request."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(5, "ping") == [OK, None]
        client.send([5, "ping", [], None])
        assert (await client.receive())[0] == 0
        assert await client.receive() is None


async def test_an_oversized_request_names_the_limit() -> None:
    """A frame over the limit ends the connection with limit_exceeded before it is all there."""
    async with served(ServerLimits(request_bytes_max=100_000)) as port:
        client = await port.open()
        client.send([1, "put", ["k", bytes(10_000_000), None, None], None])
        request_id, status, error = await client.receive()
        assert (request_id, status, error[1]) == (0, ERROR, "limit_exceeded")
        assert error[3]["maximum"] == 100_000


@pytest.mark.parametrize(
    ("first", "counter"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "stranger_greeting"),
        (b"\xc1", "stranger_bytes"),
        (b"\xdb\x00\xff\xff\xff" + bytes(80_000), "stranger_bytes"),
        (b"\x93\xa7tremula\x91\x63\x80", "stranger_greeting"),
        (b"", "stranger_silent"),
    ],
    ids=["http", "unused", "large", "version", "silent"],
)
async def test_strangers_are_closed_and_counted(first: bytes, counter: str) -> None:
    """Whoever does not greet is told why, closed in bounded time, and shows in a counter."""
    async with served(ServerLimits(greeting_s=0.05 if not first else BOUND_S)) as port:
        client = await port.connect()
        client.session.send_nowait(first)
        magic, version, _ = await client.receive()
        assert (magic, version) == ("tremula", 0)
        assert await client.receive() is None
        await until(lambda: port.count(counter) == 1)
        await until(lambda: port.server.statistics().connections == 0)


async def test_a_certificate_can_be_demanded() -> None:
    """Without one the greeting is answered with unauthorized."""
    async with served(certificate_required=True) as port:
        client = await port.connect()
        _, version, error = await client.greet()
        assert (version, error[1]) == (0, "unauthorized")
        assert port.count("stranger_certificate") == 1


async def test_draining_answers_what_is_under_way() -> None:
    """A node that stops refuses what is new, answers what it has, and ends subscriptions."""
    async with served() as port:
        client = await port.open()
        port.node.held = True
        client.send(
            [1, "subscribe", ["t", "latest", 1], None],
            [2, "put", ["k", b"v", None, None], NO_SESSION],
        )
        await until(lambda: port.node.waiting == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.server.drain, BOUND_S)
            await until(lambda: port.server.stopping)
            client.send([3, "put", ["k", b"w", None, None], NO_SESSION])
            assert (await client.receive())[:2] == [1, BOOKMARK]
            assert (await client.receive())[2][1] == "stopping"
            request_id, _, error = await client.receive()
            assert (request_id, error[1]) == (3, "stopping")
            port.node.release()
            assert await client.receive() == [2, OK, 1]
            assert await client.receive() is None
        with pytest.raises(OSError, match="ECONNREFUSED"):
            await port.network.connect("127.0.0.1", port.port)


async def test_a_client_that_leaves_takes_everything_with_it() -> None:
    """Its subscriptions end, and its answers go nowhere without harm."""
    async with served() as port:
        client = await port.open()
        port.node.held = True
        client.send(
            [1, "subscribe", ["t", "latest", 1], None],
            [2, "put", ["k", b"v", None, None], NO_SESSION],
        )
        await until(lambda: port.node.waiting == 1)
        client.session.close()
        await until(lambda: port.server.statistics().connections == 0)
        assert port.server.statistics().subscriptions == 0
        port.node.release()
        await until(lambda: port.node.machine.revision == 1)
        assert port.server.inflight_bytes == 0
