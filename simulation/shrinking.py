"""Finds a smaller fault schedule that still fails: what is left of it is mostly the cause.

Delta debugging (Zeller and Hildebrandt, 2002): leave out ever smaller parts of the schedule, and
keep what still breaks the same promise.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.replay import Outcome, Recipe


def shrink(failed: Outcome, strikes: int, run: Callable[[Recipe], Outcome]) -> Outcome:
    """The smallest failing run that was found; `failed` has so many strikes in its schedule."""
    smallest = failed
    kept = list(failed.recipe.strikes if failed.recipe.strikes is not None else range(strikes))
    parts = 2
    while kept:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            tried = run(failed.recipe.only(rest))
            if _same(tried, failed):
                smallest, kept, parts = tried, rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(kept))
    return smallest


def _same(tried: Outcome, failed: Outcome) -> bool:
    """The same kind of failure: its first words, since numbers and names differ."""
    return bool(tried.problem) and _kind(tried.problem) == _kind(failed.problem)


def _kind(problem: str) -> str:
    return problem.partition(":")[0]
