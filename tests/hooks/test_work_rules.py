"""Rules of the hook service's deciding parts, one at a time."""

import pytest

from hooks.delivery import deliver
from hooks.effects import put
from hooks.execution.attempt import Failed, FailureKind, Succeeded
from hooks.execution.partition import Item
from hooks.execution.progress import Progress
from hooks.execution.work import HandlerWork
from pubsub.groups import Assignment
from tests.hooks.workbench import TIGHT_LIMITS, definition, write_event

GROUP = "hook.h"
LIMITS = TIGHT_LIMITS
FAILURE = Failed(FailureKind.ERROR, "planned")


def one_partition(**keys: object) -> HandlerWork:
    """A handler whose only partition is owned from the start of the log."""
    work = HandlerWork(definition(pattern="orders.*", partitions=1, **keys), LIMITS, 1 << 20)
    work.assign([Assignment(GROUP, 0, 1, 0, False)], lambda _: ())
    return work


def offer(work: HandlerWork, *events: tuple[int, str]) -> None:
    """Read some (revision, key) pairs."""
    assert work.wants(events[-1][0])
    for revision, key in events:
        work.offer(deliver(write_event(revision, key)))
    work.advance(events[-1][0])


def take(work: HandlerWork) -> Item | None:
    """The next event that may start."""
    items = work.take(0)
    return items[0] if items else None


def test_reading_ahead_of_a_stuck_event_is_bounded() -> None:
    """One event that never ends stops its partition after so many completions above the floor."""
    work = one_partition(concurrency=2)
    progress = Progress(work, LIMITS, 0)
    offer(work, (1, "stuck"))
    stuck = take(work)
    assert stuck is not None
    revision = 1
    while work.wants(1_000):
        revision += 1
        offer(work, (revision, f"k{revision}"))
        if item := take(work):
            work.end([item], Succeeded(), 0, 0.0)
        if progress.build(0, flush=True):
            progress.confirmed(0)
    (partition,) = work.partitions.values()
    assert len(partition.ahead) == LIMITS.completed_ahead_max
    assert partition.floor == 0
    work.end([stuck], Succeeded(), 0, 0.0)
    assert progress.build(0, flush=True)
    progress.confirmed(0)
    work.unpark()
    assert partition.floor == revision - 1, "the last one was not taken in hand"
    assert partition.ahead == {}
    assert work.wants(revision)


@pytest.mark.parametrize("stop", ["fail", "cancel"])
def test_a_partition_that_is_waited_for_is_not_held_by_a_retry(stop: str) -> None:
    """What does not end by itself goes to the next owner, also when it would be tried for ever."""
    work = one_partition(on_failure="block")
    progress = Progress(work, LIMITS, 0)
    offer(work, (1, "k"), (2, "k"), (3, "l"))
    first, other = take(work), take(work)
    assert first is not None
    assert other is not None
    work.assign([Assignment(GROUP, 0, 1, 0, True)], lambda _: ())
    work.end([other], Succeeded(), 0, 0.0)
    assert progress.build(0) is None, "one is still running"
    if stop == "fail":
        work.end([first], FAILURE, 0, 0.0)
    else:
        work.cancel([first])
    assert take(work) is None
    checkpoint = progress.build(0)
    assert checkpoint is not None
    assert checkpoint.rows == [[0, 1, 0, [3], True, 1, []]]


def test_a_paused_group_starts_nothing_new() -> None:
    """What runs may finish and is written down; the rest is read again when the group goes on."""
    work = one_partition()
    progress = Progress(work, LIMITS, 0)
    offer(work, (1, "k"), (2, "k"), (3, "l"))
    first = take(work)
    assert first is not None
    work.assign([Assignment(GROUP, 0, 1, 0, False, True)], lambda _: ())
    work.end([first], Succeeded(), 0, 0.0)
    work.unpark()
    assert take(work) is None
    assert not work.wants(3)
    checkpoint = progress.build(0, flush=True)
    assert checkpoint is not None
    assert checkpoint.rows == [[0, 1, 1, [], False, 1, []]]
    progress.confirmed(0)
    assert progress.build(0, flush=True) is None, "nothing is sent again and again"

    work.assign([Assignment(GROUP, 0, 1, 0, False)], lambda _: ())
    offer(work, (2, "k"), (3, "l"))
    again = take(work)
    assert again is not None
    assert again.revision == 2


def test_a_checkpoint_is_due_by_count_or_by_time() -> None:
    """The stated bounds: so many completions, or so many milliseconds after the first."""
    work = one_partition(concurrency=8)
    progress = Progress(work, LIMITS, 0)
    offer(work, *((revision, f"k{revision}") for revision in range(1, 5)))
    items = [item for _ in range(4) if (item := take(work))]
    assert progress.due_ms(100) == LIMITS.floor_checkpoint_ms
    work.end([items[0]], Succeeded(), 100, 0.0)
    assert progress.due_ms(100) == 100 + LIMITS.checkpoint_ms
    assert progress.build(100 + LIMITS.checkpoint_ms - 1) is None
    for item in items[1:3]:
        work.end([item], Succeeded(), 110, 0.0)
    assert progress.due_ms(110) == 110
    assert progress.build(110) is not None
    assert progress.build(110) is None, "one at a time"


def test_large_effects_are_spread_over_checkpoints() -> None:
    """A command stays below its byte bound; the floor passes only what it carries."""
    work = one_partition(concurrency=8)
    progress = Progress(work, LIMITS, 0)
    offer(work, (1, "a"), (2, "b"), (3, "c"))
    large = Succeeded((put("x", bytes(400 * 1024)),))
    for item in [item for _ in range(3) if (item := take(work))]:
        work.end([item], large, 0, 0.0)
    first = progress.build(0, flush=True)
    assert first is not None
    assert [len(first.effects), first.rows[0][2]] == [2, 2]
    progress.confirmed(0)
    second = progress.build(0, flush=True)
    assert second is not None
    assert [len(second.effects), second.rows[0][2]] == [1, 3]


def test_bytes_in_hand_are_bounded() -> None:
    """Large events stop the reading like many small ones; the first always fits."""
    work = HandlerWork(definition(pattern="orders.*", partitions=1), LIMITS, 1_000)
    work.assign([Assignment(GROUP, 0, 1, 0, False)], lambda _: ())
    assert work.wants(2)
    work.offer(deliver(write_event(1, "a", bytes(5_000))))
    work.offer(deliver(write_event(2, "b")))
    work.advance(2)
    assert not work.wants(2)
    item = take(work)
    assert item is not None
    work.end([item], Succeeded(), 0, 0.0)
    work.unpark()
    offer(work, (2, "b"))
    assert take(work) is not None
