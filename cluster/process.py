"""How a node's process runs: its garbage collector, its memory and its place among the others.

Each setting was measured to matter on the write or the read path; docs/adr/0013 has the figures.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final, Literal

Scheduling = Literal["batch", "normal"]

COLLECTOR_THRESHOLDS: Final = (100_000, 50, 100)
KEPT_FREE_BYTES: Final = 64 << 20
_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h


def settle(scheduling: Scheduling) -> None:
    """Call once, before the node does any work."""
    # A node makes and drops a million small objects a second and hardly a cycle among them: at
    # the interpreter's own pace the collector walks the kept log over and over.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    _keep_free_memory()
    if scheduling == "batch" and hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _keep_free_memory() -> None:
    """Let malloc keep what large buffers leave at the end of the heap: it would give it back and
    fault it in again with every message."""
    try:
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    except (AttributeError, OSError):
        pass  # another C library than glibc
