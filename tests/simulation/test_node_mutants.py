"""Bugs planted into whole nodes: a simulator that finds none of them would prove nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from simulation.node.world import World
from tests.simulation.conftest import Hunt
from tests.simulation.node_mutants import MUTANTS, Mutant

BROKEN = (TypeError, NameError, AttributeError)
"""What a plant raises that does not fit the code any more, in a node or around it."""
SEEDS_MAX = 50
"""Within so many seeds each is found, by the check that is meant for it."""
BY_NAME = {str(mutant): mutant for mutant in MUTANTS}


def hunt(name: str) -> str | None:
    """What the check says that is meant for the mutant; a plant that does not even run raises."""
    mutant = BY_NAME[name]
    with pytest.MonkeyPatch.context() as patch:
        mutant.plant(patch)
        complaints = (complaint(mutant, seed) for seed in range(SEEDS_MAX))
        return next((each for each in complaints if re.search(mutant.by, each)), None)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_planted_bug_is_caught(name: str, hunted: Hunt) -> None:
    """Within a bounded number of seeds."""
    assert hunted(name) is not None, f"not caught in {SEEDS_MAX} seeds"


def complaint(mutant: Mutant, seed: int) -> str:
    """What a run has to say against the mutant; a plant that does not even run raises."""
    drawn = World(seed, mutant.nodes).options
    world = World(seed, mutant.nodes, options=replace(drawn, **mutant.pinned))
    try:
        world.run()
    except Exception as problem:
        cause = root(problem)
        if isinstance(cause, BROKEN) or any(kind.__name__ in str(cause) for kind in BROKEN):
            raise
        return str(cause)
    return ""


def root(problem: BaseException) -> BaseException:
    """What lies inside of groups of one."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
