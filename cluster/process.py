"""How a node's process runs: its garbage collector, its memory and its place among the others.

Each setting was measured to matter on the write or the read path; docs/adr/0013 has the figures.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

Scheduling = Literal["batch", "normal"]

COLLECTOR_THRESHOLDS: Final = (100_000, 50, 100)
KEPT_FREE_BYTES: Final = 64 << 20
_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
_MADV_HUGEPAGE: Final = 14  # of Linux's mman.h
_MADV_COLLAPSE: Final = 25  # since Linux 6.1
_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage")


def settle(scheduling: Scheduling) -> None:
    """Call once, before the node does any work."""
    # A node makes and drops a million small objects a second and hardly a cycle among them: at
    # the interpreter's own pace the collector walks the kept log over and over.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    _keep_free_memory()
    _use_huge_pages()
    if scheduling == "batch" and hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _keep_free_memory() -> None:
    """Let malloc keep what large buffers leave at the end of the heap: it would give it back and
    fault it in again with every message."""
    try:
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    except (AttributeError, OSError):
        pass  # another C library than glibc


def _use_huge_pages() -> None:
    """Have what the interpreter has loaded in a few large pages: each turn of the loop touches much
    of it, and finding thousands of small ones anew takes a tenth of a node's time. Nothing changes
    where the system says `never`, or has no such pages."""
    try:
        if "[never]" in (_HUGE_PAGES / "enabled").read_text():
            return
        page = int((_HUGE_PAGES / "hpage_pmd_size").read_text())
        mappings = list(_memory())
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for start, end, is_heap in mappings:
        first, last = -(-start // page) * page, end // page * page
        if is_heap and last > first:
            advise(first, last - first, _MADV_HUGEPAGE)  # what is added to it as well
        for address in range(first, last, page):
            advise(address, page, _MADV_COLLAPSE)  # an error is no harm: it stays as it is


def _memory() -> Iterator[tuple[int, int, bool]]:
    """Start and end of what this process may write to and no file stands behind; and whether it is
    the heap of malloc."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, _, _, inode, *name = line.split()
        if inode == "0" and rights.startswith("rw") and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end, bool(name)
