"""A checker that never fails is not a checker: every planted bug is caught, and soon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.raft.core import Core
from cluster.raft.log import ForgottenEntries
from simulation.core.world import World
from tests.simulation import core_mutants as mutants

SEEDS_MAX = 40
"""Within so many seeds, with three and with five nodes each, whatever those draw."""
NODES = (3, 5)


def is_caught(make: Callable[[int, int], World]) -> bool:
    """Whether a run breaks an invariant, an assertion of the core, or a promise to clients."""
    for seed in range(SEEDS_MAX):
        for nodes in NODES:
            try:
                make(seed, nodes).run()
            except (AssertionError, ForgottenEntries):
                return True
    return False


@pytest.mark.parametrize("core", mutants.CORES, ids=lambda core: core.__name__)
def test_a_core_without_one_of_its_rules_is_caught(core: type[Core]) -> None:
    """Each rule of the hardening is needed, and its absence shows."""
    assert is_caught(lambda seed, nodes: World(seed, nodes, core_class=core))


@pytest.mark.parametrize("world", mutants.WORLDS, ids=lambda world: world.__name__)
def test_a_world_that_breaks_what_the_core_relies_on_is_caught(world: type[World]) -> None:
    """Votes on disk, clocks that are compared, and the identity of a data directory."""
    assert is_caught(world)


def test_a_disk_that_lies_is_caught() -> None:
    """An fsync that confirms what it has not written."""
    assert is_caught(lambda seed, nodes: World(seed, nodes, honest=False))
