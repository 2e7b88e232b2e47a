"""The work of one handler on one node, decided: what to read, what to start, what to write down.

Deciding code: it is told about events, outcomes, assignments and the time, and answers. It holds
the order per key, the bounds (reading stops, nothing is dropped), retries, and the place of every
partition; whose turn it is, `starts` decides. `service` does what they say.

Reading is one pass over the log for all partitions of all handlers. `position` is how far this
handler has got; every partition that reads has been offered everything up to there. A partition
that stops reading (parked because it has too much unfinished, or released) remembers its own place
(`scanned`); when it reads again the handler goes back to that place, and the other partitions pass
over what they already had.

Debounce and throttle coalesce: a newer event takes the place of one of its key that has not
started, and that one is finished. The newer one is in hand then, in the same partition, and no
floor passes what is in hand. So after a crash, a pause or a hand-over both are read again, or the
newer alone: the newest is never lost, and an older one is never handled after it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from hooks import routing
from hooks.configuration.definition import HandlerDefinition, OnFailure, OrderBy
from hooks.control.metrics import HandlerMetrics
from hooks.delivery import Delivery
from hooks.execution.attempt import Failed, FailureKind, Outcome, bounded
from hooks.execution.partition import Held, Item, PartitionWork, State
from hooks.execution.retry import backoff_ms, is_last
from hooks.execution.starts import Blocked, Starts
from hooks.limits import HookLimits
from pubsub.consumer_groups.assignment import partition_of
from pubsub.groups import Assignment


class HandlerWork:
    """One handler on one node."""

    def __init__(self, definition: HandlerDefinition, limits: HookLimits, bytes_max: int) -> None:
        """`bytes_max` is this handler's share of what the node keeps of unfinished events. The
        number of partitions is that of the group, for good."""
        self.definition = definition
        self.partitions: dict[int, PartitionWork] = {}
        self.position = 0
        self.running = 0
        self.finished: deque[Item] = deque()  # in the order in which they finished
        self.finished_since_ms: int | None = None
        self.effects_bytes = 0  # of the finished
        self._limits = limits
        self._bytes_max = bytes_max
        self._partition_bytes_max = max(1, bytes_max // 4)
        self._starts = Starts(definition, limits)
        self._partition_count = definition.partitions
        self._by_handler = definition.order_by is OrderBy.HANDLER
        self._in_pass = False
        self._room = 0
        self._bytes_room = 0
        self._stopped_at: int | None = None  # the first event of this pass that found no room

    @property
    def metrics(self) -> HandlerMetrics:
        """What it has counted; whoever keeps the counters of earlier works may set it."""
        return self._starts.metrics

    @metrics.setter
    def metrics(self, metrics: HandlerMetrics) -> None:
        self._starts.metrics = metrics

    def update(self, definition: HandlerDefinition) -> None:
        """Go on under another policy. What is in hand was chosen by the one before and stays."""
        self.definition = definition
        by_handler = definition.order_by is OrderBy.HANDLER
        if by_handler is not self._by_handler:
            self._by_handler = by_handler
            for partition in self.partitions.values():
                was_quiet, partition.is_reordering = partition.is_quiet, True
                if not was_quiet:
                    self._quiet(partition)
        self._starts.update(definition, len(self.partitions))

    # Ownership

    def assign(
        self, owned: Iterable[Assignment], completed: Callable[[int], Sequence[int]]
    ) -> list[Item]:
        """Follow the assignment; returns the events whose attempts must be stopped.

        `completed` gives the completions above the floor of a partition that is taken over.
        """
        mine = {assignment.partition: assignment for assignment in owned}
        stopped: list[Item] = []
        for partition in list(self.partitions.values()):
            assignment = mine.get(partition.number)
            if assignment is None or assignment.token != partition.token:
                stopped += self._lose(partition)
        for assignment in mine.values():
            held = self.partitions.get(assignment.partition)
            if held is None:
                self._take_over(assignment, completed(assignment.partition))
                continue
            was_quiet = held.is_quiet
            held.releasing, held.paused = assignment.releasing, assignment.paused
            if held.is_quiet and not was_quiet:
                self._quiet(held)
            elif was_quiet and not held.is_quiet:  # resumed, or who waited for it is gone
                self._read_on(held)
        self._starts.own(len(self.partitions))
        return stopped

    def lose_all(self) -> list[Item]:
        """The session is over; returns the events whose attempts must be stopped."""
        stopped: list[Item] = []
        for partition in list(self.partitions.values()):
            stopped += self._lose(partition)
        self._starts.own(0)
        return stopped

    # Reading

    def wants(self, last_revision: int) -> bool:
        """Whether to read on for this handler; to be asked before every pass."""
        self._in_pass = False
        if self.position >= last_revision:
            return False
        reading = [partition for partition in self.partitions.values() if partition.reading]
        unfinished = sum(partition.unfinished for partition in reading)
        self._room = self._limits.handler_events_max - unfinished
        self._bytes_room = self._bytes_max - sum(partition.bytes for partition in reading)
        # Only when half is free: what is read and finds no room is read again.
        has_room = (
            2 * self._room >= self._limits.handler_events_max
            and 2 * self._bytes_room >= self._bytes_max
            and len(self.finished) < 2 * self._limits.unsettled_events_max  # some never start
        )
        if not has_room and not self._starts.is_full:
            for partition in reading:
                self._starts.hurry(partition)
        self._starts.is_full = not has_room
        self._in_pass = bool(reading) and has_room
        return self._in_pass

    def offer(self, delivery: Delivery) -> None:
        """An event that the handler's pattern matches, in the order of the log. HOT."""
        revision = delivery.revision
        if revision <= self.position or not self._in_pass:
            return
        key = delivery.order_key
        partition = self.partitions.get(partition_of(key, self._partition_count))
        if (
            partition is None
            or not partition.reading
            or revision <= partition.scanned
            or revision in partition.ahead
            or revision in partition.open
        ):
            return
        if (
            partition.unfinished >= self._limits.partition_events_max
            or (partition.unsettled >= self._limits.completed_ahead_max and partition.unfinished)
            or partition.bytes >= self._partition_bytes_max
        ):
            partition.scanned = revision - 1
            partition.reading = False
            self.metrics.partitions_parked += 1
            self._starts.hurry(partition)
        elif self._room <= 0 or self._bytes_room <= 0:
            self._stopped_at = revision
            self._in_pass = False
        else:
            self._take_in_hand(delivery, partition, "" if self._by_handler else key)

    def advance(self, revision: int) -> None:
        """The pass is over: everything up to `revision` was offered, as long as there was room."""
        self._in_pass = False
        if self._stopped_at is not None:
            revision = self._stopped_at - 1
            self._stopped_at = None
        self.position = max(self.position, revision)

    def position_of(self, partition: PartitionWork) -> int:
        """Up to where a partition's events have been taken in hand."""
        if partition.reading:
            return max(partition.scanned, self.position)
        return partition.scanned

    # Attempts

    def wake(self, now_ms: int) -> int | None:
        """Make ready what waited for its time or for another handler; returns `due_ms`."""
        for item in reversed(self._starts.wake(now_ms)):
            self._judge_again(item, now_ms)
        if self.finished and self.finished_since_ms is None:
            self.finished_since_ms = now_ms
        return self.due_ms(now_ms)

    def due_ms(self, now_ms: int) -> int | None:
        """When something may start that may not now, as far as it is only a matter of time."""
        return self._starts.due_ms(now_ms)

    def closed(self, now_ms: int) -> Held | None:
        """Why nothing of the handler may start here now: its breaker, or its rate."""
        return self._starts.closed(now_ms)

    def take(self, now_ms: int, blocked: Blocked | None = None) -> Sequence[Item]:
        """The next events to make one attempt at, if one may start now; several are a batch of one
        partition, in the order of the log. HOT.

        `blocked` tells of an event whether another handler must be done with it first.
        """
        if (
            self.running >= self.definition.concurrency
            or len(self.finished) >= self._limits.unsettled_events_max
            or self.effects_bytes >= 2 * self._limits.checkpoint_bytes_max
        ):
            return ()
        items = self._starts.take(now_ms, blocked)
        if items:
            self.running += 1
        return items

    def end(
        self,
        items: Sequence[Item],
        outcome: Outcome,
        now_ms: int,
        random: float,
        took_ms: int = 0,
    ) -> None:
        """An attempt ended; `random` in [0, 1) spreads the retries."""
        self.running -= 1
        newest = items[-1]
        shaped = self._starts.shaping
        if shaped is not None and newest.failure is None:
            self.metrics.breaker_opened += shaped.end(newest, isinstance(outcome, Failed), now_ms)
        if newest.state is State.GONE:
            return
        if not isinstance(outcome, Failed):
            newest.effects = outcome.effects
            newest.effects_bytes = sum(effect.size_bytes for effect in outcome.effects)
            if self.definition.report_executions:
                newest.took_ms = took_ms
            self._finish(items, now_ms)
            return
        on_failure = self.definition.on_failure
        is_over = outcome.final or is_last(newest.attempt, self.definition.retry_count)
        if len(items) > 1 or on_failure is OnFailure.BLOCK or not is_over:
            self._try_again(items, now_ms + backoff_ms(newest.attempt, random, self._limits))
            return
        newest.error = outcome.error
        newest.skipped = on_failure is OnFailure.SKIP
        self._finish(items, now_ms)

    def cancel(self, items: Sequence[Item]) -> None:
        """An attempt was stopped through no fault of its own."""
        self.running -= 1
        self.metrics.cancelled += 1
        if self._starts.shaping is not None:
            self._starts.shaping.cancel(items[-1])
        if items[-1].state is State.GONE:
            return
        for item in reversed(items):
            if item.partition.is_quiet:
                item.partition.forget_running(item)
            elif item.is_first:
                self._starts.make_ready(item, first=True)
            else:
                item.state = State.QUEUED

    def forget_settled(self) -> None:
        """Let go of the finished events that are written down, or lost with their partition."""
        self.finished = deque(item for item in self.finished if item.state is State.FINISHED)
        self.effects_bytes = sum(item.effects_bytes for item in self.finished)
        if not self.finished:
            self.finished_since_ms = None

    def unpark(self) -> None:
        """Let partitions read on that have worked off half of what stopped them."""
        for partition in self.partitions.values():
            if partition.is_reordering and not partition.queues:  # nothing runs any more
                partition.is_reordering = False
            stopped = not partition.reading and not partition.is_quiet
            if stopped and self._is_half_empty(partition):
                self._read_on(partition)

    # Questions

    def is_done(self, delivery: Delivery) -> bool | None:
        """Whether this handler has nothing to do with an event any more: it was handled, given up,
        or is not for it. None: that is for another node to know."""
        number = partition_of(delivery.order_key, self._partition_count)
        partition = self.partitions.get(number)
        if partition is None:
            return None
        revision = delivery.revision
        if (item := partition.open.get(revision)) is not None:
            return item.state is State.FINISHED
        if revision <= partition.floor or revision in partition.ahead:
            return True
        return revision <= self.position_of(partition)

    # Private

    def _judge(self, delivery: Delivery) -> tuple[bool, Failed | None]:
        """Whether an event is the handler's. One of which that cannot be told is, as a failure."""
        decision = routing.decide_filter(self.definition, delivery)
        if decision.kind is not routing.Verdict.ERROR:
            self.metrics.filtered += not decision.matches
            return decision.matches, None
        self.metrics.filter_failures += 1
        error = bounded(f"filter: {decision.detail}", self._limits.error_bytes_max)
        return True, Failed(FailureKind.FILTER, error, final=True)

    def _judge_again(self, item: Item, now_ms: int) -> None:
        """Ask the condition that is in force now about an event that blocks its key, because an
        earlier one, or this one, could not tell."""
        assert item.delivery is not None
        is_wanted, item.failure = self._judge(item.delivery)
        if is_wanted:
            self._starts.make_ready(item, first=True)
        else:
            self._finish([item], now_ms)

    def _take_in_hand(self, delivery: Delivery, partition: PartitionWork, key: str) -> None:
        shaped, failure = self._starts.shaping, None
        if self.definition.filter is not None:
            is_wanted, failure = self._judge(delivery)
            if not is_wanted:
                return
        if shaped is not None and shaped.coalesces and failure is None:
            queue = partition.queues.get(key)
            if queue and queue[-1].is_unstarted:
                self._coalesce(queue[-1], delivery)
                return
        item = Item(delivery, partition, key)
        self._room -= 1
        self._bytes_room -= item.size_bytes
        if failure is not None:
            item.failure = failure
        if partition.add(item):
            self._starts.make_ready(item)
        if shaped is not None:
            self._starts.came(item)

    def _coalesce(self, item: Item, delivery: Delivery) -> None:
        size_bytes = item.size_bytes
        self.finished.append(item.partition.supersede(item, delivery))
        self._bytes_room -= item.size_bytes - size_bytes
        self.metrics.coalesced += 1
        if item.arrived_ms is not None:
            item.arrived_ms = None
            self._starts.came(item)

    def _take_over(self, assignment: Assignment, completed: Sequence[int]) -> None:
        number, token, floor = assignment.partition, assignment.token, assignment.floor
        partition = PartitionWork(number, token, floor, completed)
        partition.releasing, partition.paused = assignment.releasing, assignment.paused
        self.partitions[number] = partition
        if not partition.is_quiet:
            self._read_on(partition)

    def _is_half_empty(self, partition: PartitionWork) -> bool:
        if not partition.unfinished:
            return True  # what comes next may be what so much is completed above of
        limits = self._limits
        return (
            partition.unfinished < max(1, limits.partition_events_max // 2)
            and partition.unsettled < max(1, limits.completed_ahead_max // 2)
            and partition.bytes < max(1, self._partition_bytes_max // 2)
        )

    def _read_on(self, partition: PartitionWork) -> None:
        readers = [other for other in self.partitions.values() if other.reading]
        if not readers:
            self.position = partition.scanned
        elif partition.scanned < self.position:
            for other in readers:
                other.scanned = max(other.scanned, self.position)
            self.position = partition.scanned
        partition.reading = True

    def _quiet(self, partition: PartitionWork) -> None:
        partition.scanned = self.position_of(partition)
        partition.reading = False
        partition.drop_unstarted()
        self._starts.sweep()

    def _lose(self, partition: PartitionWork) -> list[Item]:
        del self.partitions[partition.number]
        stopped = partition.drop_all()
        self.forget_settled()
        self._starts.sweep()
        return stopped

    def _try_again(self, items: Sequence[Item], due_ms: int) -> None:
        """After a pause, here or with the next owner; those of a batch each by itself."""
        is_batch = len(items) > 1
        self.metrics.batches_split += is_batch
        for item in items:
            if item.partition.is_quiet:
                item.partition.forget_running(item)
                continue
            if is_batch:
                item.alone = True  # and its attempts are still before it
            else:
                item.attempt += 1
            if item.is_first:
                self._starts.put_aside(item, State.WAITING, due_ms)
            else:
                item.state = State.QUEUED

    def _finish(self, items: Sequence[Item], now_ms: int) -> None:
        newest = items[-1]
        # The newest of a batch has the effects of all, and comes first: a checkpoint that has no
        # room for them leaves the whole batch out.
        self.finished.append(newest)
        if len(items) > 1:
            self.finished.extend(items[:-1])
            newest.others = tuple(item.revision for item in items[:-1])
        self.effects_bytes += newest.effects_bytes
        if self.finished_since_ms is None:
            self.finished_since_ms = now_ms
        for item in items:
            following = item.partition.finish(item)
            if following is not None and following.state is State.QUEUED:
                self._starts.make_ready(following)
