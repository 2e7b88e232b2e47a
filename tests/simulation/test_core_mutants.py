"""A checker that never fails is not a checker: every planted bug is caught, and soon."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from cluster.raft.log import ForgottenEntries
from simulation.core.world import World
from tests.simulation import core_mutants as mutants
from tests.simulation.conftest import Hunt

SEEDS_MAX = 40
"""Within so many seeds, with three and with five nodes each, whatever those draw."""
NODES = (3, 5)
WORLDS: dict[str, Callable[..., World]] = {
    # Each rule of the hardening is needed, and its absence shows.
    **{core.__name__: partial(World, core_class=core) for core in mutants.CORES},
    # Votes on disk, clocks that are compared, and the identity of a data directory.
    **{world.__name__: world for world in mutants.WORLDS},
    # An fsync that confirms what it has not written.
    "a disk that lies": partial(World, honest=False),
}


def hunt(name: str) -> str | None:
    """What a run says that breaks an invariant, an assertion of the core, or a promise to
    clients."""
    for seed in range(SEEDS_MAX):
        for nodes in NODES:
            try:
                WORLDS[name](seed, nodes).run()
            except (AssertionError, ForgottenEntries) as problem:
                return f"{type(problem).__name__}: {problem}"
    return None


@pytest.mark.parametrize("name", WORLDS)
def test_a_planted_bug_is_caught(name: str, hunted: Hunt) -> None:
    """Within a bounded number of seeds."""
    assert hunted(name) is not None
