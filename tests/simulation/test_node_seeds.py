"""Whole nodes on virtual time: fixed seeds over all faults, and the same run in any process."""

from __future__ import annotations

import subprocess
import sys

from tests.simulation.fingerprints import fingerprints

SEEDS = 30
"""With three and with five nodes each."""


def test_fixed_seeds_are_clean() -> None:
    """Linearizable, nothing acknowledged lost, one event per change, one state, live again; as
    people run it, on two processors."""
    swept = subprocess.run(
        [sys.executable, "-m", "simulation", "--level", "node", "--seeds", f"0:{SEEDS}"],
        capture_output=True,
        text=True,
    )
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert f"{2 * SEEDS} runs, 0 failed" in swept.stdout


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """Whatever order strings hash in, and wherever the data lies."""
    one, other = fingerprints("simulation.node.world", 3)
    assert one == other
    assert len(one) == 32
