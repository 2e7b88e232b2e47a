"""The client that handlers find in their context: `context.client`, a client of their own node.

A handler host is another process. It imports this module when the first of its handlers wants a
client, and connects to the client port of its node; a node whose handlers run in its own process
(simulation, embedding) gives them a client on its own network. What a handler requests names its
event as the cause and counts one hop more than it, so that a node refuses the requests of a handler
that feeds itself as it refuses its effects.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import trio

from cluster.client.blocking import BlockingClient
from cluster.client.client import Client, make_client
from cluster.client.connector import Endpoint
from cluster.client.portal import Portal
from cluster.client.publishing import Meta
from cluster.net import Dialer, Network, Session, TcpNetwork
from cluster.security.tls import client_context
from hooks.ports import ClientFactory, Origin
from hooks.registry import ClientUnavailable

if TYPE_CHECKING:
    from cluster.config import NodeConfig

FACTORY = "cluster.hookclient:open_clients"


def factory(config: NodeConfig) -> ClientFactory:
    """How a handler host of this node comes to its clients."""
    tls = config.tls
    files = [str(file) for file in (tls.ca, tls.certificate, tls.key)] if tls.enabled else None
    host, port = _own_endpoint(config)
    arguments = {"node": config.node.name, "host": host, "port": port, "tls": files}
    return ClientFactory(FACTORY, arguments)


def open_clients(nursery: trio.Nursery, arguments: Mapping[str, Any]) -> HostClients:
    """The clients of a handler host; they connect when they are used."""
    tls = None if arguments["tls"] is None else client_context(*map(Path, arguments["tls"]))
    endpoint = (arguments["host"], arguments["port"])
    return HostClients(nursery, arguments["node"], endpoint, tls)


class HostClients:
    """One client for the loop of a handler host, and one for all of its threads."""

    def __init__(
        self, nursery: trio.Nursery, node: str, endpoint: Endpoint, tls: SSLContext | None
    ) -> None:
        self._nursery = nursery
        self._node = node
        self._endpoint = endpoint
        self._tls = tls
        self._client: Client | None = None
        self._portal: Portal | None = None
        self._lock = threading.Lock()

    def of_async(self, origin: Origin) -> Client:
        """For async handlers, in the loop of the host."""
        if self._client is None:
            network = _ToNode(TcpNetwork(self._nursery), self._node)
            self._client = make_client(
                self._nursery, [self._endpoint], tls=self._tls, network=network
            )
        return self._client.with_meta(**meta(origin))

    def of_sync(self, origin: Origin) -> BlockingClient:
        """For sync handlers, in their threads. Its loop is its own: that of the host may be held up
        by an async handler."""
        with self._lock:
            if self._portal is None:
                portal = Portal(
                    [self._endpoint],
                    tls=self._tls,
                    network=lambda nursery: _ToNode(TcpNetwork(nursery), self._node),
                )
                portal.start().result()
                self._portal = portal
        return BlockingClient(self._portal, self._portal.client).with_meta(**meta(origin))


class InlineClients:
    """The clients of handlers that run in the loop of their node."""

    def __init__(
        self, nursery: trio.Nursery, config: NodeConfig, network: Network, random: Random
    ) -> None:
        self._nursery = nursery
        self._endpoint = _own_endpoint(config)
        self._network = network
        self._random = random
        self._client: Client | None = None

    def of_async(self, origin: Origin) -> Client:
        """A client on the node's own network."""
        if self._client is None:
            self._client = make_client(
                self._nursery, [self._endpoint], network=self._network, random=self._random
            )
        return self._client.with_meta(**meta(origin))

    def of_sync(self, origin: Origin) -> Any:
        """None: it would wait in the loop that has to answer it."""
        raise ClientUnavailable(
            f'handler "{origin.handler}" is sync and runs in the loop of its node, where nothing '
            "can wait for an answer: make it async, or return effects"
        )


class _ToNode:
    """A network whose connections expect the own node at the other end: its certificate holds its
    name, and need not hold every address that it listens on."""

    def __init__(self, network: Dialer, node: str) -> None:
        self._network = network
        self._node = node

    async def connect(
        self,
        host: str,
        port: int,
        tls: SSLContext | None = None,
        server_name: str | None = None,
    ) -> Session:
        """See `Dialer.connect`."""
        return await self._network.connect(host, port, tls, server_name or self._node)


def meta(origin: Origin) -> Meta:
    """What a handler's requests say about their cause."""
    return {
        "correlation_id": origin.correlation_id,
        "causation_id": origin.causation_id,
        "hops": origin.hops,
        "traceparent": origin.traceparent,
    }


def _own_endpoint(config: NodeConfig) -> Endpoint:
    """Where the node's client port is reached from its own machine."""
    listen = config.listen.client
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return everywhere.get(listen.host, listen.host), listen.port
