"""The benchmark's gRPC client against a server scripted by hand: framing, windows, failure."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.peers import etcd_messages
from tests.peers.grpc_wire import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    CallFailed,
    GrpcConnection,
    frame,
)


class Server:
    """The other end of one connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = GrpcConnection("127.0.0.1", self._listener.getsockname()[1])
        self._socket, _ = self._listener.accept()
        self.client.flush()
        assert self.take(len(PREFACE)) == PREFACE
        assert [kind for kind, *_ in (self.frame(), self.frame())] == [SETTINGS, WINDOW_UPDATE]

    def close(self) -> None:
        for one in (self._socket, self._listener, self.client):
            one.close()

    def take(self, count: int) -> bytes:
        return self._socket.recv(count, socket.MSG_WAITALL)

    def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame that the client sent: kind, flags, stream, body."""
        high, low, kind, flags, stream = struct.unpack(">BHBBI", self.take(9))
        size = high << 16 | low
        return kind, flags, stream, self.take(size) if size else b""

    def silent(self) -> bool:
        """Whether the client has sent nothing more."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._socket.setblocking(True)
        return False

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self, stream: int, message: bytes) -> bytes:
        body = struct.pack(">BI", 0, len(message)) + message
        return (
            frame(HEADERS, END_HEADERS, stream, b"\x88")
            + frame(DATA, 0, stream, body)
            + frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\xbe")
        )


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def test_a_second_call_refers_to_the_headers_of_the_first(server: Server) -> None:
    """HPACK's dynamic table makes the second request's headers six bytes."""
    first, second = server.client.call(b"/x/Y", b"one"), server.client.call(b"/x/Y", b"two")
    server.client.flush()
    kind, flags, stream, block = server.frame()
    assert (kind, flags, stream) == (HEADERS, END_HEADERS, first)
    assert b"/x/Y" in block
    assert b"application/grpc" in block
    assert server.frame() == (DATA, END_STREAM, first, b"\x00\x00\x00\x00\x03one")
    assert server.frame() == (HEADERS, END_HEADERS, second, b"\x83\x86\xc1\xc0\xbf\xbe")
    assert server.frame() == (DATA, END_STREAM, second, b"\x00\x00\x00\x00\x03two")


def test_an_answer_may_arrive_in_any_pieces(server: Server) -> None:
    """Wherever the stream of bytes is cut, the call ends with its message, once."""
    for piece in range(1, 40):
        stream = server.client.call(b"/x/Y", b"")
        data = server.answer(stream, b"reply")
        got: list[tuple[int, bytes]] = []
        for at in range(0, len(data), piece):
            server.send(data[at : at + piece])
            got += server.client.receive()
        assert got == [(stream, b"reply")]


def test_a_call_that_ends_without_a_message_has_failed(server: Server) -> None:
    """gRPC reports an error in headers that end the stream; nothing counts it as an answer."""
    stream = server.client.call(b"/x/Y", b"")
    server.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88"))
    assert server.client.receive() == []
    assert server.client.failed == {stream}


def test_calls_wait_for_the_window_and_go_in_order(server: Server) -> None:
    """No more than 65,535 bytes are sent before the server grants more."""
    server.client.call(b"/x/Y", b"a" * 40_000)
    server.client.call(b"/x/Y", b"b" * 40_000)
    server.client.call(b"/x/Y", b"c")
    server.client.flush()
    assert [server.frame()[0] for _ in range(2)] == [HEADERS, DATA]
    assert server.silent()
    server.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 40_005)))
    server.client.receive()
    server.client.flush()
    assert [server.frame()[3][5:6] for _ in range(4)][1::2] == [b"b", b"c"]


def test_a_ping_is_answered_with_its_own_bytes(server: Server) -> None:
    """etcd measures the connection with pings and would give a silent one up."""
    server.send(frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, b""))
    server.client.receive()
    server.client.flush()
    assert server.frame() == (PING, ACK, 0, b"12345678")
    assert server.frame() == (SETTINGS, ACK, 0, b"")


def test_a_streams_messages_come_one_by_one(server: Server) -> None:
    """Two watch events in one and a half frames are two messages, each as soon as it is whole."""
    stream = server.client.open_stream(b"/x/Watch", b"")
    both = struct.pack(">BI", 0, 2) + b"e1" + struct.pack(">BI", 0, 2) + b"e2"
    server.send(frame(HEADERS, END_HEADERS, stream, b"\x88") + frame(DATA, 0, stream, both[:9]))
    assert server.client.receive() == [(stream, b"e1")]
    server.send(frame(DATA, 0, stream, both[9:]))
    assert server.client.receive() == [(stream, b"e2")]


def test_a_closed_connection_is_an_error(server: Server) -> None:
    """A server that goes away ends the run; it is not an answer that never comes."""
    server.client.call(b"/x/Y", b"")
    server._socket.close()
    with pytest.raises((CallFailed, ConnectionResetError)):
        server.client.receive()


def test_messages_are_protobuf() -> None:
    """The hand-written encoding is the one that etcd's own tools make."""
    assert etcd_messages.put(b"k", b"v" * 3) == b"\x0a\x01k\x12\x03vvv"
    pairs = [(b"k", b"v" * 200)]
    message = etcd_messages.transaction_of_puts(pairs)
    assert message == b"\x12\xd1\x01\x12\xce\x01\x0a\x01k\x12\xc8\x01" + b"v" * 200
    assert etcd_messages.watch_prefix(b"a/") == b"\x0a\x08\x0a\x02a/\x12\x02a0"


@pytest.mark.parametrize(("leader", "expected"), [(300, True), (301, False), (0, False)])
def test_a_status_tells_whether_its_sender_leads(leader: int, expected: bool) -> None:
    """The leader is the member whose own id stands in the field `leader`."""
    number = bytes([leader & 0x7F | 0x80, leader >> 7]) if leader > 127 else bytes([leader])
    status = b"\x0a\x03\x10\xac\x02" + b"\x12\x053.5.1" + b"\x20" + number
    assert etcd_messages.leads(status) is expected
    assert etcd_messages.version(status) == "3.5.1"
