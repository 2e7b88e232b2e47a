"""Shaping on several nodes: what is held while partitions move, and a rate over all of them."""

import pytest
import trio
from trio.testing import MockClock

from hooks.registry import HookContext
from tests.hooks.fleet import a_fleet, assert_in_order, at_once, takes_10_ms

KEYS = [f"k{number}" for number in range(12)]


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("shape", [{"debounce_ms": 2_000}, {"throttle_ms": 3_000}])
async def test_the_newest_is_handled_when_its_node_goes(
    shape: dict[str, int], end: str, clock: MockClock
) -> None:
    """While events are held their node leaves, or dies; the newest of each key is handled, and no
    older one after it."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms, **shape)
        a, _, _ = await fleet.start("a", "b", "c")
        await trio.sleep(2)
        newest: dict[str, int] = {}
        for turn in range(6):
            for key in KEYS:
                newest[key] = fleet.cluster.put(key)
            await trio.sleep(0.3)
            if turn == 3:
                fleet.nursery.start_soon(a.stop if end == "stop" else a.kill)
        await fleet.until_done("h")
        last = {run.key: run.revision for run in fleet.ended}
        assert last == newest
        assert len(fleet.ended) < 4 * len(KEYS), "most are coalesced"
        assert_in_order(fleet, "h")


async def test_a_rate_is_kept_by_all_nodes_together(clock: MockClock) -> None:
    """Three nodes start no more than the rate says, and one more each when they begin."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, rate_limit="10/s")
        await fleet.start("a", "b", "c")
        await trio.sleep(2)
        for number in range(200):
            fleet.cluster.put(f"k{number}")
        began = trio.current_time()
        await fleet.until_done("h")
        seconds = trio.current_time() - began
        assert len(fleet.ended) == 200
        # What nobody used before is at most one period's worth.
        assert 10 * seconds + 10 + 3 >= 200
        assert seconds < 45, "each node works off what is in its own partitions"


async def test_the_handler_is_told_how_many_events_one_stands_for(clock: MockClock) -> None:
    """Those that came before it and were not handled."""
    seen: list[int] = []

    async def counts(context: HookContext) -> None:
        seen.append(context.coalesced)

    async with a_fleet() as fleet:
        fleet.handle("h", counts, debounce_ms=500)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        for _ in range(5):
            fleet.cluster.put("k")
        await fleet.until_done("h")
        assert seen == [4]
        assert a.service.works[0].metrics.completed == 5


async def test_batches_reach_a_handler_whole_and_commit_once(clock: MockClock) -> None:
    """Every event is in one batch, in order per key, and completed."""
    batches: list[list[int]] = []

    async def collects(context: HookContext) -> None:
        batches.append([delivery.revision for delivery in context.deliveries])

    async with a_fleet() as fleet:
        fleet.handle("h", collects, batch_max=10, batch_wait_ms=100, partitions=2)
        await fleet.start("a", "b")
        for number in range(100):
            fleet.cluster.put(f"k{number % 9}")
        await fleet.until_done("h")
        handled = [revision for batch in batches for revision in batch]
        assert sorted(handled) == list(range(1, 101))
        assert all(batch == sorted(batch) for batch in batches)
        assert len(batches) < 40
        assert fleet.cluster.described("h")["completed"] == 100
