"""Assignment: balanced, sticky, in two steps between the living, the same everywhere."""

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.consumer_groups.assignment import Partition, assign, partition_of, rendezvous

MEMBERS = ("a", "b", "c")
owners = st.none() | st.sampled_from(MEMBERS)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Partition], list[str]]:
    count = draw(st.sampled_from([1, 2, 4]))
    partitions = []
    for number in range(count):
        owner = draw(owners)
        next_owner = draw(owners) if owner is not None else None
        next_owner = None if next_owner == owner else next_owner
        partitions.append(Partition(number, owner, number + 1, next_owner, 0))
    return partitions, draw(st.lists(st.sampled_from(MEMBERS), unique=True))


def fresh(count: int) -> list[Partition]:
    return [Partition(number, None, 0, None, 0) for number in range(count)]


def holder(partition: Partition, members: list[str]) -> str | None:
    """Where a partition is or is going, as far as that member lives."""
    for member in (partition.next_owner, partition.owner):
        if member in members:
            return member
    return None


def fewest_moves(before: list[str | None], members: list[str]) -> int:
    """By trying all balanced assignments: how many partitions that have a holder must move."""
    share, more = divmod(len(before), len(members))
    balanced = sorted([share + 1] * more + [share] * (len(members) - more))
    return min(
        sum(old is not None and old != new for old, new in zip(before, after, strict=True))
        for after in product(members, repeat=len(before))
        if sorted(after.count(member) for member in members) == balanced
    )


@given(groups())
def test_balanced_with_the_fewest_moves(case: tuple[list[Partition], list[str]]) -> None:
    """Every member ends with its share, and no assignment that does so moves less."""
    before, members = case
    after, _ = assign("g", before, members, 9)
    old = [holder(partition, members) for partition in before]
    new = [partition.next_owner or partition.owner for partition in after]

    if not members:
        assert new == [None] * len(before)
        return
    share, more = divmod(len(before), len(members))
    counts = sorted(new.count(member) for member in members)
    assert sorted([share + 1] * more + [share] * (len(members) - more)) == counts
    moves = sum(a is not None and a != b for a, b in zip(old, new, strict=True))
    assert fewest_moves(old, members) == moves


@given(groups())
def test_moves_at_once_only_from_the_dead(case: tuple[list[Partition], list[str]]) -> None:
    """A live owner keeps its partition and token until it gives it up; a dead one loses it now."""
    before, members = case
    after, token = assign("g", before, members, 9)

    fresh_tokens = []
    for old, new in zip(before, after, strict=True):
        assert old.floor == new.floor
        if old.owner in members:
            assert (old.owner, old.token) == (new.owner, new.token)
            assert new.next_owner is None or new.next_owner in members
            assert new.next_owner != new.owner
        elif members:
            assert new.owner in members
            assert new.next_owner is None
            fresh_tokens.append(new.token)
    assert fresh_tokens == list(range(10, token + 1))


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(
    case: tuple[list[Partition], list[str]], random: Random
) -> None:
    """Two nodes that list the members differently still agree."""
    before, members = case
    shuffled = members[:]
    random.shuffle(shuffled)

    assert assign("g", before, members, 9) == assign("g", before, shuffled, 9)


@given(groups())
def test_a_second_look_changes_nothing(case: tuple[list[Partition], list[str]]) -> None:
    """Assigning again with the same members is a no-op."""
    before, members = case
    after, token = assign("g", before, members, 9)

    assert assign("g", after, members, token) == (after, token)


def test_a_newcomer_takes_only_its_share() -> None:
    """A third member of sixteen partitions takes five, and nothing moves between the other two."""
    two, token = assign("g", fresh(16), ["a", "b"], 0)
    three, _ = assign("g", two, ["a", "b", "c"], token)

    moving = [partition for partition in three if partition.next_owner is not None]
    assert len(moving) == 5
    assert {partition.next_owner for partition in moving} == {"c"}
    assert [p.owner for p in two] == [p.owner for p in three]


def test_a_move_is_called_off_when_the_newcomer_dies() -> None:
    """If the next owner dies before the hand-over, the old owner simply keeps its partition."""
    two, token = assign("g", fresh(4), ["a", "b"], 0)
    three, token = assign("g", two, ["a", "b", "c"], token)

    assert assign("g", three, ["a", "b"], token) == (two, token)


def test_what_has_not_arrived_is_given_up_first() -> None:
    """A member with too many passes on what is still on its way to it, so less is drained."""
    arrived = [Partition(n, "b", n + 1, None, 0) for n in (0, 1)]
    on_its_way = [Partition(2, "a", 3, "b", 0)]
    rest = [Partition(3, "a", 4, None, 0)]
    for group in "efghij":
        after, _ = assign(group, [*arrived, *on_its_way, *rest], ["a", "b"], 4)

        assert after == [*arrived, Partition(2, "a", 3, None, 0), *rest]


def test_an_owner_with_room_calls_the_move_off() -> None:
    """What its next owner no longer wants stays where it is, whoever else has room."""
    before = [Partition(0, "a", 1, "b", 0), *(Partition(n, "b", n + 1, None, 0) for n in (1, 2, 3))]
    for group in "efghij":
        after, _ = assign(group, before, ["a", "b", "c"], 4)

        assert after[0] == Partition(0, "a", 1, None, 0)


def test_the_lightest_is_given_up() -> None:
    """Of what it owns, a member gives up what it weighs least for: the choice of rendezvous."""
    before = [Partition(n, "a", n + 1, None, 0) for n in range(8)]
    after, _ = assign("g", before, ["a", "b"], 8)

    given_up = {p.number for p in after if p.next_owner == "b"}
    assert given_up == set(sorted(range(8), key=lambda n: rendezvous("g", n, "a"))[:4])


def test_a_single_partition_waits_for_a_member() -> None:
    """Without members nobody owns anything, and the first member gets everything."""
    assert assign("g", fresh(1), [], 0) == (fresh(1), 0)
    assert assign("g", fresh(1), ["a"], 0) == ([Partition(0, "a", 1, None, 0)], 1)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("", 0), ("a", 3), ("packages/bash/5.2", 2), ("日本", 12), ("orders.created", 13)],
)
def test_the_partition_of_a_key_is_golden(key: str, expected: int) -> None:
    """A key's partition never changes: a group's floors depend on it for ever."""
    assert expected == partition_of(key, 16)
    assert partition_of(key, 1) == 0


def test_the_rendezvous_weight_is_golden() -> None:
    """Nodes of different releases must agree on weights."""
    assert rendezvous("g", 3, "a") == 405_622_147_435_534_178


def test_an_assignment_is_golden() -> None:
    """Every process and every release assigns alike, or nodes would disagree on the owner."""
    after, token = assign("g", fresh(16), ["c", "a", "b"], 0)

    assert token == 16
    assert "".join(partition.owner or "-" for partition in after) == "accccbaabcaaabbb"


@given(st.text(max_size=20), st.sampled_from([1, 2, 4, 8, 16, 256]))
def test_a_partition_is_in_range(key: str, partitions: int) -> None:
    """Every key has a partition of the group, and doubling a group splits each in two."""
    assert 0 <= partition_of(key, partitions) < partitions
    assert partition_of(key, partitions * 2) % partitions == partition_of(key, partitions)
