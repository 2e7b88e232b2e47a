"""The pytest plugin of `tremula[testing]`: the fixture `simulated_cluster`, once for each seed.

It is loaded in every run of pytest where it is installed, so that it imports the simulator only for
a test that asks for the fixture.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from simulation.testing import SimulatedCluster

FIXTURE = "simulated_cluster"
SEEDS_DEFAULT = 20
SEEDS_MAX = 100_000

_RUNS = pytest.StashKey["SimulatedCluster"]()
_FAILED = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tremula", "simulated clusters (tremula)")
    group.addoption(
        "--tremula-seeds", type=_seeds, default=range(SEEDS_DEFAULT), metavar="N|A:B",
        help="run each test of a simulated cluster under N seeds, or A to B without B "
        f"(default: {SEEDS_DEFAULT})",
    )  # fmt: skip
    group.addoption(
        "--tremula-seed", type=_seed, default=None, metavar="N", help="replay this one seed",
    )  # fmt: skip
    group.addoption(
        "--tremula-all-seeds", action="store_true",
        help="run on after the first seed under which a test fails",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FAILED] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed, so that nothing of one is left for the next."""
    if FIXTURE in metafunc.fixturenames:
        options = metafunc.config.option
        one: int | None = options.tremula_seed
        seeds: range = options.tremula_seeds if one is None else range(one, one + 1)
        ids = [f"seed{seed}" for seed in seeds]
        metafunc.parametrize(FIXTURE, seeds, indirect=True, ids=ids)


@pytest.fixture
def simulated_cluster(request: pytest.FixtureRequest) -> SimulatedCluster:
    """A cluster of production nodes on virtual time: `simulated_cluster.run(scenario, hooks=...)`.

    See docs/testing-hooks.md of Tremula.
    """
    from simulation.testing import SimulatedCluster

    seed = getattr(request, "param", None)
    if seed is None:
        pytest.fail(f"ask for {FIXTURE} as an argument of the test: each seed is a test of its own")
    failed = request.config.stash[_FAILED].get(_name(request.node))
    if failed is not None and not request.config.option.tremula_all_seeds:
        pytest.skip(f"seed {failed} has failed; --tremula-all-seeds runs the others too")
    simulated = request.node.stash[_RUNS] = SimulatedCluster(seed)
    return simulated


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a failure tell what happened in the run, and how to have it again."""
    report = yield
    simulated = item.stash.get(_RUNS, None)
    if simulated is not None and report.when == "call" and report.failed:
        item.config.stash[_FAILED].setdefault(_name(item), simulated.seed)
        lines = [*simulated.story(), "", f"replay: {_replay(item, simulated.seed)}"]
        report.sections.append((f"simulated cluster, seed {simulated.seed}", "\n".join(lines)))
    return report


def _name(item: Any) -> str:
    """Of a test, the same for all of its seeds."""
    parameters = dict(item.callspec.params)
    parameters.pop(FIXTURE, None)
    return f"{item.nodeid.partition('[')[0]} {parameters!r}"


def _replay(item: pytest.Item, seed: int) -> str:
    """One line for a shell, from the folder in which pytest was called."""
    _, _, inner = item.nodeid.partition("::")
    if list(item.callspec.params) == [FIXTURE]:  # type: ignore[attr-defined]
        inner = inner.partition("[")[0]
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    return f"pytest {shlex.quote(f'{path}::{inner}')} --tremula-seed {seed}"


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, not {text!r}")
    return seed


def _seeds(text: str) -> range:
    first, colon, end = text.rpartition(":")
    try:
        seeds = range(int(first) if colon else 0, int(end))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds.start < 0:
        raise argparse.ArgumentTypeError(
            f"how many seeds, as in 50, or which, as in 100:150 (without 150), not {text!r}"
        )
    if len(seeds) > SEEDS_MAX:
        raise argparse.ArgumentTypeError(f"at most {SEEDS_MAX} seeds, not {len(seeds)}")
    return seeds
