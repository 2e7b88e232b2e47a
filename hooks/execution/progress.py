"""Checkpoints of one handler on one node, decided: when one is due, what is in it, what it means.

Deciding code. One checkpoint is under way at a time. It carries, for each partition that moved, the
floor (every event up to there is done), the events done above it, the dead letters, and the effects
of the events that it completes. What it carries stays in hand until the answer is there: a refusal
puts everything back, and an unanswered checkpoint is sent again as it was.
"""

from dataclasses import dataclass

from hooks.execution.partition import Item, PartitionWork, State
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from pubsub.limits import CHECKPOINT_EFFECTS_MAX, EXECUTED_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint command and what has to be remembered about it."""

    rows: list[list[object]]
    effects: list[list[object]]
    items: list[Item]
    floors: list[tuple[PartitionWork, int]]


class Progress:
    """Turns the finished events of a `HandlerWork` into checkpoints."""

    def __init__(
        self, work: HandlerWork, limits: HookLimits, now_ms: int, *, entry_version: int = 1
    ) -> None:
        """`entry_version`: of what versions of entries added to a checkpoint, the cluster knows
        that up to this one; it may be set at any time."""
        self.entry_version = entry_version
        self.under_way: Checkpoint | None = None
        self.work = work
        self._limits = limits
        self._floors_ms = now_ms  # when floors alone were last written

    @property
    def is_settled(self) -> bool:
        """Whether nothing that finished waits to be written down."""
        return self.under_way is None and not self.work.finished

    def due_ms(self, now_ms: int) -> int:
        """When the next checkpoint is due, as far as it can be told now."""
        work = self.work
        if len(work.finished) >= self._limits.checkpoint_events or self._releasable():
            return now_ms
        due = self._floors_ms + self._limits.floor_checkpoint_ms
        if work.finished_since_ms is not None:
            due = min(due, work.finished_since_ms + self._limits.checkpoint_ms)
        return due

    def build(self, now_ms: int, *, flush: bool = False) -> Checkpoint | None:
        """The checkpoint that is due now (with `flush`, everything), or None."""
        if self.under_way is not None or (not flush and self.due_ms(now_ms) > now_ms):
            return None
        floors_due = flush or now_ms >= self._floors_ms + self._limits.floor_checkpoint_ms
        if floors_due:
            self._floors_ms = now_ms
        items = self._take_finished()
        by_partition: dict[int, list[Item]] = {}
        for item in items:
            by_partition.setdefault(item.partition.number, []).append(item)
        rows: list[list[object]] = []
        floors: list[tuple[PartitionWork, int]] = []
        for partition in self.work.partitions.values():
            included = by_partition.get(partition.number, [])
            floor = self._floor(partition)
            release = partition.releasing and len(partition.open) == len(included)
            if included or release or (floors_due and floor > partition.floor):
                rows.append(self._row(partition, floor, included, release))
                floors.append((partition, floor))
        if not rows:
            return None
        effects = [self._unit(item) for item in items if item.effects]
        self.under_way = Checkpoint(rows=rows, effects=effects, items=items, floors=floors)
        return self.under_way

    def confirmed(self, refused_effects: int) -> None:
        """The checkpoint under way was applied; so many events had their effects refused.

        Whether a partition that it released has moved is for the assignment to say: the member that
        waited for it may have gone in the meantime.
        """
        sent = self._end()
        work, metrics = self.work, self.work.metrics
        revisions: dict[int, list[int]] = {}
        letters = 0
        for item in sent.items:
            metrics.skipped += item.skipped
            letters += item.error is not None and not item.skipped
            if item.state is State.FINISHED:
                revisions.setdefault(item.partition.number, []).append(item.revision)
                item.state = State.GONE
        for partition, floor in sent.floors:
            if work.partitions.get(partition.number) is partition:  # else lost in the meantime
                partition.settle(floor, revisions.get(partition.number, ()))
        work.forget_settled()
        metrics.checkpoints += 1
        metrics.completed += len(sent.items) - letters - refused_effects
        metrics.dead_letters += letters + refused_effects
        metrics.effects_refused += refused_effects

    def refused(self) -> None:
        """The checkpoint under way was refused as a whole: what it carried is in hand again."""
        sent = self._end()
        for item in sent.items:
            item.included = False

    def _end(self) -> Checkpoint:
        sent = self.under_way
        assert sent is not None
        self.under_way = None
        return sent

    def _take_finished(self) -> list[Item]:
        """Mark what fits into one command, in the order in which it finished."""
        items: list[Item] = []
        size, units, executed = 0, 0, 0
        for item in self.work.finished:
            size += item.effects_bytes
            units += bool(item.effects)
            executed += item.took_ms is not None
            full = (
                size > self._limits.checkpoint_bytes_max
                or units > CHECKPOINT_EFFECTS_MAX
                or executed > EXECUTED_MAX
            )
            if full and items:  # never within a batch: its newest event stands for all of it
                break
            item.included = True
            items.append(item)
        return items

    def _floor(self, partition: PartitionWork) -> int:
        """Every event of the partition up to here is done once the checkpoint is applied."""
        floor = self.work.position_of(partition)
        for item in partition.open.values():
            if not item.included:
                floor = min(floor, item.revision - 1)
        assert floor >= partition.floor, "a floor never goes back"
        return floor

    def _row(
        self, partition: PartitionWork, floor: int, included: list[Item], release: bool
    ) -> list[object]:
        given_up = [item for item in included if item.error is not None]
        bytes_max = self._limits.error_bytes_max
        letters = [item.letter(bytes_max) for item in given_up if not item.skipped]
        done = sorted(item.revision for item in included if item.revision > floor)
        completed = len(included) - len(letters)
        row = [partition.number, partition.token, floor, done, release, completed, letters]
        skipped = [item.letter(bytes_max) for item in given_up if item.skipped]
        executed = [item.executed() for item in included if item.took_ms is not None]
        if self.entry_version >= 3 and executed:
            row += [skipped, executed]
        elif self.entry_version >= 2 and skipped:
            row.append(skipped)
        return row

    def _unit(self, item: Item) -> list[object]:
        """The effects of an event, or of a batch under its newest event."""
        operations = [effect.to_wire() for effect in item.effects]
        unit: list[object] = [item.partition.number, item.revision, operations]
        if self.entry_version >= 2 and item.others:
            unit.append(list(item.others))
        return unit

    def _releasable(self) -> bool:
        return any(
            partition.releasing
            and all(item.state is State.FINISHED for item in partition.open.values())
            for partition in self.work.partitions.values()
        )
