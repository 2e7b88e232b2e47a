"""The benchmark's NATS client against a server scripted by hand: parsing, headers, failure."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.peers.nats_wire import Message, NatsConnection, NatsFailed, publish


class Server:
    """The other end of one connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = NatsConnection("127.0.0.1", self._listener.getsockname()[1])
        self._socket, _ = self._listener.accept()
        self.client.flush()
        self._lines = self._socket.makefile("rb")
        assert self.line().startswith(b"CONNECT {")

    def close(self) -> None:
        for one in (self._lines, self._socket, self._listener, self.client):
            one.close()

    def line(self) -> bytes:
        return self._lines.readline().removesuffix(b"\r\n")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


PLAIN = b"MSG a.b 7 5\r\nhello\r\n"
WITH_REPLY = b"MSG a.b 7 $JS.ACK.x 2\r\n\r\n\r\n"
HEADERS = b"NATS/1.0\r\nA: 1\r\n\r\n"
WITH_HEADERS = b"HMSG c 12 _R %d %d\r\n%bMSG\r\n" % (len(HEADERS), len(HEADERS) + 3, HEADERS)
STREAM = b'INFO {"server":1}\r\n' + PLAIN + b"PONG\r\n" + WITH_REPLY + WITH_HEADERS + b"+OK\r\n"
EXPECTED = [
    Message(b"a.b", 7, b"", b"", b"hello"),
    Message(b"a.b", 7, b"$JS.ACK.x", b"", b"\r\n"),
    Message(b"c", 12, b"_R", HEADERS, b"MSG"),
]


def test_messages_may_arrive_in_any_pieces(server: Server) -> None:
    """Wherever the stream of bytes is cut, each message comes once, whole, and in order."""
    for piece in range(1, len(STREAM) + 1):
        got: list[Message] = []
        for at in range(0, len(STREAM), piece):
            server.send(STREAM[at : at + piece])
            got += server.client.receive()
        assert got == EXPECTED


def test_a_payload_may_look_like_the_protocol(server: Server) -> None:
    """The size in the line decides where a message ends, not what stands in it."""
    server.send(b"MSG x 1 %d\r\n%b\r\n" % (len(PLAIN), PLAIN) + PLAIN)
    assert [message.payload for message in server.client.receive()] == [PLAIN, b"hello"]


def test_a_status_is_a_message_with_a_header_alone(server: Server) -> None:
    """An empty pull ends with a status line and no payload."""
    block = b"NATS/1.0 408 Request Timeout\r\n\r\n"
    server.send(b"HMSG inbox 3 %d %d\r\n%b\r\n" % (len(block), len(block), block))
    assert server.client.receive() == [Message(b"inbox", 3, b"", block, b"")]


def test_a_ping_is_answered(server: Server) -> None:
    """A server gives up a client that is silent."""
    server.send(b"PING\r\n")
    assert server.client.receive() == []
    server.client.flush()
    assert server.line() == b"PONG"


@pytest.mark.parametrize("line", [b"-ERR 'Unknown Protocol Operation'", b"HTTP/1.1 400"])
def test_what_is_no_message_is_an_error(server: Server, line: bytes) -> None:
    """An error of the server, and a server that is none, end the run."""
    server.send(line + b"\r\n")
    with pytest.raises(NatsFailed, match="says"):
        server.client.receive()


def test_a_closed_connection_is_an_error(server: Server) -> None:
    """A server that goes away ends the run; it is not a message that never comes."""
    server._lines.close()
    server._socket.close()
    with pytest.raises((NatsFailed, ConnectionResetError)):
        server.client.receive()


def test_commands_are_buffered_until_the_flush(server: Server) -> None:
    """Many messages are one write."""
    server.client.subscribe(b"a.>")
    assert server.client.subscribe(b"b") == 2
    server.client.send(publish(b"a.b", b"one") + publish(b"a.b", b"two", b"_R.1"))
    server.client.flush()
    lines = [server.line() for _ in range(6)]
    assert lines == [b"SUB a.> 1", b"SUB b 2", b"PUB a.b 3", b"one", b"PUB a.b _R.1 3", b"two"]


def test_headers_are_counted_apart() -> None:
    """The first size is that of the headers, the second that of everything."""
    command = publish(b"a", b"data", b"_R", {"Nats-Msg-Id": "7"})
    assert command == b"HPUB a _R 28 32\r\nNATS/1.0\r\nNats-Msg-Id: 7\r\n\r\ndata\r\n"


def test_a_refusal_of_the_api_is_an_error(server: Server) -> None:
    """JetStream answers a request that it refuses with a description, and without it nobody."""
    inbox = server.client.inbox + b".api"
    refusal = b'{"error":{"code":400,"description":"no such stream"}}'
    server.send(b"MSG %b 1 %d\r\n%b\r\n" % (inbox, len(refusal), refusal))
    with pytest.raises(NatsFailed, match=r"STREAM.INFO.x: no such stream"):
        server.client.request("$JS.API.STREAM.INFO.x")
    nobody = b"NATS/1.0 503\r\n\r\n"
    server.send(b"HMSG %b 1 %d %d\r\n%b\r\n" % (inbox, len(nobody), len(nobody), nobody))
    with pytest.raises(NatsFailed, match="503"):
        server.client.request("$JS.API.INFO")
    server.send(b'MSG %b 1 14\r\n{"streams": 3}\r\n' % inbox)
    assert server.client.request("$JS.API.INFO") == {"streams": 3}
