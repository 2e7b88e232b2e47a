"""The hook service as a member: takeover, hand-over, leases, stops and what may run again."""

import trio
from trio.testing import MockClock

from hooks.registry import HookContext
from tests.hooks.fleet import a_fleet, assert_in_order, at_once, takes_10_ms


async def test_a_killed_node_is_taken_over_and_little_runs_again(clock: MockClock) -> None:
    """After a kill every event has run; what ran twice is within the stated bound."""
    async with a_fleet(unsettled_events_max=8, checkpoint_events=8) as fleet:
        fleet.handle("h", takes_10_ms, concurrency=4)
        a, _ = await fleet.start("a", "b")
        for number in range(400):
            fleet.cluster.put(f"k{number % 50}")
        await fleet.until(lambda: len(fleet.ended) > 100)
        before = len([run for run in fleet.begun if run.node == "a"])
        assert before > 0
        await a.kill()
        await fleet.until_done("h")
        seen = fleet.revisions("h")
        assert set(seen) == set(range(1, 401))
        assert len(fleet.begun) - 400 <= 8 + 4 + 4, "unsettled, and running on the killed node"
        assert_in_order(fleet, "h")


async def test_a_stopped_node_leaves_nothing_to_run_again(clock: MockClock) -> None:
    """A graceful stop hands over at once, and every event runs exactly once."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        a, b = await fleet.start("a", "b")
        for number in range(300):
            fleet.cluster.put(f"k{number % 50}")
        await fleet.until(lambda: len(fleet.ended) > 50)
        stopped_at = trio.current_time()
        await a.stop()
        await fleet.until(lambda: len(b.service.works[0].partitions) == 16)
        assert trio.current_time() - stopped_at < 1, "nobody waits for the session to end"
        await fleet.until_done("h")
        assert sorted(fleet.revisions("h")) == list(range(1, 301))
        assert len(fleet.begun) == 300


async def test_a_restart_of_the_only_node_continues_where_it_stopped(clock: MockClock) -> None:
    """What completed before a stop does not run after it, also above the floor."""
    async with a_fleet() as fleet:

        async def stuck_on_first(context: HookContext) -> None:
            if context.key == "k0" and fleet.nodes["a"].boots == 1:
                await trio.sleep(20)
                raise ValueError("not in this life")

        fleet.handle("h", stuck_on_first)
        (a,) = await fleet.start("a")
        for number in range(50):
            fleet.cluster.put(f"k{number}")
        await fleet.until(lambda: len(fleet.ended) == 49)
        await a.stop()
        await a.start()
        await fleet.until_done("h")
        assert sorted(fleet.revisions("h")) == list(range(1, 51))


async def test_a_new_member_gets_its_share_without_a_repetition(clock: MockClock) -> None:
    """A partition moves between two live members after its owner has drained it."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        await fleet.start("a")
        for number in range(600):
            fleet.cluster.put(f"k{number % 50}")
        await fleet.until(lambda: len(fleet.ended) > 50)
        (b,) = await fleet.start("b")
        await fleet.until_done("h")
        assert len(b.service.works[0].partitions) == 8
        assert len(fleet.begun) == 600
        assert_in_order(fleet, "h")


async def test_a_stop_amid_a_hand_over_waits_only_for_what_runs(clock: MockClock) -> None:
    """A node that gives partitions to a newcomer sees them go also while it stops."""

    async def slow(context: HookContext) -> None:
        await trio.sleep(2)

    async with a_fleet() as fleet:
        fleet.handle("h", slow, concurrency=16)
        (a,) = await fleet.start("a")
        for number in range(50):
            fleet.cluster.put(f"k{number}")
        await fleet.until(lambda: fleet.running)
        await fleet.start("b")
        await fleet.until(
            lambda: any(part.releasing for part in a.service.works[0].partitions.values())
        )
        began = trio.current_time()
        await a.stop()
        assert trio.current_time() - began < 3
        await fleet.until_done("h")
        assert len(fleet.begun) == 50


async def test_tokens_rise_with_each_owner(clock: MockClock) -> None:
    """The fencing token of an event's partition is higher after each change of owner."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        await fleet.start("a", "b")
        fleet.cluster.put("k")
        await fleet.until_done("h")
        owner = fleet.nodes[fleet.ended[-1].node]
        await owner.stop()
        fleet.cluster.put("k")
        await fleet.until(lambda: len(fleet.ended) == 2)
        assert fleet.ended[1].token > fleet.ended[0].token


async def test_a_member_that_is_cut_off_stops_before_its_successor_starts(clock: MockClock) -> None:
    """Without a keepalive its attempts are cancelled; what it did is refused when it is back."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(4.9)

        fleet.handle("h", slow, timeout_ms=5000, concurrency=1)
        a, b = await fleet.start("a", "b")
        await fleet.until(lambda: len(b.service.works[0].partitions) == 8)
        for number in range(16):
            fleet.cluster.put(f"k{number}")
        await trio.sleep(1)
        a.port.disconnect()
        await fleet.until(lambda: len(b.service.works[0].partitions) == 16)
        assert a.service.works[0].running == 0
        assert "hook lease ended" in a.port.log.messages("warning")
        a.port.reconnect()
        await fleet.until_done("h")
        assert fleet.overlaps == 0
        assert a.service.works[0].metrics.checkpoints_fenced > 0
        assert a.service.works[0].metrics.cancelled > 0
        assert set(fleet.revisions("h")) == set(range(1, 17))


async def test_a_lease_counts_from_the_question_and_not_from_the_answer(clock: MockClock) -> None:
    """An answer that was long under way does not prolong what the cluster counts."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(29)

        fleet.handle("h", slow, concurrency=16, timeout_ms=30_000)
        a, b = await fleet.start("a", "b")
        await fleet.until(lambda: len(b.service.works[0].partitions) == 8)
        a.port.answer_seconds = 2
        for number in range(16):
            fleet.cluster.put(f"k{number}")
        keepalive = ("a", "group.keepalive")
        await fleet.until(lambda: fleet.cluster.submitted.count(keepalive) == 2)
        await trio.sleep(2.1)
        a.port.disconnect()
        await fleet.until(lambda: b.service.works[0].running == 16)
        assert fleet.overlaps == 0


async def test_a_short_disconnection_loses_nothing_and_repeats_nothing(clock: MockClock) -> None:
    """Within its lease a member works on, and its checkpoints wait."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        (a,) = await fleet.start("a")
        for number in range(100):
            fleet.cluster.put(f"k{number}")
        await trio.sleep(0.05)
        a.port.disconnect()
        await trio.sleep(3)
        a.port.reconnect()
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == list(range(1, 101))


async def test_without_a_leader_nothing_runs_and_afterwards_it_goes_on(clock: MockClock) -> None:
    """When no session expires, because there is no leader, a suspended member resumes its own."""
    async with a_fleet(unsettled_events_max=4, checkpoint_events=4) as fleet:
        fleet.handle("h", takes_10_ms)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        a.port.disconnect()
        for number in range(100):
            fleet.cluster.put(f"k{number}")
        fleet.cluster.connection.execute("UPDATE group_sessions SET deadline_ms = 1000000")
        await trio.sleep(30)
        begun = len(fleet.begun)
        assert begun <= 4 + 8, "completed and unconfirmed, and running when the bound was reached"
        a.port.reconnect()
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == list(range(1, 101))


async def test_a_stop_without_a_cluster_ends_and_says_so(clock: MockClock) -> None:
    """Nobody waits for ever for a last checkpoint; what it would have carried runs again."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        fleet.cluster.put("k")
        a.port.disconnect()
        await fleet.until(lambda: fleet.ended)
        began = trio.current_time()
        await a.stop()
        assert trio.current_time() - began <= 5
        assert "hooks stopped without the cluster knowing" in a.port.log.messages("warning")
        a.port.reconnect()
        await a.start()
        await fleet.until_done("h")
        assert fleet.revisions("h") == [1, 1]


async def test_a_session_that_the_cluster_ended_begins_anew(clock: MockClock) -> None:
    """A member that is thrown out joins again under new tokens and goes on."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        fleet.cluster.do("group.leave", a.service.member)
        for number in range(50):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        assert "hook session lost" in a.port.log.messages("warning")
        assert set(fleet.revisions("h")) == set(range(1, 51))
        assert_in_order(fleet, "h")


async def test_a_replay_stops_what_runs_and_begins_again(clock: MockClock) -> None:
    """After a seek, attempts under the old tokens are stopped before the new ones begin."""

    async def slow(context: HookContext) -> None:
        await trio.sleep(4)

    async with a_fleet() as fleet:
        fleet.handle("h", slow)
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until(lambda: fleet.running)
        fleet.cluster.do("group.seek", "hook.h", "earliest")
        await fleet.until_done("h")
        assert [run.revision for run in fleet.begun] == [1, 1]
        assert fleet.begun[1].token > fleet.begun[0].token
        assert fleet.overlaps == 0
        assert a.service.works[0].metrics.cancelled == 1
