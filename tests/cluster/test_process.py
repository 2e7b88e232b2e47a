"""What a node makes of its process, seen in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import gc, os, sys
from cluster import process
process.settle(sys.argv[1])
print(os.sched_getscheduler(0) == os.SCHED_BATCH)
print(gc.get_threshold() == process.COLLECTOR_THRESHOLDS)
"""
LARGE = """
import sys
from cluster import process
process._HUGE_PAGES = __import__("pathlib").Path(sys.argv[1])
kept = [object() for _ in range(500_000)]  # 8 MB at least
process.settle("normal")
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("AnonHugePages:"):
        print(line.split()[1])
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has such a policy")
@pytest.mark.parametrize(("scheduling", "is_batch"), [("batch", True), ("normal", False)])
def test_a_process_takes_the_place_that_it_is_given(scheduling: str, is_batch: bool) -> None:
    """Linux tells by which policy it schedules the process."""
    found = subprocess.run(
        [sys.executable, "-c", PROBE, scheduling], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(is_batch), "True"]


@pytest.mark.parametrize("allowed", [True, False])
def test_what_is_loaded_lies_in_large_pages_unless_the_system_says_never(
    allowed: bool, tmp_path: Path
) -> None:
    """Linux tells how much of the process does."""
    system = Path("/sys/kernel/mm/transparent_hugepage")
    if not system.exists() or "[never]" in (system / "enabled").read_text():
        pytest.skip("this system has no large pages for us")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1):
        pytest.skip("before Linux 6.1 a process cannot ask for them at once")
    (tmp_path / "hpage_pmd_size").write_text((system / "hpage_pmd_size").read_text())
    (tmp_path / "enabled").write_text(
        "always [madvise] never" if allowed else "always madvise [never]"
    )
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (int(found.stdout) > 0) is allowed
