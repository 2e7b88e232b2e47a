"""What a member of a partitioned group is sent: floors, completions, moves, credits, against the
real operations."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub import groups, limits, log
from pubsub.consumer_groups.assignment import partition_of
from pubsub.consumer_groups.consumption import Consumption, Sent
from pubsub.events import Event
from pubsub.log import Compacted
from tests.pubsub.small_machine import SmallMachine

TTL = 10_000


class Source:
    """The log of a small machine."""

    def __init__(self, machine: SmallMachine) -> None:
        self.machine = machine

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        return log.read(self.machine.connection, from_revision, events_max, bytes_max)

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        return None


class Member:
    """A member's stream, and what came over it."""

    def __init__(self, machine: SmallMachine, name: str, credits: int = 100) -> None:
        self.machine = machine
        self.consumption = Consumption("g", name, credits)
        self.changes: list[tuple[Any, ...]] = []
        self.revisions: list[int] = []

    def pump(self, limit: int = 1_000) -> Sent:
        sent = self.consumption.pump(Source(self.machine), self.machine.connection, limit)
        self.changes += [tuple(change) for change in sent.changes]
        assert sent.first_number == len(self.revisions) + 1
        self.revisions += [handed[2].revision for handed in sent.events]
        return sent


@pytest.fixture
def machine() -> SmallMachine:
    """A group of two partitions, and ten events of five keys."""
    machine = SmallMachine()
    machine.publish(*"abcde", *"abcde")
    machine.do(groups.define, "g", "orders.>", 2, "earliest", 0)
    return machine


def of_partition(number: int, last: int = 10) -> list[int]:
    """The revisions of the events that fall into a partition."""
    return [n for n in range(1, last + 1) if partition_of("abcde"[(n - 1) % 5], 2) == number]


def tokens(machine: SmallMachine) -> list[tuple[str | None, int]]:
    described = groups.describe(machine.connection, "g")
    assert described is not None
    return [(item["owner"], item["token"]) for item in described["partitions"]]


def save(machine: SmallMachine, member: str, number: int, floor: int, **fields: Any) -> Any:
    token = tokens(machine)[number][1]
    row = [number, token, floor, fields.get("done", []), fields.get("release", False), 0, []]
    return machine.do(groups.checkpoint, "g", member, [row], [])


def test_everything_comes_once_in_order(machine: SmallMachine) -> None:
    """One member gets all partitions, first told that they are its own."""
    machine.do(groups.join, "g", "m", TTL)
    member = Member(machine, "m")
    sent = member.pump()
    assert member.changes == [("assigned", 0, 1), ("assigned", 1, 2)]
    assert member.revisions == list(range(1, 11))
    assert all(partition_of(e.key or "", 2) == number for number, _, e in sent.events)  # type: ignore[misc]
    assert sent.more
    assert not member.pump().more
    assert member.consumption.bookmark() == 10


def test_credits_and_limits_cut_the_stream_anywhere(machine: SmallMachine) -> None:
    """However little is allowed at a time, nothing is left out."""
    machine.do(groups.join, "g", "m", TTL)
    own = list(range(1, 11))
    for _ in range(5):
        machine.publish("x", topic="other.topic")
        own.append(machine.publish("a"))
    machine.publish("x", topic="other.topic")
    member = Member(machine, "m", credits=0)
    assert member.pump().changes
    for step in range(60):
        member.consumption.grant(1)
        member.pump(limit=2 + step % 5)
    assert member.revisions == own


def test_a_new_owner_begins_at_the_floor_and_skips_what_is_done(machine: SmallMachine) -> None:
    """Floors and completions are those of the cluster."""
    machine.do(groups.join, "g", "m", TTL)
    first, *middle, last = of_partition(0)
    assert save(machine, "m", 0, first, done=[last]) == []
    member = Member(machine, "m")
    member.pump()
    assert member.revisions == sorted(of_partition(1) + middle)


def test_a_partition_that_is_taken_over_does_not_repeat_the_others(machine: SmallMachine) -> None:
    """The pass goes back to its floor; the others remember how far they were."""
    machine.do(groups.join, "g", "m", TTL)
    machine.do(groups.join, "g", "n", TTL)
    member = Member(machine, "m")
    member.pump()
    ((_, leaving, _),) = [change for change in member.changes if change[0] == "releasing"]
    assert member.revisions == of_partition(1 - leaving)
    machine.do(groups.leave, "n")
    while member.pump().more:
        pass
    assert member.revisions == of_partition(1 - leaving) + of_partition(leaving)


def test_a_partition_to_be_released_is_sent_no_more_of(machine: SmallMachine) -> None:
    """And its next owner gets the rest once it was given up."""
    machine.do(groups.join, "g", "m", TTL)
    first, second = Member(machine, "m", credits=3), Member(machine, "n")
    first.pump()
    assert first.revisions == [1, 2, 3]
    machine.do(groups.join, "g", "n", TTL)
    first.consumption.grant(100)
    first.pump()
    second.pump()
    ((_, released, _),) = [change for change in first.changes if change[0] == "releasing"]
    assert second.revisions == []
    floor = max([r for r in first.revisions if r in of_partition(released)], default=0)
    assert save(machine, "m", released, floor, release=True) == []
    first.pump()
    second.pump()
    assert first.changes[-1][0] == "lost"
    assert second.changes == [("assigned", released, 3)]
    assert sorted(first.revisions + second.revisions) == list(range(1, 11))


def test_joining_again_and_seeking_begin_anew(machine: SmallMachine) -> None:
    """New tokens: what was in hand is void, and comes again from the floor."""
    machine.do(groups.join, "g", "m", TTL)
    member = Member(machine, "m")
    member.pump()
    machine.do(groups.join, "g", "m", TTL)
    member.pump()
    assert [change[0] for change in member.changes] == ["assigned"] * 2 + ["lost"] * 2 + [
        "assigned"
    ] * 2
    assert member.revisions == list(range(1, 11)) * 2
    machine.do(groups.seek, "g", 9)
    member.pump()
    assert member.revisions[20:] == [9, 10]


def test_who_is_no_member_is_refused(machine: SmallMachine) -> None:
    """Before it joined, after it left, and when the group is gone."""
    member = Member(machine, "m")
    refusal = member.pump().refusal
    assert refusal is not None
    assert refusal.code == "unknown_member"
    machine.do(groups.join, "g", "m", TTL)
    assert member.pump().refusal is None
    machine.do(groups.leave, "m")
    sent = member.pump()
    assert sent.refusal is not None
    assert sent.refusal.code == "unknown_member"
    assert [change.kind for change in sent.changes] == ["lost", "lost"]
    machine.do(groups.remove, "g")
    refusal = member.pump().refusal
    assert refusal is not None
    assert refusal.code == "unknown_group"


def test_a_pattern_that_changes_counts_from_then_on(machine: SmallMachine) -> None:
    """What is remembered of topics is that of the pattern in force."""
    machine.do(groups.join, "g", "m", TTL)
    member = Member(machine, "m")
    member.pump()
    machine.publish("a", topic="stock.low")
    member.pump()
    assert member.revisions[-1] == 10
    machine.do(groups.define, "g", "stock.>", 2, "earliest", 1)
    second = machine.publish("a", topic="stock.low")
    machine.publish("a")
    member.pump()
    assert member.revisions[10:] == [second]


def test_a_paused_group_is_sent_nothing(machine: SmallMachine) -> None:
    """And goes on where it was."""
    machine.do(groups.join, "g", "m", TTL)
    machine.do(groups.pause, "g")
    member = Member(machine, "m")
    assert not member.pump().events
    machine.do(groups.resume, "g")
    member.pump()
    assert member.revisions == list(range(1, 11))


def test_a_long_way_without_a_match_makes_a_bookmark(machine: SmallMachine) -> None:
    """So that the member can tell the cluster how far it is."""
    machine.do(groups.join, "g", "m", TTL)
    member = Member(machine, "m")
    member.pump()
    for _ in range(limits.BOOKMARK_REVISIONS // 100):
        machine.publish(*"x" * 100, topic="other.topic")
    marks = []
    while (sent := member.pump(limit=100)).more:
        marks.append(sent.bookmark)
    assert [mark for mark in marks if mark is not None] == [10 + limits.BOOKMARK_REVISIONS]
