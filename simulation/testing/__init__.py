"""Tests of your own hooks on a simulated cluster, with pytest (docs/testing-hooks.md).

    def test_each_order_is_charged_once(simulated_cluster):
        bank = Bank()

        async def scenario(cluster):
            ...

        simulated_cluster.run(scenario, hooks=[payments], outside={"charge": bank.charge})

What stands here is for users; the rest of `simulation` is for us, and may change with any release.
"""

from simulation.testing.cluster import Cluster
from simulation.testing.handlers import Attempt
from simulation.testing.simulated import SimulatedCluster

__all__ = ["Attempt", "Cluster", "SimulatedCluster"]
