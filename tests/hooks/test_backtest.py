"""A handler tried on history: routing, conditions, and attempts whose effects go nowhere."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hooks import effects
from hooks.control import backtest
from hooks.execution.attempt import DRY_RUN_TOKEN
from hooks.registry import HookContext
from pubsub.rejection import Rejection
from tests.hooks.fleet import Fleet, Node, a_fleet, at_once


async def tried(
    node: Node, name: str, first: int = 1, last: int | None = None, **asked: Any
) -> dict[str, Any]:
    """One call's answer, which must be one."""
    answer = await backtest.test(node.service, name, first, last, asked)
    assert isinstance(answer, dict), answer
    return answer


async def a_node(fleet: Fleet) -> Node:
    """A node whose handlers have dealt with everything that they will."""
    (node,) = await fleet.start("a")
    await trio.sleep(2)
    return node


async def test_routing_and_conditions_are_counted_over_history(clock: MockClock) -> None:
    """What matches, what does not and why, and what cannot be told; nothing is run."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, filter='event.key != "a" || data.nothing')
        node = await a_node(fleet)
        for key in ("a", "b", "c"):
            fleet.cluster.put(key)
        fleet.cluster.do("publish", "orders.created", None, b"{}", None, None)
        await fleet.until(lambda: len(fleet.ended) == 2)
        last = fleet.cluster.revision
        found = await tried(node, "h")
        assert (found["examined"], found["next_revision"]) == (last, None)
        assert found["counts"]["match"] == 2
        assert [match["key"] for match in found["matches"]] == ["b", "c"]
        assert found["counts"]["error"] == 1
        assert "cannot be evaluated" in found["errors"][0]["error"]
        assert found["counts"]["pattern"] == last - 3
        assert len(fleet.ended) == 2


async def test_what_was_handed_out_again_is_counted_and_passed_over(clock: MockClock) -> None:
    """The original has its turn as itself; for other handlers such an event is a plain fact."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("watcher", at_once, pattern="hooks.group.>")
        node = await a_node(fleet)
        for key in ("a", "b"):
            fleet.cluster.put(key)
        await fleet.until_done("h")
        replay = fleet.cluster.do("replay.start", "hook.h", 1, 2)
        fleet.cluster.do("replay.step", replay, 10)
        await fleet.until_done("h")
        found = {name: await tried(node, name, 1, 4) for name in ("h", "watcher")}
        counted = {
            name: (each["counts"]["match"], each["replayed"]) for name, each in found.items()
        }
        assert counted == {"h": (2, 2), "watcher": (2, 0)}
        assert [match["revision"] for match in found["watcher"]["matches"]] == [3, 4]
        assert [each["examined"] for each in found.values()] == [4, 4]


async def test_a_long_history_is_told_in_parts(clock: MockClock) -> None:
    """Each answer says where to go on, and together they have looked at everything once."""
    async with a_fleet(backtest_events_max=10) as fleet:
        fleet.handle("h", at_once)
        node = await a_node(fleet)
        for number in range(25):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        following: int | None = 1
        parts = []
        while following is not None:
            parts.append(await tried(node, "h", following, 25))
            following = parts[-1]["next_revision"]
        assert [part["examined"] for part in parts] == [10, 10, 5]
        assert sum(part["counts"]["match"] for part in parts) == 25


async def test_the_loop_is_free_between_two_slices(clock: MockClock) -> None:
    """Other tasks run while a long history is looked at."""
    async with a_fleet(backtest_slice_ms=0) as fleet:
        fleet.handle("h", at_once)
        node = await a_node(fleet)
        for number in range(50):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await tried(node, "h", 1, 50)
            nursery.cancel_scope.cancel()
        assert turns >= 40


async def test_a_dry_run_shows_effects_and_commits_none(clock: MockClock) -> None:
    """Attempts carry the token that no owner has; what fails is told with its error."""
    tokens: list[int] = []

    async def notes(context: HookContext) -> list[effects.Effect]:
        tokens.append(context.fencing_token)
        assert context.dry_run
        if context.key == "bad":
            raise ValueError("not this one")
        return [effects.put(f"seen/{context.key}", b"1")]

    async with a_fleet() as fleet:
        fleet.handle("h", notes, retry_count=0, pattern="hooks.kv.write_committed", start="latest")
        fleet.cluster.put("good")
        fleet.cluster.put("bad")
        node = await a_node(fleet)
        before = fleet.cluster.revision
        found = await tried(node, "h", 1, 2, run=True)
        assert [run["outcome"] for run in found["runs"]] == ["done", "error"]
        assert found["runs"][0]["effects"] == [["put", ["seen/good", b"1", None, None]]]
        assert "not this one" in found["runs"][1]["error"]
        assert tokens == [DRY_RUN_TOKEN] * 2
        await trio.sleep(2)
        assert fleet.cluster.value("seen/good") is None
        assert fleet.cluster.revision == before
        assert fleet.cluster.letters("h") == []


async def test_another_policy_can_be_tried_before_it_is_in_force(clock: MockClock) -> None:
    """The registered handler goes on as it is."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        node = await a_node(fleet)
        for key in ("a", "b"):
            fleet.cluster.put(key)
        await fleet.until_done("h")
        found = await tried(node, "h", policy={"filter": 'event.key == "a"'})
        assert found["counts"]["match"] == 1
        assert (await tried(node, "h"))["counts"]["match"] == 2
        fresh = {"name": "new", "type": "in_process", "pattern": "hooks.kv.*"}
        assert (await tried(node, "new", policy=fresh))["counts"]["match"] == 2


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [
        ("adit", {}, "unknown_handler"),
        ("audit", {"runs": True}, "malformed"),
        ("audit", {"policy": {"rate_limit": "often"}}, "malformed"),
        ("audit", {"policy": 7}, "malformed"),
        ("audit", {"policy": {"filter": 7}}, "malformed"),
        ("audit", {"policy": {"pattern": "a..b"}}, "malformed"),
        ("audit", {"policy": {"partitions": "many"}}, "malformed"),
        ("audit", {"policy": {"timeout_ms": 10**9}, "run": True}, "malformed"),
        ("new", {"policy": {"pattern": ">"}}, "malformed"),
        (
            "new",
            {"policy": {"type": "in_process", "pattern": ">", "name": "new"}, "run": 1},
            "no_code",
        ),
        # The code of the node is of another type: a command without a word took the node down.
        (
            "audit",
            {"policy": {"type": "shell", "pattern": ">", "name": "audit"}, "run": True},
            "no_code",
        ),
        ("audit", {"policy": {"name": "other"}, "run": True}, "malformed"),
        ("audit", {"policy": {"name": 7}, "run": True}, "malformed"),
    ],
)
async def test_a_test_that_makes_no_sense_is_refused(
    name: str, asked: dict[str, Any], code: str, clock: MockClock
) -> None:
    """By name, before anything is looked at."""
    async with a_fleet() as fleet:
        fleet.handle("audit", at_once)
        node = await a_node(fleet)
        refused = await backtest.test(node.service, name, 1, None, asked)
        assert isinstance(refused, Rejection)
        assert refused.code == code
