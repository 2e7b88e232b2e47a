"""What handlers report that are asked to say what they handled: `hooks.hook.executed`."""

from collections import Counter
from typing import Any

import pytest
from trio.testing import MockClock

from hooks.delivery import deliver
from hooks.effects import put
from hooks.events.publisher import payload
from hooks.execution.attempt import Failed, FailureKind, Succeeded
from hooks.execution.partition import Item
from hooks.execution.progress import Progress
from hooks.registry import HookContext
from pubsub.limits import EXECUTED_MAX
from tests.hooks.fleet import Fleet, a_fleet, at_once, takes_10_ms
from tests.hooks.test_shaping import FAILURE, one_partition, read, take_all
from tests.hooks.workbench import TIGHT_LIMITS, definition, write_event

EXECUTED = "hooks.hook.executed"


def said(fleet: Fleet) -> list[dict[str, Any]]:
    """The payloads of the events about what was handled, in order."""
    events = fleet.cluster.read(1, 100_000, 1 << 30)
    return [payload(event) for event in events if event.topic == EXECUTED]


def written(progress: Progress) -> list[list[Any]]:
    """What each row of a checkpoint has after the first seven items."""
    checkpoint = progress.build(0, flush=True)
    assert checkpoint is not None
    return [row[7:] for row in checkpoint.rows]


@pytest.mark.parametrize(("version", "told"), [(1, []), (2, []), (3, [[], [[2, 2, 30, 1]]])])
def test_what_was_handled_is_written_down_once_everybody_knows_it(
    version: int, told: list[Any]
) -> None:
    """A ninth item of the row, in entries of version 3: not what was given up or passed over."""
    work = one_partition(report_executions=True, retry_count=1, filter='event.key != "no"')
    read(work, (1, "a"), (2, "b"), (3, "no"))
    (first,), (second,) = take_all(work)
    work.end([first], Failed(FailureKind.ERROR, "no use", final=True), 0, 0.0, 10)
    work.end([second], FAILURE, 0, 0.0, 20)
    ((again,),) = take_all(work, 1_000)
    work.end([again], Succeeded(), 1_000, 0.0, 30)
    assert written(Progress(work, TIGHT_LIMITS, 0, entry_version=version)) == [told]


def test_who_is_not_asked_says_nothing() -> None:
    """The default; and a policy that no longer asks holds from the next end of an attempt on."""
    for keys, later in ({}, {}), ({"report_executions": True}, {"report_executions": False}):
        work = one_partition(**keys)
        read(work, (1, "a"))
        (items,) = take_all(work)
        work.update(definition(partitions=1, **later))
        work.end(items, Succeeded(), 0, 0.0, 10)
        assert written(Progress(work, TIGHT_LIMITS, 0, entry_version=3)) == [[]]


def test_a_batch_is_said_once_under_its_newest_event() -> None:
    """With how many they were; what a newer event stands for was not handled."""
    work = one_partition(report_executions=True, batch_max=3)
    read(work, (1, "a"), (2, "a"), (3, "b"))
    (batch,) = take_all(work)
    work.end(batch, Succeeded(), 0, 0.0, 7)
    assert written(Progress(work, TIGHT_LIMITS, 0, entry_version=3)) == [[[], [[3, 1, 7, 3]]]]
    work = one_partition(report_executions=True, debounce_ms=100)
    read(work, (1, "a"), (2, "a"))
    (items,) = take_all(work, 100)
    work.end(items, Succeeded(), 100, 0.0, 7)
    assert written(Progress(work, TIGHT_LIMITS, 0, entry_version=3)) == [[[], [[2, 1, 7, 1]]]]


def test_no_checkpoint_says_more_than_the_cluster_takes() -> None:
    """What is more waits for the next one."""
    work = one_partition(report_executions=True)
    (partition,) = work.partitions.values()
    for revision in range(1, EXECUTED_MAX + 3):
        item = Item(deliver(write_event(revision, "a")), partition, "a")
        partition.add(item)
        partition.finish(item)
        item.took_ms = 1
        work.finished.append(item)
    work.advance(EXECUTED_MAX + 2)
    progress = Progress(work, TIGHT_LIMITS, 0, entry_version=3)
    for count in (EXECUTED_MAX, 2):
        checkpoint = progress.build(0, flush=True)
        assert checkpoint is not None
        assert len(checkpoint.items) == count
        progress.confirmed(0)


async def test_each_event_is_said_once_whatever_becomes_of_nodes(clock: MockClock) -> None:
    """Attempts are made again after a node died; what they handled stands in the log once. What
    was given up does not, nor what a handler did with events about handlers."""

    async def fails_for_some(context: HookContext) -> object:
        await takes_10_ms(context)
        if context.key == "bad":
            raise ValueError("bad")
        if context.key == "refused":
            return [put("x", b"", expected_revision=9)]
        return [put(f"seen/{context.key}", b"")] if (context.key or "").startswith("k") else None

    async with a_fleet() as fleet:
        fleet.handle("h", fails_for_some, pattern="hooks.>", report_executions=True, retry_count=1)
        fleet.handle("silent", at_once, pattern="hooks.>")
        a, _, _ = await fleet.start("a", "b", "c")
        await fleet.until(lambda: a.service.works[0].partitions)
        keys = ("bad", "refused", *(f"k{number}" for number in range(30)))
        for key in keys:
            fleet.cluster.put(key)
        await fleet.until(lambda: len(fleet.ended) > 8)
        await a.kill()
        await fleet.until(lambda: fleet.cluster.described("h")["floor"] == fleet.cluster.revision)
        events = {event.revision: event for event in fleet.cluster.read(1, 100_000, 1 << 30)}
        found = said(fleet)
        expected = {
            revision
            for revision, event in events.items()
            if event.topic == "hooks.kv.write_committed" and event.key not in ("bad", "refused")
        }
        assert Counter(row["revision"] for row in found) == dict.fromkeys(expected, 1)
        assert len(expected) == 60
        handled = {run.revision for run in fleet.ended if run.handler == "h"}
        assert handled > {r for r, event in events.items() if event.topic == EXECUTED}
        assert {row["handler"] for row in found} == {"h"}
        for row in found:
            event = events[row["revision"]]
            assert (row["topic"], row["key"], row["events"]) == (event.topic, event.key, 1)
            assert row["node"] in ("a", "b", "c")
            assert (row["attempts"], row["duration_ms"]) in ((1, 9), (1, 10), (1, 11))


async def test_members_of_an_older_release_hold_it_back(clock: MockClock) -> None:
    """What they cannot know is not written; events are handled as before."""
    async with a_fleet() as fleet:
        fleet.cluster.entry_version = 2
        fleet.handle("h", at_once, report_executions=True)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        fleet.cluster.put("k")
        await fleet.until_done("h")
        assert said(fleet) == []
        fleet.cluster.entry_version = 3
        await fleet.until(lambda: a.service.lanes[0].progress.entry_version == 3)
        revision = fleet.cluster.put("k")
        await fleet.until_done("h")
        assert [row["revision"] for row in said(fleet)] == [revision]
