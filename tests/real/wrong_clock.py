"""`python -m tests.real.wrong_clock SECONDS ...`: the command line under a clock that is off.

The machine has one clock for all processes, so the process's own look at it is moved. The time
since start, which Raft's timers go by, is right.
"""

from __future__ import annotations

import sys
import time


def move_clock(seconds: float) -> None:
    """From here on this process reads a wall clock that is so far ahead."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1_000_000_000)


if __name__ == "__main__":
    move_clock(float(sys.argv.pop(1)))
    from cluster.cli import main

    main()
