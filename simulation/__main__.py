"""`python -m simulation`: replay one seed, or sweep many. Exit code 1 when a promise broke.

Two levels: `core` drives the Raft core and its log with a toy state, for masses of seeds; `node`
drives whole production nodes, hook services and clients.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from simulation.history import to_edn
from simulation.replay import LEVELS, Outcome, Recipe, play, run, story, timeline
from simulation.shrinking import shrink

EVENTS_SHOWN = 60
NODES = (1, 3, 5, 7)
FRESH_SEEDS = 1 << 31


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.seed is None and (arguments.html or arguments.edn or arguments.strikes):
        parser.error("--html, --edn and --strikes are about one run: name it with --seed")
    if arguments.seed is None:
        return _sweep(arguments)
    recipes = [
        Recipe(arguments.level, arguments.seed, nodes, arguments.strikes)
        for nodes in arguments.nodes or [3]
    ]
    if len(recipes) > 1 and (arguments.html or arguments.edn):
        parser.error("--html and --edn are about one run: name one number of nodes")
    return max(_replay(recipe, arguments) for recipe in recipes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--level", choices=LEVELS, default="core")
    parser.add_argument("--nodes", type=int, nargs="+", choices=NODES, help="default: 3 5")
    parser.add_argument("--events", type=int, default=EVENTS_SHOWN, help="how many to show")
    sweep = parser.add_argument_group("many runs")
    sweep.add_argument(
        "--seeds", type=_range, default=range(200), metavar="A:B", help="seeds A to B-1 (0:200)"
    )
    sweep.add_argument("--minutes", type=float, help="fresh seeds for so long, instead")
    sweep.add_argument("--jobs", type=int, default=2, help="processes at once (2)")
    one = parser.add_argument_group("one run")
    one.add_argument("--seed", type=int, help="replay this one and show its last events")
    one.add_argument(
        "--strikes", type=_numbers, metavar="N,N", help="only these faults of its schedule"
    )
    one.add_argument("--html", type=Path, metavar="FILE", help="write a timeline to look at")
    one.add_argument("--edn", type=Path, metavar="FILE", help="write the history as Jepsen does")
    parser.add_argument(
        "--shrink", action="store_true", help="look for a smaller schedule that still fails"
    )
    return parser


def _range(text: str) -> range:
    first, separator, end = text.partition(":")
    if not (separator and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds; one is 0:200")
    return range(int(first), int(end))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers; some are 0,3,7") from None


def _replay(recipe: Recipe, arguments: argparse.Namespace) -> int:
    if arguments.html:
        problem, html = timeline(recipe)
        arguments.html.write_text(html, encoding="utf-8", errors="backslashreplace")
        print(f"wrote {arguments.html}: open it in a browser")
        print(problem or "clean")
        return 1 if problem else 0
    world = recipe.world()
    problem = play(world)
    print(*story(recipe, world, problem, arguments.events), sep="\n")
    if arguments.edn:
        arguments.edn.write_text(to_edn(world.history))
        print(f"wrote {arguments.edn}")
    if problem:
        if arguments.shrink:
            _shrink(run(recipe, arguments.events), arguments.events)
        return 1
    print(
        f"clean: {world.virtual_s:.1f} virtual s, {world.acknowledged} acknowledged writes, "
        f"{world.reads} reads, trace {world.trace.fingerprint}"
    )
    return 0


def _shrink(failed: Outcome, events: int) -> None:
    strikes = len(failed.recipe.world().strikes)
    with _progress() as progress:
        task = progress.add_task("shrinking", total=None)

        def attempt(recipe: Recipe) -> Outcome:
            left = len(recipe.strikes or ())
            progress.update(task, advance=1, description=f"shrinking: {left} faults")
            return run(recipe, events)

        smallest = shrink(failed, strikes, attempt)
    left = smallest.recipe.strikes
    print(f"\nof {strikes} faults {strikes if left is None else len(left)} are left:")
    print(smallest.report)


def _sweep(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    nodes = arguments.nodes or [3, 5]
    seeds: Iterator[int] = iter(arguments.seeds)
    total: int | None = len(arguments.seeds) * len(nodes)
    ends_at = float("inf")
    if arguments.minutes is not None:
        first = random.randrange(FRESH_SEEDS)
        print(f"seeds from {first} on")
        seeds, total = count(first), None
        ends_at = began + 60 * arguments.minutes
    recipes = (Recipe(arguments.level, seed, number) for seed in seeds for number in nodes)
    outcomes: list[Outcome] = []
    was_stopped = False
    try:
        with _progress() as progress:
            task = progress.add_task("runs", total=total)
            for outcome in _outcomes(recipes, arguments.jobs, arguments.events, ends_at):
                outcomes.append(outcome)
                progress.update(task, advance=1)
                if outcome.problem:
                    print(f"\n{outcome.report}", flush=True)
    except KeyboardInterrupt:
        was_stopped = True
        print("stopped; until here:")
    spent = time.monotonic() - began
    failed = [outcome for outcome in outcomes if outcome.problem]
    virtual = sum(outcome.virtual_s for outcome in outcomes)
    print(
        f"{len(outcomes)} runs, {len(failed)} failed; {virtual / 3600:.2f} virtual hours, "
        f"{virtual / spent:.0f} virtual s per s; "
        f"{sum(o.acknowledged for o in outcomes)} acknowledged writes, "
        f"{sum(o.reads for o in outcomes)} reads"
    )
    if failed and arguments.shrink:
        _shrink(failed[0], arguments.events)
    return 1 if failed else 130 if was_stopped else 0


def _outcomes(
    recipes: Iterator[Recipe], jobs: int, events: int, ends_at: float
) -> Iterator[Outcome]:
    """In the order of the recipes, with a bounded number under way; none is begun too late."""
    work = partial(run, events=events)
    # Ctrl-C is for this process only: the others finish what they have begun
    with ProcessPoolExecutor(jobs, initializer=_ignore_interrupts) as pool:
        under_way: list[Future[Outcome]] = []
        for recipe in recipes:
            if time.monotonic() >= ends_at:
                break
            under_way.append(pool.submit(work, recipe))
            if len(under_way) >= 4 * jobs:
                yield under_way.pop(0).result()
        for future in under_way:
            yield future.result()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


if __name__ == "__main__":
    sys.exit(main())
