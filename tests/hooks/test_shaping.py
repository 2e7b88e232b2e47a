"""What holds events back, one rule at a time: conditions, debounce, throttle, rates, batches."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hooks.delivery import deliver
from hooks.effects import put
from hooks.execution.attempt import Failed, FailureKind, Succeeded
from hooks.execution.partition import Held, Item
from hooks.execution.progress import Progress
from hooks.execution.work import HandlerWork
from pubsub.groups import Assignment
from tests.hooks.workbench import TIGHT_LIMITS, definition, write_event

GROUP = "hook.h"
LIMITS = replace(TIGHT_LIMITS, unsettled_events_max=12)
FAILURE = Failed(FailureKind.ERROR, "planned")
MINE = Assignment(GROUP, 0, 1, 0, False)


def one_partition(**keys: object) -> HandlerWork:
    """A handler whose only partition is owned from the start of the log."""
    work = HandlerWork(definition(**{"partitions": 1, "concurrency": 9, **keys}), LIMITS, 1 << 20)
    work.assign([MINE], lambda _: ())
    return work


def read(work: HandlerWork, *events: tuple[int, str], now_ms: int = 0) -> None:
    """Read some (revision, key) pairs, and look at the clock."""
    assert work.wants(events[-1][0])
    for revision, key in events:
        work.offer(deliver(write_event(revision, key)))
    work.advance(events[-1][0])
    work.wake(now_ms)


def take(work: HandlerWork, now_ms: int = 0) -> list[int]:
    """The revisions of everything that may start now; what can succeed does."""
    revisions: list[int] = []
    for items in take_all(work, now_ms):
        revisions += [item.revision for item in items]
        work.end(items, items[0].failure or Succeeded(), now_ms, 0.0)
    return revisions


def take_all(work: HandlerWork, now_ms: int = 0) -> list[Sequence[Item]]:
    work.wake(now_ms)
    taken: list[Sequence[Item]] = []
    while items := work.take(now_ms):
        taken.append(items)
    return taken


def rows(progress: Progress) -> list[list[object]]:
    """The rows of a checkpoint of everything, which is confirmed."""
    checkpoint = progress.build(0, flush=True)
    assert checkpoint is not None
    progress.confirmed(0)
    return checkpoint.rows


# Conditions


def test_what_the_condition_is_false_for_is_passed_over() -> None:
    """It takes no place, the floor passes it, and it is counted."""
    work = one_partition(filter='event.key == "a"')
    read(work, (1, "b"), (2, "a"), (3, "b"))
    assert take(work) == [2]
    assert rows(Progress(work, LIMITS, 0)) == [[0, 1, 3, [], False, 1, []]]
    assert work.metrics.filtered == 2


def test_a_condition_that_fails_is_a_failed_attempt() -> None:
    """The event becomes a dead letter, without another attempt and without a run."""
    work = one_partition(filter="data.no_such_field == 1", retry_count=3)
    read(work, (1, "a"))
    ((item,),) = take_all(work)
    assert item.failure is not None
    assert (item.failure.kind, item.failure.final) == (FailureKind.FILTER, True)
    work.end([item], item.failure, 0, 0.0)
    ((*_, letters),) = rows(Progress(work, LIMITS, 0))
    assert [letter[:2] for letter in letters] == [[1, 1]]  # type: ignore[attr-defined]
    assert work.metrics.filter_failures == 1


def test_a_blocking_failure_of_the_condition_is_mended_by_another() -> None:
    """on_failure = "block" holds the key until a condition is in force that can tell."""
    work = one_partition(filter="data.no_such_field == 1", on_failure="block")
    read(work, (1, "a"), (2, "a"), (3, "b"))
    assert take(work) == [1, 3]
    assert take(work, 10_000) == [1, 3]
    fixed = definition(partitions=1, concurrency=9, filter='event.key == "a"', on_failure="block")
    work.update(fixed)
    assert take(work, 60_000) == [1], "the other key is no longer wanted"
    assert take(work, 60_000) == [2], "this one was told of by the first condition"
    assert take(work, 120_000) == [2]
    assert rows(Progress(work, LIMITS, 0)) == [[0, 1, 3, [], False, 3, []]]


def test_a_final_failure_is_not_tried_again() -> None:
    """What cannot be mended becomes a dead letter at once."""
    work = one_partition(retry_count=5)
    read(work, (1, "a"))
    (items,) = take_all(work)
    work.end(items, Failed(FailureKind.ERROR, "no use", final=True), 0, 0.0)
    assert work.due_ms(0) is None
    assert rows(Progress(work, LIMITS, 0)) == [[0, 1, 1, [], False, 0, [[1, 1, "no use"]]]]


def test_skipped_events_are_told_only_to_who_understands() -> None:
    """An eighth item of the row, once entries of version 2 are written."""
    for version, more in ((1, []), (2, [[[1, 1, "planned"]]])):
        work = one_partition(retry_count=0, on_failure="skip")
        read(work, (1, "a"))
        (items,) = take_all(work)
        work.end(items, FAILURE, 0, 0.0)
        progress = Progress(work, LIMITS, 0, entry_version=version)
        assert rows(progress) == [[0, 1, 1, [], False, 1, [], *more]]
        assert work.metrics.skipped == 1


# Debounce and throttle


def test_debounce_waits_for_calm_and_handles_the_newest() -> None:
    """The wait begins anew with each event; the others are completed with it in hand."""
    work = one_partition(debounce_ms=100)
    read(work, (1, "a"), now_ms=0)
    read(work, (2, "a"), (3, "b"), now_ms=60)
    assert take(work, 159) == []
    assert work.due_ms(159) == 160
    ((first,), (second,)) = take_all(work, 160)
    assert (first.revision, first.coalesced) == (2, 1)
    assert (second.revision, second.coalesced) == (3, 0)
    assert work.metrics.coalesced == 1


def test_debounce_does_not_wait_for_ever() -> None:
    """What keeps coming is handled at the latest so long after the first."""
    work = one_partition(debounce_ms=100, debounce_ms_max=250)
    for revision, now_ms in enumerate(range(0, 250, 50), 1):
        read(work, (revision, "a"), now_ms=now_ms)
        assert take(work, now_ms) == []
    assert take(work, 249) == []
    assert take(work, 250) == [5]


def test_a_floor_stays_below_a_held_event() -> None:
    """What it stands for is written down, itself never; a release lets go of it."""
    work = one_partition(debounce_ms=100)
    progress = Progress(work, LIMITS, 0)
    read(work, (1, "a"), (2, "b"), (3, "a"))
    assert take(work) == []
    assert rows(progress) == [[0, 1, 1, [], False, 1, []]]
    read(work, (4, "b"), (5, "a"))
    assert take(work) == []
    work.assign([MINE._replace(releasing=True)], lambda _: ())
    assert rows(progress) == [[0, 1, 3, [], True, 2, []]]
    assert take_all(work, 1_000) == []

    successor = HandlerWork(work.definition, LIMITS, 1 << 20)
    successor.assign([Assignment(GROUP, 0, 2, 3, False)], lambda _: ())
    read(successor, (4, "b"), (5, "a"))
    assert take(successor, 100) == [4, 5]


def test_what_was_let_go_of_is_not_handled_after_something_newer() -> None:
    """A pause drops the newest; the older one that it stands for does not come back without it."""
    work = one_partition(debounce_ms=100)
    read(work, (1, "z"), (2, "a"), (3, "a"))
    work.assign([MINE._replace(paused=True)], lambda _: ())
    work.assign([MINE], lambda _: ())
    read(work, (1, "z"), (2, "a"), (3, "a"), (4, "a"), now_ms=200)
    assert take(work, 300) == [1, 4]


def test_an_event_that_has_started_is_not_coalesced() -> None:
    """Neither while it runs nor while it waits to be tried again; what comes after it is."""
    work = one_partition(debounce_ms=100, retry_count=1)
    read(work, (1, "a"))
    (items,) = take_all(work, 100)
    read(work, (2, "a"), (3, "a"), now_ms=100)
    work.end(items, FAILURE, 100, 0.0)
    read(work, (4, "a"), now_ms=110)
    assert take(work, 150) == [1]
    assert take(work, 209) == []
    assert take(work, 210) == [4]


def test_an_event_whose_attempt_was_stopped_is_not_coalesced() -> None:
    """It was under way through no fault of its own, and goes on at once."""
    work = one_partition(throttle_ms=1_000)
    read(work, (1, "a"))
    (items,) = take_all(work)
    work.cancel(items)
    read(work, (2, "a"), (3, "a"), now_ms=10)
    assert take(work, 10) == [1]
    assert take(work, 1_010) == [3]


def test_a_partition_full_of_held_events_goes_on() -> None:
    """When everything is held nothing is read; what is held starts in time, and makes room."""
    work = one_partition(debounce_ms=100)
    progress = Progress(work, LIMITS, 0)
    keys = [f"k{number % 7}" for number in range(40)]
    seen: list[int] = []
    for now_ms in range(0, 10_000, 50):
        work.unpark()
        if work.wants(len(keys)):
            for revision in range(work.position + 1, min(len(keys), work.position + 8) + 1):
                work.offer(deliver(write_event(revision, keys[revision - 1])))
            work.advance(min(len(keys), work.position + 8))
        seen += take(work, now_ms)
        if progress.build(now_ms, flush=True):
            progress.confirmed(0)
    newest = {key: revision for revision, key in enumerate(keys, 1)}
    assert set(newest.values()) <= set(seen)
    assert work.partitions[0].floor == len(keys)


def test_a_successor_takes_the_oldest_event_whatever_is_completed_above_it() -> None:
    """The bound of completions does not keep the one event from being read that would help."""
    work = HandlerWork(definition(partitions=1), LIMITS, 1 << 20)
    work.assign([MINE], lambda _: range(2, 2 + LIMITS.completed_ahead_max))
    read(work, *((revision, f"k{revision}") for revision in range(1, 10)))
    assert take(work) == [1]
    assert rows(Progress(work, LIMITS, 0))[0][2] == 1 + LIMITS.completed_ahead_max


def test_throttle_starts_at_once_and_then_holds_the_newest() -> None:
    """One start in so long; retries do not count, and other keys go by."""
    work = one_partition(throttle_ms=1_000)
    read(work, (1, "a"))
    assert take(work, 0) == [1]
    read(work, (2, "a"), (3, "a"), (4, "b"), now_ms=10)
    assert take(work, 10) == [4]
    assert work.due_ms(10) == 1_000
    assert take(work, 999) == []
    assert take(work, 1_000) == [3]
    assert (work.metrics.coalesced, work.metrics.throttled) == (1, 1)


# Rates and the breaker


def test_a_key_over_its_rate_holds_nobody_else() -> None:
    """It starts again as the rate allows."""
    work = one_partition(rate_limit_per_key="2/s")
    read(work, (1, "a"), (2, "a"), (3, "a"), (4, "b"))
    assert take(work, 0) == [1, 4]
    assert take(work, 0) == [2]
    assert take(work, 0) == []
    assert work.due_ms(0) == 500
    assert take(work, 499) == []
    assert take(work, 500) == [3]
    assert work.metrics.rate_limited == 1


def test_a_node_starts_its_share_of_a_rate() -> None:
    """As many of sixteen partitions as it owns; with one start in hand when it begins."""
    work = HandlerWork(definition(partitions=4, rate_limit="8/s", concurrency=9), LIMITS, 1 << 20)
    work.assign([MINE, Assignment(GROUP, 1, 1, 0, False)], lambda _: ())
    keys = [f"k{number}" for number in range(200)]
    events = [(revision, key) for revision, key in enumerate(keys, 1)]
    work.wants(8)
    for revision, key in events[:8]:
        work.offer(deliver(write_event(revision, key)))
    work.advance(8)
    started = [now_ms for now_ms in range(0, 600) for _ in take(work, now_ms)]
    assert started[:3] == [0, 250, 500]


def test_a_rate_never_grows_by_a_move() -> None:
    """Partitions that come do not bring starts that were not used while they were elsewhere."""
    work = HandlerWork(definition(partitions=1, rate_limit="1/s"), LIMITS, 1 << 20)
    work.assign([MINE], lambda _: ())
    read(work, (1, "a"), (2, "b"), (3, "c"))
    assert take(work, 0) == [1]
    work.lose_all()
    work.wake(60_000)
    work.assign([MINE._replace(token=2, floor=1)], lambda _: ())
    read(work, (2, "b"), (3, "c"), now_ms=60_000)
    assert take(work, 60_000) == []
    assert take(work, 61_000) == [2]


def test_an_open_breaker_starts_one_probe() -> None:
    """Failures in a row open it; those that run meanwhile have no say; a success closes it."""
    work = one_partition(breaker_failures=2, breaker_open_ms=1_000, retry_count=0)
    read(work, *((revision, f"k{revision}") for revision in range(1, 6)))
    running = [work.take(0) for _ in range(3)]
    work.end(running[0], FAILURE, 0, 0.0)
    work.end(running[1], FAILURE, 0, 0.0)
    assert work.take(0) == ()
    assert (work.closed(0), work.due_ms(0)) == (Held.BREAKER, 1_000)
    work.end(running[2], Succeeded(), 5, 0.0)
    assert work.take(999) == ()
    (probe,) = take_all(work, 1_000)
    work.cancel(probe)
    (probe,) = take_all(work, 1_001)
    work.end(probe, FAILURE, 1_100, 0.0)
    assert take_all(work, 2_099) == []
    assert len(take(work, 2_100)) == 1
    assert work.metrics.breaker_opened == 2


# Batches


def test_a_batch_is_full_or_has_waited() -> None:
    """Several keys of one partition, each in order, in the order of the log."""
    work = one_partition(batch_max=3, batch_wait_ms=100)
    read(work, (1, "a"), (2, "b"), now_ms=0)
    assert take_all(work, 99) == []
    read(work, (3, "a"), (4, "b"), now_ms=99)
    (batch,) = take_all(work, 99)
    assert [item.revision for item in batch] == [1, 2, 3]
    work.end(batch, Succeeded(), 99, 0.0)
    assert take(work, 99) == []
    assert work.due_ms(99) == 199
    assert take(work, 199) == [4]
    assert (work.metrics.batches, work.metrics.batched) == (2, 4)


def test_a_batch_does_not_wait_for_what_finds_no_room() -> None:
    """A partition that is parked gives what it has; it would wait for its own end."""
    work = one_partition(batch_max=4, batch_wait_ms=60_000, retry_count=9)
    read(work, (1, "a"), (2, "b"), (3, "c"), (4, "d"))
    (batch,) = take_all(work)
    work.end(batch[:1], FAILURE, 0, 0.0)
    read(work, *((revision, f"k{revision}") for revision in range(5, 9)))
    assert not work.partitions[0].reading
    (batch,) = take_all(work)
    assert [item.revision for item in batch] == [5]


def test_a_batch_that_failed_is_tried_one_by_one() -> None:
    """Each with all of its attempts: only the one that fails is given up."""
    work = one_partition(batch_max=4, retry_count=0)
    read(work, (1, "a"), (2, "a"), (3, "b"))
    (batch,) = take_all(work)
    work.end(batch, Failed(FailureKind.ERROR, "one of them", final=True), 0, 0.0)
    seen: list[int] = []
    while alone := take_all(work, 100 * len(seen) + 200):
        for items in alone:
            (item,) = items
            seen.append(item.revision)
            work.end(items, FAILURE if item.revision == 1 else Succeeded(), 0, 0.0)
    assert sorted(seen) == [1, 2, 3]
    assert seen.index(1) < seen.index(2)
    ((*_, completed, letters),) = rows(Progress(work, LIMITS, 0))
    assert (completed, letters) == (2, [[1, 1, "planned"]])


def test_effects_of_a_batch_travel_with_all_of_it() -> None:
    """Under its newest event, which names the others; a batch is never spread over checkpoints."""
    work = one_partition(batch_max=2)
    progress = Progress(work, LIMITS, 0, entry_version=2)
    large = Succeeded((put("x", bytes(700 * 1024)),))
    read(work, (1, "a"), (2, "b"), (3, "c"), (4, "d"))
    for batch in take_all(work):
        work.end(batch, large, 0, 0.0)
    for floor, others in ((2, [1]), (4, [3])):
        checkpoint = progress.build(0, flush=True)
        assert checkpoint is not None
        assert checkpoint.rows[0][2] == floor
        assert [unit[1:2] + unit[3:] for unit in checkpoint.effects] == [[floor, others]]
        progress.confirmed(0)


def test_a_batch_is_let_go_of_as_a_whole() -> None:
    """Stopped for a hand-over, all of its events are read again by the next owner."""
    work = one_partition(batch_max=3)
    read(work, (1, "a"), (2, "a"), (3, "b"))
    (batch,) = take_all(work)
    work.assign([MINE._replace(releasing=True)], lambda _: ())
    work.cancel(batch)
    assert rows(Progress(work, LIMITS, 0)) == [[0, 1, 0, [], True, 0, []]]


# After, order, policy


def test_an_event_waits_for_another_handler_and_holds_only_its_key() -> None:
    """It is asked about again at every turn, and counted once."""
    work = one_partition()
    read(work, (1, "a"), (2, "a"), (3, "b"))
    done: set[int] = set()
    for now_ms in range(3):
        work.wake(now_ms)
        assert [i.revision for i in work.take(now_ms, lambda i: i.key == "a")] in ([3], [])
    done.add(1)
    work.wake(9)
    assert [i.revision for i in work.take(9, lambda i: i.revision not in done)] == [1]
    assert work.metrics.held_by_after == 1


def test_order_by_handler_is_one_after_the_other() -> None:
    """All keys are one; another policy waits until nothing runs that was ordered otherwise."""
    work = one_partition(order_by="handler", concurrency=1)
    read(work, (1, "a"), (2, "b"), (3, "c"))
    (items,) = take_all(work)
    assert work.take(0) == ()
    work.update(definition(partitions=1, concurrency=9))
    work.unpark()
    assert not work.wants(3)
    work.end(items, Succeeded(), 0, 0.0)
    work.unpark()
    read(work, (2, "b"), (3, "c"))
    assert len(take_all(work)) == 2


def test_another_policy_lets_go_of_what_is_held() -> None:
    """Without debounce there is nothing to wait for any more."""
    work = one_partition(debounce_ms=60_000)
    read(work, (1, "a"))
    assert take(work) == []
    work.update(definition(partitions=1, concurrency=9))
    assert take(work) == [1]


@pytest.mark.parametrize("paused", [True, False])
def test_it_is_known_whether_an_event_is_done(paused: bool) -> None:
    """Handled, or not for this handler; not what is in hand, let go of, or not read yet."""
    work = one_partition(filter='event.key != "x"')
    read(work, (1, "a"), (2, "x"), (3, "b"))
    items = work.take(0)
    work.end(items, Succeeded(), 0, 0.0)
    if paused:
        work.assign([MINE._replace(paused=True)], lambda _: ())
    known = [work.is_done(deliver(write_event(revision, "k"))) for revision in range(1, 5)]
    assert known == [True, True, False, False]
    work.lose_all()
    assert work.is_done(deliver(write_event(1, "k"))) is None
