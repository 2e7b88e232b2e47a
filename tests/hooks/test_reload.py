"""A new service in the place of an old one: every event once, whatever happens meanwhile."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from hooks.registry import HookContext
from hooks.replicated import registrations
from tests.hooks.fleet import Fleet, a_fleet, assert_in_order, at_once, takes_10_ms
from tests.hooks.workbench import definition


async def writing(fleet: Fleet, events: int, keys: int = 50, pause: float = 0.002) -> None:
    """Write in a steady stream."""
    for number in range(events):
        fleet.cluster.put(f"k{number % keys}")
        await trio.sleep(pause)


def redefine(fleet: Fleet, name: str, **keys: object) -> None:
    """The file says something else of a handler from now on."""
    at = next(n for n, handler in enumerate(fleet.handlers) if handler.name == name)
    fleet.handlers[at] = definition(**{"name": name, "start": "earliest", **keys})


def registered(fleet: Fleet, name: str) -> registrations.Registration:
    return registrations.load(fleet.cluster.connection)[name]


@pytest.mark.parametrize("is_old", [False, True])
async def test_every_event_runs_once_over_reloads_under_load(
    clock: MockClock, is_old: bool
) -> None:
    """Three nodes reload again and again while events come: none twice, none lost, all in order;
    also in a cluster of an older release, which knows of no succession."""
    async with a_fleet() as fleet:
        fleet.cluster.is_old = is_old
        fleet.handle("h", takes_10_ms)
        fleet.handle("g", at_once)
        nodes = await fleet.start("a", "b", "c")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writing, fleet, 2000)
            for number in range(9):
                await trio.sleep(0.3)
                await nodes[number % 3].reload()
        await fleet.until_done("h")
        await fleet.until_done("g")
        for handler in ("h", "g"):
            assert sorted(fleet.revisions(handler)) == fleet.cluster.written
            assert_in_order(fleet, handler)
        assert len(fleet.begun) == 2 * len(fleet.cluster.written)
        assert {run.boot for run in fleet.ended} == {1, 2, 3, 4}


async def test_a_reload_lets_what_runs_end_and_makes_it_never_again(clock: MockClock) -> None:
    """An attempt in progress ends in the old service; the new one has all other keys meanwhile."""
    async with a_fleet() as fleet:

        async def slow_on_one_key(context: HookContext) -> None:
            if context.key == "slow":
                await trio.sleep(4)

        fleet.handle("h", slow_on_one_key)
        (a,) = await fleet.start("a")
        fleet.cluster.put("slow")
        await fleet.until(lambda: fleet.running)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.reload)
            await fleet.until(lambda: a.boots == 2)
            await writing(fleet, 200, keys=200)
            await fleet.until(lambda: len(fleet.revisions("h")) >= 150, seconds=2)
            assert fleet.running == [("h", "slow")], "it is still in the hands of the old service"
            assert {run.boot for run in fleet.ended[-50:]} == {2}
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == fleet.cluster.written
        slow = [run for run in fleet.ended if run.key == "slow"]
        assert [run.boot for run in slow] == [1]


async def test_nothing_moves_between_nodes_when_one_reloads(clock: MockClock) -> None:
    """The partitions of a node stay on it, so that the others have nothing to give up."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms)
        a, b = await fleet.start("a", "b")
        await fleet.until(lambda: len(b.service.works[0].partitions) == 8)
        before = {number: part.token for number, part in b.service.works[0].partitions.items()}
        await a.reload()
        await fleet.until(lambda: len(a.service.works[0].partitions) == 8)
        after = {number: part.token for number, part in b.service.works[0].partitions.items()}
        assert after == before
        members = fleet.cluster.described("h")["members"]
        assert [member["member"] for member in members] == ["a/2", "b/1"]


async def test_a_changed_pattern_holds_from_the_reload_on(clock: MockClock) -> None:
    """What the old pattern let pass is not read again, what the new one has is not missed."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, pattern="orders.created")
        a, b = await fleet.start("a", "b")
        publish: Callable[[str], int] = lambda topic: int(  # noqa: E731
            fleet.cluster.do("publish", topic, "k", b"", None, None)
        )
        first = publish("orders.created")
        publish("orders.paid")
        await fleet.until_done("h")
        redefine(fleet, "h", pattern="orders.*", version=2)
        await a.reload()
        await fleet.until(lambda: b.service.works[0].definition.pattern.text == "orders.*")
        second = publish("orders.paid")
        await fleet.until_done("h")
        assert fleet.revisions("h") == [first, second]
        assert registered(fleet, "h").version == 2
        assert fleet.cluster.described("h")["pattern"] == "orders.*"
        assert not registered(fleet, "h").nodes["b"].same, "its own file is behind"
        await b.reload()
        assert registered(fleet, "h").nodes["b"].same


async def test_a_changed_filter_holds_for_every_node_from_the_reload_on(clock: MockClock) -> None:
    """The policy in force is the cluster's: a node whose file is older follows it."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, filter='event.key != "no"')
        a, b = await fleet.start("a", "b")
        fleet.cluster.put("no")
        kept = [fleet.cluster.put("yes")]
        await fleet.until_done("h")
        redefine(fleet, "h", filter='event.key == "no"', version=2)
        await a.reload()
        wanted = 'event.key == "no"'
        await fleet.until(lambda: b.service.works[0].definition.filter == wanted)
        kept += [fleet.cluster.put("no")]
        fleet.cluster.put("yes")
        await fleet.until_done("h")
        assert fleet.revisions("h") == kept


async def test_an_older_policy_does_not_come_back_with_a_reload(clock: MockClock) -> None:
    """A node whose file has a lower version keeps the policy in force, and says that it differs."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, version=2, timeout_ms=1_000)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        redefine(fleet, "h", version=1, timeout_ms=9_000)
        await a.reload()
        assert a.service.works[0].definition.timeout_ms == 1_000
        assert "version 2 is in force" in a.service.problems["h"]


async def test_a_removed_handler_ends_and_lets_go_of_retention(clock: MockClock) -> None:
    """What ran of it ends; its group keeps its place, but nothing of the log for it."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(2)

        fleet.handle("gone", slow)
        fleet.handle("stays", at_once)
        (a,) = await fleet.start("a")
        first = fleet.cluster.put("k")
        await fleet.until(lambda: ("gone", "k") in fleet.running)
        later = fleet.cluster.put("k")
        fleet.handlers = [handler for handler in fleet.handlers if handler.name == "stays"]
        await a.reload()
        assert fleet.revisions("gone") == [first]
        assert registered(fleet, "gone").removed
        assert fleet.cluster.described("gone")["members"] == []
        await fleet.until(lambda: fleet.revisions("stays") == [first, later])
        fleet.handle("gone", at_once)
        await a.reload()
        await fleet.until_done("gone")
        assert fleet.revisions("gone") == [first, later]


async def test_a_handler_that_is_added_starts_where_it_says(clock: MockClock) -> None:
    """A new handler that starts at the latest event sees none from before, and all from then on."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        before = fleet.cluster.put("k")
        await fleet.until_done("h")
        fleet.handle("new", at_once, start="latest")
        fleet.handle("all", at_once, start="earliest")
        await a.reload()
        after = fleet.cluster.put("k")
        for handler in ("new", "all", "h"):
            await fleet.until_done(handler)
        assert fleet.revisions("new") == [after]
        assert fleet.revisions("all") == fleet.revisions("h") == [before, after]


async def test_a_scope_that_changes_moves_the_handler_to_other_groups(clock: MockClock) -> None:
    """From once in the cluster to every node: the new groups begin where they say, on each node
    that the policy reaches, also where the file is still the old one."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        a, b = await fleet.start("a", "b")
        first = fleet.cluster.put("k")
        await fleet.until_done("h")
        redefine(fleet, "h", scope="node", start="latest", version=2)
        await a.reload()

        def is_everywhere() -> bool:
            return all(
                lane.place.group.endswith(f"@{node.name}") and lane.work.partitions
                for node in (a, b)
                for lane in node.service.lanes
            )

        await fleet.until(is_everywhere)
        second = fleet.cluster.put("k")
        await fleet.until(lambda: len(fleet.ended) == 3)
        assert fleet.revisions("h") == [first, second, second]
        assert {run.node for run in fleet.ended[1:]} == {"a", "b"}


async def test_a_node_that_stops_amid_a_reload_leaves_nothing_to_run_again(
    clock: MockClock,
) -> None:
    """Both services end in order, and another node has every event that was left, once."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(0.5)

        fleet.handle("h", slow)
        a, _ = await fleet.start("a", "b")
        for number in range(100):
            fleet.cluster.put(f"k{number}")
        await fleet.until(lambda: any(run.node == "a" for run in fleet.begun))
        old = a.service
        with trio.CancelScope() as reloading:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.reload)
                await fleet.until(lambda: a.boots == 2)
                await trio.sleep(0.1)
                reloading.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.stop)
            nursery.start_soon(a.service.stop)
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == fleet.cluster.written
        assert [m["member"] for m in fleet.cluster.described("h")["members"]] == ["b/1"]


async def test_a_node_that_dies_amid_a_reload_repeats_no_more_than_at_any_time(
    clock: MockClock,
) -> None:
    """Both members are given up at the end of their sessions; nothing is lost."""
    async with a_fleet(unsettled_events_max=8, checkpoint_events=8) as fleet:
        fleet.handle("h", takes_10_ms, concurrency=4)
        a, b = await fleet.start("a", "b")
        for number in range(400):
            fleet.cluster.put(f"k{number % 50}")
        await fleet.until(lambda: len(fleet.ended) > 100)
        with trio.CancelScope() as reloading:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.reload)
                await fleet.until(lambda: a.boots == 2)
                await trio.sleep(0.01)
                reloading.cancel()
        await a.kill()
        await fleet.until(lambda: len(b.service.works[0].partitions) >= 8)
        assert not reloading.cancelled_caught or fleet.overlaps == 0
        await fleet.until(lambda: set(fleet.revisions("h")) == set(fleet.cluster.written))
        assert len(fleet.begun) - 400 <= 2 * (8 + 4) + 4
        assert_in_order(fleet, "h")


async def test_the_history_and_the_counters_outlive_a_reload(clock: MockClock) -> None:
    """Who looks after a reload finds what ran before it."""
    async with a_fleet() as fleet:

        async def fails_once(context: HookContext) -> None:
            if context.attempt == 1:
                raise ValueError("not yet")

        fleet.handle("h", fails_once)
        (a,) = await fleet.start("a")
        first = fleet.cluster.put("k")
        await fleet.until_done("h")
        await a.reload()
        second = fleet.cluster.put("k")
        await fleet.until_done("h")
        assert a.service.works[0].metrics.attempts == 4
        past = [(past.revision, past.attempt, past.outcome) for past in a.service.history.of("h")]
        assert past == [
            (second, 2, "done"),
            (second, 1, "error"),
            (first, 2, "done"),
            (first, 1, "error"),
        ]
        assert "not yet" in str(a.service.history.of("h")[1].error)


async def test_a_cluster_that_is_upgraded_learns_of_the_handlers(clock: MockClock) -> None:
    """A node registers as soon as the last node of the old release is gone, and nothing runs twice
    when its own file gives way to the registration."""
    async with a_fleet(register_pause_ms=1_000) as fleet:
        fleet.cluster.is_old = True
        fleet.handle("h", takes_10_ms)
        fleet.handle("off", at_once, enabled=False)
        await fleet.start("a", "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writing, fleet, 1500)
            await fleet.until(lambda: len(fleet.ended) > 100)
            assert fleet.cluster.described("off")["floor"] == -1
            fleet.cluster.is_old = False
        await fleet.until(lambda: set(registered(fleet, "h").nodes) == {"a", "b"})
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == fleet.cluster.written
        assert not registered(fleet, "off").enabled
        fleet.cluster.do("hook.enable", "off", "earliest")
        await fleet.until_done("off")
        assert sorted(fleet.revisions("off")) == fleet.cluster.written


async def test_reloads_from_nothing_to_something_and_back(clock: MockClock) -> None:
    """A node without any handler reloads like any other."""
    async with a_fleet() as fleet:
        (a,) = await fleet.start("a")
        with trio.fail_after(30):
            await a.reload()
            fleet.handle("h", at_once)
            await a.reload()
            fleet.cluster.put("k")
            await fleet.until_done("h")
            fleet.handlers.clear()
            await a.reload()
            await a.reload()
        assert fleet.revisions("h") == fleet.cluster.written
        assert registered(fleet, "h").removed


async def test_a_node_that_cannot_load_a_module_still_says_what_it_had(clock: MockClock) -> None:
    """Handlers that are not known while their module does not load are not removed for that: the
    log is kept for them until somebody mends the module."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await fleet.until_done("h")
        await a.stop()
        handlers, fleet.handlers = fleet.handlers, []
        fleet.load_problems = {"mine": "mine: SyntaxError"}
        await a.start()
        await fleet.until(lambda: "mine" in str(registered(fleet, "h").nodes["a"].problem))
        assert not registered(fleet, "h").removed
        missed = fleet.cluster.put("k")
        fleet.handlers, fleet.load_problems = handlers, {}
        await a.reload()
        await fleet.until_done("h")
        assert fleet.revisions("h") == [missed]
        assert registered(fleet, "h").nodes["a"].problem is None
