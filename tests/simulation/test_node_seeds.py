"""Whole nodes on virtual time: fixed seeds over all faults, and the same run in any process."""

from __future__ import annotations

import pytest

from simulation.node.world import World
from tests.simulation.fingerprints import fingerprints


@pytest.mark.parametrize(
    ("seed", "nodes"), [*((seed, 3) for seed in range(12)), *((seed, 5) for seed in range(6))]
)
def test_a_seed_is_clean(seed: int, nodes: int) -> None:
    """Linearizable, nothing acknowledged lost, one event per change, one state, live again."""
    world = World(seed, nodes)
    world.run()
    assert world.acknowledged > 0
    assert world.reads > 0


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """Whatever order strings hash in, and wherever the data lies."""
    one, other = fingerprints("simulation.node.world", 3)
    assert one == other
    assert len(one) == 32
