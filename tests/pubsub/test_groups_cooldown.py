"""The cooldown of partitioned groups: what is free goes at once, the living move rarely."""

from typing import Any

from hypothesis import given

from pubsub import groups
from pubsub.consumer_groups.assignment import assign
from tests.pubsub.small_machine import SmallMachine
from tests.pubsub.test_assignment import groups as assignments

TTL = 3_600_000
COOLDOWN = 1_000


def make(cooldown_ms: int = COOLDOWN) -> SmallMachine:
    machine = SmallMachine()
    options = {"cooldown_ms": cooldown_ms}
    machine.do(groups.define, "g", ">", 4, "latest", 1, options)
    return machine


def partitions(machine: SmallMachine) -> list[dict[str, Any]]:
    description = groups.describe(machine.connection, "g")
    assert description is not None
    found: list[dict[str, Any]] = description["partitions"]
    return found


def holders(machine: SmallMachine) -> list[str]:
    return sorted(str(p["next_owner"] or p["owner"]) for p in partitions(machine))


def release(machine: SmallMachine, member: str) -> None:
    items = [
        [a.partition, a.token, a.floor, [], True, 0, []]
        for a in groups.assignments(machine.connection, member)
        if a.releasing
    ]
    assert machine.do(groups.checkpoint, "g", member, items, []) == []


@given(assignments())
def test_without_moves_the_living_keep_all(case: Any) -> None:
    """Only what is free is given out, to those with the least, and nothing stays free."""
    before, members = case
    after, _ = assign("g", before, members, 9, may_move=False)
    share, more = divmod(len(before), max(1, len(members)))

    for old, new in zip(before, after, strict=True):
        held = next((m for m in (old.next_owner, old.owner) if m in members), None)
        now = new.next_owner or new.owner
        assert now is not None or not members
        if held is not None:
            assert now == held
    given_out = [new.next_owner or new.owner for new in after]
    for member in members:
        had = sum(
            next((m for m in (p.next_owner, p.owner) if m in members), None) == member
            for p in before
        )
        assert given_out.count(member) <= max(had, share + bool(more))
    assert assign("g", after, members, 99, may_move=False)[0] == after


def test_a_newcomer_waits_for_the_end_of_the_cooldown() -> None:
    """The first move is at once; the next one when the cooldown after it is over."""
    machine = make()
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    assert holders(machine) == ["a", "a", "b", "b"]
    release(machine, "a")
    machine.elapsed_ms = 400
    machine.do(groups.join, "g", "c", TTL)
    assert holders(machine) == ["a", "a", "b", "b"]
    assert groups.next_rebalance(machine.connection) == COOLDOWN

    machine.elapsed_ms = COOLDOWN - 1
    assert machine.do(groups.rebalance, COOLDOWN) == 0
    machine.elapsed_ms = COOLDOWN
    assert machine.do(groups.rebalance, COOLDOWN) == 1

    assert holders(machine) in (["a", "a", "b", "c"], ["a", "b", "b", "c"])
    assert groups.next_rebalance(machine.connection) is None


def test_what_a_dead_member_had_is_given_out_at_once() -> None:
    """Within the cooldown, too; and first to those who have the least."""
    machine = make()
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    release(machine, "a")
    machine.do(groups.join, "g", "c", TTL)

    machine.do(groups.leave, "b")

    assert [p["owner"] for p in partitions(machine)].count("c") == 2
    assert holders(machine) == ["a", "a", "c", "c"]
    assert groups.next_rebalance(machine.connection) is None


def test_a_rolling_restart_moves_nothing_between_the_living() -> None:
    """Each member comes back within the cooldown and gets what the next one leaves."""
    machine = make()
    for member in "ab":
        machine.do(groups.join, "g", member, TTL)
        release(machine, "a")
    machine.elapsed_ms = 10 * COOLDOWN
    tokens = sum(p["token"] for p in partitions(machine))
    moves = 0
    for member in "ab":
        before = partitions(machine)
        machine.do(groups.leave, member)
        machine.elapsed_ms += 100
        machine.do(groups.join, "g", member, TTL)
        after = partitions(machine)
        moves += sum(a["owner"] != b["owner"] for a, b in zip(before, after, strict=True))
        assert not any(p["next_owner"] for p in after)
    assert moves == 6  # two, and then all four of the survivor
    assert sum(p["token"] for p in partitions(machine)) > tokens


def test_without_a_cooldown_nothing_is_remembered() -> None:
    """Also of a group that had one before."""
    machine = make()
    for member in "abc":
        machine.do(groups.join, "g", member, TTL)
    assert groups.next_rebalance(machine.connection) == COOLDOWN

    machine.do(groups.define, "g", ">", 4, "latest", 2, {})
    machine.elapsed_ms = COOLDOWN
    assert machine.do(groups.rebalance, COOLDOWN) == 1

    assert "c" in holders(machine)
    assert groups.next_rebalance(machine.connection) is None
    assert machine.connection.execute("SELECT count(*) FROM group_moves").get == 0
