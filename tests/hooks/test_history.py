"""What a node remembers of its attempts, once the cluster has said what became of them."""

import pytest
from trio.testing import MockClock

from hooks import effects
from hooks.control import answers
from hooks.effects import Effect
from hooks.execution.history import History
from hooks.limits import HookLimits
from hooks.registry import HookContext
from tests.hooks.fleet import Fleet, Node, a_fleet


async def asks_too_much(context: HookContext) -> list[Effect]:
    """A handler whose effects the cluster refuses."""
    return [effects.put("b", b"2", expected_revision=9)] if context.key != "good" else []


def told(node: Node) -> list[tuple[list[int], str, str | None]]:
    """The attempts of handler `h` as its node answers: events, outcome, error; the oldest first."""
    answer = answers.handler_history(node.service, "h")
    assert isinstance(answer, dict), answer
    return [
        (list(past["revisions"]), past["outcome"], past["error"])
        for past in reversed(answer["attempts"])
    ]


def order(fleet: Fleet, key: str) -> None:
    """An event that the handler gets."""
    fleet.cluster.do("publish", "orders.created", key, b"", None, None)


async def test_an_attempt_whose_effects_were_refused_is_not_said_to_be_done(
    clock: MockClock,
) -> None:
    """It returned and its event became a dead letter; the other one is done."""
    async with a_fleet() as fleet:
        fleet.handle("h", asks_too_much, pattern="orders.*")
        (node,) = await fleet.start("a")
        for key in ("bad", "good"):
            order(fleet, key)
        await fleet.until_done("h")
        reason = 'revision_mismatch: key "b" has another revision'
        assert told(node) == [([1], "effects_refused", reason), ([2], "done", None)]


async def test_a_refusal_whose_answer_was_lost_is_told_all_the_same(clock: MockClock) -> None:
    """The checkpoint is sent again, and what it is told then is nothing."""
    async with a_fleet() as fleet:
        fleet.handle("h", asks_too_much, pattern="orders.*")
        (node,) = await fleet.start("a")
        await fleet.until(lambda: node.service.works[0].partitions)
        node.port.unavailable = 2
        order(fleet, "bad")
        await fleet.until_done("h")
        await fleet.until(lambda: not node.service.works[0].finished)
        assert [past[:2] for past in told(node)] == [([1], "effects_refused")]
        metrics = node.service.works[0].metrics
        assert (metrics.effects_refused, metrics.completed) == (1, 0)


async def test_a_batch_whose_effects_were_refused_is_one_attempt(clock: MockClock) -> None:
    """All its events are dead letters, and the history names them together."""
    async with a_fleet() as fleet:
        fleet.handle(
            "h", asks_too_much, pattern="orders.*", batch_max=3, batch_wait_ms=5_000, partitions=1
        )
        (node,) = await fleet.start("a")
        for key in ("x", "y", "z"):
            order(fleet, key)
        await fleet.until(lambda: len(fleet.cluster.letters("h")) == 3)
        await fleet.until_done("h")
        assert [past[:2] for past in told(node)] == [([1, 2, 3], "effects_refused")]


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_who_stands_for_an_event_is_followed_to_the_last(asked: int) -> None:
    """Each event was given up in favour of the next one of its key."""
    history = History(HookLimits())
    for revision in (1, 2, 3):
        history.note_coalesced("h", revision, revision + 1)
    assert history.stood_for_by("h", asked) == 4
    assert history.stood_for_by("h", 4) is None
    assert history.stood_for_by("other", asked) is None


def test_the_memory_of_events_that_were_not_run_is_bounded() -> None:
    """The oldest are forgotten first, and with their handler all of them."""
    history = History(HookLimits(history_coalesced_max=2))
    for revision in (10, 20, 30):
        history.note_coalesced("h", revision, revision + 1)
    assert [history.stood_for_by("h", revision) for revision in (10, 20, 30)] == [None, 21, 31]
    history.forget_all_but(set())
    assert history.stood_for_by("h", 30) is None
