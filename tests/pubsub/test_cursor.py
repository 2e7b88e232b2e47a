"""The algebra of cursors, against a dumb model of one partition and of the cluster's record."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pubsub.consumer_groups.cursor import Budget, Cursor, Verdict
from pubsub.limits import COMPLETIONS_MAX

ROOMY = 1 << 20


def fields(cursor: Cursor, **options: Any) -> list[Any] | None:
    """What the next checkpoint says."""
    row = cursor.take(Budget(ROOMY), **options)
    return None if row is None else row.fields


def test_the_floor_stays_below_what_is_open() -> None:
    """What is done above it is named, and the floor follows once the gap is closed."""
    cursor = Cursor(3, 7)
    assert all(map(cursor.receive, (2, 5, 9)))
    cursor.settle(5)
    cursor.settle(9)
    assert fields(cursor) == [3, 7, 1, [5, 9], False, 2, []]
    cursor.confirmed()
    cursor.settle(2)
    assert fields(cursor) == [3, 7, 9, [], False, 1, []]
    cursor.confirmed()
    assert cursor.above == {}


def test_what_is_settled_meanwhile_stays_below_the_floor() -> None:
    """A checkpoint under way says nothing about what was settled after it was made."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2)))
    cursor.settle(1)
    assert fields(cursor) == [0, 1, 1, [], False, 1, []]
    cursor.settle(2)
    cursor.refused()
    assert list(cursor.settled) == [1, 2]
    assert fields(cursor) == [0, 1, 2, [], False, 2, []]


def test_nothing_is_received_twice() -> None:
    """Neither what is open, nor what is settled, under way or confirmed."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2, 3, 4)))
    cursor.settle(2)
    assert fields(cursor) is not None
    cursor.settle(3)
    assert not any(map(cursor.receive, (1, 2, 3, 4)))
    cursor.confirmed()
    assert not any(map(cursor.receive, (1, 2, 3, 4)))


def test_what_was_let_go_of_is_received_again() -> None:
    """And only that: a later one that is settled is not."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2, 3)))
    cursor.settle(3)
    cursor.forget([2])
    cursor.settle(1)
    assert fields(cursor) == [0, 1, 1, [3], False, 2, []]
    cursor.confirmed()
    assert [cursor.receive(revision) for revision in (1, 2, 3)] == [False, True, False]


def test_the_floor_stays_below_what_was_let_go_of() -> None:
    """Though later ones are in hand: its next owner gets it (the simulator's seed 79 with five
    nodes lost an event here)."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2, 3, 4)))
    cursor.settle(1)
    cursor.settle(3)
    cursor.forget([2])
    assert fields(cursor) == [0, 1, 1, [3], False, 2, []]
    cursor.confirmed()
    cursor.settle(4)
    assert fields(cursor) == [0, 1, 1, [4], False, 1, []]


def test_a_release_waits_for_the_last_one_in_hand() -> None:
    """The checkpoint that settles the last of it gives the partition up."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2)))
    cursor.releasing = True
    cursor.settle(1)
    assert fields(cursor) == [0, 1, 1, [], False, 1, []]
    cursor.confirmed()
    assert fields(cursor) is None
    cursor.settle(2)
    assert fields(cursor) == [0, 1, 2, [], True, 1, []]


def test_floors_alone_are_written_when_they_are_due() -> None:
    """Events of other partitions move the floor of one that has nothing in hand."""
    cursor = Cursor(0, 1)
    cursor.reach(100)
    assert fields(cursor) is None
    assert fields(cursor, floors_due=True) == [0, 1, 100, [], False, 0, []]
    cursor.confirmed()
    assert fields(cursor, floors_due=True) is None


def test_dead_letters_and_effects_travel_with_their_completion() -> None:
    """A dead letter is no completed event, and what does not fit waits."""
    cursor = Cursor(0, 1)
    assert all(map(cursor.receive, (1, 2, 3)))
    cursor.settle(1, Verdict(attempts=2, error="no"))
    cursor.settle(2, Verdict([["put", ["k", b"v"]]], 100))
    cursor.settle(3, Verdict([["put", ["k", b"v"]]], 100))
    row = cursor.take(Budget(150))
    assert row is not None
    assert row.fields == [0, 1, 2, [], False, 1, [[1, 2, "no"]]]
    assert row.effects == [[0, 2, [["put", ["k", b"v"]]]]]
    cursor.confirmed()
    row = cursor.take(Budget(150))
    assert row is not None
    assert [effect[1] for effect in row.effects] == [3]


def test_no_more_is_completed_above_a_floor_than_is_kept() -> None:
    """One event that takes for ever holds up the record of the others, and loses nothing."""
    cursor = Cursor(0, 1)
    for revision in range(1, COMPLETIONS_MAX + 100):
        assert cursor.receive(revision)
        if revision > 1:
            cursor.settle(revision)
    found = fields(cursor)
    assert found is not None
    assert (found[2], len(found[3])) == (0, COMPLETIONS_MAX)
    cursor.confirmed()
    assert fields(cursor) is None
    cursor.settle(1)
    assert fields(cursor, ahead=False) == [0, 1, COMPLETIONS_MAX + 99, [], False, 99, []]


class Partition(RuleBasedStateMachine):
    """One partition: the log that it is in, what the cluster has of it, and a cursor."""

    @initialize(mine=st.lists(st.booleans(), min_size=1, max_size=40))
    def start(self, mine: list[bool]) -> None:
        self.mine = [number for number, is_mine in enumerate(mine, 1) if is_mine]
        self.last = len(mine)
        self.position = 0  # of the stream
        self.cursor = Cursor(0, 1)
        self.floor = 0  # of the cluster
        self.done: dict[int, None] = {}
        self.handed: dict[int, None] = {}
        self.completed = 0
        self.settled = 0

    @precondition(lambda self: self.position < self.last)
    @rule()
    def stream(self) -> None:
        """The next event of the log, if it is this partition's and not completed."""
        self.position += 1
        is_done = self.position <= self.floor or self.position in self.done
        if self.position in self.mine and not is_done and self.cursor.receive(self.position):
            assert self.position not in self.handed, "delivered twice"
            self.handed[self.position] = None
        self.cursor.reach(self.position)

    @rule()
    def reconnect(self) -> None:
        """Another node begins at the floor that it knows."""
        self.position = self.floor

    @precondition(lambda self: self.cursor.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Ack any that is in hand."""
        self.cursor.settle(data.draw(st.sampled_from(sorted(self.cursor.open))))
        self.settled += 1

    @precondition(lambda self: self.cursor.open)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        """A release that is called off: what nobody was given is let go of, and read again."""
        some = data.draw(st.lists(st.sampled_from(sorted(self.cursor.open)), unique=True))
        self.cursor.forget(some)
        for revision in some:
            del self.handed[revision]
        self.position = self.floor

    @precondition(lambda self: self.cursor.sent is None)
    @rule(due=st.booleans(), ahead=st.booleans())
    def send(self, due: bool, ahead: bool) -> None:
        """Make a checkpoint."""
        self.cursor.take(Budget(ROOMY), floors_due=due, ahead=ahead)

    @precondition(lambda self: self.cursor.sent is not None)
    @rule(applied=st.booleans(), answered=st.booleans())
    def answer(self, applied: bool, answered: bool) -> None:
        """It is applied or not; an answer that is lost is made up for by sending it again."""
        row = self.cursor.sent
        assert row is not None
        _, _, floor, done, _, completed, _ = row.fields
        if applied:
            is_new = floor > self.floor or any(r > self.floor and r not in self.done for r in done)
            self.completed += completed if is_new else 0
            self.floor = max(self.floor, floor)
            self.done.update(dict.fromkeys(done))
        if applied and answered:
            self.cursor.confirmed()
        elif not applied:
            self.cursor.refused()

    @invariant()
    def the_cluster_has_only_what_was_settled(self) -> None:
        """No event is completed that was not acked, and none is forgotten."""
        if not hasattr(self, "cursor"):
            return
        waiting = {**self.cursor.open, **self.cursor.settled}
        for revision in self.mine:
            is_done = revision <= self.floor or revision in self.done
            assert not (is_done and revision in self.cursor.open)
            assert not is_done or revision in self.handed, "completed, and nobody had it"
            if revision in self.handed and not is_done:
                sent = self.cursor.sent.revisions if self.cursor.sent is not None else {}
                assert revision in waiting or revision in sent

    def teardown(self) -> None:
        """In the end all that was handed out and acked is below the floor."""
        if not hasattr(self, "cursor"):
            return
        if self.cursor.sent is not None:
            self.answer(True, True)
        self.position = self.floor
        while self.position < self.last:
            self.stream()
        for revision in list(self.cursor.open):
            self.cursor.settle(revision)
        self.send(True, True)
        if self.cursor.sent is not None:
            self.answer(True, True)
        assert self.floor == self.last
        assert sorted(self.handed) == self.mine


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
