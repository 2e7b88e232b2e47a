"""One owned partition and the events of it that are in hand. Bookkeeping of `work` only.

The states of an event in hand:

    QUEUED    an earlier event of its key is not finished        -> READY
    READY     first of its key, waits for a free place           -> RUNNING, HELD
    HELD      may not start yet (`Held` says why)                -> READY
    RUNNING   an attempt is being made                           -> FINISHED, WAITING, READY, QUEUED
    WAITING   failed, to be tried again after a pause            -> READY
    FINISHED  completed or given up, not yet checkpointed        -> GONE
    GONE      written down, lost with its partition, or left to the partition's next owner

An event that is coalesced goes from QUEUED, READY or HELD to FINISHED, and a newer one of its key
takes its place in the queue, with everything that is known of it (`supersede`).
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, StrEnum

import trio

from hooks.delivery import Delivery
from hooks.effects import Effect
from hooks.execution.attempt import Failed, bounded


class State(Enum):
    QUEUED = "queued"
    READY = "ready"
    HELD = "held"
    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"
    GONE = "gone"


class Held(StrEnum):
    """Why an event does not start that is the first of its key."""

    DEBOUNCE = "debounce"
    THROTTLE = "throttle"
    KEY_RATE = "rate_limit_per_key"
    BATCH = "batch"  # waits for more
    AFTER = "after"  # another handler is not done with it
    RATE = "rate_limit"  # holds the whole handler, as the next does
    BREAKER = "breaker"


class Item:
    """One event in hand."""

    # Slots hold what every event needs. The rest are class attributes until an event differs: it
    # then pays for a dictionary of its own, and the others pay nothing.
    __slots__ = (
        "__dict__",
        "attempt",
        "delivery",
        "effects",
        "effects_bytes",
        "included",
        "key",
        "partition",
        "revision",
        "scope",
        "size_bytes",
        "state",
    )

    error: str | None = None  # of an event given up
    skipped = False  # given up without a dead letter
    newer: int | None = None  # the event of its key that is handled in its place
    failure: Failed | None = None  # its condition could not be evaluated
    held: Held | None = None  # why it is held, or was when it was held last
    due_ms = 0  # WAITING, HELD: until when
    ticket = 0  # of its place in the heap of those that wait; 0: it never had one
    started = False  # with shaping: an attempt was begun
    first_ms: int | None = None  # with shaping: when the first event came that it stands for
    arrived_ms: int | None = None  # with shaping: when it came; None: nobody has looked yet
    coalesced = 0  # earlier events of its key that it stands for
    alone = False  # shares no attempt any more
    others: tuple[int, ...] = ()  # the newest of a batch: the revisions of the rest
    epoch = 0  # of the breaker, when its attempt began
    took_ms: int | None = None  # its last attempt succeeded, and is to be reported

    def __init__(self, delivery: Delivery, partition: "PartitionWork", key: str) -> None:
        self.delivery: Delivery | None = delivery  # let go of when finished: it may be large
        self.revision = delivery.revision
        self.key = key  # its order key
        self.size_bytes = delivery.event.size_bytes
        self.partition = partition
        self.state = State.QUEUED
        self.attempt = 1  # the next one, or the one that is being made
        self.scope: trio.CancelScope | None = None  # of the attempt that is being made
        self.effects: tuple[Effect, ...] = ()
        self.effects_bytes = 0
        self.included = False  # in the checkpoint that is under way

    @property
    def is_first(self) -> bool:
        """Whether no earlier event of its key is unfinished."""
        return self.partition.queues[self.key][0] is self

    @property
    def is_unstarted(self) -> bool:
        """Whether a newer event of its key may take its place."""
        return (
            self.state in _UNSTARTED
            and not self.started
            and self.attempt == 1
            and self.failure is None
        )

    def finish(self) -> None:
        self.state = State.FINISHED
        self.delivery = None

    def executed(self) -> list[object]:
        return [self.revision, self.attempt, self.took_ms or 0, 1 + len(self.others)]

    def letter(self, bytes_max: int) -> list[object]:
        return [self.revision, self.attempt, bounded(self.error or "", bytes_max)]


_UNSTARTED = frozenset((State.QUEUED, State.READY, State.HELD))


class PartitionWork:
    """A partition that this member owns under `token`."""

    __slots__ = (
        "ahead",
        "batch_head",
        "bytes",
        "floor",
        "is_reordering",
        "number",
        "open",
        "paused",
        "queues",
        "reading",
        "releasing",
        "scanned",
        "token",
        "unfinished",
    )

    def __init__(self, number: int, token: int, floor: int, completed: Iterable[int]) -> None:
        self.number = number
        self.token = token
        self.floor = floor  # as the cluster knows it
        self.scanned = floor  # every event up to here has been taken in hand
        self.ahead = dict.fromkeys(completed)  # completed above the floor, as the cluster knows
        self.reading = False
        self.releasing = False  # another member waits for it
        self.paused = False  # by an operator, with its whole group
        self.is_reordering = False  # what runs was ordered otherwise than what is read next
        self.batch_head: Item | None = None  # held until its batch is full, or has waited
        self.open: dict[int, Item] = {}  # by revision
        self.queues: dict[str, deque[Item]] = {}  # per key, unfinished, in order
        self.unfinished = 0  # of the open ones
        self.bytes = 0  # of the unfinished

    @property
    def is_quiet(self) -> bool:
        """Whether nothing new of it may be started here."""
        return self.releasing or self.paused or self.is_reordering

    @property
    def unsettled(self) -> int:
        """Events above the floor that are finished, whether the cluster knows it or not. HOT."""
        return len(self.ahead) + len(self.open) - self.unfinished

    def add(self, item: Item) -> bool:
        """Take an event in hand; True when it is the first of its key."""
        self.open[item.revision] = item
        self.unfinished += 1
        self.bytes += item.size_bytes
        queue = self.queues.setdefault(item.key, deque())
        queue.append(item)
        return len(queue) == 1

    def supersede(self, item: Item, delivery: Delivery) -> Item:
        """Give the place of an unstarted event to a newer one of its key; returns the older one as
        an event that is finished. Both are in hand: no floor passes the newer one."""
        assert item.delivery is not None
        older = Item(item.delivery, self, item.key)
        older.finish()
        older.newer = delivery.revision
        self.open[older.revision] = older
        size_bytes = delivery.event.size_bytes
        self.bytes += size_bytes - item.size_bytes
        item.delivery, item.revision, item.size_bytes = delivery, delivery.revision, size_bytes
        self.open[item.revision] = item
        item.coalesced += 1
        return older

    def finish(self, item: Item) -> Item | None:
        """The first of its key is finished; returns the one after it."""
        queue = self.queues[item.key]
        queue.popleft()
        self.unfinished -= 1
        self.bytes -= item.size_bytes
        item.finish()
        if queue:
            return queue[0]
        del self.queues[item.key]
        return None

    def drop_unstarted(self) -> None:
        """Let go of everything that is neither running nor finished; it will be read again."""
        for key, queue in list(self.queues.items()):
            for item in list(queue):
                if item.state is not State.RUNNING:
                    self._drop(item)
                    queue.remove(item)
            if not queue:
                del self.queues[key]

    def drop_all(self) -> list[Item]:
        """Let go of everything; returns what is running, for it must be stopped."""
        running = [item for item in self.open.values() if item.state is State.RUNNING]
        for item in self.open.values():
            item.state = State.GONE
        return running

    def forget_running(self, item: Item) -> None:
        """Let go of an event whose attempt has ended and will not be repeated here."""
        queue = self.queues[item.key]
        queue.remove(item)
        if not queue:
            del self.queues[item.key]
        self._drop(item)

    def settle(self, floor: int, included: Iterable[int]) -> None:
        """A checkpoint was confirmed: these events are the cluster's to remember."""
        for revision in included:
            del self.open[revision]
            self.ahead[revision] = None
        if floor > self.floor:
            self.floor = floor
            self.ahead = {revision: None for revision in self.ahead if revision > floor}

    def _drop(self, item: Item) -> None:
        item.state = State.GONE
        del self.open[item.revision]
        self.unfinished -= 1
        self.bytes -= item.size_bytes
        self.scanned = min(self.scanned, item.revision - 1)
