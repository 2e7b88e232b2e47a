"""Where a handler runs: on every node, on the leader's, on nodes with certain labels."""

import trio
from trio.testing import MockClock

from hooks.registry import HookContext
from hooks.replicated import registrations
from tests.hooks.fleet import Fleet, a_fleet, assert_in_order, at_once, takes_10_ms


def members(fleet: Fleet, handler: str) -> list[str]:
    described = fleet.cluster.described(handler)
    return [each["member"] for each in described.get("members", ())]


async def test_every_node_handles_each_event_once(clock: MockClock) -> None:
    """Scope node: each node has a place of its own, also one that was away for a while."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms, scope="node")
        _, b, _ = await fleet.start("a", "b", "c")
        for number in range(100):
            fleet.cluster.put(f"k{number % 20}")
        await fleet.until(lambda: len(fleet.revisions("h", "b")) == 100)
        await b.stop()
        for number in range(100):
            fleet.cluster.put(f"k{number % 20}")
        await fleet.until(lambda: len(fleet.revisions("h", "a")) == 200)
        await trio.sleep(60)
        assert len(fleet.revisions("h", "b")) == 100
        await b.start()
        await fleet.until(lambda: len(fleet.ended) == 600)
        await trio.sleep(10)
        for node in ("a", "b", "c"):
            assert sorted(fleet.revisions("h", node)) == fleet.cluster.written
        assert_in_order_per_node(fleet)


def assert_in_order_per_node(fleet: Fleet) -> None:
    assert fleet.overlaps == 0
    for node in fleet.nodes:
        by_key: dict[str | None, list[int]] = {}
        for run in fleet.ended:
            if run.node == node:
                by_key.setdefault(run.key, []).append(run.revision)
        assert all(revisions == sorted(revisions) for revisions in by_key.values())


async def test_a_selector_chooses_the_nodes(clock: MockClock) -> None:
    """Only nodes whose labels all fit take part, and they share the events."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, scope="selector", selector={"zone": "x", "disk": "ssd"})
        labels = {
            "a": {"zone": "x", "disk": "ssd", "more": "1"},
            "b": {"zone": "x", "disk": "hdd"},
            "c": {"zone": "x", "disk": "ssd"},
            "d": {},
        }
        await fleet.start(*labels, labels=labels)
        await fleet.until(lambda: members(fleet, "h") == ["a/1", "c/1"])
        for number in range(100):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        assert sorted(fleet.revisions("h")) == fleet.cluster.written
        assert {run.node for run in fleet.ended} == {"a", "c"}


async def test_exactly_the_node_of_the_leader_handles(clock: MockClock) -> None:
    """After each change of leader the new leader's node has the handler, under a higher token, and
    nothing ran twice: the old one finished what it had begun."""
    async with a_fleet() as fleet:
        fleet.handle("h", takes_10_ms, scope="leader")
        await fleet.start("a", "b", "c")
        changes: list[tuple[int, str]] = []

        def is_alone() -> bool:
            return members(fleet, "h") == [f"{fleet.cluster.leader}/1"]

        for leader in ("a", "b", "c", "a"):
            changes.append((fleet.cluster.revision, leader))
            fleet.cluster.lead(leader)
            for number in range(50):
                fleet.cluster.put(f"k{number % 5}")
                await trio.sleep(0.01)
            await fleet.until_done("h")
            await fleet.until(is_alone)
        assert sorted(run.revision for run in fleet.begun) == fleet.cluster.written
        assert_in_order(fleet, "h")
        for after, leader in changes:
            last = next(run for run in fleet.ended if run.revision == after + 50)
            assert last.node == leader
        tokens = {run.token for run in fleet.ended}
        assert len(tokens) == len(changes), "one partition, a new token with each owner"
        by_time = [run.token for run in fleet.ended]
        assert by_time == sorted(by_time)


async def test_without_a_leader_a_handler_of_the_leader_waits(clock: MockClock) -> None:
    """Nobody takes part, and nothing is lost."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, scope="leader")
        await fleet.start("a", "b")
        fleet.cluster.put("k")
        await trio.sleep(30)
        assert (fleet.begun, members(fleet, "h")) == ([], [])
        fleet.cluster.lead("b")
        await fleet.until_done("h")
        assert fleet.revisions("h", "b") == fleet.cluster.written


async def test_an_old_leader_that_is_cut_off_is_put_out_and_fenced(clock: MockClock) -> None:
    """The new leader does not wait for the session of the old one to end; what the old one did
    meanwhile is refused by token, and its effects with it."""
    async with a_fleet(member_ttl_ms=60_000) as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(1)

        fleet.handle("h", slow, scope="leader")
        a, b = await fleet.start("a", "b")
        fleet.cluster.lead("a")
        await fleet.until(lambda: members(fleet, "h") == ["a/1"])
        event = fleet.cluster.put("k")
        await fleet.until(lambda: fleet.running)
        a.port.disconnect()  # it believes that it leads, and ends its attempt
        fleet.cluster.lead("b")
        began = trio.current_time()
        await fleet.until(lambda: members(fleet, "h") == ["b/1"])
        assert trio.current_time() - began < 10, "far sooner than its session would have ended"
        await fleet.until_done("h")
        assert [(run.node, run.revision) for run in fleet.ended] == [("a", event), ("b", event)]
        assert fleet.ended[1].token > fleet.ended[0].token
        assert fleet.overlaps == 0
        warned = b.port.log.messages("warning")
        assert "member put out of a handler of the leader" in warned
        a.port.reconnect()
        await fleet.until(lambda: a.service.works[0].metrics.checkpoints_fenced == 1)
        later = fleet.cluster.put("k")
        await fleet.until_done("h")
        assert [(run.node, run.revision) for run in fleet.ended[2:]] == [("b", later)]
        assert fleet.cluster.described("h")["completed"] == 2


async def test_an_old_leader_that_knows_ends_a_long_attempt_in_time(clock: MockClock) -> None:
    """Without the leadership an attempt has a moment to end; then it is stopped before another node
    begins, and begins there anew."""
    async with a_fleet() as fleet:

        async def long(context: HookContext) -> None:
            await trio.sleep(25)

        fleet.handle("h", long, scope="leader", timeout_ms=30_000)
        a, b = await fleet.start("a", "b")
        fleet.cluster.lead("a")
        await fleet.until(lambda: members(fleet, "h") == ["a/1"])
        fleet.cluster.put("k")
        await fleet.until(lambda: fleet.running)
        fleet.cluster.lead("b")
        await fleet.until_done("h")
        assert [run.node for run in fleet.begun] == ["a", "b"]
        assert [run.node for run in fleet.ended] == ["b"]
        assert fleet.begun[1].began - fleet.begun[0].began < 5
        assert fleet.overlaps == 0
        assert a.service.works[0].metrics.cancelled == 1
        warned = b.port.log.messages("warning")
        assert "member put out of a handler of the leader" not in warned, "it left by itself"


async def test_a_leader_that_reloads_keeps_its_handlers(clock: MockClock) -> None:
    """The new service of the leader's node takes over from the old one, as anywhere."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(1)

        fleet.handle("h", slow, scope="leader", partitions=4)
        a, _ = await fleet.start("a", "b")
        fleet.cluster.lead("a")
        for number in range(20):
            fleet.cluster.put(f"k{number}")
        await fleet.until(lambda: len(fleet.ended) == 8)
        await a.reload()
        await fleet.until_done("h")
        assert sorted(run.revision for run in fleet.begun) == fleet.cluster.written
        assert members(fleet, "h") == ["a/2"]


async def test_a_restarted_leader_does_not_wait_for_its_former_self(clock: MockClock) -> None:
    """What ran on this very node is dead: its membership does not hold up the new one."""
    async with a_fleet(member_ttl_ms=60_000) as fleet:
        fleet.handle("h", at_once, scope="leader")
        (a,) = await fleet.start("a")
        fleet.cluster.lead("a")
        await fleet.until(lambda: members(fleet, "h") == ["a/1"])
        await a.kill()
        await a.start()
        fleet.cluster.put("k")
        began = trio.current_time()
        await fleet.until_done("h")
        assert trio.current_time() - began < 3


async def test_a_disabled_handler_keeps_its_place(clock: MockClock) -> None:
    """Its events wait; enabled again it goes on where it was, or where it is told to."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("off", at_once, enabled=False, start="latest")
        await fleet.start("a", "b")
        first = fleet.cluster.put("k")
        await fleet.until_done("h")
        fleet.cluster.do("hook.disable", "h", "maintenance")
        await trio.sleep(1)
        second = fleet.cluster.put("k")
        await trio.sleep(10)
        assert fleet.revisions("h") == [first]
        fleet.cluster.do("hook.enable", "h", None)
        await fleet.until(lambda: len(fleet.revisions("h")) == 2)
        assert fleet.revisions("h") == [first, second]
        assert fleet.revisions("off") == []
        third = fleet.cluster.put("k")
        fleet.cluster.do("hook.enable", "off", "latest")
        fourth = fleet.cluster.put("k")
        await fleet.until(lambda: fleet.revisions("off"))
        await fleet.until_done("h")
        assert fleet.revisions("off") == [fourth]
        assert fleet.revisions("h") == [first, second, third, fourth]


async def test_a_handler_waits_for_those_that_it_comes_after(clock: MockClock) -> None:
    """It starts when the other one is done with the event, on this node or on another, however that
    ended; one that is disabled, missing, or not for the event is not waited for."""
    async with a_fleet() as fleet:

        async def slow(context: HookContext) -> None:
            await trio.sleep(1)
            if context.key == "bad":
                raise ValueError("given up")

        def is_late(handler: str, revision: int) -> bool:
            first = next(r for r in fleet.begun if (r.handler, r.revision) == ("first", revision))
            then = next(r for r in fleet.begun if (r.handler, r.revision) == (handler, revision))
            return then.began >= first.began + 1

        fleet.handle("first", slow, scope="leader", retry_count=0, filter='event.key != "other"')
        fleet.handle("then", at_once, after=["first"])
        fleet.handle("alone", at_once, after=["nobody"])
        await fleet.start("a", "b", "c")
        fleet.cluster.lead("a")
        await fleet.until(lambda: members(fleet, "first"))
        await fleet.until(lambda: len(members(fleet, "then")) == 3)
        keys = ("good", "bad", "other", *(f"k{number}" for number in range(40)))
        events = {key: fleet.cluster.put(key) for key in keys}
        await fleet.until(lambda: len(fleet.revisions("then")) == len(keys))
        for key, revision in events.items():
            if key != "other":
                assert is_late("then", revision), key
        assert fleet.revisions("then")[0] == events["other"]
        assert {run.node for run in fleet.ended if run.handler == "then"} > {"a"}
        assert len(fleet.revisions("alone")) == len(keys)
        fleet.cluster.do("hook.disable", "first", None)
        await trio.sleep(1)
        later = fleet.cluster.put("good")
        await fleet.until(lambda: later in fleet.revisions("then"))
        assert later not in [run.revision for run in fleet.begun if run.handler == "first"]


async def test_handlers_that_wait_for_each_other_do_not_wait(clock: MockClock) -> None:
    """What files of different nodes made into a circle does not stand still for ever."""
    async with a_fleet() as fleet:
        fleet.handle("one", at_once, after=["two"])
        fleet.handle("two", at_once, after=["one"])
        fleet.handle("three", at_once, after=["two"])
        await fleet.start("a")
        fleet.cluster.put("k")
        for handler in ("one", "two", "three"):
            await fleet.until_done(handler)
            assert fleet.revisions(handler) == fleet.cluster.written


async def test_code_of_another_kind_than_registered_does_not_run(clock: MockClock) -> None:
    """A node whose handler is of another type says so, in its answers and to the cluster."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        policy = {**fleet.handlers[0].policy(), "type": "shell", "version": 5}
        fleet.cluster.do("hook.register", "z", [[policy, True, None]])
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until(lambda: 'type "shell"' in a.service.problems.get("h", ""))
        await trio.sleep(10)
        assert fleet.begun == []
        found = registrations.load(fleet.cluster.connection)["h"]
        assert found.policy["type"] == "shell"
        assert 'type "shell"' in str(found.nodes["a"].problem)
