"""`python -m simulation`: replay one seed, or sweep many. Exit code 1 when a promise broke.

Two levels: `core` drives the Raft core and its log with a toy state, for masses of seeds; `node`
drives whole production nodes and clients.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import Progress

from simulation.core.world import World as CoreWorld
from simulation.node.world import World as NodeWorld

EVENTS_SHOWN = 60


class Run(Protocol):
    """One run of either level."""

    @property
    def virtual_s(self) -> float: ...
    @property
    def acknowledged(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def run(self) -> None: ...
    def story(self, events: int) -> list[str]: ...


LEVELS: dict[str, type[CoreWorld] | type[NodeWorld]] = {"core": CoreWorld, "node": NodeWorld}


class Outcome(NamedTuple):
    """One run. `failure` is empty, or tells it all: options, last events, what broke."""

    virtual_s: float
    acknowledged: int
    reads: int
    failure: str


def run_seed(seed: int, nodes: int, level: str) -> Outcome:
    """Run one seed to its end."""
    world: Run = LEVELS[level](seed, nodes)
    failure = _run(world, EVENTS_SHOWN, f"--level {level} --seed {seed} --nodes {nodes}")
    return Outcome(world.virtual_s, world.acknowledged, world.reads, failure)


def _run(world: Run, events_shown: int, replay: str) -> str:
    try:
        world.run()
    except Exception as problem:  # a broken promise, or whatever the product raised: it failed
        while isinstance(problem, ExceptionGroup):
            problem = problem.exceptions[0]
        return "\n".join(
            [
                *world.story(events_shown),
                f"at {world.virtual_s:.4f} s  {type(problem).__name__}: {problem}",
                f"replay: python -m simulation {replay}",
            ]
        )
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--level", choices=LEVELS, default="core")
    parser.add_argument("--seed", type=int, help="replay this one and show its last events")
    parser.add_argument("--seeds", default="0:200", help="sweep seeds A:B (B excluded)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--events", type=int, default=EVENTS_SHOWN, help="how many to show")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return max(
            _replay(arguments.seed, nodes, arguments.level, arguments.events)
            for nodes in arguments.nodes
        )
    first, last = (int(part) for part in arguments.seeds.split(":"))
    runs = [
        (seed, count, arguments.level) for seed in range(first, last) for count in arguments.nodes
    ]
    return _sweep(runs, arguments.jobs)


def _replay(seed: int, nodes: int, level: str, events_shown: int) -> int:
    world: Run = LEVELS[level](seed, nodes)
    failure = _run(world, events_shown, f"--level {level} --seed {seed} --nodes {nodes}")
    if failure:
        print(failure)
        return 1
    print(*world.story(0), sep="\n")
    print(
        f"clean: {world.virtual_s:.1f} virtual s, {world.acknowledged} acknowledged writes, "
        f"{world.reads} reads, trace {world.fingerprint}"
    )
    return 0


def _sweep(runs: list[tuple[int, int, str]], jobs: int) -> int:
    began = time.monotonic()
    outcomes: list[Outcome] = []
    progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with progress, ProcessPoolExecutor(jobs) as pool:
        for outcome in progress.track(
            pool.map(run_seed, *zip(*runs, strict=True), chunksize=4), len(runs), description="runs"
        ):
            outcomes.append(outcome)
            if outcome.failure:
                print(f"\n{outcome.failure}", flush=True)
    spent = time.monotonic() - began
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    virtual = sum(outcome.virtual_s for outcome in outcomes)
    print(
        f"{len(runs)} runs, {failed} failed; {virtual / 3600:.2f} virtual hours, "
        f"{virtual / spent:.0f} virtual s per s; "
        f"{sum(o.acknowledged for o in outcomes)} acknowledged writes, "
        f"{sum(o.reads for o in outcomes)} reads"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
