"""Nodes that end and come back: nothing that was acknowledged is lost, and nothing is doubled."""

from __future__ import annotations

from pathlib import Path

from tests.real.load import open_load
from tests.real.processes import RealCluster


async def test_all_nodes_killed_at_once_under_load(tmp_path: Path) -> None:
    """kill -9 of the whole cluster, twice, loses no acknowledged write and applies none twice."""
    async with RealCluster(tmp_path) as cluster, cluster.client() as client:
        async with open_load(client) as load:
            for _ in range(2):
                await load.more(200)
                await cluster.kill(*cluster.nodes)
                await cluster.start(*cluster.nodes)
            await load.more(100)
        await load.verify()
        await cluster.same_state()


async def test_leader_that_is_told_to_stop_hands_over(tmp_path: Path) -> None:
    """SIGTERM of the leader under load: it hands over, ends cleanly, and comes back as it left."""
    async with RealCluster(tmp_path) as cluster, cluster.client() as client:
        async with open_load(client) as load:
            leader = await cluster.leader()
            before = await cluster.status(leader)
            assert await cluster.stop(leader) == 0
            assert " stopped" in cluster.nodes[leader].log()
            after = await cluster.status(await cluster.leader(other_than=leader))
            assert before is not None
            assert after is not None
            assert after["term"] == before["term"] + 1, "an election by timeout, no hand-over"
            await cluster.start(leader)
            await load.more(100)
        await load.verify()
        await cluster.same_state()
