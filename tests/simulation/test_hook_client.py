"""`context.client` where handlers run in the loop of their node."""

from __future__ import annotations

import pytest

from simulation.testing import Cluster, SimulatedCluster
from tests.simulation import client_hooks

ORDERS = [f"order-{number}" for number in range(5)]


@pytest.mark.parametrize("seed", range(8))
def test_an_async_handler_reaches_its_simulated_node(seed: int) -> None:
    """Under faults too, and each write names its event as the cause; a sync handler is told why it
    has no client."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.chaos(seconds=3), cluster.client() as client:
            for order in ORDERS:
                await client.publish("orders.placed", b"", key=order)
                await cluster.sleep(0.3)
        await cluster.settle()
        placed = {event.revision: event.key for event in cluster.events("orders.placed")}
        writes = cluster.events("hooks.kv.write_committed")
        assert {event.key for event in writes} == {f"reserved/{order}" for order in ORDERS}
        for event in writes:
            assert event.key == f"reserved/{placed[int(event.causation_id or 0)]}"
            assert event.hops == 1
        letters = cluster.dead_letters("cannot_wait")
        assert sorted(letters) == sorted(placed)
        assert all("make it async" in error for error in letters.values())

    SimulatedCluster(seed).run(scenario, hooks=[client_hooks])
