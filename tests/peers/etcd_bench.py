"""What is measured of etcd; README.md has the table of the workloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.peers import etcd_workloads as workloads
from tests.peers.etcd_cluster import EtcdCluster
from tests.peers.grpc_wire import GrpcConnection
from tests.peers.rows import Row, Workload, gap_row, measure

WARM_UP_S = 0.5
WATCH_RATE = 200


class EtcdBench:
    """The workloads of etcd."""

    def __init__(self, cluster: EtcdCluster, seconds: float, keys: int) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self._keys = keys
        self.workloads: dict[str, Workload] = {
            "put-1": self._closed(1, 1, workloads.puts(keys)),
            "put-64-on-1": self._closed(1, 64, workloads.puts(keys)),
            "put-64-on-8": self._closed(8, 64, workloads.puts(keys)),
            "txn100-16-on-1": self._closed(1, 16, workloads.transactions(keys), 100),
            "txn100-16-on-8": self._closed(8, 16, workloads.transactions(keys), 100),
            "get-1": self._closed(1, 1, workloads.gets(keys)),
            "get-64-on-1": self._closed(1, 64, workloads.gets(keys)),
            "get-64-on-8": self._closed(8, 64, workloads.gets(keys)),
            "watch-200-per-s": self._watch,
            "kill-leader": self._kill_leader,
        }

    def fill(self) -> None:
        """Every key exists before anything is measured, so that each put is an update."""
        with self._connected(self._cluster.leader(), 1) as connections:
            calls = workloads.transactions(self._keys)
            workloads.exactly(connections[0], calls, self._keys // workloads.PUTS_EACH)

    def _closed(
        self, connections: int, in_flight: int, calls: Iterator[workloads.Call], weight: int = 1
    ) -> Workload:
        def run(name: str, number: int) -> Row:
            leader = self._cluster.leader()
            with self._connected(leader, connections) as opened:
                workloads.closed_loop(opened, in_flight, calls, WARM_UP_S)
                return measure(
                    self._cluster,
                    name,
                    number,
                    leader,
                    weight,
                    lambda: workloads.closed_loop(opened, in_flight, calls, self._seconds),
                )

        return run

    def _watch(self, name: str, number: int) -> Row:
        leader = self._cluster.leader()
        with self._connected(leader, 2) as (writer, watcher):
            return measure(
                self._cluster,
                name,
                number,
                leader,
                1,
                lambda: workloads.watch_latency(writer, watcher, WATCH_RATE, self._seconds),
            )

    def _kill_leader(self, name: str, number: int) -> Row:
        """The killed member comes back before this returns."""
        leader = self._cluster.leader()
        with ExitStack() as stack:
            survivors = [
                stack.enter_context(self._connected(member, 1))[0]
                for member in self._cluster.running()
                if member != leader
            ]
            gap = workloads.gap_after(lambda: self._cluster.kill(leader), survivors)
        self._cluster.start(leader)
        self._cluster.leader()
        return gap_row(self._cluster, name, number, gap)

    @contextmanager
    def _connected(self, member: int, count: int) -> Iterator[list[GrpcConnection]]:
        connections = [self._cluster.connect(member) for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()
