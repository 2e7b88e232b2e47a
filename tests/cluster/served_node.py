"""A served fake node, and connections to it that a test closes with it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cluster.net import TcpNetwork
from cluster.server import Server, ServerLimits
from tests.cluster.fake_node import FakeNode
from tests.cluster.raw_client import RawClient

OK, ERROR, EVENTS, BOOKMARK, CHANGE, RESULTS = 0, 1, 2, 3, 4, 5


NO_SESSION = [0, 0, 5_000]


class Port:
    """A served fake node."""

    def __init__(self, node: FakeNode, server: Server, network: TcpNetwork, port: int) -> None:
        self.node = node
        self.server = server
        self.network = network
        self.port = port
        self.clients: list[RawClient] = []

    async def connect(self, tls: ssl.SSLContext | None = None) -> RawClient:
        """A connection that did not greet yet."""
        client = RawClient(await self.network.connect("127.0.0.1", self.port, tls))
        self.clients.append(client)
        return client

    async def open(self) -> RawClient:
        """A greeted connection."""
        client = await self.connect()
        greeting = await client.greet()
        assert greeting[:2] == ["tremula", 1]
        return client

    def count(self, name: str) -> int:
        """A counter of the server."""
        return self.server.statistics().counts.get(name, 0)


@asynccontextmanager
async def served(
    limits: ServerLimits | None = None,
    tls: ssl.SSLContext | None = None,
    certificate_required: bool = False,
) -> AsyncIterator[Port]:
    """Serve a new fake node for the time of the block."""
    node = FakeNode()
    server = Server(node, limits=limits, certificate_required=certificate_required)
    async with trio.open_nursery() as nursery:
        network = TcpNetwork(nursery)
        listener = await nursery.start(server.run, network, "127.0.0.1", 0, tls)
        nursery.start_soon(node.run)
        port = Port(node, server, network, listener.port)
        try:
            yield port
        finally:
            for client in port.clients:
                client.session.close()
        nursery.cancel_scope.cancel()
    assert node.on_flush == []
    assert node.on_applied == []
