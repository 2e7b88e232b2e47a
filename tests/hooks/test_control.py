"""What `cluster hook` shows and triggers, on a fake cluster."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hooks.control import answers
from hooks.registry import HookContext
from pubsub.rejection import Rejection
from tests.hooks.fleet import a_fleet, at_once


async def test_a_trigger_runs_once_per_cluster_and_matching_handler(clock: MockClock) -> None:
    """The event is one of its own, marked; handlers get it as what it imitates, with retries."""
    contexts: list[HookContext] = []

    async def notes(context: HookContext) -> None:
        contexts.append(context)
        if context.attempt == 1:
            raise ValueError("once more")

    async with a_fleet() as fleet:
        fleet.handle("writes", notes)
        fleet.handle("elections", at_once, pattern="hooks.cluster.*")
        fleet.handle("everything", at_once, pattern="hooks.>")
        nodes = await fleet.start("a", "b")
        await fleet.until(lambda: all(n.service.works[0].partitions for n in nodes))
        result = await answers.trigger(
            nodes[0].service, "hooks.kv.write_committed", {"key": "k", "value": "v"}, key="k"
        )
        assert result == {
            "revision": 1,
            "topic": "hooks.kv.write_committed",
            "handlers": ["everything", "writes"],
        }
        await fleet.until_done("writes")
        await fleet.until_done("everything")
        assert sorted((run.handler, run.attempt) for run in fleet.begun) == [
            ("everything", 1),
            ("writes", 1),
            ("writes", 2),
        ]
        context = contexts[-1]
        assert context.triggered
        assert (context.topic, context.key) == ("hooks.kv.write_committed", "k")
        assert context.payload() == {"key": "k", "value": "v"}
        assert context.event.topic == "hooks.hook.triggered"


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        ("hooks.kv.write_commited", {}, "unknown_topic"),
        ("hooks.kv.*", {}, "malformed"),
        ("orders.created", {}, "no_handler"),
        ("hooks.kv.write_committed", {"a": object()}, "malformed"),
        ("hooks.kv.write_committed", {"a": "x" * 1_100_000}, "malformed"),
    ],
)
async def test_a_trigger_that_would_do_nothing_is_refused(
    topic: str, payload: object, code: str, clock: MockClock
) -> None:
    """A wrong topic, a payload that is not JSON and a topic without handlers make no event."""
    async with a_fleet() as fleet:
        fleet.handle("writes", at_once)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        refused = await answers.trigger(a.service, topic, payload)
        assert isinstance(refused, Rejection)
        assert refused.code == code
        assert fleet.cluster.revision == 0


async def test_any_node_tells_how_every_handler_stands(clock: MockClock) -> None:
    """Cluster counters are the same on every node; a node's own are marked as its own."""

    async def fails_on_2(context: HookContext) -> None:
        if context.revision == 2:
            raise ValueError("two")

    async with a_fleet() as fleet:
        fleet.handle("h", fails_on_2, retry_count=1)
        fleet.handle("off", at_once, enabled=False)
        fleet.cluster.do("group.define", "hook.elsewhere", "orders.*", 16, "latest", 0)
        fleet.cluster.do("group.define", "not-a-hook", "orders.*", 16, "latest", 0)
        a, b = await fleet.start("a", "b")
        for number in range(20):
            fleet.cluster.put(f"k{number}")
        await fleet.until_done("h")
        await trio.sleep(6)
        rows = {row["handler"]: row for row in answers.list_handlers(a.service)}
        assert sorted(rows) == ["elsewhere", "h", "off"]
        assert (rows["h"]["members"], rows["h"]["partitions_here"], rows["h"]["lag"]) == (2, 8, 0)
        assert (rows["h"]["completed"], rows["h"]["dead_letters"]) == (19, 1)
        assert (rows["off"]["state"], rows["off"]["enabled"]) == ("disabled", False)
        assert not rows["elsewhere"]["defined_here"]

        locals_: list[dict[str, Any]] = []
        for node in (a, b):
            answer = answers.handler_metrics(node.service, "h")
            assert isinstance(answer, list)
            locals_ += [row["local"] for row in answer]
        assert sum(local["completed"] for local in locals_) == 19
        assert sum(local["dead_letters"] for local in locals_) == 1
        assert sum(local["attempts"] for local in locals_) == 21
        assert sum(count for local in locals_ for _, count in local["durations"]) == 21

        info = answers.handler_info(b.service, "h")
        assert isinstance(info, dict)
        assert [letter["revision"] for letter in info["dead_letters"]] == [2]
        assert info["definition"]["retry_count"] == 1
        assert len(info["partitions"]) == 16

        unknown = answers.handler_info(b.service, "elsewere")
        assert isinstance(unknown, Rejection)
        assert 'did you mean "elsewhere"' in unknown.detail
