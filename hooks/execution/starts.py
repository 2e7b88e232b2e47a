"""What of a handler may start on one node, and when: who waits, for what, and whose turn it is.

Deciding code, the half of `work` that knows time. An event is in one place only: among the ready,
in the heap of those that wait until some time, or among those that wait for another handler.
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

from hooks.configuration.definition import HandlerDefinition
from hooks.control.metrics import HandlerMetrics
from hooks.execution import batches
from hooks.execution.partition import Held, Item, PartitionWork, State
from hooks.execution.shaping import Shaping, shaping
from hooks.limits import HookLimits

Blocked = Callable[[Item], bool]


class Starts:
    """The events of one handler that may start now or later."""

    def __init__(self, definition: HandlerDefinition, limits: HookLimits) -> None:
        """The number of partitions is that of the group, for good."""
        self.definition = definition
        self.metrics = HandlerMetrics()
        self.shaping: Shaping | None = shaping(definition, limits, definition.partitions)
        self.ready: deque[Item] = deque()
        self.is_full = False  # nothing more is read before something is finished
        self._limits = limits
        self._partitions = definition.partitions
        self._waiting: list[tuple[int, int, Item]] = []  # heap: due, ticket
        self._tickets = 0
        self._behind: deque[Item] = deque()  # another handler must be done with them first
        self._arrived: list[Item] = []  # whose time of arrival is to be noted
        self._rate_told_ms: int | None = None  # the wait for the rate that was counted last

    def update(self, definition: HandlerDefinition, owned: int) -> None:
        """Go on under another policy, with so many partitions."""
        self.definition = definition
        self.shaping = shaping(definition, self._limits, self._partitions, self.shaping)
        self.own(owned)
        for _, _, item in sorted(self._waiting, key=lambda entry: entry[:2]):
            if item.state is State.HELD:  # perhaps nothing holds it any more
                item.ticket = 0
                self.make_ready(item)
        self.sweep()

    def own(self, partitions: int) -> None:
        """So many partitions are this node's now."""
        if self.shaping is not None:
            self.shaping.own(partitions)

    def came(self, item: Item) -> None:
        """An event is in hand, or has the place of one that was: when, `wake` will tell."""
        self._arrived.append(item)
        if item.partition.unfinished >= self.definition.batch_max:  # if none of them is running
            self.hurry(item.partition)

    def hurry(self, partition: PartitionWork) -> None:
        """The batch of a partition may be full, or nothing more can come."""
        head = partition.batch_head
        if head is not None and batches.waits(head):
            head.ticket = 0
            self.make_ready(head)

    def make_ready(self, item: Item, first: bool = False) -> None:
        """It may start as soon as there is a place. HOT."""
        item.state = State.READY
        if first:
            self.ready.appendleft(item)
        else:
            self.ready.append(item)

    def put_aside(self, item: Item, state: State, due_ms: int) -> None:
        """It may not start before `due_ms`."""
        self._tickets += 1
        item.state, item.due_ms, item.ticket = state, due_ms, self._tickets
        heappush(self._waiting, (due_ms, self._tickets, item))
        if len(self._waiting) > 2 * self._limits.handler_events_max:
            self.sweep()

    def wake(self, now_ms: int) -> list[Item]:
        """Make ready whose time has come; returns those whose condition is to be asked again."""
        self._note_arrivals(now_ms)
        woken: list[Item] = []
        while self._waiting and self._waiting[0][0] <= now_ms:
            entry = heappop(self._waiting)
            if _waits(entry):
                woken.append(entry[2])
        for _ in range(min(len(self._behind), self._limits.after_checks_max)):
            item = self._behind.popleft()
            if item.state is State.HELD:
                woken.append(item)
        for item in reversed(woken):
            if item.failure is None:
                self.make_ready(item, first=True)
        return [item for item in woken if item.failure is not None]

    def due_ms(self, now_ms: int) -> int | None:
        """When something may start that may not now, as far as it is only a matter of time."""
        while self._waiting and not _waits(self._waiting[0]):
            heappop(self._waiting)
        due_ms = self._waiting[0][0] if self._waiting else None
        if self.shaping is not None and self.ready:
            closed = self.shaping.closed(now_ms)
            if closed is not None and closed[1] is not None:
                due_ms = closed[1] if due_ms is None else min(due_ms, closed[1])
        if len(self._behind) > self._limits.after_checks_max:  # one turn asks about some only
            turn_ms = now_ms + self._limits.after_turn_ms
            due_ms = turn_ms if due_ms is None else min(due_ms, turn_ms)
        return due_ms

    def closed(self, now_ms: int) -> Held | None:
        """Why nothing of the handler may start here now, whatever the event."""
        closed = None if self.shaping is None else self.shaping.closed(now_ms)
        return None if closed is None else closed[0]

    def take(self, now_ms: int, blocked: Blocked | None) -> Sequence[Item]:
        """The events of the next attempt, started. HOT."""
        if self.shaping is not None or blocked is not None:
            return self._take_shaped(now_ms, blocked)
        ready = self.ready
        while ready:
            item = ready.popleft()
            if item.state is State.READY:
                return self._start([item])
        return ()

    def sweep(self) -> None:
        """Forget where those waited that are gone: their time may be far away."""
        self._waiting = [entry for entry in self._waiting if _waits(entry)]
        heapify(self._waiting)
        for line, state in ((self.ready, State.READY), (self._behind, State.HELD)):
            left = [item for item in line if item.state is state]
            line.clear()
            line.extend(left)
        self._arrived = [item for item in self._arrived if item.state is not State.GONE]

    def _note_arrivals(self, now_ms: int) -> None:
        for item in self._arrived:
            item.arrived_ms = now_ms
            if item.first_ms is None:
                item.first_ms = now_ms
        self._arrived.clear()

    def _take_shaped(self, now_ms: int, blocked: Blocked | None) -> Sequence[Item]:
        shaped, ready = self.shaping, self.ready
        self._note_arrivals(now_ms)
        while ready:
            item = ready[0]
            if item.state is not State.READY:
                ready.popleft()
                continue
            if item.failure is not None:  # it is not to run: nothing has to be spared it
                ready.popleft()
                return self._start([item])
            if shaped is not None and (closed := shaped.closed(now_ms)) is not None:
                self._count_wait(*closed)
                return ()
            ready.popleft()
            if self._is_held(item, now_ms, blocked):
                continue
            if shaped is None:
                return self._start([item])
            items = [item]
            if shaped.batch_max > 1 and batches.is_batchable(item):
                items = self._gather(item, now_ms, blocked)
                if not items:
                    continue
            shaped.start(items, now_ms)
            return self._start(items)
        return ()

    def _is_held(self, item: Item, now_ms: int, blocked: Blocked | None) -> bool:
        if blocked is not None and blocked(item):
            self.metrics.held_by_after += item.held is not Held.AFTER
            item.state, item.held, item.due_ms, item.ticket = State.HELD, Held.AFTER, 0, 0
            self._behind.append(item)
            return True
        hold = None if self.shaping is None else self.shaping.hold(item, now_ms)
        if hold is None:
            return False
        held, due_ms = hold
        self.metrics.throttled += held is Held.THROTTLE
        self.metrics.rate_limited += held is Held.KEY_RATE
        item.held = held
        self.put_aside(item, State.HELD, due_ms)
        return True

    def _gather(self, head: Item, now_ms: int, blocked: Blocked | None) -> list[Item]:
        """The batch of the partition of `head` that may start; none while it waits for more."""
        shaped, partition = self.shaping, head.partition
        assert shaped is not None

        def may_start(item: Item) -> bool:
            return shaped.hold(item, now_ms) is None and not (blocked and blocked(item))

        found = batches.gather(partition, may_start)
        batch, rest = found[: shaped.batch_max], found[shaped.batch_max :]
        partition.batch_head = next(filter(batches.waits, rest), None)
        if len(batch) < shaped.batch_max and partition.reading and not self.is_full:
            due_ms = batches.due_ms(batch, self.definition.batch_wait_ms)
            if due_ms is not None and due_ms > now_ms:
                head.held = Held.BATCH
                self.put_aside(head, State.HELD, due_ms)
                partition.batch_head = head
                return []
        if head not in batch:  # older ones have filled it
            self.ready.append(head)
        self.metrics.batches += 1
        self.metrics.batched += len(batch)
        return batch

    def _start(self, items: list[Item]) -> list[Item]:
        metrics = self.metrics
        for item in items:
            item.state = State.RUNNING
        metrics.attempts += 1
        metrics.retries += items[-1].attempt > 1
        return items

    def _count_wait(self, held: Held, due_ms: int | None) -> None:
        if held is Held.RATE and due_ms != self._rate_told_ms:
            self._rate_told_ms = due_ms
            self.metrics.rate_limited += 1


def _waits(entry: tuple[int, int, Item]) -> bool:
    """Whether an event still waits where it was put: meanwhile it may have gone or started."""
    _, ticket, item = entry
    return item.ticket == ticket and item.state in (State.WAITING, State.HELD)
