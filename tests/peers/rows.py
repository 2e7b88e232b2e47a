"""What a run of one workload gave, and the table of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.peer_cluster import PeerCluster, machine_busy_seconds

CLIENT_CORES_MAX = 0.5
"""A client busier than this fraction of one core may be what is measured: the table says so."""
FSYNCS = 50
FSYNC_MS_MAX = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run of one workload gave. Latencies in seconds, one per call, sorted."""

    calls: int
    failed: int
    seconds: float
    latencies: Sequence[float]

    def percentile_ms(self, percent: float) -> float:
        if not self.latencies:
            return float("nan")
        position = min(int(len(self.latencies) * percent / 100), len(self.latencies) - 1)
        return self.latencies[position] * 1000

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latencies) * 1000 if self.latencies else float("nan")


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


Workload = Callable[[str, int], Row]
"""Its name and the number of the round -> what it gave."""


def measure(
    cluster: PeerCluster,
    name: str,
    number: int,
    leader: int,
    weight: int,
    run: Callable[[], Measured],
) -> Row:
    """Run a workload, and note what everybody spent on it. `weight`: operations in one call."""
    busy_before = machine_busy_seconds()
    servers_before, client_before = cluster.cpu_seconds(), time.process_time()
    measured = run()
    client = time.process_time() - client_before
    servers = [
        after - before for before, after in zip(servers_before, cluster.cpu_seconds(), strict=True)
    ]
    others = machine_busy_seconds() - busy_before - client - sum(servers)
    calls = max(measured.calls, 1)
    return Row(
        peer=cluster.title,
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


def gap_row(cluster: PeerCluster, name: str, number: int, seconds: float) -> Row:
    """A gap without service, in `p50_ms` and `p99_ms`."""
    return Row(
        peer=cluster.title,
        workload=name,
        round=number,
        per_second=0.0,
        p50_ms=seconds * 1000,
        p99_ms=seconds * 1000,
        calls=1,
        failed=0,
        client_cores=0.0,
        client_us_per_call=0.0,
        server_cores=[],
        other_cores=0.0,
        leader_us_per_call=0.0,
    )


def table(rows: list[Row]) -> str:
    """Medians over the rounds, one line per workload; the last three columns in cores."""
    lines = [
        f"{'workload':20} {'per second':>10} {'p50 ms':>8} {'p99 ms':>8}"
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
            f"{name:20} {values[0]:10,.0f} {values[1]:8.2f} {values[2]:8.2f}"
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


def disk_note(folder: Path) -> str:
    """What an fsync costs under `folder` now. 4 ms sharp is no disk: on a busy machine a process
    that sleeps in an fsync may get its processor back only with the scheduler's next tick."""
    if in_memory(folder.resolve()):
        return f"{folder} is in memory: an fsync costs nothing there, the figures say nothing"
    times: list[float] = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            began = time.perf_counter()
            file.write(b"x" * 200)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    median_ms = statistics.median(times) * 1000
    busy = ": this machine is too busy for rates" if median_ms > FSYNC_MS_MAX else ""
    return f"an fsync under {folder} takes {median_ms:.2f} ms{busy}"
