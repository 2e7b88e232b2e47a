"""Waiting until a handler is done with an event, on a fake cluster."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hooks.control import waiting
from hooks.registry import HookContext
from pubsub.consumer_groups.addressing import REPLAYED
from pubsub.events import Event
from pubsub.rejection import Rejection
from tests.hooks.fleet import Fleet, Node, a_fleet, at_once, takes_10_ms


async def fails(context: HookContext) -> None:
    """A handler that cannot."""
    raise ValueError("no such thing")


async def waited(
    fleet: Fleet, node: Node, name: str, revision: int, timeout_ms: int = 10_000
) -> dict[str, Any] | Rejection:
    """What one node answers."""

    async def published(topic: str, first: int) -> Sequence[Event]:
        return [
            event for event in fleet.cluster.read(first, 1_000, 1 << 20) if event.topic == topic
        ]

    return await waiting.wait(node.service, name, revision, timeout_ms, published)


@pytest.mark.parametrize(
    ("keys", "end"),
    [
        ({}, "done"),
        ({"retry_count": 0}, "dead_letter"),
        ({"retry_count": 0, "on_failure": "skip"}, "skipped"),
        ({"filter": 'event.key == "other"'}, "no_match"),
        ({"pattern": "orders.*"}, "no_match"),
    ],
)
async def test_a_wait_ends_with_how_the_handler_dealt_with_the_event(
    keys: dict[str, Any], end: str, clock: MockClock
) -> None:
    """On the node that handles it and on another one, before the end and after it."""
    async with a_fleet() as fleet:
        fleet.handle("h", fails if "retry_count" in keys else takes_10_ms, **keys)
        a, b = await fleet.start("a", "b")
        await trio.sleep(2)
        ends: list[Any] = []

        async def wait(node: Node, revision: int) -> None:
            ends.append(await waited(fleet, node, "h", revision))

        async with trio.open_nursery() as nursery:
            revision = fleet.cluster.put("k")
            nursery.start_soon(wait, a, revision)
            nursery.start_soon(wait, b, revision)
        await wait(a, revision)
        assert [answer["state"] for answer in ends] == [end] * 3
        if end != "done":
            assert all(answer["because"] for answer in ends)


async def test_a_wait_does_not_say_more_than_its_node_has_applied(clock: MockClock) -> None:
    """A node that is cut off answers that it does not know; once it catches up, it does."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        a, b = await fleet.start("a", "b")
        await trio.sleep(2)
        b.port.disconnect()
        revision = fleet.cluster.put("k")
        pending = await waited(fleet, b, "h", revision, 500)
        assert isinstance(pending, dict)
        assert pending["state"] == "pending"
        done = await waited(fleet, a, "h", revision, 60_000)
        assert isinstance(done, dict)
        assert done["state"] == "done"
        b.port.reconnect()
        caught_up = await waited(fleet, b, "h", revision)
        assert isinstance(caught_up, dict)
        assert caught_up["state"] == "done"


async def test_a_wait_for_a_disabled_handler_says_so(clock: MockClock) -> None:
    """It may be enabled meanwhile, so it is waited for; the answer names the reason."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await trio.sleep(1)
        fleet.cluster.do("hook.disable", "h", None)
        await trio.sleep(1)
        revision = fleet.cluster.put("k")
        pending = await waited(fleet, a, "h", revision, 500)
        assert isinstance(pending, dict)
        assert (pending["state"], pending["because"]) == ("pending", "the handler is disabled")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waited, fleet, a, "h", revision)
            await trio.sleep(0.1)
            fleet.cluster.do("hook.enable", "h", None)
        assert fleet.revisions("h") == [revision]


async def test_a_wait_for_every_node_ends_with_the_last_one(clock: MockClock) -> None:
    """A handler with scope node is done when all its nodes are."""
    release = trio.Event()

    async def waits(context: HookContext) -> None:
        if fleet.begun[-1].node == "b":
            await release.wait()

    async with a_fleet() as fleet:
        fleet.handle("h", waits, scope="node", timeout_ms=30_000)
        a, _ = await fleet.start("a", "b")
        await trio.sleep(2)
        revision = fleet.cluster.put("k")
        pending = await waited(fleet, a, "h", revision, 1_000)
        assert isinstance(pending, dict)
        assert pending["state"] == "pending"
        release.set()
        done = await waited(fleet, a, "h", revision)
        assert isinstance(done, dict)
        assert done["state"] == "done"


async def test_a_wait_for_an_event_that_comes_again_is_for_who_gets_what(clock: MockClock) -> None:
    """The handler that it is for gets the original, one of such facts the fact, others nothing."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("other", at_once)
        fleet.handle("watcher", at_once, pattern="hooks.group.>")
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until_done("h")
        replay = fleet.cluster.do("replay.start", "hook.h", 1, 1)
        fleet.cluster.do("replay.step", replay, 10)
        fact = fleet.cluster.revision
        ends = {}
        for name in ("h", "watcher", "other"):
            answer = await waited(fleet, a, name, fact)
            assert isinstance(answer, dict), answer
            ends[name] = answer["state"]
        assert ends == {"h": "done", "watcher": "done", "other": "no_match"}


@pytest.mark.parametrize(
    ("on_failure", "end"), [("dead_letter", "dead_letter"), ("skip", "skipped")]
)
async def test_a_wait_for_what_comes_again_is_for_every_group_that_it_concerns(
    on_failure: str, end: str, clock: MockClock
) -> None:
    """One node's group gets the original again, the other one's the fact, which it matches."""
    release = trio.Event()

    async def fails_at_the_fact(context: HookContext) -> None:
        if context.topic == REPLAYED:
            await release.wait()
            raise ValueError("no such thing")

    async with a_fleet() as fleet:
        fleet.handle(
            "h", fails_at_the_fact, scope="node", pattern="hooks.>", retry_count=0,
            on_failure=on_failure, timeout_ms=30_000,
        )  # fmt: skip
        a, _ = await fleet.start("a", "b")
        await trio.sleep(2)
        first = fleet.cluster.put("k")
        await trio.sleep(2)
        replay = fleet.cluster.do("replay.start", "hook.h@a", first, first)
        fleet.cluster.do("replay.step", replay, 10)
        fact = fleet.cluster.revision
        await trio.sleep(2)
        pending = await waited(fleet, a, "h", fact, 500)
        assert isinstance(pending, dict)
        assert pending["state"] == "pending"
        release.set()
        ended = await waited(fleet, a, "h", fact)
        assert isinstance(ended, dict)
        assert ended["state"] == end


async def test_what_cannot_be_waited_for_is_refused(clock: MockClock) -> None:
    """A name that no handler has, an event that retention took, a revision that cannot be."""
    async with a_fleet() as fleet:
        fleet.handle("audit", at_once)
        (a,) = await fleet.start("a")
        for _ in range(3):
            fleet.cluster.put("k")
        await fleet.until_done("audit")
        fleet.cluster.trim(2)
        unknown = await waited(fleet, a, "adit", 3)
        gone = await waited(fleet, a, "audit", 1)
        wrong = await waited(fleet, a, "audit", 0)
        assert isinstance(unknown, Rejection)
        assert isinstance(gone, Rejection)
        assert isinstance(wrong, Rejection)
        assert [unknown.code, gone.code, wrong.code] == [
            "unknown_handler", "unknown_event", "malformed",
        ]  # fmt: skip
        assert 'did you mean "audit"' in unknown.detail
