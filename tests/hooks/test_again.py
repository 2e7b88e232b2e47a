"""Events that a handler gets again: out of its dead letters, or by a replay."""

from typing import Any

from trio.testing import MockClock

from hooks.delivery import Delivery, deliver_again
from hooks.effects import put
from hooks.registry import HookContext
from pubsub.consumer_groups.addressing import REDRIVEN, REPLAYED
from pubsub.events import Event
from tests.hooks.fleet import a_fleet, at_once


def event(revision: int, topic: str, data: tuple[Any, ...], key: str | None = "k") -> Event:
    return Event(revision, topic, key, data, "ann", None, None, 0, None, 0, 1, 0, 10)


async def test_a_redriven_event_runs_its_handler_again_and_no_other(clock: MockClock) -> None:
    """With the original's revision, topic and payload, marked; the letter is gone."""
    seen: list[tuple[int, str, bool, int]] = []

    async def fails_once(context: HookContext) -> None:
        seen.append((context.revision, context.topic, context.replayed, context.delivery.redrives))
        if not context.replayed:
            raise ValueError("not now")

    async with a_fleet() as fleet:
        fleet.handle("h", fails_once, retry_count=0, on_failure="dead_letter")
        fleet.handle("other", at_once)
        await fleet.start("a", "b")
        fleet.cluster.put("k1")
        await fleet.until_done("h")
        assert [letter["revision"] for letter in fleet.cluster.letters("h")] == [1]

        assert fleet.cluster.do("dlq.redrive", "hook.h", [1]) == [[1, 3]]
        await fleet.until_done("h")
        await fleet.until_done("other")

        topic = "hooks.kv.write_committed"
        assert seen == [(1, topic, False, 0), (1, topic, True, 1)]
        assert fleet.revisions("other") == [1]
        assert fleet.cluster.letters("h") == []


async def test_a_replay_runs_a_handler_again_in_order(clock: MockClock) -> None:
    """Every event of the range once more, each key in order, and nobody else's."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("other", at_once)
        await fleet.start("a", "b")
        for number in range(6):
            fleet.cluster.put(f"k{number % 2}")
        await fleet.until_done("h")
        first = fleet.revisions("h")

        fleet.cluster.do("replay.start", "hook.h", 2, 5)
        fleet.cluster.do("replay.step", 1, 100)
        await fleet.until_done("h")
        await fleet.until_done("other")

        assert sorted(first) == [1, 2, 3, 4, 5, 6]
        assert sorted(fleet.revisions("h")[6:]) == [2, 3, 4, 5]
        assert len(fleet.revisions("other")) == 6


async def test_a_handler_of_such_facts_gets_the_plain_fact(clock: MockClock) -> None:
    """Who asks for replays as such is told of them; the handler that it is for gets the event."""
    seen: dict[str, list[str]] = {"h": [], "watcher": []}

    async def note(context: HookContext) -> None:
        seen[context.handler].append(context.topic)

    async with a_fleet() as fleet:
        fleet.handle("h", note)
        fleet.handle("watcher", note, pattern="hooks.group.>")
        await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until_done("h")
        fleet.cluster.do("replay.start", "hook.h", 1, 1)
        fleet.cluster.do("replay.step", 1, 100)
        await fleet.until_done("h")
        await fleet.until_done("watcher")
        assert seen == {"h": ["hooks.kv.write_committed"] * 2, "watcher": [REPLAYED]}


async def test_effects_of_a_replay_are_caused_by_it(clock: MockClock) -> None:
    """They are applied again, once, with the replay as their cause: that is what it is for."""

    async def writes(context: HookContext) -> object:
        return [put(f"seen/{context.key}", b"x")] if context.key == "k" else None

    async with a_fleet() as fleet:
        fleet.handle("h", writes)
        await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until_done("h", 2)
        fleet.cluster.do("replay.start", "hook.h", 1, 1)
        fleet.cluster.do("replay.step", 1, 100)
        await fleet.until_done("h", 4)
        written = [e for e in fleet.cluster.read(1, 100, 1 << 20) if e.key == "seen/k"]
        assert [(e.causation_id, e.correlation_id) for e in written] == [(1, 1), (3, 1)]


def test_a_delivery_counts_by_the_fact_and_shows_the_original() -> None:
    """Also on its way to the handler host; a CloudEvent says that it is not new."""
    original = event(3, "orders.created", (b"{}", "application/json", None))
    fact = event(9, REPLAYED, ("g", 3))

    delivery = deliver_again(fact, lambda revision: original if revision == 3 else None)

    assert delivery is not None
    assert (delivery.revision, delivery.event, delivery.topic) == (9, original, "orders.created")
    assert Delivery.from_wire(delivery.to_wire()) == delivery
    document = delivery.cloud_event("c")
    assert (document["id"], document["replayed"]) == ("c-3", True)
    assert "redrives" not in document
    assert deliver_again(fact, lambda revision: None) is None


def test_a_redriven_event_needs_no_log() -> None:
    """It carries the original; also one without a key keeps its order among those of its topic."""
    data = ("g", 3, "orders.created", (b"mended", None, None), 2, 77, ["ann", "c-1"])
    delivery = deliver_again(event(9, REDRIVEN, data, key=None), lambda revision: None)

    assert delivery is not None
    assert delivery.event.data[0] == b"mended"
    assert (delivery.event.revision, delivery.event.wall_ms) == (3, 77)
    assert delivery.event.correlation_id == "c-1"
    assert (delivery.order_key, delivery.redrives) == ("orders.created", 2)
    assert delivery.cloud_event("c")["redrives"] == 2
