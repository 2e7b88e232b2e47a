"""Subscriptions at the client port: order, credits, positions, slow readers."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from cluster.operations import pack
from cluster.server import ServerLimits
from cluster.server.streams import LEADERLESS_S, SubscriptionStream
from pubsub.log import Tail
from tests.cluster.raw_client import RawClient
from tests.cluster.served_node import BOOKMARK, ERROR, EVENTS, NO_SESSION, OK, Port, served
from tests.cluster.waiting import BOUND_S, until


async def test_a_subscription_delivers_in_order_and_counts() -> None:
    """Old events, then new ones, numbered without a gap; the first response is a bookmark."""
    async with served() as port:
        client = await port.open()
        await client.ask(1, "publish", "t.a", None, b"1", None, None, meta=NO_SESSION)
        client.send([2, "subscribe", ["t.>", "earliest", 100], None])
        assert await client.receive() == [2, BOOKMARK, 0]
        request_id, status, (number, events) = await client.receive()
        assert (request_id, status, number, [event[0] for event in events]) == (2, EVENTS, 1, [1])
        client.send(
            [3, "publish", ["t.b", None, b"2", None, None], NO_SESSION],
            [4, "publish", ["u.b", None, b"3", None, None], NO_SESSION],
            [5, "publish", ["t.c", None, b"4", None, None], NO_SESSION],
        )
        answers = [await client.receive() for _ in range(4)]
        (_, _, (number, events)) = next(answer for answer in answers if answer[1] == EVENTS)
        assert number == 2
        assert [(event[0], event[1]) for event in events] == [(2, "t.b"), (4, "t.c")]
        client.send([0, "cancel", [2], None])
        assert await client.receive() == [2, OK, None]
        assert port.server.statistics().subscriptions == 0


async def test_credits_bound_what_is_sent() -> None:
    """Without credits nothing comes, and nothing is lost: the rest follows when they arrive."""
    async with served() as port:
        client = await port.open()
        batch = [["t", None, b"%d" % i, None, None] for i in range(10)]
        await client.ask(1, "publish_batch", batch, meta=NO_SESSION)
        client.send([2, "subscribe", ["t", 1, 3], None])
        assert (await client.receive())[1] == BOOKMARK
        _, _, (number, events) = await client.receive()
        assert (number, [event[0] for event in events]) == (1, [1, 2, 3])
        assert await client.ask(3, "ping") == [OK, None]
        client.send([0, "credit", [2, 100], None])
        _, _, (number, events) = await client.receive()
        assert (number, [event[0] for event in events]) == (4, list(range(4, 11)))


async def test_a_node_without_a_leader_lets_its_subscribers_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """They go on elsewhere: a node that was removed would never hear of anything again."""
    async with served() as port:
        client = await port.open()
        client.send([1, "subscribe", ["t", "earliest", 10], None])
        assert (await client.receive())[1] == BOOKMARK
        port.node.leader = None
        began = trio.current_time()
        while (answer := await client.receive())[1] == BOOKMARK:
            pass
        assert answer[:2] == [1, ERROR]
        assert answer[2][1] == "no_leader"
        assert LEADERLESS_S / 2 <= trio.current_time() - began <= LEADERLESS_S
        assert port.server.statistics().subscriptions == 0


async def test_a_subscription_starts_at_a_time() -> None:
    """["time", wall_ms] is the first event of that time or later."""
    async with served() as port:
        client = await port.open()
        for request_id in range(1, 4):
            await client.ask(request_id, "publish", "t", None, b"", None, None, meta=NO_SESSION)
        clock = port.node.machine.wall_ms
        client.send([9, "subscribe", ["t", ["time", clock - 1], 10], None])
        assert await client.receive() == [9, BOOKMARK, 1]


async def test_a_reader_behind_retention_is_told() -> None:
    """The subscription ends with the first revision that is still there."""
    async with served() as port:
        client = await port.open()
        for request_id in range(1, 4):
            await client.ask(request_id, "publish", "t", None, b"", None, None, meta=NO_SESSION)
        await client.ask(4, "retention.set", "t", None, 1, meta=NO_SESSION)
        trimmed: list[object] = []
        port.node.submit(pack(0, 0, "retention.trim", [100]), trimmed.append)
        await until(lambda: trimmed == [2])
        client.send([9, "subscribe", ["t", 1, 10], None])
        assert (await client.receive())[1] == BOOKMARK
        request_id, status, error = await client.receive()
        assert (request_id, status, error[:2]) == (9, ERROR, [0, "compacted"])
        assert error[3] == {"first_revision": 3}


async def test_silence_has_a_longest_length() -> None:
    """A quiet subscription gets bookmarks, which move on over events that do not match."""
    async with served(ServerLimits(bookmark_s=0.01)) as port:
        client = await port.open()
        client.send([1, "subscribe", ["quiet", "latest", 1], None])
        assert await client.receive() == [1, BOOKMARK, 0]
        assert await client.receive() == [1, BOOKMARK, 0]
        client.send([2, "publish", ["loud", None, b"", None, None], NO_SESSION])
        with trio.fail_after(BOUND_S):
            while await client.receive() != [1, BOOKMARK, 1]:
                pass


async def test_a_slow_reader_stops_nobody() -> None:
    """Who does not take its events gets them later, at its own pace; others go on meanwhile."""
    limits = ServerLimits(unsent_bytes_max=100_000)
    async with served(limits) as port:
        slow, quick = await port.open(), await port.open()
        payload = bytes(500_000)
        slow.send([1, "subscribe", ["t", "latest", 1_000], None])
        assert (await slow.receive())[1] == BOOKMARK
        for request_id in range(1, 41):
            args = ("publish", "t", None, payload, None, None)
            assert (await quick.ask(request_id, *args, meta=NO_SESSION))[0] == OK
        session = port.server.connections[0].session
        assert session.buffered_bytes < 4_000_000
        received: list[int] = []
        while len(received) < 40:
            _, status, value = await slow.receive()
            if status == EVENTS:
                received += [event[0] for event in value[1]]
        assert received == list(range(1, 41))


async def _publish_only(client: RawClient, request_id: int, *patterns: str) -> None:
    """Have the cluster publish these of its own topics; none: all."""
    values = {"publish_topics": list(patterns)}
    assert (await client.ask(request_id, "hook.settings", values, meta=NO_SESSION))[0] == OK


@pytest.mark.parametrize("from_disk", [False, True])
async def test_what_the_setting_keeps_from_subscribers(from_disk: bool) -> None:
    """Numbers have no gap and bookmarks go on, whether events come out of memory or of the disk;
    the log has them, and topics of users are none of the setting's business."""
    async with served() as port:
        client = await port.open()
        await client.ask(1, "put", "k", b"1", None, None, meta=NO_SESSION)
        await _publish_only(client, 2, "hooks.cluster.*", "hooks.system.settings_changed")
        await client.ask(3, "put", "k", b"2", None, None, meta=NO_SESSION)
        await client.ask(4, "publish", "t", None, b"", None, None, meta=NO_SESSION)
        await client.ask(5, "put", "k", b"3", None, None, meta=NO_SESSION)
        if from_disk:
            port.node.tail = Tail()
        client.send([6, "subscribe", [">", 1, 100], None])
        assert await client.receive() == [6, BOOKMARK, 0]
        _, status, (number, events) = await client.receive()
        seen = [(event[0], event[1]) for event in events]
        assert (status, number, seen) == (
            EVENTS,
            1,
            [(2, "hooks.system.settings_changed"), (4, "t")],
        )
        _, (page, _, newest) = await client.ask(7, "events.read", 1, ">", None)
        assert ([event[0] for event in page], newest) == ([1, 2, 3, 4, 5], 5)
        client.send([8, "subscribe", ["hooks.kv.*", 1, 100], None])
        assert await client.receive() == [8, BOOKMARK, 0]
        await until(lambda: _position(port, 8) == 5)


def _position(port: Port, request_id: int) -> int:
    """Up to where a subscription of the first connection has looked."""
    stream = port.server.connections[0].streams[request_id]
    assert isinstance(stream, SubscriptionStream)
    return stream.subscription.next_revision - 1


async def test_the_setting_holds_for_subscriptions_that_run() -> None:
    """At once, and until it is changed again; what was passed over meanwhile does not come."""
    async with served() as port:
        client = await port.open()
        client.send([1, "subscribe", ["hooks.kv.*", "latest", 100], None])
        assert (await client.receive())[1] == BOOKMARK
        received: list[tuple[int, int]] = []

        async def put(request_id: int) -> int:
            """Write, and take what comes before the answer to the next request."""
            await _ask(client, received, request_id, "put", "k", b"", None, None)
            return port.node.machine.revision

        first = await put(2)
        await _ask(client, received, 3, "hook.settings", {"publish_topics": ["hooks.cluster.*"]})
        await put(4)
        await until(lambda: _position(port, 1) == port.node.machine.revision)
        await _ask(client, received, 5, "hook.settings", {"publish_topics": []})
        last = await put(6)
        while len(received) < 2:
            _take(received, await client.receive())
        assert received == [(1, first), (2, last)]


async def _ask(client: RawClient, received: list[tuple[int, int]], *request: Any) -> None:
    request_id, name, *args = request
    client.send([request_id, name, args, NO_SESSION])
    while (answer := await client.receive())[0] != request_id:
        _take(received, answer)
    assert answer[1] == OK


def _take(received: list[tuple[int, int]], answer: list[Any]) -> None:
    """Note what a subscription was sent: numbers and revisions."""
    if answer[1] == EVENTS:
        number, events = answer[2]
        received += [(number + place, event[0]) for place, event in enumerate(events)]


async def test_a_watch_of_keys_gets_every_change() -> None:
    """It is a part of the key-value store, and no setting keeps anything from it."""
    async with served() as port:
        client = await port.open()
        await _publish_only(client, 1, "hooks.cluster.*")
        await client.ask(2, "put", "k", b"", None, None, meta=NO_SESSION)
        client.send([3, "subscribe", ["hooks.kv.*", 1, 100, True], None])
        assert await client.receive() == [3, BOOKMARK, 0]
        _, status, (number, events) = await client.receive()
        assert (status, number, [event[0] for event in events]) == (EVENTS, 1, [2])
        refused = await client.ask(4, "subscribe", "hooks.kv.*", 1, 100, "yes")
        assert refused[0] == ERROR
