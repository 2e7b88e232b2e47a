"""Groups at the client port, byte for byte as another client would use them."""

from __future__ import annotations

from typing import Any

from cluster.server import ServerLimits
from tests.cluster.raw_client import RawClient
from tests.cluster.served_node import BOOKMARK, ERROR, EVENTS, NO_SESSION, OK, Port, served
from tests.cluster.waiting import until

CHANGE = 4


async def prepared(port: Port, mode: str | None = None, events: int = 3) -> RawClient:
    """A connection that has defined group "g", joined it as "m" and published events."""
    client = await port.open()
    count = 1 if mode else 2
    define: list[Any] = ["g", "t.>", count, "earliest", 0]
    await client.ask(1, "group.define", *define, *([{"mode": mode}] if mode else []))
    assert (await client.ask(2, "group.join", "g", "m", 10_000))[0] == OK
    for number in range(events):
        await client.ask(3 + number, "publish", "t.a", f"k{number}", b"%d" % number)
    return client


async def test_a_member_is_told_what_it_owns_before_anything_else() -> None:
    """Changes, a bookmark that says that it was all, then events with their partition."""
    async with served() as port:
        client = await prepared(port)
        client.send([10, "group.consume", ["g", "m", 100], None])
        assert [await client.receive() for _ in range(3)] == [
            [10, CHANGE, ["assigned", 0, 1]],
            [10, CHANGE, ["assigned", 1, 2]],
            [10, BOOKMARK, 0],
        ]
        request_id, status, (number, events) = await client.receive()
        assert (request_id, status, number) == (10, EVENTS, 1)
        assert [event[0] for _, _, event in events] == [1, 2, 3]
        assert {(partition, token) for partition, token, _ in events} <= {(0, 1), (1, 2)}
        client.send([0, "cancel", [10], None])
        assert await client.receive() == [10, OK, None]
        assert port.server.statistics().subscriptions == 0


async def test_credits_bound_what_a_member_is_sent() -> None:
    """The rest follows when they arrive."""
    async with served() as port:
        client = await prepared(port)
        client.send([10, "group.consume", ["g", "m", 2], None])
        for _ in range(3):
            await client.receive()
        assert len((await client.receive())[2][1]) == 2
        client.send([0, "credit", [10, 5], None])
        _, _, (number, events) = await client.receive()
        assert (number, [event[0] for _, _, event in events]) == (3, [3])


async def test_who_may_not_consume_is_told_why() -> None:
    """No group, no member, the other mode; and the end of a membership ends the stream."""
    async with served() as port:
        client = await prepared(port)
        _, error = await client.ask(20, "group.consume", "other", "m", 1)
        assert error[3]["reason"] == "unknown_group"
        client.send([21, "group.consume", ["g", "stranger", 1], None])
        assert (await client.receive())[2][3]["reason"] == "unknown_member"
        client.send([22, "group.consume", ["g", "m", 100], None])
        while (await client.receive())[1] != EVENTS:
            pass
        client.send([23, "group.leave", ["m"], NO_SESSION])
        answers = [await client.receive() for _ in range(4)]
        assert [answer[:2] for answer in answers if answer[0] == 22] == [
            [22, CHANGE], [22, CHANGE], [22, ERROR],
        ]  # fmt: skip
    async with served() as port:
        client = await prepared(port, "competing")
        _, error = await client.ask(20, "group.consume", "g", "m", 1)
        assert error[3]["reason"] == "wrong_mode"


async def test_the_groups_of_handlers_are_left_to_the_nodes() -> None:
    """No client takes events away from a handler by its group; what an operator may do, it may."""
    async with served() as port:
        client = await port.open()
        reasons = []
        for number, (name, *args) in enumerate(
            (
                ("group.define", "hook.h", "t.>", 1, "earliest", 99),
                ("group.join", "hook.h", "m", 10_000),
                ("group.remove", "hook.h"),
                ("group.pause", "hook.h"),
            ),
            start=1,
        ):
            _, error = await client.ask(number, str(name), *args)
            reasons.append(error[3]["reason"])
        assert reasons == ["reserved_group"] * 3 + ["unknown_group"]


async def test_a_node_without_a_leader_starts_no_stream() -> None:
    """Its state may be old: the member could be told that it owns what it lost."""
    async with served() as port:
        client = await prepared(port)
        port.node.leader = None
        status, error = await client.ask(10, "group.consume", "g", "m", 1)
        assert (status, error[1]) == (ERROR, "no_leader")


async def test_a_fetch_is_answered_with_the_events() -> None:
    """Token, deadline, events, how long it was parked; a repetition gets the same answer."""
    async with served() as port:
        client = await prepared(port, "competing")
        session = (await client.ask(9, "session.open"))[1]
        _, first = await client.ask(10, "group.fetch", "g", "m", 2, 10_000, meta=[session, 1, 5000])
        token, deadline_ms, items, waited_ms = first
        assert (token, waited_ms) == (1, 0)
        assert deadline_ms > 30_000
        assert [(attempt, event[0]) for attempt, event in items] == [(1, 1), (1, 2)]
        _, again = await client.ask(11, "group.fetch", "g", "m", 2, 10_000, meta=[session, 1, 5000])
        assert again == first
        verdicts = [[1, token, "ack", None], [2, token, "nack", None]]
        assert await client.ask(12, "group.settle", "g", "m", verdicts, []) == [OK, []]
        _, (_, _, items, _) = await client.ask(13, "group.fetch", "g", "m", 9, 10_000)
        assert [(attempt, event[0]) for attempt, event in items] == [(2, 2), (1, 3)]


async def test_parked_fetches_are_woken_in_order() -> None:
    """One event wakes the one that has waited longest; the others wait on."""
    async with served() as port:
        client = await prepared(port, "competing", events=0)
        for request_id in (10, 11, 12):
            client.send([request_id, "group.fetch", ["g", "m", 1, 10_000, 5_000], [0, 0, 6000]])
        await until(lambda: port.server.fetches.parked == 3)
        operations = port.node.operations
        client.send([13, "publish", ["t.a", "k", b"", None, None], NO_SESSION])
        answers = [await client.receive() for _ in range(2)]
        assert {answer[0] for answer in answers} == {13, 10}
        assert port.node.operations == operations + 2
        client.send([14, "publish", ["t.a", "k", b"", None, None], NO_SESSION])
        answers = [await client.receive() for _ in range(2)]
        assert {answer[0] for answer in answers} == {14, 11}
        assert port.server.fetches.parked == 1


async def test_a_fetch_that_waited_long_enough_has_nothing() -> None:
    """Token 0, and nothing was proposed for it."""
    async with served() as port:
        client = await prepared(port, "competing", events=0)
        before = port.node.operations
        answer = await client.ask(10, "group.fetch", "g", "m", 1, 10_000, 60, meta=[0, 0, 5000])
        assert answer == [OK, [0, 0, [], 0]]
        assert port.node.operations == before


async def test_what_does_not_match_wakes_nobody() -> None:
    """Only the cursor moves, now and then, so that retention can follow."""
    async with served() as port:
        client = await prepared(port, "competing", events=0)
        client.send([10, "group.fetch", ["g", "m", 1, 10_000, 5_000], [0, 0, 6000]])
        await until(lambda: port.server.fetches.parked == 1)
        before = port.node.operations
        for request_id in range(11, 21):
            await client.ask(request_id, "publish", "u.a", None, b"")
        assert port.node.operations == before + 10


async def test_a_fetch_of_a_client_that_is_gone_leases_nothing() -> None:
    """Nor one whose time is over."""
    async with served() as port:
        client = await prepared(port, "competing", events=0)
        gone = await port.open()
        gone.send([1, "group.fetch", ["g", "m", 1, 10_000, 5_000], [0, 0, 6000]])
        await until(lambda: port.server.fetches.parked == 1)
        gone.session.close()
        await until(lambda: len(port.server.connections) == 1)
        await client.ask(10, "publish", "t.a", None, b"")
        _, (_, _, items, _) = await client.ask(11, "group.fetch", "g", "m", 1, 10_000)
        assert [attempt for attempt, _ in items] == [1]


async def test_a_node_that_stops_lets_parked_fetches_go() -> None:
    """Another one will serve them."""
    async with served() as port:
        client = await prepared(port, "competing", events=0)
        client.send([10, "group.fetch", ["g", "m", 1, 10_000, 5_000], [0, 0, 6000]])
        await until(lambda: port.server.fetches.parked == 1)
        await port.server.drain(1)
        assert (await client.receive())[2][1] == "stopping"


async def test_groups_are_described_and_listed() -> None:
    """One by name, or a page of all."""
    async with served(ServerLimits()) as port:
        client = await prepared(port)
        await client.ask(20, "group.define", "harbour", "u", 1, "latest", 0)
        status, described = await client.ask(21, "group.describe", "g")
        assert (status, described["mode"], described["revision"]) == (OK, "partitioned", 3)
        assert [member["member"] for member in described["members"]] == ["m"]
        _, page = await client.ask(22, "group.list")
        assert [group["name"] for group in page] == ["g", "harbour"]
        _, page = await client.ask(23, "group.list", "g", 5)
        assert [group["name"] for group in page] == ["harbour"]
        status, error = await client.ask(24, "group.describe", "harbor")
        assert (status, error[3]["reason"]) == (ERROR, "unknown_group")
        assert 'did you mean "harbour"' in error[3]["detail"]
