"""A member that starts in the place of another one: everything moves, each part once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub import groups
from pubsub.consumer_groups.assignment import Partition, assign
from pubsub.groups import Assignment
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 10_000
MEMBERS = ("a", "b", "c")


@pytest.fixture
def machine() -> SmallMachine:
    machine = SmallMachine()
    machine.publish("k1", "k2", "k3")
    assert machine.do(groups.define, "g", "orders.>", 16, "earliest", 1) == 0
    return machine


def owned(machine: SmallMachine, member: str) -> list[Assignment]:
    return groups.assignments(machine.connection, member)


def release_all(machine: SmallMachine, member: str) -> None:
    """Checkpoint every partition that another member waits for, giving it up."""
    items = [
        [a.partition, a.token, a.floor, [], True, 0, []]
        for a in owned(machine, member)
        if a.releasing
    ]
    assert machine.do(groups.checkpoint, "g", member, items, []) == []


def test_a_successor_gets_what_there_was_and_nobody_else_gives(machine: SmallMachine) -> None:
    """What the predecessor has moves once, as it is released; the others keep all of theirs."""
    for member in ("a1", "b1"):
        machine.do(groups.join, "g", member, TTL)
    release_all(machine, "a1")
    before = {member: owned(machine, member) for member in ("a1", "b1")}
    machine.do(groups.join, "g", "a2", TTL, "a1")
    assert all(each.releasing for each in owned(machine, "a1"))
    assert owned(machine, "a2") == []
    assert owned(machine, "b1") == before["b1"]

    release_all(machine, "a1")
    machine.do(groups.leave, "a1", "g")

    moved = [(each.partition, each.floor) for each in owned(machine, "a2")]
    assert moved == [(each.partition, each.floor) for each in before["a1"]]
    assert owned(machine, "b1") == before["b1"]


def test_who_leaves_gets_nothing_when_another_one_goes(machine: SmallMachine) -> None:
    """What becomes free while a predecessor still drains goes to those that stay."""
    machine.do(groups.join, "g", "a1", TTL)
    machine.do(groups.join, "g", "b1", TTL)
    release_all(machine, "a1")
    machine.do(groups.join, "g", "a2", TTL, "a1")
    machine.do(groups.leave, "b1")
    assert len(owned(machine, "a1")) == 8
    assert len(owned(machine, "a2")) == 8
    assert all(each.releasing for each in owned(machine, "a1"))


def test_a_predecessor_stays_when_its_successor_dies(machine: SmallMachine) -> None:
    """Without anybody who stays, the one that was to leave keeps what it has."""
    machine.do(groups.join, "g", "a1", TTL)
    machine.do(groups.join, "g", "a2", TTL, "a1")
    machine.do(groups.leave, "a2")
    assert len(owned(machine, "a1")) == 16
    assert not any(each.releasing for each in owned(machine, "a1"))


def test_joining_again_is_no_longer_leaving(machine: SmallMachine) -> None:
    """A member that starts anew counts as one that stays."""
    machine.do(groups.join, "g", "a1", TTL)
    machine.do(groups.join, "g", "a2", TTL, "a1")
    machine.do(groups.join, "g", "a1", TTL)
    shares = [len(owned(machine, member)) for member in ("a1", "a2")]
    assert sum(shares) == 16
    machine.do(groups.leave, "a2")
    assert len(owned(machine, "a1")) == 16


@pytest.mark.parametrize("predecessor", ["a2", 7, "", "x\n"])
def test_a_predecessor_that_cannot_be_one_is_refused(
    machine: SmallMachine, predecessor: Any
) -> None:
    """Only the name of another member is one; refused, nobody has joined."""
    refused = machine.do(groups.join, "g", "a2", TTL, predecessor)
    assert isinstance(refused, Rejection)
    assert refused.code == "malformed"
    assert owned(machine, "a2") == []


def test_a_predecessor_that_is_gone_is_no_matter(machine: SmallMachine) -> None:
    """Whoever starts again after a crash need not know whether its old self is still counted."""
    machine.do(groups.join, "g", "a2", TTL, "a1")
    assert len(owned(machine, "a2")) == 16
    machine.do(groups.join, "g", "a1", TTL)
    release_all(machine, "a2")
    assert len(owned(machine, "a1")) == 8, "it was never marked"


def test_a_removed_group_and_a_member_that_left_leave_no_mark(machine: SmallMachine) -> None:
    """The table of the leaving holds only who is a member."""
    count = "SELECT count(*) FROM group_leavers"
    machine.do(groups.join, "g", "a1", TTL)
    machine.do(groups.join, "g", "a2", TTL, "a1")
    assert machine.connection.execute(count).get == 1
    machine.do(groups.leave, "a1")
    assert machine.connection.execute(count).get == 0
    machine.do(groups.join, "g", "a3", TTL, "a2")
    machine.do(groups.remove, "g")
    assert machine.connection.execute(count).get == 0


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Partition], list[str], list[str]]:
    owners = st.none() | st.sampled_from(MEMBERS)
    partitions = []
    for number in range(draw(st.sampled_from([1, 2, 4, 8]))):
        owner = draw(owners)
        next_owner = draw(owners) if owner is not None else None
        next_owner = None if next_owner == owner else next_owner
        partitions.append(Partition(number, owner, number + 1, next_owner, 0))
    members = draw(st.lists(st.sampled_from(MEMBERS), unique=True))
    leaving = draw(st.lists(st.sampled_from(members), unique=True)) if members else []
    return partitions, members, leaving


@given(cases(), st.booleans())
def test_the_leaving_end_with_nothing(
    case: tuple[list[Partition], list[str], list[str]], may_move: bool
) -> None:
    """Each partition is, or is on its way to, one that stays; a live owner keeps it until then."""
    before, members, leaving = case
    after, token = assign("g", before, members, 99, leaving=leaving, may_move=may_move)
    staying = [member for member in members if member not in leaving] or members
    for old, new in zip(before, after, strict=True):
        if members:
            assert (new.next_owner or new.owner) in staying
        if old.owner in members:
            assert (old.owner, old.token) == (new.owner, new.token)
    again = assign("g", after, members, token, leaving=leaving, may_move=may_move)
    assert again == (after, token)
