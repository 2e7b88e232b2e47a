"""Byte sessions over real loopback sockets, plain and with TLS."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from cluster.net import Listener, Session, TcpNetwork
from tests.cluster.certificates import Authority
from tests.cluster.waiting import BOUND_S, until

LOOPBACK = "127.0.0.1"


async def echo(session: Session) -> None:
    while data := await session.receive():
        session.send_nowait(data)
        await session.drain()


async def receive_exactly(session: Session, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await session.receive()
        assert part, session.close_reason
        data += part
    return data


@pytest.fixture(params=["plain", "tls"])
def contexts(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """(server's, client's) TLS contexts, or None for plain TCP."""
    if request.param == "plain":
        return None, None
    authority = Authority(tmp_path, "authority")
    return authority.server_context("server"), authority.client_context("alice")


Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


async def test_bytes_arrive_in_order_both_ways(contexts: Contexts, nursery: trio.Nursery) -> None:
    """Several megabytes, more than any socket buffer, come back unchanged."""
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, contexts[0], echo, nursery)
    session = await network.connect(LOOPBACK, listener.port, contexts[1])
    data = bytes(range(256)) * 16_384
    with trio.fail_after(BOUND_S):
        for start in range(0, len(data), 300_000):
            session.send_nowait(data[start : start + 300_000])
        assert session.buffered_bytes > 0
        assert await receive_exactly(session, len(data)) == data
        await session.drain()
    assert session.buffered_bytes == 0
    session.close()
    listener.close()


async def test_the_peer_is_named_by_its_certificate(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Each side sees the common name of the other's verified certificate."""
    authority = Authority(tmp_path, "authority")
    network = TcpNetwork(nursery)
    seen: list[str | None] = []

    async def look(session: Session) -> None:
        seen.append(session.peer.name)
        await echo(session)

    listener = await network.serve(LOOPBACK, 0, authority.server_context("node-a"), look, nursery)
    session = await network.connect(LOOPBACK, listener.port, authority.client_context("alice"))
    session.send_nowait(b"hello")
    with trio.fail_after(BOUND_S):
        assert await receive_exactly(session, 5) == b"hello"
    assert seen == ["alice"]
    assert session.peer.name == "node-a"
    assert session.peer.address == f"{LOOPBACK}:{listener.port}"
    session.close()
    listener.close()


async def test_a_plain_peer_has_no_name(nursery: trio.Nursery) -> None:
    """Without TLS there is nobody to vouch for a name."""
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, None, echo, nursery)
    session = await network.connect(LOOPBACK, listener.port)
    assert session.peer.name is None
    session.close()
    listener.close()


async def test_a_foreign_authority_is_refused_by_the_client(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A server whose certificate another authority signed is an ssl.SSLError, and counted there."""
    server, client = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, server.server_context("node"), echo, nursery)
    with trio.fail_after(BOUND_S), pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        await network.connect(LOOPBACK, listener.port, client.client_context("alice"))
    await until(lambda: listener.statistics().refused_handshake == 1)
    listener.close()


async def test_a_client_without_a_certificate_is_told_why(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The server closes the session, and its alert is the reason that the client sees."""
    authority = Authority(tmp_path, "authority")
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, authority.server_context("node"), echo, nursery)
    with trio.fail_after(BOUND_S):
        session = await network.connect(LOOPBACK, listener.port, authority.client_context(None))
        assert await session.receive() == b""
    assert "certificate required" in str(session.close_reason).lower().replace("_", " ")
    await until(lambda: listener.statistics().refused_handshake == 1)
    listener.close()


async def test_a_silent_stranger_on_a_tls_port_is_closed_in_time(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The handshake is bounded: who never says a word does not hold a connection."""
    context = Authority(tmp_path, "authority").server_context("node")
    listener = await TcpNetwork(nursery, handshake_s=0.05).serve(
        LOOPBACK, 0, context, echo, nursery
    )
    session = await TcpNetwork(nursery).connect(LOOPBACK, listener.port)
    with trio.fail_after(BOUND_S):
        assert await session.receive() == b""
    await until(lambda: listener.statistics().refused_handshake == 1)
    assert listener.statistics().open == 0
    listener.close()


async def test_a_server_that_never_shakes_hands_times_out(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Connecting with TLS to something else that stays silent is a TimeoutError."""

    async def silent(session: Session) -> None:
        while await session.receive():
            pass

    context = Authority(tmp_path, "authority").client_context("alice")
    listener = await TcpNetwork(nursery).serve(LOOPBACK, 0, None, silent, nursery)
    network = TcpNetwork(nursery, connect_s=0.05)
    with trio.fail_after(BOUND_S), pytest.raises(TimeoutError):
        await network.connect(LOOPBACK, listener.port, context)
    listener.close()


async def test_a_slow_peer_is_closed_at_the_bound(
    contexts: Contexts, nursery: trio.Nursery
) -> None:
    """Unsent bytes above the bound close the session, and the reason says so."""
    sessions: list[Session] = []

    async def keep(session: Session) -> None:
        sessions.append(session)
        await trio.sleep_forever()

    network = TcpNetwork(nursery, send_buffer_bytes_max=1_000_000)
    listener = await network.serve(LOOPBACK, 0, contexts[0], keep, nursery)
    client = await network.connect(LOOPBACK, listener.port, contexts[1])
    await until(lambda: bool(sessions))
    for _ in range(1_000):
        sessions[0].send_nowait(bytes(100_000))
    assert sessions[0].closed
    assert "slow peer" in str(sessions[0].close_reason)
    sessions[0].send_nowait(b"nothing happens")
    with trio.fail_after(BOUND_S):
        assert await sessions[0].receive() == b""
        await sessions[0].drain()
    client.close()
    nursery.cancel_scope.cancel()


async def test_closing_wakes_who_waits(contexts: Contexts, nursery: trio.Nursery) -> None:
    """A task in receive gets b"" when its own side closes, and so does the peer."""
    network = TcpNetwork(nursery)
    ended: list[str | None] = []

    async def until_closed(session: Session) -> None:
        assert await session.receive() == b""
        ended.append(session.close_reason)

    listener = await network.serve(LOOPBACK, 0, contexts[0], until_closed, nursery)
    session = await network.connect(LOOPBACK, listener.port, contexts[1])
    await until(lambda: listener.statistics().open == 1)
    async with trio.open_nursery() as inner:
        inner.start_soon(until_closed, session)
        await trio.testing.wait_all_tasks_blocked()
        session.close("enough")
        session.close("too late to matter")
    await until(lambda: len(ended) == 2)
    assert "enough" in ended
    listener.close()


async def test_connections_above_the_bound_are_refused(nursery: trio.Nursery) -> None:
    """One too many is closed at once and counted; a place that became free can be taken."""
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, None, echo, nursery, connections_max=1)
    first = await network.connect(LOOPBACK, listener.port)
    await until(lambda: listener.statistics().open == 1)
    second = await network.connect(LOOPBACK, listener.port)
    with trio.fail_after(BOUND_S):
        assert await second.receive() == b""
        assert listener.statistics().refused_full == 1
        first.close()
        await until(lambda: listener.statistics().open == 0)
        third = await network.connect(LOOPBACK, listener.port)
        third.send_nowait(b"x")
        assert await third.receive() == b"x"
    third.close()
    listener.close()


async def test_a_taken_port_is_named(nursery: trio.Nursery) -> None:
    """Binding twice raises at once, with the address in the message."""
    network = TcpNetwork(nursery)
    listener = await network.serve(LOOPBACK, 0, None, echo, nursery)
    with pytest.raises(OSError, match=f"{LOOPBACK}:{listener.port}") as raised:
        await network.serve(LOOPBACK, listener.port, None, echo, nursery)
    assert raised.value.errno == errno.EADDRINUSE
    listener.close()


async def test_nobody_listening_is_an_oserror(nursery: trio.Nursery) -> None:
    """A closed port is refused at once, and the message names the address."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"{LOOPBACK}:{port}: ECONNREFUSED"):
            await TcpNetwork(nursery).connect(LOOPBACK, port)


async def test_a_closed_listener_keeps_open_sessions(nursery: trio.Nursery) -> None:
    """Closing the listener refuses newcomers only."""
    network = TcpNetwork(nursery)
    listener: Listener = await network.serve(LOOPBACK, 0, None, echo, nursery)
    session = await network.connect(LOOPBACK, listener.port)
    await until(lambda: listener.statistics().open == 1)
    listener.close()
    listener.close()
    with pytest.raises(OSError, match="ECONNREFUSED"):
        await network.connect(LOOPBACK, listener.port)
    session.send_nowait(b"still here")
    with trio.fail_after(BOUND_S):
        assert await receive_exactly(session, 10) == b"still here"
    session.close()
