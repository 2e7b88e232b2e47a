"""trio on virtual time, with one seed for the order in which its tasks run, and hosts that stall.

A task belongs to the host that its context names. What a host does without waiting (an fsync) can
take virtual time: the clock runs ahead for the rest of the step, and then none of the host's tasks
goes on before time has come so far. A frozen host (SIGSTOP) is the same thing for longer.

The only file that touches trio's private switches; tests/simulation/test_canary.py names the
version that they were read in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

T = TypeVar("T")

_HOST: ContextVar[str] = ContextVar("host", default="")


class _RunQueue(deque[trio.lowlevel.Task]):
    """The tasks that may run: those of stalled hosts are kept back."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[trio.lowlevel.Task]] = {}

    def append(self, task: trio.lowlevel.Task) -> None:
        if self.kept:
            kept = self.kept.get(task.context.get(_HOST, ""))
            if kept is not None:
                kept.append(task)
                return
        super().append(task)


class Scheduler(trio.abc.Instrument):
    """What a simulated world asks of time and tasks."""

    def __init__(self) -> None:
        self._ahead_s = 0.0  # of virtual time, in the step in progress
        self._clock = MockClock(autojump_threshold=0)
        self._clock.current_time = self._now  # type: ignore[method-assign]
        self._clock._autojump = self._jump  # type: ignore[method-assign]
        self._queue = _RunQueue()
        self._until: dict[str, float] = {}  # host -> when its stall ends
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0
        self._sooner = trio.Event()

    def _now(self) -> float:
        return self._clock._virtual_base + self._ahead_s

    def _jump(self) -> None:
        """To the next deadline, without trio's statistics of everything."""
        seconds = trio_run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline() - self._now()
        if 0 < seconds < float("inf"):
            self._clock.jump(seconds)

    def run(self, seed: int, main: Callable[[], Awaitable[T]]) -> T:
        """Run `main` on a clock that jumps to the next deadline as soon as every task waits."""

        async def begin() -> T:
            runner = trio_run.GLOBAL_RUN_CONTEXT.runner
            self._queue.extend(runner.runq)
            runner.runq = self._queue
            trio.lowlevel.spawn_system_task(self._keep_time)
            return await main()

        was = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
        trio_run._r.seed(seed)
        try:
            return trio.run(begin, clock=self._clock, instruments=[self])
        finally:
            trio_run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]

    @contextmanager
    def on(self, host: str) -> Iterator[None]:
        """What begins in here runs on `host`."""
        token = _HOST.set(host)
        try:
            yield
        finally:
            _HOST.reset(token)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call `action` then. It must not raise."""
        self._timers_made += 1
        heapq.heappush(self._timers, (self._now() + delay_s, self._timers_made, action))
        if self._timers[0][1] == self._timers_made:
            self._sooner.set()

    # --- stalls ---

    def spend(self, seconds: float) -> None:
        """The step in progress has worked for so long."""
        self._ahead_s += seconds

    def spent_aside(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do in a thread what would take time: the result, and the seconds."""
        before = self._ahead_s
        try:
            return work(), self._ahead_s - before
        finally:
            self._ahead_s = before

    def stall(self, host: str, seconds: float) -> None:
        """None of the host's tasks runs for so long, from now."""
        until = self._now() + seconds
        if until <= self._until.get(host, 0.0):
            return
        self._until[host] = until
        self._queue.kept.setdefault(host, [])
        self.after(seconds, lambda: self._wake(host))

    def go_on(self, host: str) -> None:
        """End its stall now."""
        self._until.pop(host, None)
        for task in self._queue.kept.pop(host, []):
            self._queue.append(task)

    def _wake(self, host: str) -> None:
        until = self._until.get(host)
        if until is not None and until <= self._now():
            self.go_on(host)

    # --- for trio ---

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        host = task.context.get(_HOST, "") if self._ahead_s else ""
        if host:
            ahead_s, self._ahead_s = self._ahead_s, 0.0
            self.stall(host, ahead_s)

    async def _keep_time(self) -> None:
        while True:
            now = self._now()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            self._sooner = trio.Event()
            due = self._timers[0][0] if self._timers else float("inf")
            with trio.move_on_at(due):
                await self._sooner.wait()
