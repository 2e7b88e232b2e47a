"""What the hook service makes of how attempts end: retries, dead letters and effects."""

import trio
from trio.testing import MockClock

from hooks import effects
from hooks.effects import Effect
from hooks.registry import HookContext
from tests.hooks.fleet import a_fleet, assert_in_order


async def test_a_failing_event_is_tried_again_and_then_a_dead_letter(clock: MockClock) -> None:
    """Attempts are counted and spaced; the last error is kept; later events of the key follow."""

    async def fails(context: HookContext) -> None:
        if context.revision == 1:
            raise ValueError(f"attempt {context.attempt}")

    async with a_fleet() as fleet:
        fleet.handle("h", fails, retry_count=3)
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        fleet.cluster.put("k")
        await fleet.until_done("h")
        assert [run.attempt for run in fleet.begun] == [1, 2, 3, 4, 1]
        pauses = [
            later.began - earlier.began
            for earlier, later in zip(fleet.begun, fleet.begun[1:4], strict=False)
        ]
        for pause, ceiling in zip(pauses, (0.1, 0.2, 0.4), strict=True):
            assert ceiling / 2 <= pause <= ceiling + 0.05
        (letter,) = fleet.cluster.letters("h")
        assert (letter["revision"], letter["attempts"]) == (1, 4)
        assert letter["error"].startswith("ValueError: attempt 4")
        metrics = a.service.works[0].metrics
        assert (metrics.attempts, metrics.failures, metrics.retries) == (5, 4, 3)
        assert (metrics.completed, metrics.dead_letters) == (1, 1)


async def test_a_handler_may_skip_what_it_cannot_handle(clock: MockClock) -> None:
    """With on_failure = "skip" the event is passed over and counted."""

    async def fails(context: HookContext) -> None:
        raise ValueError

    async with a_fleet() as fleet:
        fleet.handle("h", fails, retry_count=0, on_failure="skip")
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until_done("h")
        assert fleet.cluster.letters("h") == []
        assert a.service.works[0].metrics.skipped == 1


async def test_a_blocking_key_waits_alone(clock: MockClock) -> None:
    """With on_failure = "block" a poison key is tried until it succeeds; the others flow by."""
    healed = False

    async def poisoned(context: HookContext) -> None:
        if context.key == "poison" and not healed:
            raise ValueError

    async with a_fleet(
        partition_events_max=8, handler_events_max=16, read_events_max=8, completed_ahead_max=64
    ) as fleet:
        fleet.handle("h", poisoned, retry_count=0, on_failure="block", partitions=4)
        (a,) = await fleet.start("a")
        for number in range(400):
            fleet.cluster.put("poison" if number % 4 == 0 else f"k{number % 40}")
        await fleet.until(lambda: len(fleet.ended) >= 200)
        await trio.sleep(30)
        work = a.service.works[0]
        assert sum(partition.unfinished for partition in work.partitions.values()) <= 16 + 8
        assert all(len(p.ahead) <= 64 + 16 for p in work.partitions.values())
        healed = True
        await fleet.until_done("h")
        assert sorted(fleet.revisions("h")) == list(range(1, 401))
        assert_in_order(fleet, "h")


async def test_effects_are_applied_once_with_their_event(clock: MockClock) -> None:
    """What a handler returns is in the state when the event is completed, with its cause."""

    async def answers(context: HookContext) -> list[Effect]:
        return [effects.publish("seen", b"", key=context.key), effects.put("copy", b"x")]

    async with a_fleet() as fleet:
        fleet.handle("h", answers, pattern="orders.*")
        await fleet.start("a")
        fleet.cluster.do("publish", "orders.created", "k", b"", None, None)
        await fleet.until_done("h", 1)
        events = fleet.cluster.read(2, 10, 10_000)
        assert isinstance(events, list)
        assert [(event.topic, event.key) for event in events] == [
            ("seen", "k"),
            ("hooks.kv.write_committed", "copy"),
        ]
        assert all(event.causation_id == 1 and event.hops == 1 for event in events)
        assert fleet.cluster.value("copy") == b"x"


async def test_a_lost_answer_applies_effects_once(clock: MockClock) -> None:
    """A checkpoint whose answer was lost is sent again, and its effects are not doubled."""

    async def answers(context: HookContext) -> list[Effect]:
        return [effects.publish("seen", b"")]

    async with a_fleet() as fleet:
        fleet.handle("h", answers, pattern="orders.*")
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        a.port.unavailable = 3
        fleet.cluster.do("publish", "orders.created", "k", b"", None, None)
        await fleet.until_done("h", 1)
        assert fleet.cluster.revision == 2


async def test_refused_effects_make_a_dead_letter(clock: MockClock) -> None:
    """If the state refuses one effect, none is applied, and the reason is kept."""

    async def asks_too_much(context: HookContext) -> list[Effect]:
        return [effects.put("a", b"1"), effects.put("b", b"2", expected_revision=9)]

    async with a_fleet() as fleet:
        fleet.handle("h", asks_too_much, pattern="orders.*")
        (a,) = await fleet.start("a")
        fleet.cluster.do("publish", "orders.created", "k", b"", None, None)
        await fleet.until_done("h")
        assert fleet.cluster.value("a") is None
        (letter,) = fleet.cluster.letters("h")
        assert "revision_mismatch" in letter["error"]
        metrics = a.service.works[0].metrics
        assert (metrics.effects_refused, metrics.dead_letters, metrics.completed) == (1, 1, 0)


async def test_a_handler_that_writes_what_it_watches_is_stopped(clock: MockClock) -> None:
    """The chain of causes has a limit; its last event becomes a dead letter."""

    async def echoes(context: HookContext) -> list[Effect]:
        return [effects.put("k", b"again")]

    async with a_fleet() as fleet:
        fleet.handle("h", echoes)
        await fleet.start("a")
        fleet.cluster.put("k")
        await fleet.until(lambda: fleet.cluster.letters("h"))
        await trio.sleep(10)
        assert "hops_exceeded" in fleet.cluster.letters("h")[0]["error"]
        assert fleet.cluster.revision == 1 + 16 + 1, "the last one says that the handler failed"


async def test_a_handler_finds_room_again_after_dead_letters_were_full(clock: MockClock) -> None:
    """A refused checkpoint is repeated until it is accepted; nothing is lost meanwhile."""

    async def fails(context: HookContext) -> None:
        raise ValueError

    async with a_fleet() as fleet:
        fleet.handle("h", fails, retry_count=0)
        (a,) = await fleet.start("a")
        await fleet.until(lambda: a.service.works[0].partitions)
        held = "UPDATE consumer_groups SET dead_held = ?"
        fleet.cluster.connection.execute(held, (10_000,))
        fleet.cluster.put("k")
        await trio.sleep(10)
        metrics = a.service.works[0].metrics
        assert 5 <= metrics.checkpoints_refused <= 10
        fleet.cluster.connection.execute(held, (0,))
        await fleet.until_done("h")
        assert [letter["revision"] for letter in fleet.cluster.letters("h")] == [1]
        assert len(fleet.begun) == 1
