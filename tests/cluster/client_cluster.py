"""What tests of the client talk to: client ports of one fake node, and quick options."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import trio

from cluster.client import Client, ClientOptions, open_client
from cluster.errors import (
    TremulaError,
)
from cluster.limits import SESSION_IDLE_MS, SESSION_TOUCH_MS
from cluster.net import Listener, TcpNetwork
from cluster.operations import pack
from cluster.server import Server, ServerLimits
from tests.cluster.fake_node import FakeNode
from tests.cluster.waiting import BOUND_S, until

QUICK = ClientOptions(
    backoff_s=0.001,
    backoff_s_max=0.01,
    ping_after_s=0.05,
    silence_s_max=0.2,
    refusals_s_max=0.02,
    attempt_timeout_ms=200,
)


# No second attempt is under way when a short timeout ends.
PATIENT = replace(QUICK, backoff_s=0.2, backoff_s_max=0.2)


class Cluster:
    """Some client ports of one and the same state: what a client sees of a cluster."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.node = FakeNode()
        self.network = TcpNetwork(nursery)
        self.servers: list[Server] = []
        self.listeners: list[Listener] = []
        self._nursery = nursery

    async def add_port(self, limits: ServerLimits | None = None) -> None:
        """Open one more client port."""
        server = Server(self.node, limits=limits)
        listener = await self._nursery.start(server.run, self.network, "127.0.0.1", 0)
        self.servers.append(server)
        self.listeners.append(listener)

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """Where the ports are."""
        return [("127.0.0.1", listener.port) for listener in self.listeners]

    def cut(self) -> None:
        """Break every connection."""
        for server in self.servers:
            for connection in server.connections:
                connection.session.close("cut by the test")

    @property
    def connected(self) -> list[int]:
        """How many connections each port has."""
        return [len(server.connections) for server in self.servers]


@asynccontextmanager
async def cluster_of(ports: int, limits: ServerLimits | None = None) -> AsyncIterator[Cluster]:
    """A cluster for the time of the block."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery)
        for _ in range(ports):
            await cluster.add_port(limits)
        nursery.start_soon(cluster.node.run)
        with trio.fail_after(BOUND_S):
            yield cluster
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(cluster: Cluster, options: ClientOptions = QUICK) -> AsyncIterator[Client]:
    """A client with a fixed seed."""
    async with open_client(cluster.endpoints, options=options, random=Random(1)) as client:
        yield client


async def outcome_of(client: Client, name: str, *args: Any, **options: Any) -> Any:
    """The result of a request, or its error as a value."""
    try:
        return await client.request(name, args, **options)
    except TremulaError as error:
        return error


async def expire_sessions(node: FakeNode) -> None:
    """Let ten minutes pass on the cluster's clock, and apply what follows from that."""
    node.clock_ms += SESSION_IDLE_MS + SESSION_TOUCH_MS + 1
    results: list[object] = []
    node.submit(pack(0, 0, "session.expire", [node.clock_ms]), results.append)
    await until(lambda: bool(results))
