"""`python -m simulation`: replay one seed, or sweep many. Exit code 1 when a promise broke."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from simulation.checkers import Violation
from simulation.world import World

Outcome = tuple[int, int, str, float, int, int]


def run_seed(seed: int, nodes: int) -> Outcome:
    """`(seed, nodes, error or "", virtual seconds, acknowledged writes, reads)`."""
    world = World(seed, nodes)
    error = ""
    try:
        world.run()
    except (Violation, AssertionError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return seed, nodes, error, world.now, world.checker.acknowledged, world.checker.reads


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and show its last events")
    parser.add_argument("--seeds", default="0:200", help="sweep seeds A:B (B excluded)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return max(_replay(arguments.seed, nodes) for nodes in arguments.nodes)
    first, last = (int(part) for part in arguments.seeds.split(":"))
    return _sweep(first, last, arguments.nodes, arguments.jobs)


def _replay(seed: int, nodes: int) -> int:
    world = World(seed, nodes)
    print(f"seed {seed}, {nodes} nodes", *world.options.lines(), sep="\n")
    try:
        world.run()
    except (Violation, AssertionError) as problem:
        print(*world.trace, sep="\n")
        print(f"VIOLATION at {world.now:.4f} s: {problem}")
        print(f"replay: python -m simulation --seed {seed} --nodes {nodes}")
        return 1
    checker = world.checker
    print(
        f"clean: {world.now:.1f} virtual s, {checker.acknowledged} acknowledged writes, "
        f"{checker.reads} reads, {len(world.invariants.leaders)} terms with a leader, "
        f"trace {world.hash.hexdigest()}"
    )
    return 0


def _sweep(first: int, last: int, nodes: list[int], jobs: int) -> int:
    runs = [(seed, count) for seed in range(first, last) for count in nodes]
    began = time.monotonic()
    virtual, writes, reads, failed, done = 0.0, 0, 0, 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for seed, count, error, seconds, acked, read in pool.map(
            run_seed, *zip(*runs, strict=True), chunksize=4
        ):
            done += 1
            virtual, writes, reads = virtual + seconds, writes + acked, reads + read
            if error:
                failed += 1
                print(f"\nseed {seed}, {count} nodes: {error}")
                print(f"  replay: python -m simulation --seed {seed} --nodes {count}")
            if sys.stderr.isatty():
                print(f"\r{done}/{len(runs)} runs, {failed} failed", end="", file=sys.stderr)
    spent = time.monotonic() - began
    print(
        f"{len(runs)} runs, {failed} failed; {virtual / 3600:.2f} virtual hours, "
        f"{virtual / spent:.0f} virtual s per s; {writes} acknowledged writes, {reads} reads"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
