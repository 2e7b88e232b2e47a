"""Every event that any node of a run has applied, and when: what retention took later is here."""

from __future__ import annotations

from collections.abc import Callable

from pubsub.events import Event
from pubsub.log import Batch


class Archive:
    """The event of revision n is `events[n - 1]`. Whether the nodes have the same is judged in the
    end: what somebody applies again is passed over here."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.events: list[Event] = []
        self.seen_s: list[float] = []  # when somebody first applied it
        self._now = now

    def note(self, batch: Batch) -> None:
        """A node has applied an entry that made events."""
        first_revision, count = batch.first_revision, batch.count
        if first_revision == len(self.events) + 1:
            self.events += batch.events(first_revision, count)
            self.seen_s += [self._now()] * count
