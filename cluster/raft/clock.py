"""The two clocks that a leader stamps on entries; nobody else decides time.

* `wall_ms` for timestamps and expiry: it follows the median of the voters' wall clocks, never
  backwards, and never faster than SLEW_MAX times real time, over changes of the leader and restarts
  as well. So nothing expires early because a clock was wrong: a clock that is behind costs late
  stamps, until they have caught up.
* `elapsed_ms` for sessions and backoff: advances only while there is a leader, so that a pause
  without one expires nobody. A stall of the leader's own process counts at most STALL_MAX_S.

A new leader goes on where the wall clock of the leaders before it would be now. Whoever has heard
a leader since it was started knows that by its monotonic clock. After a restart of all there are
only wall clocks, which may be wrong: but each node remembers how far its own was from the stamped
one, and of what they claim the median counts. Where nobody has a claim, before the first election
of a cluster, the wall clocks themselves are believed, and nothing is placed in the log before all
of them are known or SETTLE_S is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Claim = tuple[int, int]
"""What the stamped clock shows now, and in which term its leader was followed; 0: it is only
remembered. The newest leader's clock is the one that counts, also where it is behind an older's."""

SLEW_MAX = 1.1
"""How fast the stamped wall clock may run while catching up, in multiples of real time: a key that
was put with a late stamp expires by so much early. One that is ahead runs as much slower."""
SETTLE_S = 1.0
"""For how long a leader that nobody can tell the time waits for the voters' clocks."""
LATE_MS_MAX = 1000.0
"""A clock that shows up to so much less than before was read late, not set back."""
LATE_BELIEVED = 0.01
"""What each such reading counts, because clocks also drift."""
STALL_MAX_S = 1.0
"""Seconds of a gap between two ticks that count as time under a leader."""
REMEMBERED_MS = 500
"""How exactly a node remembers the stamped clock; after a restart of all it is so much late."""


class ClusterClock:
    """Kept by every node, used by the leader. `now` is the node's monotonic clock, seconds;
    `remembered_ms` is what `to_remember` last gave to the process before this one."""

    def __init__(
        self, name: str, wall_ms: Callable[[], int], remembered_ms: int | None = None
    ) -> None:
        self._name = name
        self._wall_ms = wall_ms
        self._remembered = remembered_ms  # the stamped clock minus our wall clock
        self._offsets: dict[str, float] = {}  # voter -> its wall clock minus our monotonic one
        self._claims: dict[str, tuple[int, float]] = {}  # voter -> term, and its claim likewise
        self._wall = 0.0
        self._elapsed = 0.0
        self._ticked_at = 0.0
        self._stamped_at = 0.0
        self._led_at = 0.0
        self._settled = False
        self._followed: float | None = None  # the stamped clock minus our monotonic one
        self._followed_term = 0

    def own_wall_ms(self) -> int:
        """This machine's wall clock: what a voter reports to its leader."""
        return self._wall_ms()

    def claim(self, now: float) -> Claim | None:
        """What this node can say of the stamped clock, to a candidate."""
        if self._followed is not None:
            return int(self._followed + now * 1000.0), self._followed_term
        if self._remembered is not None:
            return self._wall_ms() + self._remembered - REMEMBERED_MS, 0
        return None

    def to_remember(self, now: float) -> int | None:
        """What is to be kept for the next process, when it has changed."""
        if self._followed is None:
            return None
        offset_ms = int(self._followed + now * 1000.0) - self._wall_ms()
        if self._remembered is not None and abs(offset_ms - self._remembered) < REMEMBERED_MS:
            return None
        self._remembered = offset_ms
        return offset_ms

    def lead(self, now: float, term: int, wall_floor_ms: int, elapsed_floor_ms: int) -> None:
        """Start to stamp: not before the newest stamp in the log, and where the clock would be that
        this node or a voter has followed last."""
        own = [] if self._followed is None else [(self._followed_term, self._followed)]
        followed = _newest([*self._claims.values(), *own], now)
        self._wall = max(float(wall_floor_ms), followed or 0.0)
        self._elapsed = float(elapsed_floor_ms)
        self._ticked_at = self._stamped_at = self._led_at = now
        self._settled = followed is not None
        self._followed_term = term

    def follow(self, wall_ms: int, now: float, term: int) -> None:
        """The leader says what its stamped clock shows now."""
        self._followed = wall_ms - now * 1000.0  # one that came late is low, which is safe
        self._followed_term = term

    def shown(self, now: float) -> int:
        """What the stamped clock shows, as far as it can be told without the voters."""
        return int(self._wall + max(now - self._stamped_at, 0.0) * 1000.0)

    def observe(self, peer: str, wall_ms: int, now: float, claim: Any = None) -> None:
        """A voter says what its wall clock shows now, and perhaps what it claims. Kept against the
        monotonic clock: a jump of our own wall clock must not move the others'."""
        self._offsets[peer] = _nearer(self._offsets.get(peer), wall_ms - now * 1000.0)
        if claim is not None:
            shown_ms, term = claim
            self._claims[peer] = (term, shown_ms - now * 1000.0)

    def tick(self, now: float) -> None:
        self._elapsed += min(max(now - self._ticked_at, 0.0), STALL_MAX_S) * 1000.0
        self._ticked_at = now

    def is_settled(self, now: float, voters: Sequence[str]) -> bool:
        """Whether operations may be placed: their times will not be jumped over."""
        if not self._settled and now > self._led_at + SETTLE_S:
            self._settled = True
        elif not self._settled:
            followed = _newest(self._claims.values(), now)
            target = followed or self._median(now, voters, self._claimed)
            passed_ms = self._pass(now)
            self._wall = self._wall + passed_ms if target is None else max(self._wall, target)
            self._settled = followed is not None or all(
                voter in self._offsets or voter == self._name for voter in voters
            )
        return self._settled

    def stamp(self, now: float, voters: Sequence[str]) -> tuple[int, int]:
        """`(wall_ms, elapsed_ms)` for an entry that is appended now. Both never go back."""
        self.tick(now)
        if self.is_settled(now, voters):
            target = self._median(now, voters, self._voters_wall)
            passed_ms = self._pass(now)
            if target is None:
                self._wall += passed_ms  # too few clocks known: keep the pace
            elif target < self._wall + passed_ms:
                self._wall = max(target, self._wall + passed_ms / SLEW_MAX)
            else:
                self._wall = min(target, self._wall + passed_ms * SLEW_MAX)
        self._followed = self._wall - now * 1000.0
        return int(self._wall), int(self._elapsed)

    def _pass(self, now: float) -> float:
        """Milliseconds since this was asked last."""
        passed_ms = max(now - self._stamped_at, 0.0) * 1000.0
        self._stamped_at = now
        return passed_ms

    def peek(self, now: float, voters: Sequence[str]) -> tuple[int, int]:
        """What a stamp would show now: only a leader may ask."""
        return self.stamp(now, voters)

    def _median(
        self, now: float, voters: Sequence[str], clock: Callable[[str, float], float | None]
    ) -> float | None:
        clocks = sorted([shown for v in voters if (shown := clock(v, now)) is not None])
        if len(clocks) * 2 <= len(voters):
            return None
        # the lower middle of an even number: late is safe, early is not
        return clocks[(len(clocks) - 1) // 2]

    def _voters_wall(self, voter: str, now: float) -> float | None:
        if voter == self._name:
            return self._wall_ms()
        offset = self._offsets.get(voter)
        return None if offset is None else offset + now * 1000.0

    def _claimed(self, voter: str, now: float) -> float | None:
        """A voter's claim, or else its wall clock."""
        if voter == self._name and self._remembered is not None:
            return self._wall_ms() + self._remembered - REMEMBERED_MS
        if voter in self._claims:
            return self._claims[voter][1] + now * 1000.0
        return self._voters_wall(voter, now)


def _newest(claims: Iterable[tuple[int, float]], now: float) -> float | None:
    """The clock of the newest leader that anybody followed."""
    followed = [claim for claim in claims if claim[0]]
    return max(followed)[1] + now * 1000.0 if followed else None


def _nearer(known: float | None, heard: float) -> float:
    """Of two readings of a voter's clock the one that was under way for less time."""
    if known is not None and 0.0 < known - heard <= LATE_MS_MAX:
        return known - (known - heard) * LATE_BELIEVED
    return heard
