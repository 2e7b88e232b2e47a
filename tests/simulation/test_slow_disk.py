"""A slow disk slows the cluster; it does not unseat the leader."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from simulation.core.faults import CoreFaults
from simulation.core.world import World
from simulation.options import Options


@pytest.mark.parametrize("seed", range(5))
def test_250_ms_for_every_fsync_on_every_node_costs_no_leader(seed: int) -> None:
    """With default timing, after the first election the leadership stays, and writes go on."""
    calm = replace(
        Options.draw_core(Random(seed), 3, CoreFaults.KINDS),
        safety_s=30.0,
        latency_s=(0.001, 0.001),
        fsync_s=(0.25, 0.01),
        clients=4,
        think_s=0.02,
        write_share=0.8,
        fault_rate=0.000_001,
        faults={"disconnect": 1.0},
        membership_rate=0.0,
    )
    world = World(seed, 3, options=calm)
    world.run()
    assert len(world.invariants.leaders) == 1
    assert world.checker.acknowledged > 50
