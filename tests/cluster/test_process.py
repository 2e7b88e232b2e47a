"""What a node makes of its process, seen in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import gc, os, sys
from cluster import process
process.settle(sys.argv[1])
print(os.sched_getscheduler(0) == os.SCHED_BATCH)
print(gc.get_threshold() == process.COLLECTOR_THRESHOLDS)
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has such a policy")
@pytest.mark.parametrize(("scheduling", "is_batch"), [("batch", True), ("normal", False)])
def test_a_process_takes_the_place_that_it_is_given(scheduling: str, is_batch: bool) -> None:
    """Linux tells by which policy it schedules the process."""
    found = subprocess.run(
        [sys.executable, "-c", PROBE, scheduling], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(is_batch), "True"]
