"""`python -m simulation`: replay one seed, or sweep many. Exit code 1 when a promise broke."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from simulation.story import columns
from simulation.world import World

EVENTS_SHOWN = 60


class Outcome(NamedTuple):
    """One run. `failure` is empty, or tells it all: options, last events, what broke."""

    virtual_s: float
    acknowledged: int
    reads: int
    failure: str


def run_seed(seed: int, nodes: int) -> Outcome:
    """Run one seed to its end."""
    world = World(seed, nodes)
    failure = _run(world, EVENTS_SHOWN)
    return Outcome(world.now, world.checker.acknowledged, world.checker.reads, failure)


def _run(world: World, events_shown: int) -> str:
    try:
        world.run()
    except Exception as problem:  # a broken promise, or whatever the core raised: it failed
        return "\n".join(
            [
                *_header(world),
                *columns(list(world.trace)[-events_shown:], sorted(world.processes)),
                f"at {world.now:.4f} s  {type(problem).__name__}: {problem}",
                f"replay: python -m simulation --seed {world.seed} --nodes {world.options.nodes}",
            ]
        )
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and show its last events")
    parser.add_argument("--seeds", default="0:200", help="sweep seeds A:B (B excluded)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--events", type=int, default=EVENTS_SHOWN, help="how many to show")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return max(_replay(arguments.seed, nodes, arguments.events) for nodes in arguments.nodes)
    first, last = (int(part) for part in arguments.seeds.split(":"))
    runs = [(seed, count) for seed in range(first, last) for count in arguments.nodes]
    return _sweep(runs, arguments.jobs)


def _replay(seed: int, nodes: int, events_shown: int) -> int:
    world = World(seed, nodes)
    failure = _run(world, events_shown)
    if failure:
        print(failure)
        return 1
    checker = world.checker
    print(*_header(world), sep="\n")
    print(
        f"clean: {world.now:.1f} virtual s, {checker.acknowledged} acknowledged writes, "
        f"{checker.reads} reads, {len(world.invariants.leaders)} terms with a leader, "
        f"trace {world.hash.hexdigest()}"
    )
    return 0


def _sweep(runs: list[tuple[int, int]], jobs: int) -> int:
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


def _header(world: World) -> list[str]:
    return [f"seed {world.seed}, {world.options.nodes} nodes", *world.options.lines()]


if __name__ == "__main__":
    sys.exit(main())
