"""Hooks on real nodes: bad handlers hurt nobody else, and work goes on when nodes end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.client import Client
from hooks.limits import DEFAULT_LIMITS
from tests.real.processes import RealCluster, eventually
from tests.real.proof.verify import Change, check_runs, read_runs

TEMPERS = ("loops", "blocks", "kills")
SETTINGS = """
[raft]
election_timeout_min_ms = 600
election_timeout_max_ms = 1200

[limits.hooks]
member_ttl_ms = 3000
keepalive_ms = 500
lease_margin_ms = 500

[hooks]
modules = ["tests.real.tempers"]
"""
EVENTS = 600
KEYS = 30
REPEATS_MAX = DEFAULT_LIMITS.unsettled_events_max + DEFAULT_LIMITS.attempts_in_flight_max


async def test_handlers_that_loop_block_and_kill_do_not_disturb_raft(tmp_path: Path) -> None:
    """Each bad event becomes a dead letter, every good one is completed, the leader stays."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        await members(client, "good", 3)
        before = await cluster.status(await cluster.leader())
        for number in range(20):
            for topic in ("good", *TEMPERS):
                if topic == "good" or number == 10:
                    await client.publish(f"temper.{topic}", b"", key=f"{topic}-{number}")
        for handler in TEMPERS:
            await ended(client, handler, dead_letters=1)
        await ended(client, "good", completed=20)
        after = await cluster.status(await cluster.leader())
        assert before is not None
        assert after is not None
        assert (after["leader"], after["term"]) == (before["leader"], before["term"])


async def test_another_node_takes_over_from_one_that_was_killed(tmp_path: Path) -> None:
    """kill -9 of a node amid its events: the others complete them, in order, each at least once."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        await members(client, "worker", 3)
        changes = await publish_work(client)
        await some_done(client)
        await cluster.kill("b")
        await ended(client, "worker", completed=EVENTS)
        await members(client, "worker", 2)
        check(tmp_path, changes, REPEATS_MAX)


async def test_nothing_runs_twice_when_a_node_stops_in_order(tmp_path: Path) -> None:
    """SIGTERM of a node amid its events: it finishes and hands over, so each event runs once."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        await members(client, "worker", 3)
        changes = await publish_work(client)
        await some_done(client)
        assert await cluster.stop("b") == 0
        await ended(client, "worker", completed=EVENTS)
        check(tmp_path, changes, 0)


def opened(folder: Path) -> RealCluster:
    return RealCluster(folder, settings=SETTINGS, environment={"RUNS_FOLDER": str(folder)})


async def publish_work(client: Client) -> list[Change]:
    """Events of a few keys, in order."""
    topics = [f"work.{number % 3}" for number in range(EVENTS)]
    keys = [f"key-{number % KEYS}" for number in range(EVENTS)]
    batch = [[topic, key, b"", None, None] for topic, key in zip(topics, keys, strict=True)]
    first, count = await client.publish_batch(batch)
    assert count == EVENTS
    return [Change(first + n, topics[n], keys[n]) for n in range(EVENTS)]


async def some_done(client: Client) -> None:
    """Wait until the work is under way, and not at its end."""

    async def ask() -> int:
        return int((await metrics(client))["worker"]["completed"])

    assert await eventually(ask, "some events are completed") < EVENTS


async def ended(client: Client, handler: str, **counters: int) -> None:
    """Wait until the cluster's counters of a handler are these, and no other than these."""

    async def ask() -> bool:
        row = (await metrics(client)).get(handler, {})
        assert all(row.get(name, 0) <= number for name, number in counters.items()), row
        return all(row.get(name) == number for name, number in counters.items())

    await eventually(ask, f"{handler} has {counters}", 60.0)


async def members(client: Client, handler: str, count: int) -> None:
    """Wait until so many nodes share a handler's partitions."""

    async def ask() -> bool:
        return bool((await metrics(client)).get(handler, {}).get("members") == count)

    await eventually(ask, f"{count} members run {handler}")


async def metrics(client: Client) -> dict[str, dict[str, Any]]:
    return {row["handler"]: row for row in await client.request("hooks.metrics")}


def check(folder: Path, changes: list[Change], repeats_max: int) -> None:
    for found in check_runs("worker", changes, read_runs(folder, "worker"), repeats_max):
        assert found.passed, f"{found.name}: {found.detail}"
