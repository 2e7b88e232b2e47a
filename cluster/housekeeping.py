"""Keeping the disk small: checkpoints of the state, and a Raft log that ends where they begin.

The log is cut at an index that a completed checkpoint made durable, never beyond, and some of it
is kept for peers that lag: always a little, and for a while what a connected one still needs.
Deleting goes in slices, between ticks.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cluster.raft.sqlite_log import SqliteLog
from cluster.storage import Storage

CHECKPOINT_EVERY_S = 1.0
SWEEP_ROWS = 500
SWEEP_EVERY_S = 0.03
NEEDED_TIMES_MAX = 4
"""How many times its bounds the log may grow for peers that are being brought up to date."""


class Housekeeping:
    """Runs beside the engine, in the same thread; `wake` lets the engine commit what was cut."""

    def __init__(
        self,
        storage: Storage,
        log: SqliteLog,
        wake: Callable[[], None],
        *,
        needed_index: Callable[[], int],
        log_entries_max: int,
        log_bytes_max: int,
        on_cut: Callable[[int, int], None] = lambda index, term: None,
    ) -> None:
        """`on_cut` is told the entry up to which the log is gone from now on, by index and term."""
        self._storage = storage
        self._log = log
        self._wake = wake
        self._needed_index = needed_index
        self._entries_max = log_entries_max
        self._bytes_max = log_bytes_max
        self._on_cut = on_cut

    async def run(self) -> None:
        """Until cancelled."""
        checkpointed = 0
        while True:
            await trio.sleep(CHECKPOINT_EVERY_S)
            if self._storage.machine.applied_index == checkpointed:
                continue
            durable = await self._storage.checkpoint()
            if durable is not None:
                checkpointed = durable
                await self._cut(durable)

    async def _cut(self, durable: int) -> None:
        log = self._log
        if len(log) <= self._entries_max and log.kept_bytes <= self._bytes_max:
            return
        index = min(durable, log.persisted_index)
        # half of the bound stays: a peer that was away for a moment needs no snapshot
        index = min(index, log.index_before(self._entries_max // 2, self._bytes_max // 2))
        entries_max, bytes_max = (
            NEEDED_TIMES_MAX * bound for bound in (self._entries_max, self._bytes_max)
        )
        if len(log) <= entries_max and log.kept_bytes <= bytes_max:
            index = min(index, self._needed_index())
        if index > log.first.index:
            log.compact(index)
            self._wake()
            self._on_cut(index, log.first.term)
        while log.sweep(SWEEP_ROWS):
            self._wake()
            await trio.sleep(SWEEP_EVERY_S)
