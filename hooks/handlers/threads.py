"""The threads of a handler host in which sync handlers run, and the watch over their time.

A sync handler cannot be cancelled. So none waits for another: whatever is submitted has a thread at
once, a free one or a new one; and one that is past its time is told of, so that the process can be
killed. Neither needs the loop of the host, which an async handler may be blocking.
"""

import threading
import time
from collections.abc import Callable
from math import inf
from queue import SimpleQueue

Job = tuple[int, float, Callable[[], object]]  # identifier, seconds, what to do


class Threads:
    """Daemon threads; they end with the process."""

    def __init__(self, on_overdue: Callable[[int], None]) -> None:
        """`on_overdue(identifier)` is called once for a job that is past its time, in a thread."""
        self._on_overdue = on_overdue
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0  # threads that no job is meant for
        self._due: dict[int, float] = {}
        self._watched_until = inf
        self._earlier = threading.Event()
        self._is_watching = False

    def submit(self, identifier: int, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` in a thread. HOT."""
        self._jobs.put((identifier, seconds, function))
        with self._lock:
            if self._free:
                self._free -= 1
                return
        threading.Thread(target=self._work, name="hook-handler", daemon=True).start()
        if not self._is_watching:
            self._is_watching = True
            threading.Thread(target=self._watch, name="hook-watch", daemon=True).start()

    def end(self, identifier: int) -> bool:
        """The job has ended; False when it was told of as overdue."""
        return self._due.pop(identifier, None) is not None

    def _work(self) -> None:
        while True:
            identifier, seconds, function = self._jobs.get()
            due = time.monotonic() + seconds
            self._due[identifier] = due
            if due < self._watched_until:
                self._watched_until = due
                self._earlier.set()
            function()
            del function  # what it holds may be large, and the next job may be long in coming
            with self._lock:
                self._free += 1

    def _watch(self) -> None:
        while True:
            self._earlier.clear()
            now = time.monotonic()
            # a copy first: handlers come and go meanwhile
            overdue = [identifier for identifier, due in list(self._due.items()) if due <= now]
            for identifier in overdue:
                if self.end(identifier):
                    self._on_overdue(identifier)
            # First: a job that begins while the others are looked through then says that it did.
            self._watched_until = inf
            self._watched_until = min(list(self._due.values()), default=inf)
            wait_s = self._watched_until - time.monotonic()
            self._earlier.wait(None if wait_s == inf else max(wait_s, 0))
