"""Consumer groups against a dumb model, over random lives of members and random checkpoints.

The model knows nothing of how partitions are assigned. It knows who may complete what, and it
checks after each step what must hold: balance, minimal movement, hand-over in two steps, rising
tokens, floors that only a seek takes back, effects applied exactly once, and the same rows on a
second node.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pubsub import groups
from pubsub.groups import Assignment
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

PARTITIONS = 4
TTL = 1_000
members = st.sampled_from(["a", "b", "c"])


class GroupsAgainstAModel(RuleBasedStateMachine):
    """One group of four partitions; event n belongs to partition n % 4 by decree."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = [SmallMachine(), SmallMachine()]
        self.deadlines: dict[str, int] = {}
        self.elapsed_ms = 0
        self.completed: list[set[int]] = [set() for _ in range(PARTITIONS)]
        self.start = 0  # floor since the last seek
        self.effects: dict[str, int] = {}
        self.seeks = 0
        self.old: list[tuple[str, Assignment]] = []  # assignments that are no longer valid
        self.seen: list[tuple[str, Assignment]] = []

    @initialize()
    def define(self) -> None:
        assert self.both(groups.define, "g", ">", PARTITIONS, "earliest", 1) == 0
        self.publish(8)
        self.join("a")

    def both(self, operation: Any, *args: Any) -> Any:
        for node in self.nodes:
            node.elapsed_ms = self.elapsed_ms
        first, second = (node.do(operation, *args) for node in self.nodes)
        assert first == second
        return first

    def changes_members(self, operation: Any, *args: Any, released: str | None = None) -> Any:
        """Do what changes the members and check how the partitions moved.

        `released` is a member whose claims end though it stays: its former run is gone.
        """
        before = self.partitions()
        result = self.both(operation, *args)
        after = self.partitions()
        alive = sorted(self.deadlines)

        def held_by(partition: dict[str, Any], names: list[str]) -> str | None:
            return next(
                (n for n in (partition["next_owner"], partition["owner"]) if n in names), None
            )

        old = [held_by(partition, alive) for partition in before]
        new = [held_by(partition, alive) for partition in after]
        if not alive:
            assert all(p["owner"] is p["next_owner"] is None for p in after)
            return result
        share, more = divmod(PARTITIONS, len(alive))
        counts = [new.count(name) for name in alive]
        assert sorted(counts) == [share] * (len(alive) - more) + [share + 1] * more
        most = sorted((old.count(name) for name in alive), reverse=True)
        surplus = sum(max(0, have - (share + (rank < more))) for rank, have in enumerate(most))
        assert sum(a is not None and a != b for a, b in zip(old, new, strict=True)) == surplus
        for was, now in zip(before, after, strict=True):
            if was["owner"] in alive and was["owner"] != released:
                assert now["owner"] == was["owner"], "moved away from a live member"
            else:
                assert now["owner"] in alive
                assert now["token"] > was["token"]
        return result

    @rule(member=members)
    def join(self, member: str) -> None:
        again = member in self.deadlines
        self.deadlines[member] = self.elapsed_ms + TTL
        self.changes_members(groups.join, "g", member, TTL, released=member if again else None)

    @rule(member=members)
    def leave(self, member: str) -> None:
        expected = 1 if self.deadlines.pop(member, None) else 0
        assert expected == self.changes_members(groups.leave, member)

    @rule(milliseconds=st.integers(1, TTL // 2), kept=st.lists(members, unique=True))
    def time_passes(self, milliseconds: int, kept: list[str]) -> None:
        for member in kept:
            if member in self.deadlines:
                self.deadlines[member] = self.elapsed_ms + TTL
                assert self.both(groups.keepalive, member) == self.elapsed_ms + TTL
        self.elapsed_ms += milliseconds
        dead = [name for name, at in sorted(self.deadlines.items()) if at <= self.elapsed_ms]
        for name in dead:
            del self.deadlines[name]
        assert len(dead) == self.changes_members(groups.expire, self.elapsed_ms)

    @rule(count=st.integers(1, 6))
    def publish(self, count: int) -> None:
        for node in self.nodes:
            node.publish(*["k"] * count)

    def valid(self) -> list[tuple[str, Assignment]]:
        connection = self.nodes[0].connection
        return [(m, a) for m in sorted(self.deadlines) for a in groups.assignments(connection, m)]

    def partitions(self) -> list[dict[str, Any]]:
        description = groups.describe(self.nodes[0].connection, "g")
        assert description is not None
        found: list[dict[str, Any]] = description["partitions"]
        return found

    def checkpoint(self, data: st.DataObject, member: str, mine: Assignment) -> Any:
        """A random checkpoint with an effect for each event; returns what it was to complete."""
        newest = self.nodes[0].revision
        floor = data.draw(st.integers(0, min(newest, mine.floor + 5)), label="floor")
        above = [r for r in range(floor + 1, newest + 1) if r % PARTITIONS == mine.partition]
        done = data.draw(st.lists(st.sampled_from(above), unique=True) if above else st.just([]))
        release = data.draw(st.booleans(), label="release")
        completes = [r for r in range(1, floor + 1) if r % PARTITIONS == mine.partition] + done
        effects = [[mine.partition, r, [["put", [f"{self.seeks}/{r}"]]]] for r in completes]
        item = [mine.partition, mine.token, floor, done, release, len(completes), []]
        result = self.both(groups.checkpoint, "g", member, [item], effects)
        return result, completes, floor, release

    @precondition(lambda self: self.valid())
    @rule(data=st.data())
    def owner_checkpoints(self, data: st.DataObject) -> None:
        member, mine = data.draw(st.sampled_from(self.valid()))
        waiting = self.partitions()[mine.partition]["next_owner"]

        result, completes, floor, release = self.checkpoint(data, member, mine)

        assert result == []
        for revision in completes:
            if revision > self.start and revision not in self.completed[mine.partition]:
                self.completed[mine.partition].add(revision)
                key = f"{self.seeks}/{revision}"
                self.effects[key] = self.effects.get(key, 0) + 1
        now = self.partitions()[mine.partition]
        assert now["floor"] == max(floor, mine.floor)
        if release and waiting is not None:
            assert (now["owner"], now["next_owner"]) == (waiting, None)
            assert now["token"] > mine.token
        else:
            assert (now["owner"], now["token"]) == (member, mine.token)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def fenced_member_checkpoints(self, data: st.DataObject) -> None:
        member, mine = data.draw(st.sampled_from(self.old))
        before = [node.dump() for node in self.nodes]

        result, *_ = self.checkpoint(data, member, mine)

        assert isinstance(result, Rejection)
        assert result.code == "fenced"
        assert before == [node.dump() for node in self.nodes]

    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(1, self.nodes[0].revision + 1), label="start")
        assert self.both(groups.seek, "g", start) == start - 1
        self.start = start - 1
        self.seeks += 1
        self.completed = [set() for _ in range(PARTITIONS)]

    @invariant()
    def holds(self) -> None:
        first, second = self.nodes
        assert first.dump() == second.dump()
        for number, partition in enumerate(self.partitions()):
            floor = partition["floor"]
            kept = groups.completions(first.connection, "g", number)
            assert all(revision > floor for revision in kept)
            expected = {r for r in self.completed[number] if r > floor}
            assert expected == set(kept)
        for key, count in self.effects.items():
            assert count == first.value(key) == 1, key
        valid = self.valid()
        tokens = [mine.token for _, mine in valid]
        assert len(tokens) == len(set(tokens)), "two owners under one token"
        now = {(member, mine.partition, mine.token) for member, mine in valid}
        for member, mine in self.seen:
            if (member, mine.partition, mine.token) not in now and (member, mine) not in self.old:
                self.old.append((member, mine))
        self.seen = valid


GroupsAgainstAModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestGroupsAgainstAModel = GroupsAgainstAModel.TestCase
TestGroupsAgainstAModel.__doc__ = "Random lives of members and checkpoints agree with the model."
