"""A node whose clock is an hour off, as a follower and as the leader."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.client import Client
from tests.real.processes import RealCluster, eventually

HOUR_S = 3600.0
TTL_MS = 2_000
FAR_S = 60.0


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_is_an_hour_off_moves_no_expiry(tmp_path: Path, off_s: float) -> None:
    """Nothing expires early or never, no session is lost, and time runs forward in the log."""
    cluster = RealCluster(tmp_path)
    cluster.nodes["b"].program = ("tests.real.wrong_clock", str(off_s))
    async with cluster, cluster.client("a", "c") as client:
        await lead(cluster, "a")
        await client.put("long", b"", ttl_ms=10 * 60_000)
        await expires(client, "under a right clock")
        await lead(cluster, "b")
        await expires(client, "under a wrong clock")
        await client.put("half an hour", b"", ttl_ms=30 * 60_000)
        await lead(cluster, "a")
        await expires(client, "under a right clock again")
        assert await client.get("long") is not None
        assert await client.get("half an hour") is not None
        events, _, _ = await client.read_events(1)
        assert len(events) > 10
        times = [event.wall_ms for event in events]
        assert times == sorted(times)
        assert abs(times[-1] / 1000 - time.time()) < FAR_S
        await cluster.same_state()


async def lead(cluster: RealCluster, label: str) -> None:
    """Let this node lead, if it does not already."""
    if await cluster.leader() != label:
        done = await cluster.cli("leader", "transfer", label)
        assert done.returncode == 0, done.stderr

    async def ask() -> bool:
        return await cluster.leader() == label

    await eventually(ask, f"{label} leads")


async def expires(client: Client, key: str) -> None:
    """A key lives as long as it was given, and not much longer."""
    before = time.monotonic()
    await client.put(key, b"", ttl_ms=TTL_MS)

    async def gone() -> bool:
        return await client.get(key) is None

    await eventually(gone, f"{key} has expired")
    assert time.monotonic() - before >= TTL_MS / 1000
