"""A subscription: which events a reader gets next, without any input or output of its own.

The caller pumps it when events were applied or credits arrived, and sends what comes out. Every
matching event is delivered once, in order, with a contiguous number, so that a reader can tell by
arithmetic that it misses none. It is at least once over reconnects: a reader resumes after the last
revision that it has dealt with.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pubsub.events import Event
from pubsub.limits import BOOKMARK_REVISIONS, CREDITS_MAX, READ_BYTES_MAX
from pubsub.log import Compacted, has_gap
from pubsub.topics import Pattern


class EventSource(Protocol):
    """What a subscription reads: the log of a node, its memory and its disk alike."""

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """Events from a revision on, empty at the head, as `pubsub.log.read`."""
        ...

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        """Whether retention took what a reader needs, as `pubsub.retention.compacted`."""
        ...


class Pumped(NamedTuple):
    """What one pump has to tell the reader."""

    first_number: int  # the delivery number of events[0]; the others follow without a gap
    events: list[Event]
    bookmark: int | None  # everything up to this revision was looked at: resume after it
    compacted: Compacted | None  # the subscription has ended: retention overtook its reader
    more: bool  # pump again: the end of the log was not reached and credits are left


class Subscription:
    """The position of one reader in the log, and what it may still be sent."""

    __slots__ = (
        "_compacted", "_intact_from", "_told", "credits", "delivered", "next_revision", "pattern",
    )  # fmt: skip

    def __init__(
        self,
        pattern: Pattern,
        from_revision: int,
        credits: int = 0,
        intact_from: int | None = None,
    ) -> None:
        """`intact_from`: from there on nothing may be missing; before it the reader takes what is
        left. By default that is all it asks for."""
        self.pattern = pattern
        self._intact_from = from_revision if intact_from is None else intact_from
        self.next_revision = from_revision
        self.delivered = 0
        self.credits = 0
        self._told = from_revision - 1  # how far the reader knows that it is
        self._compacted: Compacted | None = None
        self.grant(credits)

    def grant(self, credits: int) -> None:
        """Allow `credits` more events; what exceeds the limit is not added."""
        self.credits = min(CREDITS_MAX, self.credits + max(0, credits))

    def pump(
        self,
        source: EventSource,
        limit: int,
        bytes_max: int = READ_BYTES_MAX,
        is_published: Callable[[str], bool] | None = None,
    ) -> Pumped:
        """Look at up to `limit` events and return those that match, as far as credits go.

        The bound is on events looked at and not on those that match, so that a subscription to a
        rare topic takes no more of a node's time than any other. A topic that is not published is
        as one that does not match: it takes no number and no credit.
        """
        first_number = self.delivered + 1
        if self._compacted is not None or self.credits == 0:
            return Pumped(first_number, [], None, self._compacted, False)
        found = source.read_events(self.next_revision, limit, bytes_max)
        if has_gap(found, self.next_revision):
            start = max(self.next_revision, self._intact_from)
            self._compacted = source.compacted(self.pattern.text, start)
            if self._compacted is not None:
                return Pumped(first_number, [], None, self._compacted, False)
        matches = self.pattern.matches
        if is_published is not None:
            matches = _both(matches, is_published)
        events: list[Event] = []
        left = self.credits
        for event in found:
            if matches(event.topic):
                if not left:
                    break
                left -= 1
                events.append(event)
            self.next_revision = event.revision + 1
        self.credits = left
        self.delivered += len(events)
        if events:
            self._told = events[-1].revision
        due = self.next_revision - 1 - self._told >= BOOKMARK_REVISIONS
        return Pumped(
            first_number, events, self.bookmark() if due else None, None, bool(found) and left > 0
        )

    def bookmark(self) -> int | None:
        """The revision up to which the reader has everything, if it does not know that yet."""
        reached = self.next_revision - 1
        if reached <= self._told:
            return None
        self._told = reached
        return reached


def _both(one: Callable[[str], bool], other: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda topic: one(topic) and other(topic)
