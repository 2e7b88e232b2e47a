"""The client port of a node: listens, keeps count of what is under way, and answers.

It is given a node (node.py) and a network, and adds itself to the node's `on_flush` and
`on_applied`. Requests beyond those of the protocol are served by `extra`, which the node fills.

May not: outlive `run`, or let one client take what belongs to all.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import trio

from cluster.errors import DefiniteError
from cluster.net import Listener, ListenerStatistics, Network, Session
from cluster.protocol import RESPONSE_BYTES_MAX, SERIES_NAMES
from cluster.server.connection import Connection
from cluster.server.fetching import Fetches
from cluster.server.limits import ServerLimits
from cluster.server.node import Done, Read, ServedNode
from cluster.server.streams import Streams

# (arguments, actor, done): called in the trio thread; `done` is called exactly once, then or later.
Extra = Callable[[list[Any], str, Done], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """What the client port did so far."""

    connections: int
    subscriptions: int
    events_delivered: int
    requests: int
    requests_under_way_bytes: int
    counts: dict[str, int]  # stranger_*, violations, timeouts, stalls, reads_*
    listener: ListenerStatistics | None


class Server:
    """Serves clients of one node."""

    def __init__(
        self,
        node: ServedNode,
        *,
        limits: ServerLimits | None = None,
        certificate_required: bool = False,
    ) -> None:
        self.node = node
        self.limits = limits or ServerLimits()
        self.certificate_required = certificate_required
        self.extra: dict[str, Extra] = {}
        self.stopping = False
        self.requests = 0
        self.inflight_bytes = 0
        self.unflushed: list[Connection] = []
        self.streams = Streams(node, self.limits, self.flush)
        self.fetches = Fetches(node, self.flush)
        self._connections: dict[Connection, None] = {}
        self._counts: dict[str, int] = {}
        self._listener: Listener | None = None
        self._next_deadline = inf
        self._timer: trio.CancelScope | None = None
        self._reads: deque[tuple[Connection, Read]] = deque()
        self._reads_wait = trio.Event()
        self._parked: dict[Connection, list[Read]] = {}
        self._idle: trio.Event | None = None

    async def run(
        self,
        network: Network,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        task_status: trio.TaskStatus[Listener] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; raises OSError at once if the address cannot be bound."""
        node = self.node
        node.on_flush.append(self.flush)
        node.on_applied.append(self.streams.applied)
        node.on_applied.append(self.fetches.applied)
        try:
            async with trio.open_nursery() as nursery:
                self._listener = await network.serve(
                    host, port, tls, self.attend, nursery, self.limits.connections_max
                )
                nursery.start_soon(self.streams.run)
                nursery.start_soon(self.fetches.run)
                nursery.start_soon(self._answer_overdue)
                nursery.start_soon(self._run_reads)
                task_status.started(self._listener)
        finally:
            node.on_flush.remove(self.flush)
            node.on_applied.remove(self.streams.applied)
            node.on_applied.remove(self.fetches.applied)

    async def attend(self, session: Session) -> None:
        """Serve one connection until it ends."""
        connection = Connection(self, session)
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            del self._connections[connection]

    async def drain(self, grace_s: float) -> None:
        """Accept nothing new, and wait until all that is under way was answered and sent."""
        self.stopping = True
        if self._listener is not None:
            self._listener.close()
        self.streams.stop()
        self.fetches.stop()
        self._idle = trio.Event()
        self.flush()
        with trio.move_on_after(grace_s):
            await self._idle.wait()
            for connection in list(self._connections):
                await connection.session.drain()
        for connection in list(self._connections):
            connection.session.close("the node is shutting down")

    def flush(self) -> None:
        """Send all collected answers: one write per connection. HOT."""
        if self.unflushed:
            for connection in self.unflushed:
                connection.flush()
            self.unflushed.clear()
        if self._idle is not None and all(item.is_idle for item in self._connections):
            self._idle.set()

    @property
    def connections(self) -> list[Connection]:
        """The connections that are open."""
        return list(self._connections)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of `statistics`."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def statistics(self) -> ServerStatistics:
        """Counters for metrics."""
        return ServerStatistics(
            connections=len(self._connections),
            subscriptions=len(self.streams.active),
            events_delivered=self.streams.events_delivered,
            requests=self.requests,
            requests_under_way_bytes=self.inflight_bytes,
            counts=dict(self._counts),
            listener=None if self._listener is None else self._listener.statistics(),
        )

    def facts(self) -> dict[str, object]:
        """What the greeting tells a client."""
        return {
            "node": self.node.name,
            "cluster_id": self.node.cluster_id,
            "leader": self.node.leader,
            "request_bytes_max": self.limits.request_bytes_max,
            "pipelined_requests_max": self.limits.pipelined_requests_max,
            "response_bytes_max": RESPONSE_BYTES_MAX,
            "series": SERIES_NAMES,
        }

    def run_read(self, connection: Connection, read: Read) -> None:
        """Answer a read from the applied state: a short one now, a long one in its turn.

        A client that does not take its answers gets no more of them until it has.
        """
        if read.is_long or connection.is_slow:
            self._reads.append((connection, read))
            self._reads_wait.set()
        else:
            self._answer_read(connection, read)

    def watch_deadline(self, deadline: float) -> None:
        """Somebody has to be answered by then."""
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            if self._timer is not None:
                self._timer.deadline = deadline

    def _answer_read(self, connection: Connection, read: Read) -> None:
        try:
            result = read.run(self.node)
        except DefiniteError as error:
            result = error
        connection.answer(read.request_id, result)

    async def _run_reads(self) -> None:
        """One page at a time, and the loop is free between two: heartbeats come first."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._reads_wait.wait()
                self._reads_wait = trio.Event()
                while self._reads:
                    connection, read = self._reads.popleft()
                    if not connection.is_slow and read.aside is not None:
                        nursery.start_soon(self._answer_aside, connection, read)
                    elif not connection.is_slow:
                        self._answer_read(connection, read)
                        self.flush()
                    elif connection in self._parked:
                        self._parked[connection].append(read)
                    else:
                        self._parked[connection] = [read]
                        nursery.start_soon(self._unpark_when_drained, connection)
                    await trio.lowlevel.checkpoint()

    async def _answer_aside(self, connection: Connection, read: Read) -> None:
        """What is proportional to the store is read in a thread, of the state as it is now."""
        self.node.machine.commit()  # here: in a thread it could tear the entry being applied

        def run() -> object:
            assert read.aside is not None, "only such a read comes here"
            reader = self.node.open_reader()
            try:
                return read.aside(reader)
            finally:
                reader.close()

        connection.answer(read.request_id, await self.node.blocking(run))
        self.flush()

    async def _unpark_when_drained(self, connection: Connection) -> None:
        await connection.session.drain()
        self._reads.extend((connection, read) for read in self._parked.pop(connection))
        self._reads_wait.set()

    async def _answer_overdue(self) -> None:
        """One timer for all requests: it sleeps until the earliest deadline that it knows."""
        while True:
            with trio.CancelScope(deadline=self._next_deadline) as self._timer:
                await trio.sleep_forever()
            self._timer = None
            now = trio.current_time()
            self._next_deadline = min((item.expire(now) for item in self._connections), default=inf)
            self.flush()
