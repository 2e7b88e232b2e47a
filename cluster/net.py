"""The network as the cluster sees it, for clients and peers alike: sessions of bytes.

`Network` and `Session` are what everything above is written against, so that a simulator can stand
in for both. `TcpNetwork` is the real one: non-blocking sockets under trio, with or without TLS.
Everything that a stranger can make last or grow is bounded: the TLS handshake in time, connections
in number, unsent bytes per session.

May not: know what the bytes mean, or retry anything.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from cluster.byte_session import PeerIdentity, TcpSession, TlsSession

__all__ = [
    "Handler", "Listener", "ListenerStatistics", "Network", "PeerIdentity", "Session", "TcpNetwork",
]  # fmt: skip

HANDSHAKE_S = 5.0
CONNECT_S = 5.0
SEND_BUFFER_BYTES_MAX = 64 * 1024 * 1024
CONNECTIONS_MAX = 1024
# A silent peer (power loss, a cut cable) is noticed by the kernel within half a minute.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 15, 5, 3
UNACKNOWLEDGED_MS = 30_000
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
OUT_OF_DESCRIPTORS_PAUSE_S = 0.1


class Session(Protocol):
    """A connected, ordered, authenticated stream of bytes."""

    @property
    def peer(self) -> PeerIdentity:
        """Who is at the other end."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes sent that the network has not taken yet: the sign of a slow peer."""

    @property
    def closed(self) -> bool:
        """True once nothing can be sent or received any more."""

    @property
    def close_reason(self) -> str | None:
        """Why it is closed, for people; None while it is open."""

    async def receive(self) -> bytes:
        """The next bytes; `b""` once the session is closed. Never raises for the network."""

    def send_nowait(self, data: bytes) -> None:
        """Send without waiting; nothing happens on a closed session."""

    async def drain(self) -> None:
        """Wait until nothing is buffered, or the session is closed."""

    def close(self, reason: str = "closed") -> None:
        """Close at once, dropping what is buffered."""


Handler = Callable[[Session], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatistics:
    """What came to a listener so far."""

    open: int
    accepted: int
    refused_full: int
    refused_handshake: int


class Listener(Protocol):
    """A bound address whose connections go to a handler, until it is closed."""

    @property
    def host(self) -> str:
        """The address that was bound."""

    @property
    def port(self) -> int:
        """The port that was bound (the real one, if 0 was asked for)."""

    def close(self) -> None:
        """Accept no more; sessions that are open stay open."""

    def statistics(self) -> ListenerStatistics:
        """Counters for metrics."""


class Dialer(Protocol):
    """Opens sessions."""

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Session:
        """A new session; raises OSError (TimeoutError and ssl.SSLError are such)."""


class Network(Dialer, Protocol):
    """Opens and accepts sessions."""

    async def serve(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        handler: Handler,
        nursery: trio.Nursery,
        connections_max: int = CONNECTIONS_MAX,
    ) -> Listener:
        """Bind now (raises OSError) and run `handler(session)` in `nursery` for each connection.

        The session is closed when its handler returns.
        """


class TcpNetwork:
    """The real network. Its sessions may not outlive the nursery, which holds their writers."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        send_buffer_bytes_max: int = SEND_BUFFER_BYTES_MAX,
        handshake_s: float = HANDSHAKE_S,
        connect_s: float = CONNECT_S,
    ) -> None:
        self._nursery = nursery
        self._send_buffer_bytes_max = send_buffer_bytes_max
        self._handshake_s = handshake_s
        self._connect_s = connect_s

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Session:
        """See `Network.connect`; tries each address of `host`, all within `connect_s`."""
        with trio.move_on_after(self._connect_s):
            sock = await _connect_any(host, port)
            try:
                return await self._session(sock, tls, False, server_name or host)
            except BaseException:
                sock.close()
                raise
        raise TimeoutError(errno.ETIMEDOUT, f"no connection within {self._connect_s} s")

    async def serve(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        handler: Handler,
        nursery: trio.Nursery,
        connections_max: int = CONNECTIONS_MAX,
    ) -> Listener:
        """See `Network.serve`."""
        sock = await _listen(host, port)
        listener = TcpListener(sock, connections_max)

        async def attend(client: socket.socket) -> None:
            try:
                with client:
                    await self._attend(client, tls, handler, listener)
            finally:
                listener.open -= 1

        nursery.start_soon(listener.accept_all, lambda client: nursery.start_soon(attend, client))
        return listener

    async def _attend(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        handler: Handler,
        listener: TcpListener,
    ) -> None:
        session: Session | None = None
        try:
            with trio.move_on_after(self._handshake_s):
                session = await self._session(sock, tls, True, None)
        except OSError:
            session = None
        if session is None:
            listener.refused_handshake += 1
            return
        try:
            await handler(session)
        finally:
            session.close()

    async def _session(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        server_side: bool,
        server_name: str | None,
    ) -> Session:
        _configure(sock)
        peer = PeerIdentity(_text_address(sock.getpeername()))
        raw = TcpSession(sock, peer, self._nursery.start_soon, self._send_buffer_bytes_max)
        if tls is None:
            return raw
        session = TlsSession(raw, tls, server_side, server_name)
        await session.handshake()
        return session


class TcpListener:
    """The accepting end of `TcpNetwork.serve`."""

    def __init__(self, sock: socket.socket, connections_max: int) -> None:
        name = sock.getsockname()
        self.host: str = name[0]
        self.port: int = name[1]
        self.open = 0
        self.accepted = 0
        self.refused_full = 0
        self.refused_handshake = 0
        self._socket = sock
        self._connections_max = connections_max

    def close(self) -> None:
        """See `Listener.close`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def statistics(self) -> ListenerStatistics:
        """See `Listener.statistics`."""
        return ListenerStatistics(
            open=self.open,
            accepted=self.accepted,
            refused_full=self.refused_full,
            refused_handshake=self.refused_handshake,
        )

    async def accept_all(self, attend: Callable[[socket.socket], None]) -> None:
        """Accept until closed; a connection above the bound is closed at once and counted."""
        try:
            while self._socket.fileno() >= 0:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    client, _ = self._socket.accept()
                except OSError as error:
                    # What a client did (it went away again) is not our problem; a full descriptor
                    # table is, and would make this loop spin.
                    if error.errno in OUT_OF_DESCRIPTORS:
                        await trio.sleep(OUT_OF_DESCRIPTORS_PAUSE_S)
                    continue
                if self.open >= self._connections_max:
                    self.refused_full += 1
                    client.close()
                    continue
                self.accepted += 1
                self.open += 1
                attend(client)
        except trio.ClosedResourceError:
            pass
        finally:
            self.close()


def _configure(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):  # Linux has all four, other systems some.
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _connect_any(host: str, port: int) -> socket.socket:
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    problem: OSError = OSError(f"{host}: no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            problem = OSError(code, f"{_text_address(address)}: {errno.errorcode.get(code, code)}")
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise problem


async def _listen(host: str, port: int) -> socket.socket:
    """A listening socket on the first address of `host`, IPv4 before IPv6 ("localhost" is both)."""
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses.sort(key=lambda item: item[0] != socket.AF_INET)
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(socket.SOMAXCONN)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from error
    return sock


def _text_address(address: tuple[object, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
