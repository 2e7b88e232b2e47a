"""What a checkpoint says of events that a handler gave up, and of which it says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import operations
from cluster.operations import REGULAR
from pubsub import groups
from pubsub.consumer_groups.group_tables import cut_error
from pubsub.limits import EFFECT_HOPS_MAX, ERROR_BYTES_MAX, EXECUTED_MAX, SKIPPED_MAX
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver

MEMBER = "a/2f"
REFUSED = ["put", ["guarded", b"", None, 99]]


class Handler:
    """A handler of one partition on node a, and what it checkpoints."""

    def __init__(
        self, driver: Driver, group: str = "hook.audit", pattern: str = ">", member: str = MEMBER
    ) -> None:
        self.driver, self.group, self.member = driver, group, member
        driver.do("group.define", group, pattern, 1, "earliest", 0)
        driver.do("group.join", group, member, 60_000)
        (assignment,) = [
            each for each in groups.assignments(driver.connection, member) if each.group == group
        ]
        self.token = assignment.token

    def arguments(
        self,
        floor: int,
        dead: list[Any] | None = None,
        skipped: list[Any] | None = None,
        effects: list[Any] | None = None,
        executed: list[Any] | None = None,
    ) -> list[Any]:
        row: list[Any] = [0, self.token, floor, [], False, 1, dead or []]
        if skipped is not None or executed is not None:
            row.append(skipped or [])
        if executed is not None:
            row.append(executed)
        return [self.group, self.member, [row], effects or []]

    def checkpoint(self, *arguments: Any, **named: Any) -> Any:
        return self.driver.do(
            "group.checkpoint", *self.arguments(*arguments, **named), actor="hooks@a"
        )

    def letters(self) -> list[int]:
        """The revisions of its dead letters."""
        return [row["revision"] for row in groups.dead_letters(self.driver.connection, self.group)]


def failed(driver: Driver) -> list[tuple[Any, ...]]:
    """The data of the events about handlers that failed."""
    return [event.data for event in driver.events() if event.topic == "hooks.hook.failed"]


def executed(driver: Driver) -> list[tuple[Any, ...]]:
    """The data of the events about what handlers handled."""
    return [event.data for event in driver.events() if event.topic == "hooks.hook.executed"]


def test_what_was_handled_is_told_and_belongs_to_its_event() -> None:
    """After the effects of the event, in the entry that completes it; of a batch once."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"", actor="alice", meta=["corr", None, 3])
    driver.do("publish_batch", [["orders.created", "k", b""]] * 3)
    handler = Handler(driver)
    effects = [[0, 1, [["put", ["seen", b""]]]]]
    told = [[4, 1, 9, 3], [1, 2, 7, 1]]
    assert handler.checkpoint(4, effects=effects, executed=told) == []
    assert executed(driver) == [
        ("audit", 1, "orders.created", "k", 2, 1, "a", 7),
        ("audit", 4, "orders.created", "k", 1, 3, "a", 9),
    ]
    effect, event, _ = driver.events(5)
    assert (effect.topic, effect.log_index) == ("hooks.kv.write_committed", event.log_index)
    assert (event.key, event.actor, event.causation_id) == (None, "hooks@a", 1)
    assert (event.correlation_id, event.hops) == ("corr", 3)


def test_a_checkpoint_that_is_repeated_or_refused_tells_of_no_execution() -> None:
    """Exactly once for each: with the record that the event is completed, or not at all."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 2)
    handler = Handler(driver)
    handler.token -= 1
    refused = handler.checkpoint(1, executed=[[1, 1, 5, 1]])
    assert isinstance(refused, Rejection)
    handler.token += 1
    assert executed(driver) == []
    for floor, told in (
        (1, [[1, 1, 5, 1]]),
        (1, [[1, 1, 5, 1]]),
        (2, [[1, 1, 5, 1], [2, 1, 5, 1]]),
    ):
        assert handler.checkpoint(floor, executed=told) == []
    assert [data[1] for data in executed(driver)] == [1, 2]


def test_an_event_whose_effects_are_refused_was_not_executed() -> None:
    """It is a dead letter, and so is each of its batch."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 3)
    handler = Handler(driver)
    told = [[2, 1, 5, 2], [3, 1, 5, 1]]
    assert len(handler.checkpoint(3, effects=[[0, 2, [REFUSED], [1]]], executed=told)) == 2
    assert [data[1] for data in executed(driver)] == [3]
    assert [data[1] for data in failed(driver)] == [1, 2]


def test_of_events_about_hooks_no_execution_is_told() -> None:
    """Else a handler of executions, or of everything, would feed itself for ever."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    handler.checkpoint(1, executed=[[1, 1, 5, 1]])
    assert driver.events(2)[0].topic == "hooks.hook.executed"
    handler.checkpoint(2, executed=[[2, 1, 5, 1]])
    assert driver.machine.revision == 2
    revision, _ = driver.do("hook.trigger", "hooks.hook.executed", "k", b"{}")
    handler.checkpoint(revision, executed=[[revision, 1, 5, 1]])
    assert driver.machine.revision == revision


def test_a_chain_through_executions_comes_to_an_end() -> None:
    """A handler that reports, and another one whose effect on the report it handles again."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    reports, answers = (
        Handler(driver, "hook.reports"),
        Handler(driver, "hook.answers", member="b/1"),
    )
    rounds = 0
    while True:
        revision = driver.machine.revision
        if driver.events(revision)[0].topic == "orders.created":
            reports.checkpoint(revision, executed=[[revision, 1, 5, 1]])
            assert driver.machine.revision == revision + 1
            continue
        again = [["publish", ["orders.created", "k", b""]]]
        if answers.checkpoint(revision, effects=[[0, revision, again]]):
            break
        rounds += 1
    assert rounds == EFFECT_HOPS_MAX


def test_a_dead_letter_is_told_and_belongs_to_its_event() -> None:
    """With what the event was, the node, and a chain that can be followed."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"", actor="alice", meta=["corr", None, 3])
    handler = Handler(driver)
    assert handler.checkpoint(1, [[1, 4, "it broke"]]) == []
    assert failed(driver) == [
        ("audit", 1, "orders.created", "k", 4, "it broke", "a", "dead_letter"),
    ]
    (event,) = driver.events(2)
    assert (event.key, event.actor) == (None, "hooks@a")
    assert (event.correlation_id, event.causation_id, event.hops) == ("corr", 1, 3)
    assert handler.letters() == [1]


def test_a_skipped_event_is_told_and_is_no_dead_letter() -> None:
    """It counts as completed."""
    driver = Driver()
    driver.do("put", "key", b"value")
    handler = Handler(driver)
    assert handler.checkpoint(1, skipped=[[1, 2, "e" * 9_000]]) == []
    error = cut_error("e" * 9_000)
    assert len(error) == ERROR_BYTES_MAX
    assert failed(driver) == [
        ("audit", 1, "hooks.kv.write_committed", "key", 2, error, "a", "skipped")
    ]
    assert handler.letters() == []
    described = groups.describe(driver.connection, "hook.audit")
    assert described is not None
    assert (described["completed"], described["dead"]) == (1, 0)


def test_refused_effects_are_told_with_the_reason() -> None:
    """Those of a batch for each of its events, all of which are dead letters."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 4)
    handler = Handler(driver)
    effects = [[0, 2, [REFUSED], [1, 3]], [0, 4, [["put", ["seen", b""]]]]]
    refused = handler.checkpoint(4, effects=effects)
    assert [row[:3] for row in refused] == [
        [0, revision, "revision_mismatch"] for revision in (2, 1, 3)
    ]
    assert handler.letters() == [1, 2, 3]
    assert [data[1] for data in failed(driver)] == [1, 2, 3]
    assert failed(driver)[0][4:] == (
        1, 'effects refused: revision_mismatch: key "guarded" is at revision 0, expected 99', "a",
        "dead_letter",
    )  # fmt: skip
    assert driver.machine.get("seen") is not None


def test_a_batch_whose_effects_are_applied_leaves_nothing() -> None:
    """The other events of it are completed with it."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 2)
    handler = Handler(driver)
    assert handler.checkpoint(2, effects=[[0, 2, [["put", ["seen", b""]]], [1]]]) == []
    assert handler.letters() == []
    assert failed(driver) == []


def test_a_checkpoint_that_is_repeated_says_nothing_again() -> None:
    """Neither of dead letters nor of skipped events nor of refused effects."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 3)
    handler = Handler(driver)
    given = {"dead": [[1, 1, "x"]], "skipped": [[2, 1, "y"]], "effects": [[0, 3, [REFUSED]]]}
    assert len(handler.checkpoint(3, **given)) == 1
    before = failed(driver)
    assert [data[1] for data in before] == [1, 2, 3]
    assert handler.checkpoint(3, **given) == []
    assert failed(driver) == before


def test_of_events_about_hooks_nothing_is_said() -> None:
    """Else a handler of failures that fails would never come to an end."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    handler.checkpoint(1, [[1, 1, "x"]])
    assert driver.machine.revision == 2
    handler.checkpoint(2, [[2, 1, "x"]])
    assert handler.letters() == [1, 2]
    assert driver.machine.revision == 2


@pytest.mark.parametrize(
    ("topic", "says"),
    [("orders.created", 1), ("hooks.hook.failed", 0), ("hooks.kv.ttl_expired", 1)],
)
def test_a_triggered_event_is_told_as_what_it_imitates(topic: str, says: int) -> None:
    """To trigger is about hooks; what the handler failed on is not."""
    driver = Driver()
    handler = Handler(driver)
    revision, names = driver.do("hook.trigger", topic, "k", b"{}")
    assert names == ["audit"]
    handler.checkpoint(revision, [[revision, 1, "x"]])
    expected = ("audit", revision, topic, "k", 1, "x", "a", "dead_letter")
    assert failed(driver) == [expected] * says


def test_an_event_that_comes_again_is_told_as_the_original() -> None:
    """A redriven letter that fails again: the topic is that of the event, the place is new."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    handler.checkpoint(1, [[1, 1, "x"]])
    ((_, again),) = driver.do("dlq.redrive", "hook.audit", [1])
    handler.checkpoint(again, [[again, 1, "y"]])
    assert failed(driver)[1][:4] == ("audit", again, "orders.created", "k")


def test_an_event_that_comes_again_to_another_handler_is_told_as_the_fact() -> None:
    """Who fails at what a different handler gets again has failed at that news of it."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    Handler(driver).checkpoint(1, [[1, 1, "x"]])
    ((_, again),) = driver.do("dlq.redrive", "hook.audit", [1])
    Handler(driver, "hook.watcher").checkpoint(again, [[again, 1, "y"]])
    fact = "hooks.group.event_redriven"
    assert failed(driver)[1][:4] == ("watcher", again, fact, "k")


def test_of_an_event_that_is_gone_nothing_is_said() -> None:
    """Nobody could tell whether it was about hooks."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    driver.do("retention.cap", 1, None)
    driver.do("publish", "orders.created", "k", b"")
    driver.do("retention.trim", 100)
    assert driver.events()[0].revision > 1
    last = driver.do("publish", "orders.created", "k", b"")
    handler.checkpoint(last, [[1, 1, "x"], [last, 1, "y"]])
    assert [data[1] for data in failed(driver)] == [last]
    assert handler.letters() == [1, last]


def test_a_chain_through_failures_comes_to_an_end() -> None:
    """A handler that fails, and another one whose effect on the failure makes it fail again."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    broken, healing = Handler(driver, "hook.broken"), Handler(driver, "hook.healing", member="b/1")
    rounds = 0
    while True:
        revision = driver.machine.revision
        newest = driver.events(revision)[0]
        if newest.topic == "orders.created":
            broken.checkpoint(revision, [[revision, 1, "x"]])
        else:
            retry = [["publish", ["orders.created", "k", b""]]]
            if healing.checkpoint(revision, effects=[[0, revision, retry]]):
                break
            rounds += 1
        assert driver.machine.revision > revision
    assert rounds == EFFECT_HOPS_MAX
    assert driver.events(driver.machine.revision)[0].topic == "hooks.hook.failed"


@pytest.mark.parametrize("group", ["readers", "hooks", "audit"])
def test_groups_of_others_say_nothing(group: str) -> None:
    """What becomes of their events is their consumers' business."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 2)
    handler = Handler(driver, group)
    handler.checkpoint(2, [[1, 1, "x"]], executed=[[2, 1, 5, 1]])
    assert handler.letters() == [1]
    assert driver.machine.revision == 2


def test_a_handler_with_a_group_on_each_node_is_told_by_its_name() -> None:
    """And so is a member whose name does not say on which node it is."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    Handler(driver, "hook.audit@a").checkpoint(1, [[1, 1, "x"]])
    Handler(driver, "hook.other", member="somebody").checkpoint(1, [[1, 1, "x"]])
    assert [(data[0], data[6]) for data in failed(driver)] == [("audit", "a"), ("other", None)]


def test_a_fenced_checkpoint_says_nothing() -> None:
    """It is refused as a whole."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    handler.token -= 1
    refused = handler.checkpoint(1, [[1, 1, "x"]])
    assert isinstance(refused, Rejection)
    assert refused.code == "fenced"
    assert driver.machine.revision == 1


LETTER = [1, 1, "x"]
DONE = [1, 1, 5, 1]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"skipped": 5}, "malformed"),
        ({"skipped": [[1, 1]]}, "malformed"),
        ({"skipped": [[1, 1, None]]}, "malformed"),
        ({"skipped": [[2, 1, "beyond"]]}, "malformed"),
        ({"skipped": [LETTER], "effects": [[0, 1, []]]}, "malformed"),
        ({"skipped": [LETTER], "dead": [LETTER]}, "malformed"),
        ({"skipped": [LETTER] * (SKIPPED_MAX + 1)}, "limit_exceeded"),
        ({"skipped": [LETTER, LETTER]}, "malformed"),
        ({"executed": 5}, "malformed"),
        ({"executed": [[1, 1, 5]]}, "malformed"),
        ({"executed": [[1, 1, 5, 0]]}, "malformed"),
        ({"executed": [[1, 1, None, 1]]}, "malformed"),
        ({"executed": [[2, 1, 5, 1]]}, "malformed"),
        ({"executed": [DONE, DONE]}, "malformed"),
        ({"executed": [DONE], "dead": [LETTER]}, "malformed"),
        ({"executed": [DONE], "skipped": [LETTER]}, "malformed"),
        ({"executed": [DONE] * (EXECUTED_MAX + 1)}, "limit_exceeded"),
        ({"effects": [[0, 1, [], 5]]}, "malformed"),
        ({"effects": [[0, 1, [], ["1"]]]}, "malformed"),
        ({"effects": [[0, 1, [], [1]]]}, "malformed"),
        ({"effects": [[0, 1, [], [2]]]}, "malformed"),
        ({"effects": [[0, 1, [], [], []]]}, "malformed"),
    ],
)
def test_garbage_completes_nothing(given: dict[str, Any], code: str) -> None:
    """What is given up must be completed, once, and has no effects."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    driver.do("publish", "orders.created", "k", b"")
    handler = Handler(driver)
    before = driver.rows()
    assert handler.checkpoint(1, **given).code == code
    assert driver.rows() == before


def test_an_entry_of_the_older_version_checkpoints_as_it_did() -> None:
    """Dead letters without a word, seven items to a partition and three to an effect."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 2)
    handler = Handler(driver)

    def older(*arguments: Any, **named: Any) -> Any:
        given = handler.arguments(*arguments, **named)
        operation = operations.pack(0, 0, "group.checkpoint", given)
        body = operations.seal([operation], driver.wall_ms, driver.elapsed_ms, 1)
        (result,) = driver.apply(bytes((REGULAR,)) + body).results
        return result

    before = driver.rows()
    assert older(1, skipped=[]).code == "malformed"
    assert older(1, effects=[[0, 1, [], []]]).code == "malformed"
    assert driver.rows() == before
    assert older(2, [[1, 1, "x"]], effects=[[0, 2, [REFUSED]]]) == [
        [0, 2, "revision_mismatch", 'key "guarded" is at revision 0, expected 99']
    ]
    assert handler.letters() == [1, 2]
    assert driver.machine.revision == 2


def test_an_entry_of_the_version_before_tells_of_no_execution() -> None:
    """A release that knows eight items to a partition refuses nine: so must every other."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""]] * 2)
    handler = Handler(driver)

    def older(**named: Any) -> Any:
        operation = operations.pack(0, 0, "group.checkpoint", handler.arguments(2, **named))
        body = operations.seal([operation], driver.wall_ms, driver.elapsed_ms, 2)
        (result,) = driver.apply(bytes((REGULAR,)) + body).results
        return result

    before = driver.rows()
    assert older(executed=[DONE]).code == "malformed"
    assert driver.rows() == before
    assert older(skipped=[LETTER]) == []
    assert (len(failed(driver)), executed(driver)) == (1, [])
