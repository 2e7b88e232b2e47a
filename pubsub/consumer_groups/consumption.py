"""What a member of a partitioned group is sent next, without any input or output of its own.

It is to a group what `subscription` is to a reader: pumped when events were applied, when credits
arrived or when the assignment changed. It follows the partitions that the member owns in the
applied state, starts each at its floor, passes over what is completed above it, and tells of every
partition that is assigned, is to be released, or is lost before it sends anything that comes after.

One pass over the log serves all partitions of the member. A partition that is taken over behind the
others takes the pass back to its floor; the others remember how far they were (`sent`) and get
nothing twice.
"""

from typing import Final, NamedTuple

import apsw

from pubsub import groups
from pubsub.consumer_groups.addressing import ADDRESSED, concerns, resolve
from pubsub.consumer_groups.assignment import partition_of
from pubsub.events import Event
from pubsub.limits import BOOKMARK_REVISIONS, CREDITS_MAX, READ_BYTES_MAX, TOPICS_REMEMBERED_MAX
from pubsub.rejection import Rejection
from pubsub.subscription import EventSource
from pubsub.topics import Pattern

ASSIGNED: Final = "assigned"
RELEASING: Final = "releasing"
LOST: Final = "lost"


class Change(NamedTuple):
    """What happened to one partition of the member."""

    kind: str  # ASSIGNED (also: a release was called off), RELEASING or LOST
    partition: int
    token: int


# (partition, token, event), and of one that is handed out again (original, redrives) as well.
Handed = tuple[int, int, Event] | tuple[int, int, Event, Event, int]


class Sent(NamedTuple):
    """What one pump has to tell the member, in this order."""

    changes: list[Change]
    first_number: int  # the delivery number of events[0]; the others follow without a gap
    events: list[Handed]
    bookmark: int | None  # everything up to here of the partitions held was sent
    refusal: Rejection | None  # the end: no such group, or not a member of it any more
    more: bool  # pump again: the end of the log was not reached and credits are left


class _Held:
    """A partition that the member owns."""

    __slots__ = ("completed", "releasing", "sent", "token")

    def __init__(self, token: int, floor: int, completed: list[int]) -> None:
        self.token = token
        self.releasing = False
        self.sent = floor  # everything up to here was sent or is completed
        self.completed = dict.fromkeys(completed)


class Consumption:
    """Where one member of a group is, and what it may still be sent."""

    __slots__ = (
        "_held", "_told", "_topics", "_version", "credits", "delivered", "group", "member",
        "next_revision", "partitions", "pattern", "paused",
    )  # fmt: skip

    def __init__(self, group: str, member: str, credits: int = 0) -> None:
        self.group = group
        self.member = member
        self.next_revision = 1
        self.delivered = 0
        self.credits = 0
        self.paused = False
        self.partitions = 1
        self.pattern: Pattern | None = None
        self._held: dict[int, _Held] = {}
        self._topics: dict[str, bool] = {}  # whether the pattern matches, for topics seen lately
        self._version: tuple[int, int] | None = None  # of the assignments and of the definition
        self._told = 0
        self.grant(credits)

    def grant(self, credits: int) -> None:
        """Allow `credits` more events; what exceeds the limit is not added."""
        self.credits = min(CREDITS_MAX, self.credits + max(0, credits))

    def pump(
        self,
        source: EventSource,
        connection: apsw.Connection,
        limit: int,
        bytes_max: int = READ_BYTES_MAX,
    ) -> Sent:
        """Follow the assignment, look at up to `limit` events, return those to be sent."""
        first_number = self.delivered + 1
        changes = self._follow(connection)
        if isinstance(changes, Rejection):
            lost = [Change(LOST, number, held.token) for number, held in self._held.items()]
            return Sent(lost, first_number, [], None, changes, False)
        if not limit or not self.credits or not self._is_reading():
            return Sent(changes, first_number, [], None, None, False)
        found = source.read_events(self.next_revision, limit, bytes_max)
        # What retention took although it was not completed is passed over: this group is not
        # protected, or the cap of the whole log outweighed it. Handlers do the same.
        events = self._choose(source, found)
        self.delivered += len(events)
        if events:
            self._told = events[-1][2].revision
        due = self.next_revision - 1 - self._told >= BOOKMARK_REVISIONS
        more = bool(found) and self.credits > 0
        return Sent(changes, first_number, events, self.bookmark() if due else None, None, more)

    def bookmark(self) -> int | None:
        """Everything up to this revision of the partitions held was sent; None: nothing to tell."""
        if not any(not held.releasing for held in self._held.values()):
            return None
        self._told = self.next_revision - 1
        return self._told

    def _is_reading(self) -> bool:
        return not self.paused and any(not held.releasing for held in self._held.values())

    def _choose(self, source: EventSource, found: list[Event]) -> list[Handed]:
        """Those of the next events that this member is to get, as far as credits go. HOT."""
        held_by, topics, partitions = self._held, self._topics, self.partitions
        left = self.credits
        events: list[Handed] = []
        for event in found:
            topic = event.topic
            wanted = topics.get(topic)
            if wanted is None:
                wanted = self._matches(event)
            if wanted:
                key = event.key
                number = partition_of(topic if key is None else key, partitions)
                held = held_by.get(number)
                if held is not None and not held.releasing and event.revision > held.sent:
                    revision = event.revision
                    if revision not in held.completed:
                        if not left:
                            break
                        handed: Handed | None = (number, held.token, event)
                        if topic in ADDRESSED:
                            handed = _resolved(source, number, held.token, event)
                        if handed is not None:
                            left -= 1
                            events.append(handed)
            self.next_revision = event.revision + 1
        self.credits = left
        return events

    def _matches(self, event: Event) -> bool:
        assert self.pattern is not None, "followed before it reads"
        topic = event.topic
        if topic in ADDRESSED:  # Not the topic decides, but whom it names.
            return concerns(event, self.group, self.pattern)
        if len(self._topics) >= TOPICS_REMEMBERED_MAX:
            self._topics.clear()
        self._topics[topic] = wanted = self.pattern.matches(topic)
        return wanted

    def _follow(self, connection: apsw.Connection) -> list[Change] | Rejection:
        """Look at the group if anything changed since the last look."""
        row = connection.execute(
            "SELECT changes, g.version, g.pattern, g.partitions, m.member IS NOT NULL"
            " FROM group_state JOIN consumer_groups AS g ON g.name = ?1"
            " LEFT JOIN group_members AS m ON m.group_id = g.id AND m.member = ?2",
            (self.group, self.member),
        ).fetchone()
        if row is None:
            return Rejection("unknown_group", f'there is no consumer group "{self.group}"')
        changes, version, pattern, self.partitions, is_member = row
        if not is_member:
            return Rejection(
                "unknown_member", f'"{self.member}" is no member of group "{self.group}"'
            )
        if self._version == (changes, version):
            return []
        self._version = (changes, version)
        if self.pattern is None or self.pattern.text != pattern:
            self.pattern = Pattern(pattern)
            self._topics.clear()
        return self._adopt(connection)

    def _adopt(self, connection: apsw.Connection) -> list[Change]:
        """Take the assignment of the applied state; returns what changed by that."""
        owned = {
            assignment.partition: assignment
            for assignment in groups.assignments(connection, self.member)
            if assignment.group == self.group
        }
        changes: list[Change] = []
        for number, held in list(self._held.items()):
            assignment = owned.get(number)
            if assignment is None or assignment.token != held.token:
                del self._held[number]
                changes.append(Change(LOST, number, held.token))
        for number, assignment in owned.items():
            known = self._held.get(number)
            if known is None:
                self._take(connection, assignment)
                changes.append(Change(ASSIGNED, number, assignment.token))
            if assignment.releasing and not self._held[number].releasing:
                self._held[number].releasing = True
                changes.append(Change(RELEASING, number, assignment.token))
            elif known is not None and known.releasing and not assignment.releasing:
                # The member that waited for it is gone. What the owner let go of meanwhile it gets
                # again; it knows what it has.
                self._take(connection, assignment)
                changes.append(Change(ASSIGNED, number, assignment.token))
        self.paused = any(assignment.paused for assignment in owned.values())
        return changes

    def _take(self, connection: apsw.Connection, assignment: groups.Assignment) -> None:
        """Read a partition from its floor on."""
        number, floor = assignment.partition, assignment.floor
        self._held.pop(number, None)
        others = [held for held in self._held.values() if not held.releasing]
        if others:
            for held in others:
                held.sent = max(held.sent, self.next_revision - 1)
            self.next_revision = min(self.next_revision, floor + 1)
        else:
            self.next_revision = floor + 1
        self._told = self.next_revision - 1
        completed = groups.completions(connection, self.group, number)
        self._held[number] = _Held(assignment.token, floor, completed)


def _resolved(source: EventSource, number: int, token: int, event: Event) -> Handed | None:
    """A replayed or redriven event; None when retention took what it stands for."""
    resolved = resolve(event, lambda revision: read_one(source, revision))
    if resolved is None:
        return None
    return number, token, event, resolved.event, resolved.redrives


def read_one(source: EventSource, revision: int) -> Event | None:
    """The event of that revision, if it is still there."""
    found = source.read_events(revision, 1, READ_BYTES_MAX)
    if not found or found[0].revision != revision:
        return None
    return found[0]
