"""The NATS text protocol, as much of it as a benchmark of JetStream needs, and fast.

A command is bytes that the caller made before the clock started; what arrives is cut out of the
buffer with `bytes.find`, without a task, a future or a dictionary for each message. Left out: TLS,
authentication, reconnecting. Nothing is left out that would save the server work.
"""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

RECEIVE_BYTES = 1 << 18
_HELLO = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1,'
    b'"lang":"python","version":"1"}\r\n'
)


class NatsFailed(Exception):
    """The server refused something, or the connection ended."""


class Message(NamedTuple):
    """One message as it arrived; `header` is empty without headers."""

    subject: bytes
    subscription: int
    reply: bytes
    header: bytes
    payload: bytes


_message = Message._make


class NatsConnection:
    """One connection. Commands and messages are buffered: `flush` sends, `receive` reads once."""

    def __init__(self, host: str, port: int, timeout_s: float = 5.0) -> None:
        self.address = f"{host}:{port}"
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = b"_INBOX.%x" % id(self)
        self._in = b""
        self._out = bytearray(_HELLO)
        self._subscriptions = 0
        self._inbox_open = False
        self.server_version = ""
        self.send = self._out.extend  # any commands, as bytes

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what is buffered; waits when the socket is full."""
        if self._out:
            self.socket.sendall(self._out)
            self._out.clear()

    def receive(self) -> list[Message]:
        """Read once: all messages that are whole by then."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise NatsFailed(f"{self.address} is silent") from None
        if not data:
            raise NatsFailed(f"{self.address} closed the connection")
        return self._parse(self._in + data if self._in else data)

    def subscribe(self, subject: bytes) -> int:
        """Its number, which messages carry."""
        self._subscriptions += 1
        self.send(b"SUB %b %d\r\n" % (subject, self._subscriptions))
        return self._subscriptions

    def request(self, subject: str, body: object = None) -> dict[str, Any]:
        """Ask the JetStream API and wait; raises NatsFailed when it refuses or is not there.

        Only while nothing else arrives on this connection.
        """
        if not self._inbox_open:
            self._inbox_open = True
            self.subscribe(self.inbox + b".api")
        payload = b"" if body is None else json.dumps(body).encode()
        self.send(publish(subject.encode(), payload, self.inbox + b".api"))
        self.flush()
        while True:
            for message in self.receive():
                if message.subject == self.inbox + b".api":
                    return _answer(subject, message)

    def _parse(self, data: bytes) -> list[Message]:
        """HOT."""
        found: list[Message] = []
        add, find, at = found.append, data.find, data.startswith
        position, end = 0, len(data)
        while (line_end := find(b"\r\n", position)) >= 0:
            start = line_end + 2
            if at(b"MSG ", position):
                fields = data[position + 4 : line_end].split(b" ")
                stop = start + int(fields[-1])
                if stop + 2 > end:
                    break
                reply = fields[2] if len(fields) == 4 else b""
                add(_message((fields[0], int(fields[1]), reply, b"", data[start:stop])))
                position = stop + 2
            elif at(b"HMSG ", position):
                fields = data[position + 5 : line_end].split(b" ")
                stop = start + int(fields[-1])
                if stop + 2 > end:
                    break
                body = start + int(fields[-2])
                reply = fields[2] if len(fields) == 5 else b""
                header = data[start:body]
                add(_message((fields[0], int(fields[1]), reply, header, data[body:stop])))
                position = stop + 2
            else:
                self._control(data[position:line_end])
                position = start
        self._in = data[position:]
        return found

    def _control(self, line: bytes) -> None:
        if line == b"PING":
            self.send(b"PONG\r\n")
        elif line.startswith(b"INFO "):
            self.server_version = str(json.loads(line[5:]).get("version", ""))
        elif line.startswith(b"-ERR"):
            raise NatsFailed(f"{self.address} says {line[4:].decode(errors='replace').strip()}")
        elif not line.startswith((b"PONG", b"+OK")):
            raise NatsFailed(f"{self.address} says {line[:80]!r}, which is not NATS")


def publish(
    subject: bytes, payload: bytes, reply: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """The command that publishes one message; an acknowledgement comes to `reply`."""
    target = b"%b %b" % (subject, reply) if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (target, len(payload), payload)
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    size = len(block) + len(payload)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (target, len(block), size, block, payload)


def _answer(subject: str, message: Message) -> dict[str, Any]:
    if message.header:  # no responders: JetStream is not up yet
        raise NatsFailed(f"{subject}: {message.header.decode().strip()}")
    answer: dict[str, Any] = json.loads(message.payload)
    if "error" in answer:
        raise NatsFailed(f"{subject}: {answer['error'].get('description')}")
    return answer
