"""gRPC over HTTP/2 (RFC 9113), as much of it as a benchmark of etcd needs, and fast.

A call costs the client about ten microseconds, a quarter of what the usual clients take, so that
on shared cores the server keeps the machine to itself. For that it leaves out: TLS, padding,
CONTINUATION, and the decoding of response headers (a unary call has failed exactly if it ended
without a message). Requests use HPACK's dynamic table as ordinary clients do: the server's work
per request is the usual one.
"""

from __future__ import annotations

import socket
import struct
from collections import deque

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
SETTING_TABLE_SIZE, SETTING_INITIAL_WINDOW = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_MAX = (1 << 31) - 1
"""Granted to the server once: a run receives less than these 2 GiB on one connection."""
RECEIVE_BYTES = 1 << 18

_FRAME = struct.Struct(">BHBBI")
_MESSAGE = struct.Struct(">BI")


class CallFailed(Exception):
    """The server ended a call without a message, or the connection."""


class GrpcConnection:
    """One connection. Calls and answers are buffered: `flush` sends, `receive` reads once."""

    def __init__(self, host: str, port: int, timeout_s: float = 5.0) -> None:
        self.authority = f"{host}:{port}"
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the kernel's own timeout: settimeout() would cost a poll before every read
        self.socket.settimeout(None)
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._out = bytearray(PREFACE)
        settings = struct.pack(">HIHI", SETTING_TABLE_SIZE, 0, SETTING_INITIAL_WINDOW, WINDOW_MAX)
        self._out += frame(SETTINGS, 0, 0, settings)
        self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - 65_535))
        self._in = b""
        self._next_stream = 1
        self._window = 65_535
        self._blocked: deque[tuple[bytes, int]] = deque()
        self._indexed_path: bytes | None = None
        self._messages: dict[int, bytes] = {}
        self._streams: set[int] = set()
        self.failed: set[int] = set()

    def fileno(self) -> int:
        return self.socket.fileno()

    def call(self, path: bytes, message: bytes) -> int:
        """Begin a unary call; its stream id."""
        return self._begin(path, message, END_STREAM)

    def open_stream(self, path: bytes, message: bytes) -> int:
        """Begin a streaming call with its first message."""
        stream = self._begin(path, message, 0)
        self._streams.add(stream)
        return stream

    def flush(self) -> None:
        """Send what is buffered; waits when the socket is full."""
        if self._out:
            self.socket.sendall(self._out)
            self._out.clear()

    def receive(self) -> list[tuple[int, bytes]]:
        """Read once. Finished unary calls and stream messages, each as (stream id, message);
        failed calls are in `failed`. Raises CallFailed when the connection ended."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            raise CallFailed(f"{self.authority} is silent") from None
        if not data:
            raise CallFailed(f"{self.authority} closed the connection")
        return self._parse(self._in + data if self._in else data)

    def request(self, path: bytes, message: bytes) -> bytes:
        """One unary call, waited for. Only on a connection without other calls."""
        stream = self.call(path, message)
        self.flush()
        while True:
            for finished, answer in self.receive():
                if finished == stream:
                    return answer
            self.flush()
            if stream in self.failed:
                raise CallFailed(f"{path.decode()} failed at {self.authority}")

    def close(self) -> None:
        self.socket.close()

    def _begin(self, path: bytes, message: bytes, end: int) -> int:
        stream = self._next_stream
        self._next_stream += 2
        size = len(message) + 5
        head = self._headers(path)
        block = (
            _FRAME.pack(0, len(head), HEADERS, END_HEADERS, stream)
            + head
            + _FRAME.pack(size >> 16, size & 0xFFFF, DATA, end, stream)
            + _MESSAGE.pack(0, len(message))
            + message
        )
        if self._blocked or size > self._window:
            self._blocked.append((block, size))
        else:
            self._window -= size
            self._out += block
        return stream

    def _headers(self, path: bytes) -> bytes:
        if path == self._indexed_path:
            return b"\x83\x86\xc1\xc0\xbf\xbe"  # POST, http, and the four entries made below
        if self._indexed_path is None:
            self._indexed_path = path
            authority = self.authority.encode()
            return (
                b"\x83\x86"
                + (b"\x44" + _text(path))
                + (b"\x41" + _text(authority))
                + (b"\x5f" + _text(b"application/grpc"))
                + (b"\x40" + _text(b"te") + _text(b"trailers"))
            )
        return b"\x83\x86\x04" + _text(path) + b"\xc0\xbf\xbe"

    def _parse(self, data: bytes) -> list[tuple[int, bytes]]:
        finished: list[tuple[int, bytes]] = []
        messages = self._messages
        position, end = 0, len(data)
        while position + 9 <= end:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            stop = position + 9 + (high << 16 | low)
            if stop > end:
                break
            if kind == DATA:
                body = data[position + 9 : stop]
                messages[stream] = messages[stream] + body if stream in messages else body
                if stream in self._streams:
                    self._split(stream, finished)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    message = messages.pop(stream, None)
                    if message is None:
                        self.failed.add(stream)
                    else:
                        finished.append((stream, message[5:]))
            else:
                self._control(kind, flags, stream, data[position + 9 : stop])
            position = stop
        self._in = data[position:]
        return finished

    def _split(self, stream: int, finished: list[tuple[int, bytes]]) -> None:
        """A stream's messages, each as soon as it is whole."""
        data = self._messages[stream]
        while len(data) >= 5 and len(data) >= 5 + (size := _MESSAGE.unpack_from(data)[1]):
            finished.append((stream, data[5 : 5 + size]))
            data = data[5 + size :]
        self._messages[stream] = data

    def _control(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += int(struct.unpack(">I", body)[0])
            while self._blocked and self._blocked[0][1] <= self._window:
                block, size = self._blocked.popleft()
                self._window -= size
                self._out += block
        elif kind == SETTINGS and not flags & ACK:
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, body)
        elif kind == RESET:
            self.failed.add(stream)
        elif kind == GOAWAY:
            raise CallFailed(f"{self.authority} says GOAWAY: {body[8:].decode(errors='replace')}")


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _FRAME.pack(len(body) >> 16, len(body) & 0xFFFF, kind, flags, stream) + body


def _text(text: bytes) -> bytes:
    """An HPACK string without Huffman coding, shorter than 127 bytes (RFC 7541 §5.2)."""
    return bytes([len(text)]) + text
