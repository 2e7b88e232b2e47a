"""Where one event stands with one handler, decided from what is known of both.

Routing is a pure function of the registered policy and the event (`hooks.routing`); what became of
an event that matches stands in the replicated state of the handler's group, and while it is in hand
only the node that owns its partition knows more. Each node explains what it knows, and `merge`
takes of several answers the best one.

Deciding code: values in, values out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from hooks.routing import Decision, Verdict

Row = dict[str, Any]


class Stage(StrEnum):
    """How far an event is on its way through a handler."""

    NO_MATCH = "no_match"  # it is not for this handler; `because` says why
    BEFORE = "before_start"  # it is older than where the handler began
    DONE = "done"
    SKIPPED = "skipped"  # given up, as on_failure = "skip" wants it
    DEAD_LETTER = "dead_letter"  # given up into the dead letters
    ENDED = "ended"  # its last attempt is over, which is not written down yet
    RUNNING = "running"
    RETRYING = "retrying"  # an attempt failed, the next one is due later
    HELD = "held"  # nothing of its key is before it, but it may not start yet; `because` says why
    QUEUED = "queued"  # an earlier event of its key is not finished
    UNREAD = "unread"  # its node has not come to it yet
    PAUSED = "paused"  # its group hands out nothing
    DISABLED = "disabled"  # the cluster lets the handler start nothing
    REMOVED = "removed"  # no node has the handler any more
    UNOWNED = "unowned"  # no node works on its partition now
    ELSEWHERE = "elsewhere"  # another node has it; ask that one
    WOULD_RUN = "would_run"  # a made-up event that the handler would get


SETTLED: Final = frozenset((Stage.DONE, Stage.SKIPPED, Stage.DEAD_LETTER, Stage.BEFORE))
VERDICTS: Final = frozenset((*SETTLED, Stage.NO_MATCH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An event in the group of a handler, as the replicated state has it."""

    group: str
    partition: int
    owner: str | None  # the member that works on the partition
    is_completed: bool  # below the floor or above it
    is_paused: bool
    letter: Mapping[str, Any] | None = None  # the dead letter that it became
    failure: Mapping[str, Any] | None = None  # of an event that was skipped: what was published

    @property
    def owner_node(self) -> str | None:
        """The node of the owner: a member is named `node/boot`."""
        return None if self.owner is None else self.owner.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class InHand:
    """An event that the node has taken in hand."""

    stage: Stage
    because: str | None = None
    attempt: int = 1  # that is being made, or is next
    due_in_ms: int | None = None
    coalesced: int = 0  # earlier events that it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What the cluster lets a handler do."""

    is_enabled: bool = True
    disabled_reason: str | None = None
    is_removed: bool = False


def why(decision: Decision, topic: str, clauses: Sequence[Sequence[Any]] = ()) -> str | None:
    """A sentence about a decision; None when there is nothing to explain."""
    if decision.kind is Verdict.PATTERN:
        return f'the topic {topic} does not match "{decision.detail}"'
    if decision.kind is Verdict.NOT_PUBLISHED:
        return f"publish_topics keeps {topic} from handlers; it lets through {decision.detail}"
    if decision.kind is Verdict.FILTER:
        false = [clause for clause, result in clauses if result is False]
        return f"the condition is false: {' ... '.join(false) or decision.detail}"
    if decision.kind is Verdict.ERROR:
        return f"the condition cannot be evaluated: {decision.detail}"
    return None


def reaches(decision: Decision) -> bool:
    """Whether the handler has anything to do with the event: a condition that fails to be evaluated
    is a failed attempt."""
    return decision.kind in (Verdict.MATCH, Verdict.ERROR)


def is_settled(place: Place) -> bool:
    """Whether the group is done with the event, however that ended."""
    return place.letter is not None or place.is_completed


def settled(place: Place, revision: int, began: int) -> tuple[Stage, str | None]:
    """How the group is done with it. `began`: the first revision that the handler was there for."""
    if place.letter is not None:
        attempts = place.letter["attempts"]
        return Stage.DEAD_LETTER, f"given up after {_attempts(attempts)}: {place.letter['error']}"
    if place.failure is not None:
        attempts = place.failure["attempts"]
        return Stage.SKIPPED, f"given up after {_attempts(attempts)}: {place.failure['error']}"
    if revision < began:
        since = f"the handler is there since revision {began}"
        return Stage.BEFORE, f"{since}; it had this one only if somebody sent it back there"
    return Stage.DONE, None


def unsettled(
    place: Place, switches: Switches, in_hand: InHand | None, node: str
) -> tuple[Stage, str | None]:
    """Where an event is that the group is not done with, as far as `node` knows."""
    if in_hand is not None:
        return in_hand.stage, in_hand.because
    if switches.is_removed:
        return Stage.REMOVED, "no node has this handler any more"
    if not switches.is_enabled:
        return Stage.DISABLED, switches.disabled_reason
    if place.is_paused:
        return Stage.PAUSED, f"its group {place.group} is paused"
    owner = place.owner_node
    if owner is None:
        return Stage.UNOWNED, f"no node works on partition {place.partition} now"
    if owner != node:
        return Stage.ELSEWHERE, f"it is the matter of node {owner}"
    return Stage.UNREAD, f"node {node} has not come to it yet"


def explain(
    place: Place,
    switches: Switches,
    in_hand: InHand | None,
    *,
    node: str,
    revision: int,
    began: int = 0,
) -> Row:
    """The stage of an event that matches, with what there is to say about it."""
    if is_settled(place):
        stage, because = settled(place, revision, began)
        in_hand = None
    else:
        stage, because = unsettled(place, switches, in_hand, node)
    return {
        "group": place.group,
        "partition": place.partition,
        "owner": place.owner_node,
        "stage": stage.value,
        "because": because,
        "attempt": in_hand.attempt if in_hand else None,
        "due_in_ms": in_hand.due_in_ms if in_hand else None,
        "coalesced": in_hand.coalesced if in_hand else 0,
        "node": node,
    }


def merge(answers: Iterable[Sequence[Row]]) -> list[Row]:
    """Of each handler and group the answer of whoever knows most, with the attempts of all."""
    best: dict[tuple[str, str], Row] = {}
    attempts: dict[tuple[str, str], list[Any]] = {}
    for row in (row for answer in answers for row in answer):
        place = (row["handler"], row.get("group") or "")
        attempts.setdefault(place, []).extend(row.get("attempts") or ())
        if place not in best or _rank(row) < _rank(best[place]):
            best[place] = row
    return [
        {**best[place], "attempts": sorted(attempts[place], key=_started)} for place in sorted(best)
    ]


def _rank(row: Row) -> int:
    """Lower knows more: what is settled is so everywhere; else the owner has it in hand."""
    if row["stage"] in VERDICTS:
        return 0
    return 1 if row["node"] == row.get("owner") else 2


def _started(attempt: Mapping[str, Any]) -> int:
    return int(attempt.get("started_ms") or 0)


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
