"""The client port over loopback, with the real state machine behind it and no Raft: requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.certificates import Authority
from tests.cluster.served_node import ERROR, NO_SESSION, OK, served
from tests.cluster.waiting import until

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_the_greeting_names_the_node() -> None:
    """A client learns whom it talks to, and the bounds that it has to keep."""
    async with served() as port:
        client = await port.connect()
        magic, version, facts = await client.greet()
        assert (magic, version) == ("tremula", 1)
        assert facts["node"] == "a"
        assert facts["cluster_id"] == "test-cluster"
        assert facts["leader"] == "a"
        assert facts["request_bytes_max"] == port.server.limits.request_bytes_max


async def test_write_read_delete() -> None:
    """A key goes through its life, with revisions that say when."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "put", "k", b"one", None, None, meta=NO_SESSION) == [OK, 1]
        assert await client.ask(2, "put", "k", b"two", None, 1, meta=NO_SESSION) == [OK, 2]
        assert await client.ask(3, "get", "k") == [OK, ["k", b"two", 1, 2, 2, None]]
        assert await client.ask(4, "delete", "k", None, meta=NO_SESSION) == [OK, 3]
        assert await client.ask(5, "get", "k") == [OK, None]


async def test_a_rejection_is_a_definite_error_with_its_reason() -> None:
    """The state machine's refusal arrives with outcome 0, reason and detail."""
    async with served() as port:
        client = await port.open()
        status, error = await client.ask(1, "put", "k", b"v", None, 7, meta=NO_SESSION)
        assert status == ERROR
        outcome, kind, message, fields = error
        assert (outcome, kind, fields["reason"]) == (0, "rejected", "revision_mismatch")
        assert "expected 7" in message


async def test_ranges_come_in_pages() -> None:
    """A page says whether there is more and at which revision it was read."""
    async with served() as port:
        client = await port.open()
        puts = [["put", f"k{i}", b"v", None, None] for i in range(5)]
        assert await client.ask(1, "batch", puts, meta=NO_SESSION) == [OK, [1, 5]]
        rows, more, revision = (await client.ask(2, "range", "k", "l", 2, None, True))[1]
        assert [row[:2] for row in rows] == [["k0", None], ["k1", None]]
        assert (more, revision) == (True, 5)
        rows, more, _ = (await client.ask(3, "range", "k", "l", 9, "k1"))[1]
        assert [row[0] for row in rows] == ["k2", "k3", "k4"]
        assert not more
        assert await client.ask(4, "count", "k", "l") == [OK, 5]
        assert await client.ask(5, "range", "k3", None) == [
            OK,
            [[["k3", b"v", 4, 4, 1, None]], False, 5],
        ]


async def test_local_reads_ask_nobody() -> None:
    """A local read is answered from this node's state, even without a leader."""
    async with served() as port:
        client = await port.open()
        await client.ask(1, "put", "k", b"v", None, None, meta=NO_SESSION)
        port.node.leader = None
        assert (await client.ask(2, "get", "k", "local"))[1][1] == b"v"
        assert (await client.ask(3, "count", "", "", "local"))[1] == 1
        assert port.node.barriers == 0
        status, error = await client.ask(4, "get", "k")
        assert (status, error[:2]) == (ERROR, [0, "no_leader"])
        assert port.node.barriers == 1


async def test_one_chunk_is_one_entry_one_barrier_and_one_write() -> None:
    """Pipelined requests cost the engine one step, whatever their number."""
    async with served() as port:
        client = await port.open()
        puts = [[i, "put", [f"k{i}", b"v", None, None], NO_SESSION] for i in range(1, 33)]
        gets = [[i, "get", ["k1"], None] for i in range(33, 65)]
        client.send(*puts, *gets)
        answers = [await client.receive() for _ in range(64)]
        assert sorted(answer[0] for answer in answers) == list(range(1, 65))
        assert all(answer[1] == OK for answer in answers)
        assert port.node.ticks == 1
        assert port.node.barriers == 1
        assert port.node.operations == 32


async def test_a_retry_applies_once() -> None:
    """The same (client_id, seq) gets the remembered result, over connections."""
    async with served() as port:
        client = await port.open()
        status, client_id = await client.ask(1, "session.open")
        assert status == OK
        request: tuple[str, Any, Any, Any, Any] = ("put", "k", b"v", None, None)
        first = await client.ask(2, *request, meta=[client_id, 1, 5_000])
        again = await (await port.open()).ask(1, *request, meta=[client_id, 1, 5_000])
        assert first == again == [OK, 1]
        assert port.node.machine.revision == 1


async def test_events_carry_actor_and_trace() -> None:
    """The anonymous actor and the trace of the request stand in the event."""
    async with served() as port:
        client = await port.open()
        meta = [0, 0, None, "order-7", 3, 2, TRACEPARENT]
        await client.ask(1, "publish", "orders.created", "o7", b"{}", None, None, meta=meta)
        (event,), following, newest = (await client.ask(2, "events.read", 1))[1]
        assert event[:3] == [1, "orders.created", "o7"]
        assert event[4:9] == ["anonymous", "order-7", 3, 2, TRACEPARENT]
        assert (following, newest) == (2, 1)


async def test_reading_the_log_filters_and_goes_on() -> None:
    """A page may hold no match and still lead on; the end is where the revisions meet."""
    async with served() as port:
        client = await port.open()
        batch = [[f"t.{i % 2}", None, b"", None, None] for i in range(6)]
        assert await client.ask(1, "publish_batch", batch, meta=NO_SESSION) == [OK, [1, 6]]
        events, following, newest = (await client.ask(2, "events.read", 1, "t.1", 1))[1]
        assert (events, following, newest) == ([], 2, 6)
        events, following, _ = (await client.ask(3, "events.read", 2, "t.1"))[1]
        assert [event[0] for event in events] == [2, 4, 6]
        assert following == 7


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (["puts", []], "unknown_request"),
        (["kv.expire", [1, 1]], "unknown_request"),
        (["get", []], "malformed"),
        (["get", [b"k"]], "malformed"),
        (["get", ["k", "stale"]], "malformed"),
        (["range", ["a", 5]], "malformed"),
        (["range", ["a", "b", -1]], "malformed"),
        (["range", ["a", "b", 1, None, True, "local", 1]], "malformed"),
        (["subscribe", ["a..b", "latest", 1]], "malformed"),
        (["subscribe", ["a", "newest", 1]], "malformed"),
        (["subscribe", ["a", 0, 1]], "malformed"),
        (["subscribe", ["a", 1]], "malformed"),
        (["events.read", [1, "*x"]], "malformed"),
        (["member.add", ["d"]], "malformed"),
        (["batch", [[["put", "k", b"", None, None]] * 1_001]], "limit_exceeded"),
        (["put", ["", b"", None, None]], "rejected"),
    ],
    ids=lambda item: item if isinstance(item, str) else repr(item)[:40],
)
async def test_wrong_requests_have_named_errors(request_: list[Any], kind: str) -> None:
    """A wrong request is answered with a definite error, and the connection goes on."""
    async with served() as port:
        client = await port.open()
        name, args = request_
        status, error = await client.ask(1, name, *args)
        assert (status, error[0], error[1]) == (ERROR, 0, kind)
        assert await client.ask(2, "ping") == [OK, None]


async def test_a_misspelt_request_gets_a_hint() -> None:
    """The nearest name is in the error."""
    async with served() as port:
        client = await port.open()
        error = (await client.ask(1, "subscribr"))[1]
        assert error[3] == {"name": "subscribr", "nearest": "subscribe"}


async def test_the_certificate_names_the_actor(tmp_path: Path) -> None:
    """Over TLS the subject's common name stands in the events of its writes."""
    authority = Authority(tmp_path, "authority")
    async with served(None, authority.server_context("a"), True) as port:
        client = await port.connect(authority.client_context("alice"))
        await client.greet()
        await client.ask(1, "put", "k", b"v", None, None, meta=NO_SESSION)
        (event,), _, _ = (await client.ask(2, "events.read", 1))[1]
        assert event[1] == "hooks.kv.write_committed"
        assert event[4] == "alice"


async def test_administration_goes_to_the_node() -> None:
    """Member and leader requests arrive with their arguments."""
    async with served() as port:
        client = await port.open()
        await client.ask(1, "member.add", "d", "127.0.0.1:9")
        await client.ask(2, "member.promote", "d")
        await client.ask(3, "member.remove", "d")
        await client.ask(4, "leader.transfer")
        await client.ask(5, "leader.transfer", "b")
        assert port.node.calls == [
            ("add", "d", "127.0.0.1:9"),
            ("promote", "d"),
            ("remove", "d"),
            ("transfer", None),
            ("transfer", "b"),
        ]
        assert (await client.ask(6, "status"))[1]["leader"] == "a"
        assert (await client.ask(7, "members"))[1] == port.node.machine.members


async def test_extra_requests_are_served_by_their_table() -> None:
    """The node adds requests; an answer may come at once or later, and knows the actor."""
    waiting: list[Callable[[object], None]] = []

    def echo(args: list[Any], actor: str, done: Callable[[object], None]) -> None:
        done([args, actor])

    def later(args: list[Any], actor: str, done: Callable[[object], None]) -> None:
        waiting.append(done)

    async with served() as port:
        port.server.extra["hooks.echo"] = echo
        port.server.extra["hooks.later"] = later
        client = await port.open()
        assert await client.ask(1, "hooks.echo", 1, "x") == [OK, [[1, "x"], "anonymous"]]
        client.send([2, "hooks.later", [], None])
        await until(lambda: bool(waiting))
        waiting[0]("finally")
        assert await client.receive() == [2, OK, "finally"]
