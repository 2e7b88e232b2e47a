"""Requests that came together are logged as one operation, and stay requests of their own."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import operations
from cluster.limits import EACH_CALLS_MAX, INTEGER_MAX
from cluster.operations import EACH, REGULAR
from cluster.server import ServerLimits
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver
from tests.cluster.fake_node import FakeNode, requests_of
from tests.cluster.served_node import ERROR, NO_SESSION, OK, RESULTS, served
from tests.cluster.waiting import until

KEYS = st.sampled_from(["a", "b", "c"])
CALLS = {
    "put": st.tuples(
        KEYS,
        st.binary(max_size=3) | st.just(7),  # which is no value
        st.none() | st.integers(1, 5_000),
        st.none() | st.integers(0, 4),
    ).map(list),
    "publish": st.one_of(
        st.tuples(KEYS, st.none() | KEYS, st.binary(max_size=3), st.none(), st.none()).map(list),
        st.lists(KEYS | st.binary(max_size=3) | st.none(), max_size=7),
    ),
    "delete": st.tuples(KEYS, st.none() | st.integers(0, 4)).map(list),
}
Run = tuple[str, list[list[Any]]]
RUNS = st.sampled_from(sorted(CALLS)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(CALLS[name], min_size=1, max_size=6))
)


@settings(max_examples=200, deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=5), st.data())
def test_together_or_alone_comes_to_the_same(runs: list[Run], data: st.DataObject) -> None:
    """The same results, rows and events, also when a client asks again for a part of what it asked
    for before, and in one go for more."""
    together, alone = Driver(), Driver()
    client = together.do("session.open")
    assert alone.do("session.open") == client

    def ask(first_seq: int, name: str, calls: list[list[Any]]) -> None:
        (results,) = together.entry(operations.pack(client, first_seq, EACH, [name, calls])).results
        singles = [
            operations.pack(client, seq, name, call) for seq, call in enumerate(calls, first_seq)
        ]
        assert list(results) == alone.entry(*singles).results
        assert together.rows() == alone.rows()

    seq = 1
    for name, calls in runs:
        ask(seq, name, calls)
        seq += len(calls)
    name, calls = runs[-1]
    again = data.draw(st.integers(1, len(calls)))
    ask(seq - again, name, [*calls[-again:], *calls])
    assert together.machine.operations == alone.machine.operations
    assert together.machine.duplicates == alone.machine.duplicates == again


def test_a_session_that_is_over_refuses_each() -> None:
    """Nobody knows whether they were applied before."""
    driver = Driver()
    result = driver.do(EACH, "put", [["a", b""], ["b", b""]], client=9, seq=1)
    assert [one.code for one in result] == ["session_expired"] * 2
    assert driver.machine.revision == 0


@pytest.mark.parametrize(
    ("client", "seq", "args"),
    [
        (0, 1, ["put", [["a", b""]]]),
        (1, 1, ["put"]),
        (1, 1, ["put", [["a", b""]], None]),
        (1, 1, ["put", {}]),
        (1, 1, ["put", []]),
        (1, 1, ["put", [["a", b""]] * (EACH_CALLS_MAX + 1)]),
        (1, 1, ["put", [["a", b""], b"b"]]),
        (1, 1, ["session.open", [[]]]),
        (1, 1, [EACH, [["put", [["a", b""]]]]]),
        (1, 1, [7, [[]]]),
        (1, INTEGER_MAX, ["put", [["a", b""], ["b", b""]]]),
    ],
)
def test_what_is_no_such_operation_is_refused_whole(client: int, seq: int, args: Any) -> None:
    """And changes nothing."""
    driver = Driver()
    driver.do("session.open")
    before = driver.rows()
    result = driver.do(EACH, *args, client=client, seq=seq)
    assert isinstance(result, Rejection)
    assert result.code == "malformed"
    assert driver.rows() == before


def test_older_entries_do_not_have_it() -> None:
    """A node of the release before would refuse it, so every node does."""
    driver = Driver()
    client = driver.do("session.open")
    payload = operations.pack(client, 1, EACH, ["put", [["a", b""], ["b", b""]]])
    body = operations.seal([payload], driver.wall_ms, driver.elapsed_ms, version=2)
    (result,) = driver.apply(bytes((REGULAR,)) + body).results
    assert isinstance(result, Rejection)
    assert result.code == "unknown_operation"


def test_the_digest_has_no_words_of_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release may reword what it tells people, here as everywhere."""
    digests = []
    for words in ("one", "another"):
        driver = Driver()
        client = driver.do("session.open")
        refuse = Rejection("no", words)
        monkeypatch.setitem(
            driver.machine._registry,
            "put",
            driver.machine._registry["put"]._replace(function=lambda *_, r=refuse: r),
        )
        driver.do(EACH, "put", [["a", b""], ["b", b""]], client=client, seq=1)
        digests.append(driver.machine.digest)
    assert digests[0] == digests[1]


# --- the client port ---


def submitted(node: FakeNode) -> list[list[tuple[int, str]]]:
    """Number and name of the requests of each operation that waits."""
    return [
        [(seq, name) for seq, name, _ in requests_of(operation)] for operation, _ in node._submitted
    ]


def write(request_id: int, name: str, seq: int) -> list[Any]:
    """A request of session 1."""
    return [request_id, name, {"put": PUT, "publish": PUBLISH}[name], [1, seq, 5_000]]


def series(first_id: int, first_seq: int, name: str, calls: list[Any], client_id: int = 1) -> Any:
    """Requests that a client sends as one."""
    return [first_id, "series", [name, msgpack.packb(calls)], [client_id, first_seq, 5_000]]


PUT = ["k", b"v", None, None]
PUBLISH = ["t", None, b"v", None, None]


async def test_what_comes_as_one_is_one_operation_in_its_order() -> None:
    """A series, and no more; all of its results leave as one response."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.node.held = True
        client.send(
            series(2, 1, "publish", [PUBLISH] * 3),
            write(5, "put", 4), write(6, "put", 5),
            [7, "get", ["k", "local"], None],
            series(8, 6, "put", [PUT]),
            [9, "put", PUT, NO_SESSION],
            series(10, 7, "put", [PUT, PUT], client_id=2),
        )  # fmt: skip
        await until(lambda: port.node.waiting == 9)
        assert submitted(port.node) == [
            [(1, "publish"), (2, "publish"), (3, "publish")],
            [(4, "put")], [(5, "put")], [(6, "put")], [(0, "put")],
            [(7, "put"), (8, "put")],
        ]  # fmt: skip
        assert port.server.statistics().requests == 11
        port.node.release()
        answers = [await client.receive() for _ in range(8)]
        found = {request_id: (status, value) for request_id, status, value in answers}
        assert found[2] == (RESULTS, [1, 2, 3])
        assert (found[5], found[6]) == ((OK, 4), (OK, 5))
        assert found[8] == (RESULTS, [6])
        assert {found[10][0], found[11][0]} == {ERROR}, "there is no session 2"
        assert port.server.inflight_bytes == 0
        assert await client.ask(12, "ping") == [OK, None], "the ids of a series are taken"


async def test_each_is_answered_for_itself_where_one_is_refused() -> None:
    """It changes nothing for its neighbours."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        bad = ["no topic at all!", *PUBLISH[1:]]
        client.send(series(2, 1, "publish", [PUBLISH, bad, PUBLISH]))
        first, refused, last = [await client.receive() for _ in range(3)]
        assert (first, last) == ([2, OK, 1], [4, OK, 2])
        assert refused[:2] == [3, ERROR]
        assert refused[2][3]["reason"] == "malformed"


async def test_who_was_answered_with_a_timeout_is_not_answered_again() -> None:
    """The others are."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.node.held = True
        client.send(series(2, 1, "put", [PUT, PUT, PUT]))
        await until(lambda: port.node.waiting == 3)
        (connection,) = port.server.connections
        connection._pending.pop(3)
        port.node.release()
        assert [await client.receive() for _ in range(2)] == [[2, OK, 1], [4, OK, 3]]
        assert connection.is_idle


async def test_series_wait_for_room_like_requests() -> None:
    """No more are started than may be under way, but for the rest of a series; none is lost."""
    async with served(ServerLimits(pipelined_requests_max=6)) as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.node.held = True
        client.send(*(series(2 + 4 * n, 1 + 4 * n, "put", [PUT] * 4) for n in range(6)))
        await until(lambda: port.node.waiting == 8)
        await trio.testing.wait_all_tasks_blocked()
        assert port.node.waiting == 8
        assert port.server.statistics().requests == 9
        port.node.release()
        answers = [await client.receive() for _ in range(6)]
        assert answers == [
            [2 + 4 * n, RESULTS, [1 + 4 * n + i for i in range(4)]] for n in range(6)
        ]
        assert port.server.statistics().requests == 25


async def test_all_of_a_series_time_out() -> None:
    """Each with an answer of its own."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.node.held = True
        request = series(2, 1, "put", [PUT, PUT])
        request[3][2] = 1
        client.send(request)
        answers = [await client.receive() for _ in range(2)]
        assert [(each[0], each[2][1]) for each in answers] == [(2, "timeout"), (3, "timeout")]
        port.node.drop_waiting()


async def test_all_get_the_error_of_their_operation() -> None:
    """None of them is known to have happened."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.node.leader = None
        client.send(series(2, 1, "put", [PUT] * 4))
        answers = [await client.receive() for _ in range(4)]
        assert [(each[0], each[1], each[2][1]) for each in answers] == [
            (i, ERROR, "no_leader") for i in range(2, 6)
        ]


@pytest.mark.parametrize(
    ("args", "meta"),
    [
        (["delete", msgpack.packb([["k"]])], [1, 1, 5_000]),
        (["put", b"no msgpack"], [1, 1, 5_000]),
        (["put", msgpack.packb([PUT])], None),
    ],
)
async def test_what_is_no_series_ends_the_connection(args: list[Any], meta: Any) -> None:
    """Nobody could tell which ids it has."""
    async with served() as port:
        client = await port.open()
        client.send([1, "series", args, meta])
        request_id, status, error = await client.receive()
        assert (request_id, status, error[1]) == (0, ERROR, "malformed")
        assert "series" in error[2]
        assert await client.receive() is None


async def test_older_members_are_not_given_what_they_do_not_know() -> None:
    """Until the cluster has an entry of the version that has it, each goes alone."""
    async with served() as port:
        node = port.node
        node.machine.entry_version = 2
        client = await port.open()
        node.held = True
        client.send(series(1, 1, "put", [PUT] * 3))
        await until(lambda: node.waiting == 3)
        assert [len(run) for run in submitted(node)] == [1, 1, 1]
        assert port.server.statistics().requests == 3


async def test_what_an_older_entry_refuses_goes_alone() -> None:
    """A leader that has not applied the first entry of the version yet may write one before it."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        submit, together = port.node.submit, []

        def refusing(operation: bytes, done: Any) -> None:
            if len(requests_of(operation)) > 1:
                together.append(operation)
                done(Rejection("unknown_operation", "there is none"))
            else:
                submit(operation, done)

        port.node.submit = refusing  # type: ignore[method-assign]
        client.send(series(2, 1, "put", [PUT] * 3))
        assert [await client.receive() for _ in range(3)] == [[2, OK, 1], [3, OK, 2], [4, OK, 3]]
        assert len(together) == 1
        assert port.server.inflight_bytes == 0


async def test_a_full_node_refuses_each() -> None:
    """What is over the bound of bytes under way is refused by name, as alone."""
    async with served() as port:
        client = await port.open()
        assert await client.ask(1, "session.open") == [OK, 1]
        port.server.inflight_bytes = port.server.limits.inflight_bytes_max + 1
        client.send(series(2, 1, "put", [PUT, PUT]))
        answers = [await client.receive() for _ in range(2)]
        assert [(each[0], each[2][1]) for each in answers] == [(2, "overloaded"), (3, "overloaded")]


def test_the_form_is_that_of_any_operation() -> None:
    """`each` with a name and the arguments of each; its number is that of the first."""
    packed = operations.pack(3, 7, EACH, ["put", [["a", b"1"], ["b", b"2"]]], "ann")
    assert msgpack.unpackb(packed) == [
        3, 7, "each", ["put", [["a", b"1"], ["b", b"2"]]], "ann", None,
    ]  # fmt: skip
    assert [request[:2] for request in requests_of(packed)] == [(7, "put"), (8, "put")]
