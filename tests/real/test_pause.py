"""A node that the machine stops for a while: it wakes up in a world that went on without it."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from cluster.client import Client
from cluster.errors import TremulaError
from tests.real.load import open_load
from tests.real.processes import RealCluster

READS = 50


async def test_paused_leader_serves_no_stale_read_when_it_wakes(tmp_path: Path) -> None:
    """Linearizable reads that a stopped leader finds waiting see what its successor wrote."""
    async with RealCluster(tmp_path) as cluster:
        old = await cluster.leader()
        async with cluster.client(old) as at_old, cluster.client() as client:
            await client.put("x", b"old")
            assert await _read(at_old) == b"old"
            cluster.pause(old)
            new = await cluster.leader(other_than=old)
            async with cluster.client(new) as at_new:
                await at_new.put("x", b"new")
            answers: list[bytes | None] = []
            async with trio.open_nursery() as nursery:
                for _ in range(READS):
                    nursery.start_soon(_collect, at_old, answers)
                # All have left: they lie in the stopped node's socket when it wakes.
                await trio.testing.wait_all_tasks_blocked(0.05)
                cluster.resume(old)
            assert answers.count(b"new") == READS, answers
            await cluster.same_state()


async def test_paused_leader_comes_back_without_an_election(tmp_path: Path) -> None:
    """Under load a stopped leader is replaced; when it wakes it follows, and the term stays."""
    async with RealCluster(tmp_path) as cluster, cluster.client() as client:
        async with open_load(client) as load:
            old = await cluster.leader()
            cluster.pause(old)
            new = await cluster.leader(other_than=old)
            await load.more(200)
            during = await cluster.status(new)
            cluster.resume(old)
            await cluster.ready(old)
            await load.more(200)
        await load.verify()
        after = await cluster.same_state()
        assert during is not None
        assert (after["leader"], after["term"]) == (new, during["term"])


async def _collect(client: Client, answers: list[bytes | None]) -> None:
    answers.append(await _read(client))


async def _read(client: Client) -> bytes | None:
    """The value of x; None when the node would not answer, which is not a wrong answer."""
    try:
        entry = await client.get("x")
    except TremulaError:
        return None
    return entry.value if entry else b"missing"
