"""What entries of the cluster and effects of handlers do to the machine, and what they may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import kv
from pubsub import groups
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver

MEMBERS = [["a", "uid-a", "a:1", "voter"], ["b", "uid-b", "b:1", "learner"]]


def test_a_term_elects_one_leader() -> None:
    """One event per term, which names who led before."""
    driver = Driver()
    driver.no_op("a", ["a", "b"], ["c"])
    driver.no_op("a", ["a", "b"], ["c"])
    driver.term = 4
    assert driver.no_op("b", ["a", "b"], []).results == []
    first, second = driver.events()
    assert first.topic == second.topic == "hooks.cluster.leader_elected"
    assert first.data == ("a", None, 1, ("a", "b"), ("c",))
    assert second.data == ("b", "a", 4, ("a", "b"), ())


def test_a_membership_change_is_told_and_kept(tmp_path: Path) -> None:
    """The configuration, who it concerns, and who came or went."""
    driver = Driver(tmp_path / "state.db")
    assert driver.membership("added_learner", "b", "b:1", MEMBERS).results == [1]
    promoted = [MEMBERS[0], ["b", "uid-b", "b:1", "voter"]]
    driver.membership("promoted", "b", "b:1", promoted)
    driver.membership("removed", "a", "a:1", promoted[1:])
    told = [(event.topic.removeprefix("hooks.cluster."), event.data) for event in driver.events()]
    assert told == [
        ("membership_changed", (("a",), ("b",), "b", "added_learner")),
        ("node_added", ("b", "b:1", "learner")),
        ("membership_changed", (("a", "b"), (), "b", "promoted")),
        ("membership_changed", (("b",), (), "a", "removed")),
        ("node_removed", ("a",)),
    ]
    assert driver.machine.members == promoted[1:]
    driver.reopen()
    assert driver.machine.members == promoted[1:]


@pytest.mark.parametrize(
    "items",
    [
        [],
        ["exploded", "b", "b:1", MEMBERS],
        ["removed", "", "b:1", MEMBERS],
        ["removed", "b", 5, MEMBERS],
        ["removed", "b", "b:1", [["a", "uid", "a:1", "king"]]],
        ["removed", "b", "b:1", [["a", "uid", "a:1"]]],
    ],
)
def test_a_malformed_membership_changes_nothing(items: list[Any]) -> None:
    """It is refused like every other garbage."""
    driver = Driver()
    (refused,) = driver.membership(*items).results
    assert refused.code == "malformed"
    assert driver.machine.members == []
    assert driver.machine.revision == 0


def owner(driver: Driver, member: str = "m1") -> tuple[int, int]:
    """A partition of group g that `member` owns, and its token."""
    driver.do("group.define", "g", "orders.>", 1, "earliest", 1)
    driver.do("group.join", "g", member, 60_000)
    (assignment,) = groups.assignments(driver.connection, member)
    return assignment.partition, assignment.token


def test_effects_commit_with_their_completion() -> None:
    """Writes and publishes of a handler are events caused by the event that it handled."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"", actor="alice", meta=["corr"])
    partition, token = owner(driver)
    effects = [[partition, 1, [["put", ["seen/k", b"1"]], ["publish", ["done", "k", b""]]]]]
    progress = [[partition, token, 1, [], False, 1, []]]
    assert driver.do("group.checkpoint", "g", "m1", progress, effects, actor="hooks@a") == []
    wrote, published = driver.events(2)
    assert (wrote.key, wrote.actor, wrote.correlation_id) == ("seen/k", "hooks@a", "corr")
    assert (published.topic, published.causation_id, published.hops) == ("done", 1, 1)
    assert driver.do("group.checkpoint", "g", "m1", progress, effects) == []
    assert driver.machine.revision == 3, "completed once, applied once"


@pytest.mark.parametrize(
    "bad",
    [
        ["put", ["guarded", b"", None, 99]],
        ["batch", [[["put", "y", b""], ["put", "guarded", b"", None, 99]]]],
        ["put", [""]],
        ["publish", ["hooks.kv.write_committed", None, b""]],
        ["group.seek", ["g", "earliest"]],
        ["session.open", []],
        ["no such operation", []],
        ["put", "key"],
    ],
)
def test_refused_effects_leave_nothing_behind(bad: list[Any]) -> None:
    """All effects of an event or none: rows, revisions and events; the next event's are applied."""
    driver = Driver()
    driver.do("publish_batch", [["orders.created", "k", b""], ["orders.created", "k", b""]])
    partition, token = owner(driver)
    nested = ["txn", [[], [["put", "x", b""], ["get", "x"]], []]]
    effects = [
        [partition, 1, [["put", ["lost", b""]], nested, bad]],
        [partition, 2, [["put", ["kept", b""]]]],
    ]
    progress = [[partition, token, 2, [], False, 2, []]]
    refused = driver.do("group.checkpoint", "g", "m1", progress, effects)
    assert [item[:2] for item in refused] == [[partition, 1]]
    rows, _ = kv.range_(driver.connection, "", "")
    assert [(row.key, row.mod_revision) for row in rows] == [("kept", 3)]
    assert [event.key for event in driver.events(3)] == ["kept"]
    (letter,) = groups.dead_letters(driver.connection, "g")
    assert letter["revision"] == 1


def test_a_fenced_checkpoint_has_no_effect_at_all() -> None:
    """Neither progress nor effects of a member that lost its partition."""
    driver = Driver()
    driver.do("publish", "orders.created", "k", b"")
    partition, token = owner(driver)
    before = driver.rows()
    refused = driver.do(
        "group.checkpoint", "g", "m1", [[partition, token - 1, 1, [], False, 1, []]],
        [[partition, 1, [["put", ["x", b""]]]]],
    )  # fmt: skip
    assert isinstance(refused, Rejection)
    assert refused.code == "fenced"
    assert driver.rows() == before
