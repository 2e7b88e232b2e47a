"""Batches: several events of one partition in one attempt, each key in order.

A batch takes keys whose first event could start, and of each as many as follow; never the second
event of a key without the first. What has failed before goes alone: a batch that failed says
nothing about any of its events, so each of them is tried by itself, from its first attempt.
"""

from collections.abc import Callable

from hooks.execution.partition import Held, Item, PartitionWork, State


def gather(partition: PartitionWork, may_start: Callable[[Item], bool]) -> list[Item]:
    """What could be in the next batch, in the order of the log: cut off anywhere, it still keeps
    the order of each key.

    `may_start` tells of an event whether anything else holds it back.
    """
    found: list[Item] = []
    for queue in partition.queues.values():
        if queue[0].state is not State.READY and not waits(queue[0]):
            continue
        for item in queue:
            if not is_batchable(item) or not may_start(item):
                break
            found.append(item)
    found.sort(key=lambda item: item.revision)
    return found


def waits(item: Item) -> bool:
    """Whether an event is held until its batch is full."""
    return item.state is State.HELD and item.held is Held.BATCH


def due_ms(batch: list[Item], wait_ms: int) -> int | None:
    """Until when a batch that is not full waits for more; None: it does not."""
    came = [item.first_ms for item in batch if item.first_ms is not None]
    return min(came) + wait_ms if len(came) == len(batch) else None


def is_batchable(item: Item) -> bool:
    """Whether an event may share an attempt."""
    return not item.alone and item.failure is None and item.attempt == 1
