"""Linearizable reads by ReadIndex (Raft thesis §6.4), without a log write.

A read is served when a quorum of voters answered a round of append_entries that began after the
read arrived, and the local state has applied the commit index of that moment. All reads of one
tick share a round. The leader serves its own reads and the rounds that followers ask for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

ReadDone = Callable[[int | None], None]
"""Called with the index to wait for, or None when leadership was lost first."""


class _Round(NamedTuple):
    number: int
    commit_index: int
    waiters: list[ReadDone]


class ReadRounds:
    """The leader's open rounds, oldest first."""

    def __init__(self) -> None:
        self.number = 0
        self.asked = 0  # the newest round that append_entries have carried
        self.confirmed = 0  # the newest round that a quorum has echoed
        self._arrived: list[ReadDone] = []
        self._open: deque[_Round] = deque()

    def add(self, done: ReadDone) -> None:
        self._arrived.append(done)

    @property
    def waiting(self) -> bool:
        return bool(self._arrived)

    def open_round(self, commit_index: int) -> None:
        """Give what has arrived a round; the next append_entries carry its number."""
        self.number += 1
        self._open.append(_Round(self.number, commit_index, self._arrived))
        self._arrived = []

    def confirm(self, number: int) -> None:
        """A quorum has echoed round `number` (or a later one)."""
        self.confirmed = max(self.confirmed, number)
        while self._open and self._open[0].number <= number:
            done = self._open.popleft()
            for waiter in done.waiters:
                waiter(done.commit_index)

    def fail(self) -> None:
        """Leadership is gone: nothing that is open may be served."""
        waiters = [w for r in self._open for w in r.waiters] + self._arrived
        self._open.clear()
        self._arrived = []
        for waiter in waiters:
            waiter(None)
