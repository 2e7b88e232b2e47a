"""The one task that drives a node's Raft: wait, take what arrived, run one `Driver.step`, tell.

Everything that may wait lives elsewhere; nothing here may take longer than a heartbeat. Others in
the same trio thread hand in messages, proposals and reads synchronously and are answered from
here, so that no request needs a task of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from cluster.raft.core import Core
from cluster.raft.driver import Driver
from cluster.raft.snapshot import Snapshots
from cluster.raft.stock import Message

MARK_EVERY_S = 0.5


class Statistics(NamedTuple):
    """Since start. `stalled_s` is the longest time in which the loop could not listen."""

    ticks: int
    stalled_s: float


class Engine:
    """Owns the driver. `after_step(applied)` is called once per tick, after callers were answered;
    `mark(term, index)` notes how far the log is on disk."""

    def __init__(
        self,
        driver: Driver,
        *,
        after_step: Callable[[bool], None],
        mark: Callable[[int, int], None],
        observe_tick: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._driver = driver
        self._observe_tick = observe_tick
        self._after_step = after_step
        self._mark = mark
        self._clock = clock
        self._inbox: list[tuple[str, Message]] = []
        self._wake = trio.Event()
        self._ticks = 0
        self._stalled_s = 0.0

    @property
    def core(self) -> Core:
        return self._driver.core

    @property
    def snapshots(self) -> Snapshots:
        return self._driver.snapshots

    def wake(self) -> None:
        """Something was handed in: run a tick soon."""
        self._wake.set()

    def received(self, sender: str, message: Message) -> None:
        self._inbox.append((sender, message))
        self._wake.set()

    def link_up(self, name: str) -> None:
        self.core.peer_connected(self._clock(), name)
        self._wake.set()

    def link_down(self, name: str) -> None:
        self.core.peer_disconnected(self._clock(), name)
        self._wake.set()

    def statistics(self) -> Statistics:
        return Statistics(self._ticks, self._stalled_s)

    async def run(self) -> None:
        """Until cancelled. What a step raises (a disk that refuses, a bug) stops the node."""
        core = self.core
        more = False
        busy = 0.0
        free_at = marked_at = self._clock()
        while True:
            deadline = max(core.deadline(), free_at) if not more else free_at
            if more or self._wake.is_set():
                await trio.lowlevel.checkpoint()
            else:
                with trio.move_on_at(deadline):
                    await self._wake.wait()
            self._wake = trio.Event()
            now = self._clock()
            # neither while the last step worked nor while we overslept could we hear anybody
            stalled = busy + max(now - deadline, 0.0)
            self._stalled_s = max(self._stalled_s, stalled)
            arrived, self._inbox = self._inbox, []
            before = core.applied_index
            more = self._driver.step(now, arrived, stalled)
            self._after_step(core.applied_index != before)
            self._ticks += 1
            free_at = self._clock()
            busy = free_at - now
            self._observe_tick(busy)
            if now - marked_at >= MARK_EVERY_S:
                marked_at = now
                self._mark(core.term, core.log.persisted_index)
