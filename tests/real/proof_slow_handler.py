"""A slow handler lags, and nobody else suffers: writes keep their speed, and nothing is dropped.

    python -m tests.real.proof_slow_handler --seconds 60

Writers publish as fast as three real nodes take it, first to nobody, then to a handler that takes
half a second for each event, one at a time on each node. Then the handler becomes quick, and must
work off everything.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import trio

from cluster.client import Client
from tests.real.processes import RealCluster, eventually

WRITERS: Final = 4
KEYS: Final = 40
WARM_UP_S: Final = 1.0
LOOK_EVERY_S: Final = 0.5
BOUND_S: Final = 120.0  # to work off what a minute has left
MODULE: Final = """
import os
import trio
from hooks.registry import HookContext, hook

@hook("slow.>", start="earliest", concurrency=1)
async def slow(context: HookContext) -> None:
    if not os.path.exists(os.environ["FOLDER"] + "/hurry"):
        await trio.sleep(0.5)
    runs = os.open(os.environ["FOLDER"] + "/runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(runs, f"{context.revision} {context.key}\\n".encode())
    os.close(runs)
"""
SETTINGS: Final = """
[limits.hooks]
floor_checkpoint_ms = 200

[hooks]
modules = ["lags"]
"""


class Found(NamedTuple):
    """What was seen."""

    before_per_s: float  # acknowledged, with nobody to handle them
    during_per_s: float  # the same with a handler that lags
    published: dict[int, str]  # the key of each event for the handler, by revision
    lags: list[int]  # from the beginning to the end of the writing
    handled: list[tuple[int, str]]  # revision and key, in the order of time


async def prove(folder: Path, seconds: float) -> Found:
    """Write for so long without and with a lagging handler; returns when it has no lag any more."""
    (folder / "lags.py").write_text(MODULE)
    environment = {"FOLDER": str(folder)}
    cluster = RealCluster(folder, settings=SETTINGS, environment=environment)
    async with cluster, cluster.client() as client:
        await _until_lag(client, 0)
        await _write(client, "quiet.done", WARM_UP_S)
        before_s = max(WARM_UP_S, seconds / 4)
        before = await _write(client, "quiet.done", before_s)
        lags: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look, client, lags)
            during = await _write(client, "slow.done", seconds)
            nursery.cancel_scope.cancel()
        lags.append(await _lag(client))
        (folder / "hurry").touch()
        await _until_lag(client, 0)
    lines = (line.split() for line in (folder / "runs").read_text().splitlines())
    return Found(
        len(before) / before_s,
        len(during) / seconds,
        during,
        lags,
        [(int(revision), key) for revision, key in lines],
    )


async def _write(client: Client, topic: str, seconds: float) -> dict[int, str]:
    """Publish for so long; the key of each event that was acknowledged, by revision."""
    published: dict[int, str] = {}
    numbers = count()
    stop = trio.current_time() + seconds

    async def write(numbers: Iterator[int]) -> None:
        while trio.current_time() < stop:
            key = f"k{next(numbers) % KEYS}"
            published[await client.publish(topic, os.urandom(64), key=key)] = key

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write, numbers)
    return published


async def _look(client: Client, lags: list[int]) -> None:
    while True:
        lags.append(await _lag(client))
        await trio.sleep(LOOK_EVERY_S)


async def _lag(client: Client) -> int:
    """What `cluster hook metrics` says; -1 as long as the cluster does not know the handler."""
    rows = [row for row in await client.hooks.metrics() if row["members"]]
    return int(rows[0]["lag"]) if rows else -1


async def _until_lag(client: Client, lag: int) -> None:
    async def ask() -> bool:
        return await _lag(client) == lag

    await eventually(ask, f"the handler has a lag of {lag}", BOUND_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(prove, Path(folder), seconds)
    handled = {revision for revision, _ in found.handled}
    print(f"acknowledged per second before: {found.before_per_s:,.0f}")
    print(f"acknowledged per second during: {found.during_per_s:,.0f}")
    print(f"published: {len(found.published):,}, handled: {len(handled):,}")
    print(f"handled twice: {len(found.handled) - len(handled):,}")
    print(f"lag meanwhile: {', '.join(map(str, found.lags[:: max(1, len(found.lags) // 10)]))}")
    print("lag at last: 0")


if __name__ == "__main__":
    main()
