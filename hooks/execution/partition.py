"""One owned partition and the events of it that are in hand. Bookkeeping of `work` only.

The states of an event in hand:

    QUEUED    an earlier event of its key is not finished        -> READY
    READY     first of its key, waits for a free place           -> RUNNING
    RUNNING   an attempt is being made                           -> FINISHED, WAITING, READY
    WAITING   failed, to be tried again after a pause            -> READY
    FINISHED  completed or given up, not yet checkpointed        -> GONE
    GONE      written down, lost with its partition, or left to the partition's next owner
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum

import trio

from hooks.delivery import Delivery
from hooks.effects import Effect
from hooks.execution.attempt import bounded


class State(Enum):
    QUEUED = "queued"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"
    GONE = "gone"


class Item:
    """One event in hand."""

    __slots__ = (
        "attempt",
        "delivery",
        "effects",
        "effects_bytes",
        "error",
        "included",
        "key",
        "partition",
        "revision",
        "scope",
        "size_bytes",
        "skipped",
        "state",
    )

    def __init__(self, delivery: Delivery, partition: "PartitionWork") -> None:
        self.delivery: Delivery | None = delivery  # let go of when finished: it may be large
        self.revision = delivery.revision
        self.key = delivery.order_key
        self.size_bytes = delivery.event.size_bytes
        self.partition = partition
        self.state = State.QUEUED
        self.attempt = 1  # the next one, or the one that is being made
        self.scope: trio.CancelScope | None = None  # of the attempt that is being made
        self.effects: tuple[Effect, ...] = ()
        self.effects_bytes = 0
        self.error: str | None = None  # of an event given up into the dead letters
        self.skipped = False
        self.included = False  # in the checkpoint that is under way

    def finish(self) -> None:
        self.state = State.FINISHED
        self.delivery = None

    def letter(self, bytes_max: int) -> list[object]:
        return [self.revision, self.attempt, bounded(self.error or "", bytes_max)]


class PartitionWork:
    """A partition that this member owns under `token`."""

    __slots__ = (
        "ahead",
        "bytes",
        "floor",
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
        self.open: dict[int, Item] = {}  # by revision
        self.queues: dict[str, deque[Item]] = {}  # per key, unfinished, in order
        self.unfinished = 0  # of the open ones
        self.bytes = 0  # of the unfinished

    @property
    def is_quiet(self) -> bool:
        """Whether nothing new of it may be started here."""
        return self.releasing or self.paused

    def add(self, item: Item) -> bool:
        """Take an event in hand; True when it is the first of its key."""
        self.open[item.revision] = item
        self.unfinished += 1
        self.bytes += item.size_bytes
        queue = self.queues.setdefault(item.key, deque())
        queue.append(item)
        return len(queue) == 1

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
        self.queues.pop(item.key)
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
