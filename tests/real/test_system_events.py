"""What a cluster of real processes says about itself, in its own log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import __version__
from hooks.events.catalogue import CATALOGUE
from hooks.events.publisher import payload
from pubsub.events import Event
from tests.real.processes import NAMES, RealCluster, eventually

SMALL_LOG = "[raft]\nlog_entries_max = 1000\n"
WRITES = 1_200  # entries of their own: one after the other
PAGE = 1_000


async def log_of(cluster: RealCluster, *via: str) -> list[Event]:
    """Everything that is in the log."""
    events: list[Event] = []
    async with cluster.client(*via) as client:
        revision = 1
        while True:
            page, revision, newest = await client.read_events(revision, limit=PAGE)
            events += page
            if revision > newest:
                return events


async def told(
    cluster: RealCluster,
    name: str,
    wanted: Callable[[list[dict[str, Any]]], bool],
    *via: str,
) -> list[dict[str, Any]]:
    """Wait until the system events of one kind are as wanted; their payloads."""

    async def ask() -> list[dict[str, Any]] | None:
        topic = f"hooks.system.{name}"
        found = [payload(event) for event in await log_of(cluster, *via) if event.topic == topic]
        return found if wanted(found) else None

    return await eventually(ask, f"{name} is in the log")


async def written_until_snapshots(
    cluster: RealCluster, via: str, nodes: set[str]
) -> list[dict[str, Any]]:
    """Write until each of the nodes has cut its log; their reports."""
    async with cluster.client(via) as client:
        for number in range(WRITES):
            await client.put(f"k{number}", b"v")
    return await told(
        cluster,
        "snapshot_created",
        lambda found: {facts["node"] for facts in found} == nodes,
        via,
    )


async def test_a_cluster_tells_its_own_story(tmp_path: Path) -> None:
    """Starts, a death and a return, snapshots made and installed, a stop: each once, and true."""
    async with RealCluster(tmp_path, settings=SMALL_LOG) as cluster:
        started = await told(cluster, "node_started", lambda found: len(found) == len(NAMES))
        assert sorted(facts["node"] for facts in started) == list(NAMES)
        assert {facts["version"] for facts in started} == {__version__}
        assert len({facts["uid"] for facts in started}) == len(NAMES)

        leader = await cluster.leader()
        victim, other = (name for name in NAMES if name != leader)
        await cluster.kill(victim)
        (lost,) = await told(cluster, "health_changed", lambda found: len(found) == 1, leader)
        assert (lost["node"], lost["current"]) == (victim, "unreachable")
        snapshots = await written_until_snapshots(cluster, leader, {leader, other})
        assert all(facts["index"] > 0 and facts["size_bytes"] > 0 for facts in snapshots)

        await cluster.start(victim)
        (installed,) = await told(cluster, "snapshot_installed", bool, leader)
        assert (installed["node"], installed["from"]) == (victim, leader)
        assert installed["index"] >= snapshots[0]["index"]
        _, back = await told(cluster, "health_changed", lambda found: len(found) == 2, leader)
        assert (back["node"], back["current"]) == (victim, "healthy")
        await told(cluster, "node_started", lambda found: len(found) == len(NAMES) + 1, leader)

        assert await cluster.stop(other) == 0
        (stopped,) = await told(cluster, "node_stopped", bool, leader)
        assert stopped == {"node": other, "reason": "asked to stop"}
        await cluster.start(other)

        state = await cluster.same_state()
        logs = [await log_of(cluster, name) for name in NAMES]
        assert logs[0] == logs[1] == logs[2]
        assert len(logs[0]) == state["revision"]
        assert {event.topic for event in logs[0]} <= {*CATALOGUE}
        terms = [event.data[2] for event in logs[0] if event.topic.endswith("leader_elected")]
        assert terms == sorted(set(terms))
