"""The leader's view of one follower: what it has, what is on its way, what comes next.

Replaces PySyncObj's sending of append_entries: one message per follower and tick, a
window of bytes in flight, one rewind per flight, and a `success` that never lowers `next`.
Sessions between nodes are FIFO and break rather than lose, so a flight ends with its session.
"""

from __future__ import annotations

from collections import deque

WINDOW_BYTES = 4 << 20
"""Unacknowledged bytes on the way to one follower."""
BATCH_BYTES = 1 << 20
"""Bytes of entries in one append_entries, or a single larger entry."""
BATCH_ENTRIES = 1024


class Progress:
    """Replication to one peer, voter or learner, within one leadership."""

    __slots__ = (
        "_sizes",
        "awaited",
        "connected",
        "flight",
        "heard_at",
        "in_flight_bytes",
        "match",
        "next",
        "probing",
        "round",
        "sent_probe",
        "snapshot_from",
        "snapshotting",
        "told_commit",
    )

    def __init__(self, next_index: int, connected: bool) -> None:
        self.match = 0
        self.next = next_index
        self.flight = 0
        self.round = 0
        self.heard_at = float("-inf")  # in this leadership not at all
        self.connected = connected
        self.snapshotting = False
        self.snapshot_from = 0  # the copy on its way is of this log index or a later one
        # until a first success the log may differ: ask with one message at a time
        self.probing = True
        self.sent_probe = False
        self.in_flight_bytes = 0
        self.told_commit = 0
        self.awaited = 0  # the newest entry whose results callers at the peer wait for
        self._sizes: deque[tuple[int, int]] = deque()

    def lacks_commit(self, commit_index: int) -> bool:
        """Whether the peer could commit entries that it is not yet told to."""
        return self.connected and min(commit_index, self.match) > self.told_commit

    def is_awaiting(self, commit_index: int) -> bool:
        """Whether a caller at the peer waits for a commit that the peer is not yet told of."""
        return self.told_commit < self.awaited <= commit_index

    def can_send(self, last_index: int) -> bool:
        """Whether an append_entries with entries (or a probe) is due."""
        if not self.connected or self.snapshotting:
            return False
        if self.probing:
            return not self.sent_probe
        return self.next <= last_index and self.in_flight_bytes < WINDOW_BYTES

    @property
    def needed_index(self) -> int:
        """Behind which index the log must last, for the peer to go on without another snapshot."""
        return self.snapshot_from if self.snapshotting else self.match

    def sent(self, last_index: int, size: int) -> None:
        self.next = last_index + 1
        self.in_flight_bytes += size
        self._sizes.append((last_index, size))

    def acknowledged(self, match: int) -> None:
        """The follower has every entry up to `match`, the same ones, on its disk."""
        self.probing = False
        self.match = max(self.match, match)
        self.next = max(self.next, match + 1)
        while self._sizes and self._sizes[0][0] <= match:
            self.in_flight_bytes -= self._sizes.popleft()[1]

    def restart(self, next_index: int) -> None:
        """Begin a new flight at `next_index`: the follower asked for it, or its session is new."""
        self.flight += 1
        self.told_commit = 0
        self.next = max(next_index, self.match + 1)
        self.probing = True
        self.sent_probe = False
        self._sizes.clear()
        self.in_flight_bytes = 0
