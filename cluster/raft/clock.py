"""The two clocks that a leader stamps on entries; nobody else decides time.

* `wall_ms` for timestamps and expiry: the median of the voters' wall clocks, never backwards,
  and never faster than SLEW_MAX times real time. A leader whose own clock is an hour off is
  outvoted by the others; until it has heard them it goes on where the leader before it was.
* `elapsed_ms` for sessions and backoff: advances only while there is a leader, so that a pause
  without one expires nobody. A stall of the leader's own process counts at most STALL_MAX_S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SLEW_MAX = 1.1
"""How fast the stamped wall clock may run while catching up, in multiples of real time: a key that
was put with a late stamp expires by so much early."""
SETTLE_S = 1.0
"""For how long a new leader that has not heard all voters may still jump forward."""
LATE_MS_MAX = 1000.0
"""A clock that shows up to so much less than before was read late, not set back."""
LATE_BELIEVED = 0.01
"""What each such reading counts, because clocks also drift."""
STALL_MAX_S = 1.0
"""Seconds of a gap between two ticks that count as time under a leader."""


class ClusterClock:
    """Kept by every node, used by the leader. `now` is the node's monotonic clock, seconds."""

    def __init__(self, name: str, wall_ms: Callable[[], int]) -> None:
        self._name = name
        self._wall_ms = wall_ms
        self._offsets: dict[str, float] = {}  # voter -> its wall clock minus our monotonic one
        self._wall = 0.0
        self._elapsed = 0.0
        self._ticked_at = 0.0
        self._stamped_at = 0.0
        self._led_at = 0.0
        self._settled = False
        self._leaders: float | None = None  # the leader's stamped clock minus our monotonic one

    def own_wall_ms(self) -> int:
        """This machine's wall clock: what a voter reports to its leader."""
        return self._wall_ms()

    def lead(self, now: float, wall_floor_ms: int, elapsed_floor_ms: int) -> None:
        """Start to stamp: not before the newest stamp in the log, nor before the clock of the
        leader that this node followed."""
        self._wall = float(wall_floor_ms)
        if self._leaders is not None:
            self._wall = max(self._wall, self._leaders + now * 1000.0)
        self._elapsed = float(elapsed_floor_ms)
        self._ticked_at = self._stamped_at = self._led_at = now
        self._settled = False

    def follow(self, wall_ms: int, now: float) -> None:
        """The leader says what its stamped clock shows now."""
        self._leaders = _nearer(self._leaders, wall_ms - now * 1000.0)

    def shown(self, now: float) -> int:
        """What the stamped clock shows, as far as it can be told without the voters."""
        return int(self._wall + max(now - self._stamped_at, 0.0) * 1000.0)

    def observe(self, peer: str, wall_ms: int, now: float) -> None:
        """A voter says what its wall clock shows now. Kept against the monotonic clock: a jump of
        our own wall clock must not move the others'."""
        self._offsets[peer] = _nearer(self._offsets.get(peer), wall_ms - now * 1000.0)

    def tick(self, now: float) -> None:
        self._elapsed += min(max(now - self._ticked_at, 0.0), STALL_MAX_S) * 1000.0
        self._ticked_at = now

    def stamp(self, now: float, voters: Sequence[str]) -> tuple[int, int]:
        """`(wall_ms, elapsed_ms)` for an entry that is appended now. Both never go back."""
        self.tick(now)
        passed_ms = max(now - self._stamped_at, 0.0) * 1000.0
        self._stamped_at = now
        target = self._median(now, voters)
        self._settled = self._settled or now > self._led_at + SETTLE_S
        if target is None:
            self._wall += passed_ms  # too few clocks known: keep the pace, jump nowhere
        elif not self._settled:
            # the gap without a leader is caught up at once, later differences slowly
            self._wall = max(self._wall, target)
            self._settled = all(voter in self._offsets or voter == self._name for voter in voters)
        else:
            self._wall = max(self._wall, min(target, self._wall + passed_ms * SLEW_MAX))
        return int(self._wall), int(self._elapsed)

    def peek(self, now: float, voters: Sequence[str]) -> tuple[int, int]:
        """What a stamp would show now: only a leader may ask."""
        return self.stamp(now, voters)

    def _median(self, now: float, voters: Sequence[str]) -> float | None:
        clocks = sorted(
            self._wall_ms() if voter == self._name else self._offsets[voter] + now * 1000.0
            for voter in voters
            if voter == self._name or voter in self._offsets
        )
        if len(clocks) * 2 <= len(voters):
            return None
        # the lower middle of an even number: late is safe, early is not
        return clocks[(len(clocks) - 1) // 2]


def _nearer(known: float | None, heard: float) -> float:
    """Of two readings of one clock the one that was under way for less time."""
    if known is not None and 0.0 < known - heard <= LATE_MS_MAX:
        return known - (known - heard) * LATE_BELIEVED
    return heard
