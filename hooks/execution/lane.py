"""One handler on one node: its work, what is written down of it, and whether the node takes part.

    state      the member                                     becomes
    OUT        is not in the group                            JOINING
    JOINING    has asked to be, and starts nothing            MEMBER, OUT (refused)
    MEMBER     works on the partitions that it is given       DRAINING, OUT (session over)
    DRAINING   starts nothing, writes down what has run       LEAVING, MEMBER, OUT (session over)
    LEAVING    has asked to be taken out                      OUT

Deciding code.
"""

from collections.abc import Iterable
from enum import Enum

from hooks.configuration.definition import HandlerDefinition
from hooks.execution.partition import Item, State
from hooks.execution.placement import Place
from hooks.execution.progress import Progress
from hooks.execution.work import HandlerWork
from pubsub.groups import Assignment


class Membership(Enum):
    """What a member is to a group."""

    OUT = "out"
    JOINING = "joining"
    MEMBER = "member"
    DRAINING = "draining"
    LEAVING = "leaving"


class Lane:
    """One handler on one node."""

    def __init__(self, place: Place, work: HandlerWork, progress: Progress) -> None:
        self.place = place
        self.work = work
        self.progress = progress
        self.membership = Membership.OUT
        self.refusal: str | None = None  # why it could not join
        self.is_dropped = False  # it is to go; another lane may take its place
        self.is_flushed = False  # while draining: everything is written down
        self.draining_since_ms = 0
        self.rivals_since_ms: int | None = None  # scope leader: since when others are members

    @property
    def definition(self) -> HandlerDefinition:
        return self.place.definition

    @property
    def name(self) -> str:
        return self.place.definition.name

    @property
    def is_wanted(self) -> bool:
        """Whether the node should take part."""
        return self.place.is_member and not self.is_dropped

    @property
    def is_draining(self) -> bool:
        return self.membership is Membership.DRAINING

    @property
    def is_gone(self) -> bool:
        """Dropped, and nothing is left of it."""
        return self.is_dropped and self.membership is Membership.OUT

    @property
    def is_settled(self) -> bool:
        """Whether it is where it should be, or cannot get there."""
        if not self.is_wanted or self.refusal is not None:
            return True
        return self.membership is Membership.MEMBER

    @property
    def problem(self) -> str | None:
        """Why the handler does not run here."""
        return self.place.problem or self.refusal

    def running(self) -> list[Item]:
        """The events that attempts are being made at."""
        return [
            item
            for partition in self.work.partitions.values()
            for item in partition.open.values()
            if item.state is State.RUNNING
        ]

    def owned(self, assignments: Iterable[Assignment]) -> list[Assignment]:
        """What of its assignments the lane may work on."""
        if self.membership is Membership.MEMBER:
            return list(assignments)
        if self.membership in (Membership.DRAINING, Membership.LEAVING):
            return [assignment._replace(paused=True) for assignment in assignments]
        return []

    def drain(self, now_ms: int) -> None:
        """Start nothing any more."""
        self.membership = Membership.DRAINING
        self.is_flushed = False
        self.draining_since_ms = now_ms
