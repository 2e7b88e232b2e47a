"""A client as somebody else would write it from docs/protocol.md: bytes in, bytes out."""

from __future__ import annotations

from typing import Any

import msgpack
import trio

from cluster.net import Session
from tests.cluster.waiting import BOUND_S


class RawClient:
    """One connection that sends exactly what a test says and returns exactly what arrives."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._unpacker = msgpack.Unpacker()

    async def greet(self) -> list[Any]:
        """Exchange greetings; returns the node's."""
        self.send(["tremula", [1], {"client": "raw"}])
        return list(await self.receive())

    def send(self, *messages: Any) -> None:
        """Send messages in one write."""
        self.session.send_nowait(b"".join(msgpack.packb(message) for message in messages))

    async def receive(self) -> Any:
        """The next message; None once the node has closed the connection."""
        with trio.fail_after(BOUND_S):
            while True:
                for message in self._unpacker:
                    return message
                chunk = await self.session.receive()
                if not chunk:
                    return None
                self._unpacker.feed(chunk)

    async def ask(self, request_id: int, name: str, *args: Any, meta: Any = None) -> list[Any]:
        """Send one request and return its [status, value]; nothing else may arrive before it."""
        self.send([request_id, name, list(args), meta])
        answered, status, value = await self.receive()
        assert answered == request_id
        return [status, value]
