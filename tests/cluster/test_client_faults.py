"""The Python client when things break: what is repeated, and what a caller may conclude."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from cluster.client import open_client
from cluster.client.call import REQUEST_TOO_OLD, RESULT_FORGOTTEN, Call, Next, after_error
from cluster.errors import (
    ConnectionLost,
    DefiniteError,
    LeaderChanged,
    LimitExceeded,
    Malformed,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RetryRefused,
    Timeout,
    TremulaError,
    Unreachable,
    VersionMismatch,
)
from cluster.net import Session, TcpNetwork
from cluster.server import Server
from tests.cluster.certificates import Authority
from tests.cluster.client_cluster import (
    PATIENT,
    QUICK,
    client_of,
    cluster_of,
    expire_sessions,
    outcome_of,
)
from tests.cluster.fake_node import FakeNode
from tests.cluster.waiting import BOUND_S, until


async def test_a_cut_connection_repeats_and_applies_once() -> None:
    """A write whose answer was lost is sent again under its number and gets its first result."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("warm", b"")
        async with trio.open_nursery() as nursery:
            cluster.node.held = True
            results: list[int] = []

            async def write(key: str) -> None:
                results.append(await client.put(key, b"v"))

            for number in range(10):
                nursery.start_soon(write, f"k{number}")
            await until(lambda: cluster.node.waiting == 10)
            cluster.cut()
            await until(lambda: cluster.node.waiting == 20)
            cluster.node.release()
        assert sorted(results) == list(range(2, 12))
        assert cluster.node.machine.revision == 11
        assert cluster.node.machine.duplicates == 10


@pytest.mark.parametrize("seed", range(4))
async def test_random_faults_apply_nothing_twice(seed: int) -> None:
    """Cuts, elections, lost entries and timeouts: acknowledged means once, unknown at most once,
    definite never."""
    random = Random(seed)
    acknowledged: set[str] = set()
    refused: set[str] = set()
    async with cluster_of(3) as cluster, client_of(cluster) as client:

        async def write(worker: int) -> None:
            for number in range(25):
                key = f"{worker}/{number}"
                try:
                    await client.put(key, b"v", timeout_ms=random.choice((15, 5_000)))
                except DefiniteError:
                    refused.add(key)
                except OutcomeUnknown:
                    pass
                else:
                    acknowledged.add(key)

        async def break_things() -> None:
            while True:
                await trio.sleep(random.random() * 0.01)
                fault = random.randrange(4)
                if fault == 0:
                    cluster.cut()
                elif fault == 1:
                    cluster.node.leader = random.choice((None, "a", "b"))
                elif fault == 2:
                    cluster.node.lose_waiting()
                else:
                    cluster.node.held = not cluster.node.held
                    cluster.node.wake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_things)
            async with trio.open_nursery() as workers:
                for worker in range(16):
                    workers.start_soon(write, worker)
            nursery.cancel_scope.cancel()
        cluster.node.leader = "a"
        cluster.node.release()
        await client.put("last", b"")  # Whatever was still under way is applied by now.
        rows = {entry.key: entry.version for entry in (await client.range("")).entries}
    assert set(rows.values()) == {1}
    assert acknowledged <= rows.keys()
    assert not refused & rows.keys()
    assert len(acknowledged) > 100


async def test_another_node_takes_over() -> None:
    """When a node goes away for good, the next endpoint serves, and nothing is applied twice."""
    async with cluster_of(3) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        assert cluster.connected == [1, 0, 0]
        cluster.listeners[0].close()
        cluster.cut()
        assert await client.put("k", b"1") == 2
        assert cluster.connected == [0, 1, 0]


async def test_a_stopping_node_is_left() -> None:
    """A node that shuts down hands its clients to the others; they notice nothing."""
    async with cluster_of(2) as cluster, client_of(cluster) as client:
        subscription = client.subscribe("t")
        await client.put("k", b"0")
        await cluster.servers[0].drain(BOUND_S)
        await client.publish("t", b"")
        assert (await anext(subscription)).topic == "t"
        assert cluster.connected == [0, 1]


async def test_a_silent_node_is_left() -> None:
    """A node that accepts and then says nothing more costs a moment, not the request."""

    async def greet_and_fall_silent(session: Session) -> None:
        await session.receive()
        session.send_nowait(b"\x93\xa7tremula\x01\x80")
        while await session.receive():
            pass

    async with cluster_of(1) as cluster, trio.open_nursery() as nursery:
        silent = await cluster.network.serve("127.0.0.1", 0, None, greet_and_fall_silent, nursery)
        cluster.listeners.insert(0, silent)
        async with client_of(cluster) as client:
            assert await client.put("k", b"v") == 1
        nursery.cancel_scope.cancel()


async def test_an_idle_link_is_not_given_up() -> None:
    """Silence counts only while something is owed; a ping keeps a waiting request's link."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.get("k")
        started = trio.current_time()
        await until(lambda: trio.current_time() - started > 2 * QUICK.silence_s_max)
        cluster.node.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "member.add", ["d", "x:1"])
            nursery.start_soon(client.get, "k")
            started = trio.current_time()
            await until(lambda: trio.current_time() - started > 2 * QUICK.silence_s_max)
            cluster.node.release()
        assert cluster.listeners[0].statistics().accepted == 1


async def test_no_leader_is_waited_out() -> None:
    """An election in the middle of a request is invisible, and costs no second application."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.leader = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.put, "k", b"1")
            nursery.start_soon(client.get, "k")
            await until(lambda: cluster.servers[0].requests > 8)
            cluster.node.leader = "a"
        assert cluster.node.machine.revision == 2


async def test_no_leader_until_the_timeout_is_definite() -> None:
    """Every attempt was refused, so the write did not happen."""
    async with cluster_of(1) as cluster, client_of(cluster, PATIENT) as client:
        await client.put("k", b"0")
        cluster.node.leader = None
        with pytest.raises(NoLeader):
            await client.put("k", b"1", timeout_ms=50)
        with pytest.raises(NoLeader):
            await client.get("k", timeout_ms=50)


async def test_no_leader_for_the_session_is_definite_too() -> None:
    """A first write that never got a session was never sent."""
    async with cluster_of(1) as cluster, client_of(cluster, PATIENT) as client:
        cluster.node.leader = None
        with pytest.raises(NoLeader):
            await client.put("k", b"1", timeout_ms=50)
        cluster.node.leader = "a"
        assert await client.put("k", b"2") == 1


async def test_a_refusing_node_is_left() -> None:
    """A node that is cut off from its cluster only refuses; another endpoint is tried."""
    async with cluster_of(2) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.leader = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.put, "k", b"1")
            await until(lambda: cluster.connected == [0, 1])
            cluster.node.leader = "a"


async def test_a_timeout_after_sending_is_an_unknown_outcome() -> None:
    """The write may still happen, and here it does."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        with pytest.raises(Timeout) as raised:
            await client.put("k", b"1", timeout_ms=30)
        assert isinstance(raised.value, OutcomeUnknown)
        cluster.node.release()
        await until(lambda: cluster.node.machine.revision == 2)
        assert await client.put("k", b"2") == 3


async def test_a_lost_answer_stays_an_unknown_outcome() -> None:
    """A write that was sent, and could not be sent again before its timeout, may have happened."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        outcomes: list[Any] = []
        client.request_nowait("put", ["k", b"1", None, None], outcomes.append, timeout_ms=60)
        await until(lambda: cluster.node.waiting == 1)
        cluster.listeners[0].close()
        cluster.cut()
        await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], Timeout)
        cluster.node.release()
        await until(lambda: cluster.node.machine.revision == 2)


async def test_a_refusal_after_a_leader_change_stays_unknown() -> None:
    """`no_leader` is definite about its own attempt only, not about the one before it."""
    options = replace(PATIENT, backoff_s=0.03)
    async with cluster_of(1) as cluster, client_of(cluster, options) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        outcomes: list[Any] = []
        client.request_nowait("put", ["k", b"1", None, None], outcomes.append, timeout_ms=100)
        await until(lambda: cluster.node.waiting == 1)
        cluster.node.leader = None
        cluster.node.lose_waiting()
        await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], OutcomeUnknown)


async def test_an_attempt_that_takes_too_long_is_repeated() -> None:
    """The node's own timeout for one attempt is not the end of the request."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.put, "k", b"1")
            await until(lambda: cluster.node.waiting == 2)
            cluster.node.release()
        assert cluster.node.machine.revision == 2


async def test_nobody_there_is_definite() -> None:
    """Without any connection nothing was sent; the last problem is named."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.listeners[0].close()
        cluster.cut()
        await until(lambda: client.node is None)
        with pytest.raises(Unreachable) as raised:
            await client.put("k", b"1", timeout_ms=50)
        assert "ECONNREFUSED" in raised.value.detail
        assert isinstance(raised.value, DefiniteError)


async def test_a_lost_connection_during_administration_is_unknown() -> None:
    """What is not safe to repeat is not repeated."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        cluster.servers[0].extra["hooks.slow"] = lambda args, actor, done: None
        outcomes: list[Any] = []

        async def ask() -> None:
            outcomes.append(await outcome_of(client, "hooks.slow"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: cluster.servers[0].requests == 1)
            cluster.cut()
        assert isinstance(outcomes[0], ConnectionLost)
        assert cluster.servers[0].requests == 1


async def test_an_expired_session_is_replaced() -> None:
    """A client that slept for longer than its session just opens another."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        await expire_sessions(cluster.node)
        assert cluster.node.machine.sessions_count == 0
        assert await client.put("k", b"1") == 2
        assert cluster.node.machine.sessions_count == 1


async def test_a_retry_into_an_expired_session_is_unknown() -> None:
    """The first attempt may have happened: the refusal of the second says nothing about it."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.put("k", b"0")
        cluster.node.held = True
        outcomes: list[Any] = []

        async def write() -> None:
            outcomes.append(await outcome_of(client, "put", "k", b"1", None, None))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: cluster.node.waiting == 1)
            cluster.listeners[0].close()
            cluster.cut()
            cluster.node.drop_waiting()
            cluster.node.release()
            await expire_sessions(cluster.node)
            cluster.listeners[0] = await cluster.network.serve(
                *cluster.endpoints[0], None, cluster.servers[0].attend, nursery
            )
            await until(lambda: bool(outcomes))
            nursery.cancel_scope.cancel()
        assert isinstance(outcomes[0], RetryRefused)
        assert isinstance(outcomes[0], OutcomeUnknown)
        assert outcomes[0].reason == "session_expired"


async def test_a_foreign_authority_is_named(tmp_path: Path) -> None:
    """A client that does not trust the node's certificate says so, and sends nothing."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    async with trio.open_nursery() as nursery:
        server = Server(FakeNode())
        listener = await nursery.start(
            server.run, TcpNetwork(nursery), "127.0.0.1", 0, ours.server_context("a")
        )
        async with open_client(
            [("127.0.0.1", listener.port)], tls=theirs.client_context("x"), options=QUICK
        ) as client:
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get("k", timeout_ms=100)
        nursery.cancel_scope.cancel()


async def test_something_else_on_the_port_is_named() -> None:
    """A server that is no node is told from one that is not there."""

    async def shout(session: Session) -> None:
        session.send_nowait(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await session.receive()

    async with trio.open_nursery() as nursery:
        listener = await TcpNetwork(nursery).serve("127.0.0.1", 0, None, shout, nursery)
        async with open_client([("127.0.0.1", listener.port)], options=QUICK) as client:
            with pytest.raises(Unreachable, match="not a Tremula node"):
                await client.get("k", timeout_ms=50)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "maybe_happened", "error", "expected", "finished_with"),
    [
        ("get", False, NoLeader(), Next.RETRY, NoLeader),
        ("get", True, LeaderChanged(), Next.RETRY, LeaderChanged),
        ("get", True, Malformed("x"), Next.FINISH, Malformed),
        ("put", False, Overloaded("x"), Next.RETRY, Overloaded),
        ("put", True, Timeout(1), Next.RETRY, Timeout),
        ("put", True, Rejected("revision_mismatch"), Next.FINISH, Rejected),
        ("put", False, Rejected("session_expired"), Next.RENEW_SESSION, Rejected),
        ("put", True, Rejected("session_expired"), Next.FINISH, RetryRefused),
        ("put", False, Rejected(REQUEST_TOO_OLD), Next.RENEW_SEQ, Rejected),
        ("put", True, Rejected(REQUEST_TOO_OLD), Next.FINISH, RetryRefused),
        ("put", False, Rejected(RESULT_FORGOTTEN), Next.FINISH, RetryRefused),
        ("put", False, LimitExceeded("x", 1), Next.FINISH, LimitExceeded),
        ("put", True, LimitExceeded("x", 1), Next.FINISH, RetryRefused),
        ("put", True, VersionMismatch([1], [2]), Next.FINISH, RetryRefused),
        ("member.add", False, NoLeader(), Next.RETRY, NoLeader),
        ("member.add", False, Timeout(1), Next.FINISH, Timeout),
        ("hooks.trigger", False, LeaderChanged(), Next.FINISH, LeaderChanged),
    ],
)  # fmt: skip
def test_what_an_error_means(
    name: str, maybe_happened: bool, error: TremulaError, expected: Next, finished_with: type
) -> None:
    """The whole table of what follows an error, by kind of request and by what came before."""
    call = Call(name, [], lambda result: None, 1_000, 1.0, None)
    call.maybe_happened = maybe_happened
    then, final = after_error(call, error)
    assert then is expected
    assert type(final) is finished_with
