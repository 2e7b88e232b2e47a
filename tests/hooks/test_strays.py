"""Daemons that commands let loose: spared while they may be needed, then killed and buried."""

import json
import os
import sys
from pathlib import Path

import trio


async def test_a_daemon_ends_when_no_command_can_need_it(tmp_path: Path) -> None:
    """It lives as long as a command that ran when it appeared, is killed then, named with its
    handler, and nothing of it is left, not even a dead child."""
    with trio.fail_after(40):
        done = await trio.run_process(
            [sys.executable, "-m", "tests.hooks.stray_bench", str(tmp_path)],
            capture_stdout=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    report = json.loads(done.stdout)
    assert report == {
        "outcome": "Succeeded",
        "spared": True,
        "killed": 1,
        "handlers": ["quick"],
        "children": [],
    }
