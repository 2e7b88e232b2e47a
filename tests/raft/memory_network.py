"""A network in memory for tests of the transport: sessions that can be slow in one direction."""

from __future__ import annotations

import ssl
from collections import deque

import trio

from cluster.byte_session import PeerIdentity
from cluster.net import CONNECTIONS_MAX, Handler, Listener, ListenerStatistics, Session


class MemorySession:
    """One end of a connection. What is sent arrives at once, or when the test lets it."""

    def __init__(self, address: str) -> None:
        self.peer = PeerIdentity(address)
        self.other: MemorySession | None = None
        self.close_reason: str | None = None
        self.held = False  # what arrives is not handed out
        self.ended = False  # by the other side
        self._arrived: deque[bytes] = deque()
        self._news = trio.Event()

    @property
    def closed(self) -> bool:
        return self.close_reason is not None

    @property
    def buffered_bytes(self) -> int:
        return 0

    async def receive(self) -> bytes:
        while not self.closed and (self.held or not (self._arrived or self.ended)):
            await self._news.wait()
            self._news = trio.Event()
        await trio.lowlevel.checkpoint()
        if self.closed:
            return b""
        if self._arrived:
            return self._arrived.popleft()
        self.close_reason = "closed by the other side"
        return b""

    def send_nowait(self, data: bytes) -> None:
        if not self.closed and self.other is not None:
            self.other._arrived.append(data)
            self.other._news.set()

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self, reason: str = "closed") -> None:
        """At once on this side; the other side first gets what was sent before."""
        self.close_reason = self.close_reason or reason
        self._news.set()
        if self.other is not None:
            self.other.ended = True
            self.other._news.set()

    def let_go(self) -> None:
        """Hand out what was held."""
        self.held = False
        self._news.set()


class _Listening:
    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self._network = network

    def close(self) -> None:
        self._network.handlers.pop(f"{self.host}:{self.port}", None)

    def statistics(self) -> ListenerStatistics:
        return ListenerStatistics(open=0, accepted=0, refused_full=0, refused_handshake=0)


class MemoryNetwork:
    """Implements `cluster.net.Network`. `answers_held` names addresses that answer late."""

    def __init__(self) -> None:
        self.handlers: dict[str, tuple[Handler, trio.Nursery]] = {}
        self.sessions: list[tuple[str, MemorySession]] = []  # (dialled address, dialling end)
        self.answers_held: set[str] = set()

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Session:
        await trio.lowlevel.checkpoint()
        address = f"{host}:{port}"
        if address not in self.handlers:
            raise ConnectionRefusedError(address)
        handler, nursery = self.handlers[address]
        near, far = MemorySession(address), MemorySession("somewhere:1")
        near.other, far.other = far, near
        near.held = address in self.answers_held
        self.sessions.append((address, near))

        async def attend() -> None:
            try:
                await handler(far)
            finally:
                far.close()

        nursery.start_soon(attend)
        return near

    async def serve(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        handler: Handler,
        nursery: trio.Nursery,
        connections_max: int = CONNECTIONS_MAX,
    ) -> Listener:
        await trio.lowlevel.checkpoint()
        self.handlers[f"{host}:{port}"] = (handler, nursery)
        return _Listening(self, f"{host}:{port}")

    def dialled(self, address: str) -> list[MemorySession]:
        """The open sessions that were dialled to `address`."""
        return [s for dialled, s in self.sessions if dialled == address and not s.closed]
