"""Where an event is in the hands of this node: read off the handler's work, asking nothing of it.

Deciding code.
"""

from collections.abc import Callable, Iterable

from hooks.control.explain import InHand, Stage
from hooks.control.places import partition_number
from hooks.delivery import Delivery
from hooks.execution.partition import Held, Item, PartitionWork, State
from hooks.execution.work import HandlerWork

_HELD_BY = {
    Held.DEBOUNCE: "debounce_ms: something newer of its key may come",
    Held.THROTTLE: "throttle_ms: its key had a start a moment ago",
    Held.KEY_RATE: "rate_limit_per_key is used up for its key",
    Held.BATCH: "batch_wait_ms: its batch waits for more",
    Held.AFTER: "after: another handler is not done with it",
    Held.RATE: "rate_limit is used up",
    Held.BREAKER: "the breaker is open: too many attempts in a row failed on this node",
}


def in_hand(
    work: HandlerWork,
    delivery: Delivery,
    now_ms: int,
    predecessor: Callable[[], str | None] = lambda: None,
) -> InHand | None:
    """How far an event is that this node has read; None when it has not, or let go of it.

    `predecessor` names a handler that must be done with an event first, if there is one (`after`).
    """
    partition = work.partitions.get(partition_number(work.definition, delivery))
    item = None if partition is None else partition.open.get(delivery.revision)
    if partition is None or item is None:
        return None
    stage, because, due_ms = _stage(work, partition, item, now_ms, predecessor)
    return InHand(
        stage=stage,
        because=because,
        attempt=item.attempt,
        due_in_ms=None if due_ms is None else max(0, due_ms - now_ms),
        coalesced=item.coalesced,
    )


def _stage(
    work: HandlerWork,
    partition: PartitionWork,
    item: Item,
    now_ms: int,
    predecessor: Callable[[], str | None],
) -> tuple[Stage, str | None, int | None]:
    """The stage, why, and when something happens next."""
    match item.state:
        case State.RUNNING:
            return Stage.RUNNING, _under_way(partition, item), None
        case State.FINISHED if item.newer is not None:
            stands = f"event {item.newer} of its key stands for it"
            return Stage.ENDED, f"it is not run: {stands}, which is not written down yet", None
        case State.FINISHED:
            ended = "it was given up" if item.error or item.skipped else "it was dealt with"
            return Stage.ENDED, f"{ended}, which is not written down yet", None
        case State.WAITING:
            return Stage.RETRYING, f"attempt {item.attempt - 1} failed", item.due_ms
        case State.QUEUED:
            return Stage.QUEUED, _behind(partition.queues.get(item.key, ()), item), None
        case _:
            return Stage.HELD, *_held(work, item, now_ms, predecessor)


def _held(
    work: HandlerWork, item: Item, now_ms: int, predecessor: Callable[[], str | None]
) -> tuple[str, int | None]:
    """Why an event does not start that is the first of its key."""
    if item.state is State.HELD and item.held is Held.AFTER:
        other = predecessor()
        return f'after: handler "{other}" is not done with it' if other else _HELD_BY[
            item.held
        ], None
    if item.state is State.HELD and item.held is not None:
        return _HELD_BY[item.held], item.due_ms or None
    if (closed := work.closed(now_ms)) is not None:
        return _HELD_BY[closed], None
    if work.running >= work.definition.concurrency:
        return f"{work.running} attempts run, as many as may (concurrency)", None
    return "it waits for its turn", None


def _under_way(partition: PartitionWork, item: Item) -> str:
    """The events of a batch share one attempt, and so its scope."""
    told = f"attempt {item.attempt} is under way"
    batch = [other.revision for other in partition.open.values() if other.scope is item.scope]
    if item.scope is None or len(batch) == 1:
        return told
    return f"{told}, at a batch of {len(batch)} events, of which {max(batch)} is the newest"


def _behind(queue: Iterable[Item], item: Item) -> str:
    first = next(iter(queue), item)
    return f"event {first.revision} of the same key comes first"
