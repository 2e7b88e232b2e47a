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

from hooks.conditions import Condition, condition
from hooks.configuration.definition import HandlerDefinition
from hooks.delivery import Delivery
from hooks.execution import history
from hooks.routing import Decision, Verdict

Row = dict[str, Any]


class Stage(StrEnum):
    """How far an event is on its way through a handler."""

    NO_MATCH = "no_match"  # it is not for this handler; `because` says why
    BEFORE = "before_start"  # it is older than where the handler began
    DONE = "done"
    COALESCED = "coalesced"  # not run: a newer event of its key stands for it
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
    WOULD_FAIL = "would_fail"  # the same, and the condition could not be evaluated for it
    DEPENDS = "depends"  # what was not said of a made-up event decides


SETTLED: Final = frozenset(
    (Stage.DONE, Stage.COALESCED, Stage.SKIPPED, Stage.DEAD_LETTER, Stage.BEFORE)
)
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
class Memory:
    """What a node remembers that it did with an event for its own group."""

    attempts: Sequence[Row] = ()  # the oldest first
    stood_for_by: int | None = None  # the newer event in whose favour it was not run

    @property
    def was_done(self) -> bool:
        return any(attempt["outcome"] == history.DONE for attempt in self.attempts)

    @property
    def batch(self) -> Row | None:
        """The last attempt, if that was at several events."""
        return self.attempts[-1] if self.attempts and self.attempts[-1]["events"] > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What the cluster lets a handler do."""

    is_enabled: bool = True
    disabled_reason: str | None = None
    is_removed: bool = False


_NOTHING: Final = Memory()


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


def routed(definition: HandlerDefinition, delivery: Delivery, decision: Decision, node: str) -> Row:
    """What routing alone says of an event and a handler."""
    known = None if definition.filter is None else condition(definition.filter)
    asks = decision.kind not in (Verdict.PATTERN, Verdict.NOT_PUBLISHED)
    clauses = known.clauses(delivery) if asks and isinstance(known, Condition) else []
    return {
        "handler": definition.name,
        "group": None,
        "decision": decision.kind.value,
        "clauses": [[clause, said] for clause, said in clauses],
        "because": why(decision, delivery.topic, clauses),
        "attempts": [],
        "node": node,
        "owner": None,
    }


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
        paused = f"its group {place.group} is paused as well" if place.is_paused else None
        return Stage.DISABLED, "; ".join(filter(None, (switches.disabled_reason, paused))) or None
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
    memory: Memory = _NOTHING,
    coalesces: bool = False,
    changed: int | None = None,
) -> Row:
    """The stage of an event that matches, with what there is to say about it. `coalesces`: of the
    handler's events some are not run, because a newer one stands for them. `changed`: up to this
    revision something else was in force, for which the event need not have matched."""
    if is_settled(place):
        stage, because = settled(place, revision, began)
        stage, because = _remembered(stage, because, memory, _doubts(coalesces, changed))
        in_hand = None
    else:
        stage, because = unsettled(place, switches, in_hand, node)
    made = memory.attempts[-1]["attempt"] if memory.attempts else None
    if stage in (Stage.DEAD_LETTER, Stage.SKIPPED):  # the cluster keeps how often it was tried
        made = (place.letter or place.failure or {})["attempts"]
    return {
        "group": place.group,
        "partition": place.partition,
        "owner": place.owner_node,
        "stage": stage.value,
        "because": because,
        "attempt": in_hand.attempt if in_hand else made,
        "due_in_ms": in_hand.due_in_ms if in_hand else None,
        "coalesced": in_hand.coalesced if in_hand else 0,
        "stood_for_by": memory.stood_for_by if stage is Stage.COALESCED else None,
        "batch": None if memory.batch is None else memory.batch["revision"],
        "attempts": list(memory.attempts),
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


def _doubts(coalesces: bool, changed: int | None) -> list[str]:
    """What else may have become of an event that is over, when nobody remembers an attempt."""
    stood_for = ["a newer event of its key stood for it"] if coalesces else []
    passed_over = f"what was in force until revision {changed} passed it over"
    return stood_for if changed is None else [*stood_for, passed_over]


def _remembered(
    stage: Stage, because: str | None, memory: Memory, doubts: Sequence[str]
) -> tuple[Stage, str | None]:
    """What a node has to add to the end of an event: the state has only that it is over."""
    if stage not in (Stage.DONE, Stage.BEFORE):
        return stage, because
    if memory.was_done:
        if (batch := memory.batch) is None:
            return Stage.DONE, None
        newest = f"of which {batch['revision']} is the newest"
        return Stage.DONE, f"in one attempt at a batch of {batch['events']} events, {newest}"
    if memory.stood_for_by is not None:
        newer = f"event {memory.stood_for_by} of its key stands for it"
        return Stage.COALESCED, f"it was not run: {newer}"
    if stage is Stage.DONE and doubts:
        lost = f"whether it was run, or {' or '.join(doubts)}, is not remembered"
        return stage, f"its group is done with it; {lost}"
    return stage, because


def _rank(row: Row) -> int:
    """Lower knows more: what is settled is so everywhere, and who handled it remembers how; else
    the owner has it in hand."""
    if row["stage"] == Stage.COALESCED:
        return 1  # unless somebody sent it back, and it was run after all
    if row["stage"] in VERDICTS:
        is_known = row["stage"] not in (Stage.DONE, Stage.BEFORE)
        return 0 if is_known or Memory(attempts=row["attempts"]).was_done else 2
    return 3 if row["node"] == row.get("owner") else 4


def _started(attempt: Mapping[str, Any]) -> int:
    return int(attempt.get("started_ms") or 0)


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
