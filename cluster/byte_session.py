"""Byte sessions over a socket: plain TCP, and TLS in the same shape.

A session is driven from one trio thread. `send_nowait` tries the socket at once, so the task that
decides also sends; only when the socket is full does a writer task exist, and it ends when the rest
is out. TLS runs through memory BIOs, so that its sends are as immediate (a hand-over to another
task halves the rate of small requests).

May not: know what the bytes mean; raise for what the network does. A broken connection is `b""`
from `receive`, and `close_reason` says why.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from cluster.security.tls import Subject, subject_of

RECEIVE_BYTES = 65_536  # Below glibc's mmap threshold: a larger buffer costs page faults per call.

Spawn = Callable[[Callable[[], Awaitable[None]]], None]


class PeerIdentity(NamedTuple):
    """Who is at the other end: the address, and who the verified certificate says it is, if any."""

    address: str
    subject: Subject | None = None

    @property
    def name(self) -> str | None:
        """The name on the certificate; None in plaintext."""
        return self.subject.name if self.subject else None


class TcpSession:
    """A connected non-blocking TCP socket."""

    __slots__ = (
        "_drained", "_pending", "_pending_max", "_socket", "_spawn", "_writing",
        "close_reason", "closed", "peer",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, peer: PeerIdentity, spawn: Spawn, send_buffer_bytes_max: int
    ) -> None:
        self.peer = peer
        self.closed = False
        self.close_reason: str | None = None
        self._socket = sock
        self._spawn = spawn
        self._pending = bytearray()
        self._pending_max = send_buffer_bytes_max
        self._writing = False
        self._drained = trio.lowlevel.ParkingLot()

    @property
    def buffered_bytes(self) -> int:
        """Bytes given to `send_nowait` that the socket has not taken yet."""
        return len(self._pending)

    async def receive(self) -> bytes:
        """The next bytes, at most `RECEIVE_BYTES`; `b""` once the session is closed."""
        # Waiting first is fair (a flooding peer cannot keep the loop) and saves the failing call.
        while not self.closed:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError) as error:
                self.close(f"receive failed: {error}")
                break
            if not data:
                self.close("closed by the peer")
            return data
        return b""

    def send_nowait(self, data: bytes) -> None:
        """Send or buffer `data`; closes the session when the peer takes too little (slow peer)."""
        if self.closed or not data:
            return
        if not self._pending:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.close(f"send failed: {error}")
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._pending += data
        if len(self._pending) > self._pending_max:
            self.close(f"slow peer: more than {self._pending_max} bytes unsent")
        elif not self._writing:
            self._writing = True
            self._spawn(self._write_rest)

    async def drain(self) -> None:
        """Wait until everything that was sent is with the socket, or the session is closed."""
        while self._pending and not self.closed:
            await self._drained.park()

    def close(self, reason: str = "closed") -> None:
        """Close at once; what is still buffered is dropped. The first reason is kept."""
        if self.closed:
            return
        self.closed = True
        self.close_reason = reason
        self._pending.clear()
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._drained.unpark_all()

    async def _write_rest(self) -> None:
        try:
            while self._pending:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    sent = self._socket.send(self._pending)
                except (BlockingIOError, InterruptedError):
                    continue
                del self._pending[:sent]
        except (OSError, trio.ClosedResourceError) as error:
            self.close(f"send failed: {error}")
        finally:
            self._writing = False
            if self._pending:
                self.close("the network was shut down")  # Cancelled: nobody would write the rest.
            self._drained.unpark_all()


class TlsSession:
    """TLS over a `TcpSession`, through memory BIOs. `handshake` comes first, and only once."""

    __slots__ = ("_incoming", "_outgoing", "_raw", "_tls", "peer")

    def __init__(
        self, raw: TcpSession, context: ssl.SSLContext, server_side: bool, server_name: str | None
    ) -> None:
        self.peer = raw.peer
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)

    @property
    def closed(self) -> bool:
        return self._raw.closed

    @property
    def close_reason(self) -> str | None:
        return self._raw.close_reason

    @property
    def buffered_bytes(self) -> int:
        """Encrypted bytes that the socket has not taken yet."""
        return self._raw.buffered_bytes

    async def handshake(self) -> None:
        """Shake hands; raises OSError (ssl.SSLError is one) when it fails. The caller bounds it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                await self._feed()
                if self._raw.closed:
                    raise ConnectionError(f"TLS handshake: {self._raw.close_reason}") from None
            except ssl.SSLError as error:
                self._flush()  # The alert tells the other side what was wrong.
                self._raw.close(f"TLS handshake: {error}")
                raise
            else:
                self._flush()
                self.peer = PeerIdentity(self.peer.address, subject_of(self._tls.getpeercert()))
                return

    async def receive(self) -> bytes:
        """The next decrypted bytes; `b""` once the session is closed."""
        while not self._raw.closed:
            try:
                data = self._read_available()
            except ssl.SSLError as error:
                self.close(f"TLS: {error}")
                break
            if data:
                return data
            await self._feed()
        return b""

    def send_nowait(self, data: bytes) -> None:
        """Encrypt, then send or buffer; see `TcpSession.send_nowait`."""
        if self._raw.closed or not data:
            return
        try:
            done = self._tls.write(data)
            while done < len(data):
                done += self._tls.write(memoryview(data)[done:])
        except ssl.SSLError as error:
            self._raw.close(f"TLS: {error}")
            return
        self._flush()

    async def drain(self) -> None:
        """See `TcpSession.drain`."""
        await self._raw.drain()

    def close(self, reason: str = "closed") -> None:
        """Say goodbye if the socket takes it, and close at once."""
        if self._raw.closed:
            return
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # Wanting the peer's own goodbye is the normal case; we do not wait for it.
        self._flush()
        self._raw.close(reason)

    def _read_available(self) -> bytes:
        """Everything that is decrypted so far: one TCP chunk usually holds several records."""
        parts = []
        try:
            while part := self._tls.read(RECEIVE_BYTES):
                parts.append(part)
            self._raw.close("closed by the peer")  # b"" is the peer's goodbye.
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self._flush()  # A key update asks for an answer.
        except ssl.SSLZeroReturnError:
            self._raw.close("closed by the peer")
        return b"".join(parts)

    async def _feed(self) -> None:
        data = await self._raw.receive()
        if data:
            self._incoming.write(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.send_nowait(self._outgoing.read())
