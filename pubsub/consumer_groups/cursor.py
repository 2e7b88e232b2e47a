"""How far a member is in one partition: the algebra between deliveries, acks and checkpoints.

Pure bookkeeping, for whoever consumes a partitioned group over the client port. An event is

    open      received and not settled: the floor stays below it
    settled   acked or given up, not yet in a checkpoint: the floor stays below it as well
    sent      in the checkpoint that is under way
    done      the cluster has it, either below the floor or as a completion above it

The floor that a checkpoint carries says that every event of the partition up to there is done, so
it is the last revision before the first one that is open, settled and not taken along, or not
received: everything up to `reached` was received, and after a `forget` that may lie before what is
in hand.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pubsub.limits import CHECKPOINT_EFFECTS_MAX, COMPLETIONS_MAX

Operations = Sequence[Any]  # [[operation, [argument, ...]], ...] as `group.checkpoint` takes them


class Verdict(NamedTuple):
    """How an event was settled that was not merely acked."""

    operations: Operations | None = None  # effects, applied with the completion
    size_bytes: int = 0  # of the operations
    attempts: int = 0
    error: str | None = None  # given up: it becomes a dead letter


class Budget:
    """What may still go into one checkpoint."""

    __slots__ = ("bytes", "effects")

    def __init__(self, bytes_max: int, effects_max: int = CHECKPOINT_EFFECTS_MAX) -> None:
        self.bytes = bytes_max
        self.effects = effects_max

    def allows(self, verdict: Verdict) -> bool:
        """Spend what `verdict` needs, or say that it does not fit."""
        size = verdict.size_bytes + len(verdict.error or "")
        units = verdict.operations is not None
        if size > self.bytes or units > self.effects:
            return False
        self.bytes -= size
        self.effects -= units
        return True


class Row(NamedTuple):
    """One partition in a checkpoint, and what it settles."""

    fields: list[Any]  # [partition, token, floor, done, release, completed_count, dead]
    effects: list[list[Any]]  # [partition, revision, operations]
    revisions: dict[int, Verdict | None]  # what it completes


class Cursor:
    """One partition that this member owns under `token`."""

    __slots__ = (
        "above", "floor", "highest", "number", "open", "reached", "releasing", "sent", "settled",
        "token",
    )  # fmt: skip

    def __init__(self, number: int, token: int) -> None:
        self.number = number
        self.token = token
        self.floor = 0  # as this member has had confirmed; the cluster may know a higher one
        self.reached = 0  # every event up to here was received, settled or completed by others
        self.highest = 0  # the last one ever received; `reached` is below it after a `forget`
        self.releasing = False
        self.open: dict[int, None] = {}
        self.settled: dict[int, Verdict | None] = {}  # in the order in which it happened
        self.sent: Row | None = None
        self.above: dict[int, None] = {}  # sent and confirmed, above the confirmed floor

    @property
    def is_drained(self) -> bool:
        """Whether nothing of this partition is in hand."""
        return not self.open

    def receive(self, revision: int) -> bool:
        """Take an event in hand; False for one that this member knows already. HOT."""
        if revision > self.highest:
            self.highest = revision
        elif revision <= self.reached or self._knows(revision):
            return False
        self.open[revision] = None
        self.reached = revision
        return True

    def reach(self, revision: int) -> None:
        """Everything up to `revision` was received."""
        if revision > self.reached:
            self.reached = revision

    def settle(self, revision: int, verdict: Verdict | None = None) -> None:
        """An open event is acked (None) or settled otherwise. HOT."""
        del self.open[revision]
        self.settled[revision] = verdict

    def forget(self, revisions: Iterable[int]) -> None:
        """Let go of open events that nobody was given: whoever reads next gets them."""
        for revision in revisions:
            del self.open[revision]
            self.reached = min(self.reached, revision - 1)

    def take(self, budget: Budget, *, floors_due: bool = False, ahead: bool = True) -> Row | None:
        """What a checkpoint says now about this partition, or None for nothing; then it is under
        way until `confirmed` or `refused`. Without `ahead` it completes nothing above the floor."""
        assert self.sent is None, "one checkpoint at a time"
        included = self._fitting(budget)
        floor = self._floor(included)
        done = sorted(revision for revision in included if revision > floor)
        room = (COMPLETIONS_MAX - len(self.above)) if ahead else 0
        for revision in done[max(room, 0) :]:  # The largest wait; the floor is below them anyway.
            del included[revision]
        del done[max(room, 0) :]
        release = self.releasing and not self.open and len(included) == len(self.settled)
        if not included and not release and not (floors_due and floor > self.floor):
            return None
        for revision in included:
            del self.settled[revision]
        dead: list[list[Any]] = []
        effects: list[list[Any]] = []
        for revision, verdict in included.items():
            if verdict is not None and verdict.error is not None:
                dead.append([revision, verdict.attempts, verdict.error])
            elif verdict is not None and verdict.operations is not None:
                effects.append([self.number, revision, verdict.operations])
        completed = len(included) - len(dead)
        fields = [self.number, self.token, floor, done, release, completed, dead]
        self.sent = Row(fields, effects, included)
        return self.sent

    def confirmed(self) -> None:
        """The checkpoint under way was applied."""
        row = self._end()
        self.floor = max(self.floor, row.fields[2])
        self.above.update(dict.fromkeys(row.fields[3]))
        self.above = {revision: None for revision in self.above if revision > self.floor}

    def refused(self) -> None:
        """The checkpoint under way was not applied: what it carried waits again, in its order."""
        self.settled = {**self._end().revisions, **self.settled}

    def _knows(self, revision: int) -> bool:
        return (
            revision in self.open
            or revision in self.settled
            or revision in self.above
            or (self.sent is not None and revision in self.sent.revisions)
        )

    def _end(self) -> Row:
        row = self.sent
        assert row is not None, "nothing is under way"
        self.sent = None
        return row

    def _fitting(self, budget: Budget) -> dict[int, Verdict | None]:
        """As many of the settled ones as fit, the earliest first."""
        included: dict[int, Verdict | None] = {}
        for revision, verdict in self.settled.items():
            if verdict is not None and not budget.allows(verdict):
                break
            included[revision] = verdict
        return included

    def _floor(self, included: dict[int, Verdict | None]) -> int:
        waiting = [revision for revision in self.settled if revision not in included]
        if self.open:
            waiting.append(min(self.open))
        # `reached` counts in any case: one that was let go of may lie before others in hand.
        waiting.append(self.reached + 1)
        return max(min(waiting) - 1, self.floor)
