"""Whether a leader waits a moment for callers who are about to be back: one entry takes them all.

An entry costs three nodes the same whether it holds one operation or sixty. Callers that wait for
each answer come back a moment after it, one by one as their connections are read: who appends what
the first of them brings splits them into groups that take turns, for good. So the operations that
wait let others catch up, for GATHER_S at most, until there are as many as were under way before.

Waiting in vain is what must not become a habit: if less than half of those who were missing came,
the next entries do without it, twice as many each time.

May not: read a clock.
"""

from __future__ import annotations

from math import inf

GATHER_S = 0.001
"""On loopback and two processors, half of the round of a full entry."""
SKIPS_MAX = 64
"""Entries that are appended at once after waiting was in vain again and again."""


class Gathering:
    """What one leader expects. `deadline` is when to wait no longer."""

    __slots__ = ("_began_with", "_expected", "_skips", "_skips_next", "deadline")

    def __init__(self) -> None:
        self.deadline = inf
        self._expected = 1
        self._began_with = 0
        self._skips = 0
        self._skips_next = 1

    def is_complete(self, waiting: int) -> bool:
        """Whether `waiting` operations are as many as can be expected."""
        return waiting >= self._expected

    def waits(self, now: float, waiting: int) -> bool:
        """Whether `waiting` operations had better wait for more. HOT."""
        if self.is_complete(waiting) or self._skips:
            return False
        if self.deadline == inf:
            self.deadline = now + GATHER_S
            self._began_with = waiting
        return now < self.deadline

    def appended(self, taken: int, under_way: int) -> None:
        """An entry took so many; with them `under_way` operations are not answered yet."""
        if self.deadline < inf:
            came, missing = taken - self._began_with, self._expected - self._began_with
            if 2 * came >= missing:
                self._skips_next = 1
            else:
                self._skips = self._skips_next
                self._skips_next = min(2 * self._skips_next, SKIPS_MAX)
            self.deadline = inf
        elif self._skips:
            self._skips -= 1
        self._expected = under_way
