"""The work of one handler on one node, decided: what to read, what to start, what to write down.

Deciding code: it is told about events, outcomes, assignments and the time, and answers. It holds
the order per key, the bounds (reading stops, nothing is dropped), retries, and the place of every
partition. `service` does what it says.

Reading is one pass over the log for all partitions of all handlers. `position` is how far this
handler has got; every partition that reads has been offered everything up to there. A partition
that stops reading (parked because it has too much unfinished, or released) remembers its own place
(`scanned`); when it reads again the handler goes back to that place, and the other partitions pass
over what they already had.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

from hooks.configuration.definition import HandlerDefinition, OnFailure
from hooks.control.metrics import HandlerMetrics
from hooks.delivery import Delivery
from hooks.execution.attempt import Failed, Outcome
from hooks.execution.partition import Item, PartitionWork, State
from hooks.execution.retry import backoff_ms, is_last
from hooks.limits import HookLimits
from pubsub.consumer_groups.assignment import partition_of
from pubsub.groups import Assignment


class HandlerWork:
    """One handler on one node."""

    def __init__(self, definition: HandlerDefinition, limits: HookLimits, bytes_max: int) -> None:
        """`bytes_max` is this handler's share of what the node keeps of unfinished events."""
        self.definition = definition
        self.metrics = HandlerMetrics()
        self.partitions: dict[int, PartitionWork] = {}
        self.position = 0
        self.running = 0
        self.finished: deque[Item] = deque()  # in the order in which they finished
        self.finished_since_ms: int | None = None
        self.effects_bytes = 0  # of the finished
        self._limits = limits
        self._bytes_max = bytes_max
        self._ready: deque[Item] = deque()
        self._waiting: list[tuple[int, int, Item]] = []  # heap: due, order of failure
        self._failures = 0
        self._in_pass = False
        self._room = 0
        self._bytes_room = 0
        self._stopped_at: int | None = None  # the first event of this pass that found no room

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
        return stopped

    def lose_all(self) -> list[Item]:
        """The session is over; returns the events whose attempts must be stopped."""
        return [
            item for partition in list(self.partitions.values()) for item in self._lose(partition)
        ]

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
        )
        self._in_pass = bool(reading) and has_room
        return self._in_pass

    def offer(self, delivery: Delivery) -> None:
        """An event that the handler's pattern matches, in the order of the log. HOT."""
        revision = delivery.revision
        if revision <= self.position or not self._in_pass:
            return
        number = partition_of(delivery.order_key, self.definition.partitions)
        partition = self.partitions.get(number)
        if (
            partition is None
            or not partition.reading
            or revision <= partition.scanned
            or revision in partition.ahead
            or revision in partition.open
        ):
            return
        if self._is_full(partition, 1):
            partition.scanned = revision - 1
            partition.reading = False
            self.metrics.partitions_parked += 1
        elif self._room <= 0 or self._bytes_room <= 0:
            self._stopped_at = revision
            self._in_pass = False
        else:
            item = Item(delivery, partition)
            self._room -= 1
            self._bytes_room -= item.size_bytes
            if partition.add(item):
                self._make_ready(item)

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
        """Make the failed events ready whose pause is over; returns when the next one's is."""
        while self._waiting and self._waiting[0][0] <= now_ms:
            item = heappop(self._waiting)[2]
            if item.state is State.WAITING:
                self._make_ready(item, first=True)
        return self._waiting[0][0] if self._waiting else None

    def take(self) -> Item | None:
        """The next event to make an attempt at, if one may start now."""
        if (
            self.running >= self.definition.concurrency
            or len(self.finished) >= self._limits.unsettled_events_max
            or self.effects_bytes >= 2 * self._limits.checkpoint_bytes_max
        ):
            return None
        while self._ready:
            item = self._ready.popleft()
            if item.state is State.READY:
                item.state = State.RUNNING
                self.running += 1
                self.metrics.attempts += 1
                self.metrics.retries += item.attempt > 1
                return item
        return None

    def end(self, item: Item, outcome: Outcome, now_ms: int, random: float) -> None:
        """An attempt ended; `random` in [0, 1) spreads the retries."""
        self.running -= 1
        if item.state is State.GONE:
            return
        if not isinstance(outcome, Failed):
            item.effects = outcome.effects
            item.effects_bytes = sum(effect.size_bytes for effect in outcome.effects)
            self._finish(item, now_ms)
            return
        on_failure = self.definition.on_failure
        if on_failure is OnFailure.BLOCK or not is_last(item.attempt, self.definition.retry_count):
            if item.partition.is_quiet:
                item.partition.forget_running(item)  # its next owner tries again, or this one
                return
            item.state = State.WAITING
            due = now_ms + backoff_ms(item.attempt, random, self._limits)
            item.attempt += 1
            self._failures += 1
            heappush(self._waiting, (due, self._failures, item))
        else:
            item.skipped = on_failure is OnFailure.SKIP
            item.error = None if item.skipped else outcome.error
            self._finish(item, now_ms)

    def cancel(self, item: Item) -> None:
        """An attempt was stopped through no fault of its own."""
        self.running -= 1
        self.metrics.cancelled += 1
        if item.state is State.GONE:
            return
        if item.partition.is_quiet:
            item.partition.forget_running(item)
        else:
            self._make_ready(item, first=True)

    def forget_settled(self) -> None:
        """Let go of the finished events that are written down, or lost with their partition."""
        self.finished = deque(item for item in self.finished if item.state is State.FINISHED)
        self.effects_bytes = sum(item.effects_bytes for item in self.finished)
        if not self.finished:
            self.finished_since_ms = None

    def unpark(self) -> None:
        """Let partitions read on that have worked off half of what stopped them."""
        for partition in self.partitions.values():
            stopped = not partition.reading and not partition.is_quiet
            if stopped and not self._is_full(partition, 2):
                self._read_on(partition)

    # Private

    def _take_over(self, assignment: Assignment, completed: Sequence[int]) -> None:
        number, token, floor = assignment.partition, assignment.token, assignment.floor
        partition = PartitionWork(number, token, floor, completed)
        partition.releasing, partition.paused = assignment.releasing, assignment.paused
        self.partitions[number] = partition
        if not partition.is_quiet:
            self._read_on(partition)

    def _is_full(self, partition: PartitionWork, divisor: int) -> bool:
        limits = self._limits
        return (
            partition.unfinished >= max(1, limits.partition_events_max // divisor)
            or len(partition.ahead) >= max(1, limits.completed_ahead_max // divisor)
            or partition.bytes >= max(1, self._bytes_max // 4 // divisor)
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

    def _lose(self, partition: PartitionWork) -> list[Item]:
        del self.partitions[partition.number]
        stopped = partition.drop_all()
        self.forget_settled()
        return stopped

    def _make_ready(self, item: Item, first: bool = False) -> None:
        item.state = State.READY
        if first:
            self._ready.appendleft(item)
        else:
            self._ready.append(item)

    def _finish(self, item: Item, now_ms: int) -> None:
        self.finished.append(item)
        self.effects_bytes += item.effects_bytes
        if self.finished_since_ms is None:
            self.finished_since_ms = now_ms
        following = item.partition.finish(item)
        if following is not None and following.state is State.QUEUED:
            self._make_ready(following)
