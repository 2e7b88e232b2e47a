"""What is measured of NATS JetStream; README.md has the table of the workloads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.peers import nats_workloads as workloads
from tests.peers.nats_cluster import STREAM, SUBJECT, NatsCluster
from tests.peers.nats_wire import NatsConnection, NatsFailed
from tests.peers.rows import Row, Workload, measure

WARM_UP_S = 0.5
DELIVERY_RATE = 200
CONSUMERS = 3
EVENTS = 120_000
"""So many are there to be consumed."""
TRIES, PAUSE_S = 10, 0.5


class NatsBench:
    """The workloads of NATS. Publishers are connected to the stream's leader, consumers to that
    of their consumer: NATS's fastest case."""

    def __init__(self, cluster: NatsCluster, seconds: float) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self._names = (f"c{number}" for number in itertools.count(1))
        single, pipelined = workloads.single(SUBJECT), workloads.pipelined(SUBJECT)
        atomic = workloads.atomic(SUBJECT)
        self.workloads: dict[str, Workload] = {
            "publish-1": self._publish(1, 1, single),
            "publish-64-on-1": self._publish(1, 64, single),
            "publish-64-on-8": self._publish(8, 64, single),
            "pipe100-16-on-1": self._publish(1, 16, pipelined, workloads.BATCH),
            "pipe100-16-on-8": self._publish(8, 16, pipelined, workloads.BATCH),
            "atomic100-16-on-1": self._publish(1, 16, atomic, workloads.BATCH),
            "atomic100-16-on-8": self._publish(8, 16, atomic, workloads.BATCH),
            "deliver-200-per-s": self._deliver,
            "partitioned-3": self._partitioned,
            "competing-3": self._competing,
        }

    def fill(self) -> None:
        """A stream needs nothing before it is measured."""

    def _publish(
        self, connections: int, in_flight: int, shape: workloads.Shape, weight: int = 1
    ) -> Workload:
        def run(name: str, number: int) -> Row:
            leader = self._cluster.leader()
            with self._connected(leader, connections) as opened:
                workloads.closed_loop(opened, in_flight, shape, WARM_UP_S)
                return measure(
                    self._cluster,
                    name,
                    number,
                    leader,
                    weight,
                    lambda: workloads.closed_loop(opened, in_flight, shape, self._seconds),
                )

        return run

    def _deliver(self, name: str, number: int) -> Row:
        """An ordered consumer: pushed, in order, without acknowledgements."""
        leader = self._cluster.leader()
        subject = b"bench.deliver"
        with self._connected(leader, 2) as (publisher, consumer):
            inbox = consumer.inbox + b".deliver"
            consumer.subscribe(inbox)
            config = {"deliver_subject": inbox.decode(), "ack_policy": "none", "num_replicas": 1}
            config |= {"mem_storage": True, "deliver_policy": "new"}
            ordered, _ = self._consumer(config, subject.decode())
            try:
                return measure(
                    self._cluster,
                    name,
                    number,
                    leader,
                    1,
                    lambda: workloads.delivery_latency(
                        publisher, consumer, subject, DELIVERY_RATE, self._seconds
                    ),
                )
            finally:
                self._delete(ordered)

    def _partitioned(self, name: str, number: int) -> Row:
        """A consumer of its own for each member and subject, which remembers its place: it
        acknowledges the newest message of what arrived together, and with it all before."""
        subjects = [f"bench.part.{part}" for part in range(CONSUMERS)]
        config = {"ack_policy": "all", "max_ack_pending": -1}
        return self._consume(name, number, subjects, [(config, one) for one in subjects])

    def _competing(self, name: str, number: int) -> Row:
        """One consumer for three clients; each message is acknowledged."""
        config = {"ack_policy": "explicit", "max_ack_pending": CONSUMERS * workloads.PULL * 2}
        return self._consume(name, number, ["bench.jobs"], [(config, "bench.jobs")])

    def _consume(
        self, name: str, number: int, subjects: list[str], consumers: list[tuple[Any, str]]
    ) -> Row:
        """Fill the subjects, then take everything from them with three clients."""
        leader = self._cluster.leader()
        with self._connected(leader, 1) as (connection,):
            for subject in subjects:
                connection.request(f"$JS.API.STREAM.PURGE.{STREAM}", {"filter": subject})
            workloads.fill(connection, [one.encode() for one in subjects], EVENTS)
        made = [self._consumer({"durable_name": "", **one}, subject) for one, subject in consumers]
        every = len(made) == 1
        pullers: list[workloads.Puller] = []
        try:
            for turn in range(CONSUMERS):
                consumer, at = made[turn % len(made)]
                pullers.append(workloads.Puller(self._cluster.connect(at), STREAM, consumer, every))
            return measure(
                self._cluster,
                name,
                number,
                leader,
                1,
                lambda: workloads.consume(pullers, EVENTS, self._seconds),
            )
        finally:
            for puller in pullers:
                puller.connection.close()
            for consumer, _ in made:
                self._delete(consumer)

    def _consumer(self, config: dict[str, Any], subject: str) -> tuple[str, int]:
        """Create one; its name, and the member that leads it."""
        name = next(self._names)
        config = {"filter_subject": subject, **config}
        if "durable_name" in config:
            config["durable_name"] = name
        else:
            config["name"] = name
        request = {"stream_name": STREAM, "config": config, "action": "create"}
        answer = self._ask(f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}.{subject}", request)
        return name, int(answer["cluster"]["leader"].removeprefix("m"))

    def _ask(self, subject: str, request: dict[str, Any]) -> Any:
        """One that was paused until now says for a moment that it is not available."""
        for _ in range(TRIES - 1):
            with self._connected(self._cluster.leader(), 1) as (connection,):
                try:
                    return connection.request(subject, request)
                except NatsFailed:
                    time.sleep(PAUSE_S)
        with self._connected(self._cluster.leader(), 1) as (connection,):
            return connection.request(subject, request)

    def _delete(self, name: str) -> None:
        with self._connected(self._cluster.leader(), 1) as (connection,):
            connection.request(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}")

    @contextmanager
    def _connected(self, member: int, count: int) -> Iterator[list[NatsConnection]]:
        connections = [self._cluster.connect(member) for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()
