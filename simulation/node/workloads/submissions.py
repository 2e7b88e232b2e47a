"""What clients asked the cluster to do in one step, and whether the log has it so.

Each submission has a name of its own, which its events carry as correlation id. Its events are in
the log all or not at all, once, side by side in one entry; where it was acknowledged, at the
revision that was told; where it was refused, not; and behind everything that was acknowledged
before it began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hooks.events.catalogue import ABOUT_HOOKS
from pubsub.events import Event
from simulation.history import Outcome
from simulation.violation import Violation

Planned = tuple[str, str | None, bytes | None]
"""Topic, key, and value or payload. None: a delete, which makes no event where nothing stands."""

WRITE = "hooks.kv.write_committed"
DELETE = "hooks.kv.delete_committed"


@dataclass(slots=True, eq=False)
class Submission:
    """One request that makes events."""

    name: str
    floor: int  # the newest revision that anybody had been told when it began
    planned: list[Planned] = field(default_factory=list)  # its events, in their order
    outcome: Outcome = Outcome.OPEN
    revisions: Sequence[int] = ()  # told, of an acknowledged one

    @property
    def trace(self) -> list[Any]:
        """What makes a request carry its name."""
        return [self.name, None, 0, None]

    @property
    def items(self) -> list[list[Any]]:
        """What is planned, as a batch or a transaction takes it."""
        return [_item(*planned) for planned in self.planned]


class Submissions:
    """All of a workload's."""

    def __init__(self, prefix: str) -> None:
        self.by_name: dict[str, Submission] = {}
        self._prefix = f"{prefix}-"
        self.newest = 0  # revision that anybody was told

    def begin(self) -> Submission:
        """A request is about to be sent; the caller plans its events."""
        name = f"{self._prefix}{len(self.by_name)}"
        self.by_name[name] = submission = Submission(name, self.newest)
        return submission

    def end(self, submission: Submission, outcome: Outcome, revisions: Sequence[int] = ()) -> None:
        """It was answered. `revisions`: of its events, in their order."""
        submission.outcome = outcome
        submission.revisions = revisions
        self.newest = max(self.newest, *revisions, 0)

    def find(self, event: Event) -> str | None:
        """The name of the submission that made this event. What handlers make of an event keeps
        its correlation id, but has hops, or is news about handlers."""
        name = event.correlation_id
        if event.topic.startswith(ABOUT_HOOKS):
            return None
        if event.hops == 0 and isinstance(name, str) and name.startswith(self._prefix):
            return name
        return None

    def check(self, events: Sequence[Event]) -> None:
        """Raises Violation."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            name = self.find(event)
            if name is not None:
                found[name].append(event)
        if strange := found.keys() - self.by_name.keys():
            raise Violation(f"nobody submitted {sorted(strange)}")
        for name, submission in self.by_name.items():
            _check_one(submission, found.get(name, []))


def _check_one(submission: Submission, events: list[Event]) -> None:
    name, outcome = submission.name, submission.outcome
    revisions = [event.revision for event in events]
    if outcome is Outcome.FAIL and events:
        raise Violation(f"{name} was refused and is in the log at {revisions}")
    if outcome is Outcome.OK and revisions != list(submission.revisions):
        told = list(submission.revisions)
        raise Violation(f"{name} was acknowledged at {told} and is in the log at {revisions}")
    if not events:
        return
    if not _is_whole(submission.planned, events):
        raise Violation(f"{name} is not in the log as it was asked: {events}")
    if revisions != list(range(revisions[0], revisions[0] + len(events))):
        raise Violation(f"{name} is scattered over {revisions}")
    if len({event.log_index for event in events}) != 1:
        raise Violation(f"{name} is in several entries: {events}")
    if revisions[0] <= submission.floor:
        raise Violation(f"{name} is at {revisions[0]} and began after {submission.floor} was told")


def _is_whole(planned: list[Planned], events: list[Event]) -> bool:
    """Whether these are the planned events in their order; only deletes may be missing."""
    left = iter(events)
    event = next(left, None)
    for topic, key, value in planned:
        if event is not None and (event.topic, event.key) == (topic, key):
            if value is not None and event.data[0] != value:
                return False
            event = next(left, None)
        elif topic != DELETE:
            return False
    return event is None


def _item(topic: str, key: str | None, value: bytes | None) -> list[Any]:
    if topic == DELETE:
        return ["delete", key]
    return ["put", key, value] if topic == WRITE else ["publish", topic, key, value]
