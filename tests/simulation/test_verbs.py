"""`python -m simulation` as people use it: replay, sweep, shrink, pages, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulation.replay import Outcome, Recipe
from simulation.shrinking import shrink


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments], capture_output=True, text=True
    )


def outcome(recipe: Recipe, problem: str = "") -> Outcome:
    return Outcome(recipe, 1.0, 1, 1, "", problem, problem)


def test_a_replay_shows_what_was_drawn_and_what_happened() -> None:
    """The options, the schedule, the last moments, and the same trace each time."""
    first, again = (simulation("--seed", "3", "--nodes", "3", "--events", "7") for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == again.stdout
    for word in ("fsync_s", "faults", "schedule", "n1", "clean:", "trace"):
        assert word in first.stdout


def test_only_some_of_the_faults_are_played() -> None:
    """As a smaller schedule is replayed; none at all is another run than all of them."""
    arguments = ("--level", "node", "--seed", "3", "--nodes", "3", "--events", "0")
    everything, nothing = simulation(*arguments), simulation(*arguments, "--strikes", "")
    assert everything.returncode == nothing.returncode == 0
    assert "no faults" in nothing.stdout
    assert everything.stdout.splitlines()[-1] != nothing.stdout.splitlines()[-1]


def test_fresh_seeds_for_some_time() -> None:
    """The first one is told, so that the sweep can be repeated."""
    swept = simulation("--minutes", "0.02", "--nodes", "3")
    assert swept.returncode == 0
    assert swept.stdout.startswith("seeds from ")
    assert " 0 failed" in swept.stdout


def test_a_page_and_a_history_are_written(tmp_path: Path) -> None:
    """A page that stands alone, and Jepsen's EDN."""
    page, history = tmp_path / "run.html", tmp_path / "run.edn"
    one = ("--level", "node", "--seed", "3", "--nodes", "3")
    assert simulation(*one, "--html", str(page)).returncode == 0
    assert simulation(*one, "--edn", str(history)).returncode == 0
    text = page.read_text()
    assert "append_entries" in text
    assert "python -m simulation --level node --seed 3 --nodes 3" in text
    assert history.read_text().startswith("{:")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seeds", "5"), "no range of seeds"),
        (("--seeds", "9:3"), "no range of seeds"),
        (("--seed", "1", "--strikes", "a"), "are no numbers"),
        (("--html", "x.html"), "name it with --seed"),
        (("--edn", "x.edn"), "name it with --seed"),
        (("--seed", "1", "--nodes", "3", "5", "--html", "x"), "one number of nodes"),
        (("--nodes", "4"), "invalid choice: 4"),
        (("--level", "moon"), "invalid choice: 'moon'"),
    ],
)
def test_bad_input_is_refused_with_words(arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, and what is wrong."""
    refused = simulation(*arguments)
    assert refused.returncode == 2
    assert words in refused.stderr


def test_shrinking_leaves_only_the_faults_that_are_needed() -> None:
    """Of twenty strikes two together break the promise; another failure does not count."""
    needed = {3, 17}
    runs = 0

    def attempt(recipe: Recipe) -> Outcome:
        nonlocal runs
        runs += 1
        kept = set(recipe.strikes or ())
        if 5 not in kept and len(kept) == 7:
            return outcome(recipe, "TimeoutError: something else")
        return outcome(recipe, "Violation: lost" if needed <= kept else "")

    failed = outcome(Recipe("core", 1, 3), "Violation: lost and gone")
    smallest = shrink(failed, 20, attempt)
    assert smallest.recipe.strikes == (3, 17)
    assert smallest.recipe.line.endswith("--seed 1 --nodes 3 --strikes 3,17")
    assert runs < 100
