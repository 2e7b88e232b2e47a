"""The hook service on a fake cluster, on virtual time: what it promises about deliveries."""

import trio
from trio.testing import MockClock

from hooks.registry import HookContext
from pubsub.topics import Pattern
from tests.hooks.fleet import a_fleet, assert_in_order, at_once, takes_10_ms


async def test_every_event_runs_once_in_the_cluster_in_order_per_key(clock: MockClock) -> None:
    """Three nodes share the partitions; nothing runs twice, no key runs out of order."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        await fleet.start("a", "b", "c")
        for number in range(300):
            fleet.cluster.put(f"k{number % 20}")
            if number % 10 == 0:
                await trio.sleep(0.01)
        await fleet.until_done("h")
        assert sorted(fleet.revisions("h")) == list(range(1, 301))
        assert_in_order(fleet, "h")
        assert {run.node for run in fleet.ended} == {"a", "b", "c"}
        assert fleet.cluster.described("h")["completed"] == 300


async def test_a_handler_sees_only_its_pattern_and_lets_go_of_the_rest(clock: MockClock) -> None:
    """Other topics are not delivered, but the floor passes them in time."""
    async with a_fleet() as fleet:
        fleet.handle("writes", at_once)
        fleet.handle("orders", at_once, pattern="orders.*")
        await fleet.start("a")
        fleet.cluster.put("k")
        fleet.cluster.do("publish", "orders.created", None, b"", None, None)
        fleet.cluster.do("publish", "billing.paid", "k", b"", None, None)
        await fleet.until_done("writes")
        await fleet.until_done("orders")
        assert fleet.revisions("writes") == [1]
        assert fleet.revisions("orders") == [2]


async def test_a_full_handler_does_not_read_in_vain(clock: MockClock) -> None:
    """A handler that is slower than the log reads each event about once."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms, concurrency=8)
        (a,) = await fleet.start("a")
        for number in range(3000):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        assert a.port.events_read < 1.5 * 3000


async def test_a_slow_handler_delays_no_other(clock: MockClock) -> None:
    """Handlers read at their own pace, and a full node keeps a place for each."""

    async def slow(context: HookContext) -> None:
        await trio.sleep(1)

    async with a_fleet(
        attempts_in_flight_max=2, handler_events_max=128, read_events_max=64
    ) as fleet:
        fleet.handle("slow", slow, concurrency=2, priority=1)
        fleet.handle("fast", at_once, concurrency=2)
        (a,) = await fleet.start("a")
        for number in range(500):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("fast")
        assert len(fleet.revisions("slow")) < 10
        slow_work = a.service.works[0]
        assert sum(len(p.open) for p in slow_work.partitions.values()) <= 128 + 16
        await fleet.until_done("slow", 30)


async def test_priority_orders_the_starts_for_one_event(clock: MockClock) -> None:
    """The lower number starts first on a node."""
    async with a_fleet() as fleet:
        fleet.handle("late", at_once, priority=20)
        fleet.handle("early", at_once, priority=10)
        await fleet.start("a")
        await trio.sleep(1)
        fleet.cluster.put("k")
        await fleet.until(lambda: len(fleet.ended) == 2)
        assert [run.handler for run in fleet.begun] == ["early", "late"]


async def test_retention_that_outran_a_handler_is_counted_and_reported(clock: MockClock) -> None:
    """What was trimmed is skipped loudly, and the handler goes on."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: fleet.cluster.described("h")["floor"] == 0)
        for number in range(10):
            fleet.cluster.put(f"k{number}")
        fleet.cluster.trim(6)
        await fleet.until_done("h")
        assert fleet.revisions("h") == [7, 8, 9, 10]
        assert a.service.works[0].metrics.compacted == 6
        assert any("retention" in message for message in a.port.log.messages("error"))


async def test_an_idle_cluster_is_left_alone(clock: MockClock) -> None:
    """Without events a service sends keepalives and nothing else."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("g", at_once)
        await fleet.start("a")
        fleet.cluster.put("k")
        await trio.sleep(20)
        fleet.cluster.submitted.clear()
        await trio.sleep(60)
        assert {name for _, name in fleet.cluster.submitted} == {"group.keepalive"}
        assert len(fleet.cluster.submitted) <= 25


async def test_a_refused_definition_keeps_only_that_handler_from_running(clock: MockClock) -> None:
    """Another partition count than the cluster's is reported; other handlers run."""
    async with a_fleet() as fleet:
        fleet.handle("wrong", at_once, partitions=8)
        fleet.handle("right", at_once)
        fleet.cluster.do("group.define", "hook.wrong", "hooks.kv.*", 4, "latest", 0)
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until_done("right")
        assert fleet.revisions("wrong") == []
        assert "partitions_fixed" in a.service.problems["wrong"]


async def test_a_changed_pattern_is_registered_with_a_higher_version(clock: MockClock) -> None:
    """The cluster's registration follows the configuration, and says so in the log."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, pattern="hooks.kv.write_committed")
        fleet.cluster.do("group.define", "hook.h", "hooks.kv.*", 16, "latest", 0)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        described = fleet.cluster.described("h")
        assert (described["pattern"], described["version"]) == ("hooks.kv.write_committed", 1)


async def test_triggered_and_filtered_topics_are_told_apart(clock: MockClock) -> None:
    """publish_topics keeps hook events from handlers, but not what a person triggers."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.publish_topics = (Pattern("hooks.cluster.*"),)
        await fleet.start("a")
        await fleet.until(lambda: fleet.cluster.described("h")["floor"] == 0)
        fleet.cluster.put("k")
        by_hand, _ = fleet.cluster.do("hook.trigger", "hooks.kv.write_committed", None, b"{}")
        await fleet.until_done("h")
        assert fleet.revisions("h") == [by_hand]
