"""What drives a node's Raft: take what arrived, run one `Driver.step`, tell.

A peer's messages are worked on at once, in the task that received them, and so are a lone request
and the last of those that were expected: waiting for another turn of the loop would cost each hop
of a write as much again. All else (other requests, timers, work left over) waits for the engine's
own task, and what had better wait for others first (gathering.py) does not even wake it. Everything
that may wait lives elsewhere; nothing here may take longer than a heartbeat. Others in the same
trio thread hand in messages, proposals and reads synchronously and are answered from here, so that
no request needs a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import trio

from cluster.raft.core import Core
from cluster.raft.driver import Driver
from cluster.raft.proposals import Done
from cluster.raft.snapshot import Snapshots
from cluster.raft.stock import Message

MARK_EVERY_S = 0.5
SOON_S = 0.01
"""A timer that would wake the engine's task so soon for nothing is moved."""


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
        self.core: Core = driver.core
        self._driver = driver
        self._observe_tick = observe_tick
        self._after_step = after_step
        self._mark = mark
        self._clock = clock
        self._inbox: list[tuple[str, Message]] = []
        self._due = False  # something was handed in, or is left over from the last step
        self._wake = trio.Event()
        self._sleep = trio.CancelScope()
        self._next_at = 0.0  # when the next step must come: later, we overslept
        self._busy_s = 0.0  # for how long the last step kept us from listening
        self._stepped_at = 0.0  # when the last step was over
        self._marked_at = clock()
        self._runs = False
        self._has_ended = False
        self._failure: Exception | None = None
        self._ticks = 0
        self._stalled_s = 0.0

    @property
    def snapshots(self) -> Snapshots:
        return self._driver.snapshots

    def wake(self) -> None:
        """Something was handed in: run a tick soon."""
        if not self._due:
            self._due = True
            self._wake.set()

    def propose(self, payload: bytes, done: Done) -> None:
        """See `Core.propose`. HOT."""
        core = self.core
        core.propose(payload, done)
        if not self._due:
            if core.gathers(self._clock()):
                self._next_at = min(self._next_at, core.deadline())
                self._sleep_on()
            else:
                self.wake()

    def received(self, sender: str, messages: Sequence[Message]) -> None:
        """Messages that came together. HOT."""
        if self._runs:
            self._guard(self._receive, sender, messages)
        elif not self._has_ended:
            self._inbox += [(sender, message) for message in messages]
            self.wake()

    def hasten(self, is_alone: bool) -> None:
        """Work now on what was handed in if nobody is about to hand in more that could share it:
        as this node knows (`is_alone`), or a leader of all who propose."""
        if self._runs and self._due and (is_alone or self.core.has_all()):
            self._guard(self._tick, self._clock())

    def _receive(self, sender: str, messages: Sequence[Message]) -> None:
        now = self._clock()
        is_late = now > self._next_at
        for message in messages:
            if is_late or self._inbox or not self._driver.take_note(now, sender, message):
                self._inbox.append((sender, message))
        if self._inbox:
            self._tick(now)
        else:
            self._next_at = min(self._next_at, self.core.deadline())

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        """Work in the task of somebody else: what it raises stops the node, and not that task."""
        try:
            work(*arguments)
        except Exception as failure:
            self._failure = failure
            self._end()
            self._wake.set()
            return
        if self._due:
            self._wake.set()
        else:
            self._sleep_on()

    def _sleep_on(self) -> None:
        """The engine's task sleeps until the next step must come, or wakes for nothing before:
        a follower's next step is put off with each message, and to move a timer takes longer."""
        wakes_at = self._sleep.deadline
        if self._next_at < wakes_at or wakes_at < min(self._next_at, self._stepped_at + SOON_S):
            self._sleep.deadline = self._next_at

    def _end(self) -> None:
        self._runs = False
        self._has_ended = True

    def link_up(self, name: str) -> None:
        self.core.peer_connected(self._clock(), name)
        self.wake()

    def link_down(self, name: str) -> None:
        self.core.peer_disconnected(self._clock(), name)
        self.wake()

    def statistics(self) -> Statistics:
        return Statistics(self._ticks, self._stalled_s)

    async def run(self) -> None:
        """Until cancelled. What a step raises (a disk that refuses, a bug) stops the node."""
        self._runs = True
        self._next_at = max(self.core.deadline(), self._clock())
        try:
            while True:
                if self._due:
                    await trio.lowlevel.checkpoint()
                else:
                    self._wake = trio.Event()
                    with trio.CancelScope(deadline=self._next_at) as self._sleep:
                        await self._wake.wait()
                if self._failure is not None:
                    raise self._failure
                now = self._clock()
                if self._due or now >= self._next_at:
                    self._tick(now)
        finally:
            self._end()

    def _tick(self, now: float) -> None:
        core = self.core
        # neither while the last step worked nor while we overslept could we hear anybody
        stalled = self._busy_s + max(now - self._next_at, 0.0)
        self._stalled_s = max(self._stalled_s, stalled)
        arrived, self._inbox = self._inbox, []
        before = core.applied_index
        self._due = False
        if self._driver.step(now, arrived, stalled):
            self._due = True
        self._after_step(core.applied_index != before)
        self._ticks += 1
        ended = self._stepped_at = self._clock()
        self._busy_s = ended - now
        self._next_at = ended if self._due else max(core.deadline(), ended)
        self._observe_tick(self._busy_s)
        if now - self._marked_at >= MARK_EVERY_S:
            self._marked_at = now
            self._mark(core.term, core.log.persisted_index)
