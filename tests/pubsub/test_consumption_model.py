"""Members that come, go, read and ack at random: every event is dealt with, by one at a time.

The real operations, the real streams and the real cursors; only the network between them is left
out, so that every order of steps can happen.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pubsub import groups
from pubsub.consumer_groups.consumption import ASSIGNED, RELEASING, Consumption
from pubsub.consumer_groups.cursor import Budget, Cursor
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine
from tests.pubsub.test_consumption import Source

MEMBERS = st.sampled_from(["a", "b", "c"])
TTL = 10_000


class Stream:
    """What a client keeps of one membership."""

    def __init__(self, machine: SmallMachine, member: str) -> None:
        self.machine = machine
        self.member = member
        self.consumption = Consumption("g", member, 1_000)
        self.cursors: dict[int, Cursor] = {}
        self.position = 0

    def pump(self, limit: int) -> None:
        sent = self.consumption.pump(Source(self.machine), self.machine.connection, limit)
        for kind, number, token in sent.changes:
            self.fold()
            self.position = 0
            cursor = self.cursors.get(number)
            if kind == ASSIGNED:
                if cursor is None or cursor.token != token:
                    cursor = self.cursors[number] = Cursor(number, token)
                cursor.releasing = False
            elif kind == RELEASING:
                assert cursor is not None
                cursor.releasing = True
            else:
                assert cursor is not None
                assert cursor.token == token
                del self.cursors[number]
        for number, token, event, *_ in sent.events:
            cursor = self.cursors[number]
            assert cursor.token == token
            assert not cursor.releasing
            cursor.receive(event.revision)
            self.position = event.revision
        marked = self.consumption.bookmark()
        if marked is not None:
            self.position = max(self.position, marked)
        self.fold()

    def fold(self) -> None:
        if self.position:
            for cursor in self.cursors.values():
                if not cursor.releasing:
                    cursor.reach(self.position)

    def checkpoint(self) -> Any:
        rows = [cursor.take(Budget(1 << 20), floors_due=True) for cursor in self.cursors.values()]
        sent = [row for row in rows if row is not None]
        if not sent:
            return []
        fields = [row.fields for row in sent]
        result = self.machine.do(groups.checkpoint, "g", self.member, fields, [])
        for cursor in self.cursors.values():
            if cursor.sent is not None and isinstance(result, Rejection):
                cursor.refused()
            elif cursor.sent is not None:
                cursor.confirmed()
        return result


class Group(RuleBasedStateMachine):
    """Three members of one group of four partitions."""

    @initialize()
    def start(self) -> None:
        self.machine = SmallMachine()
        self.machine.do(groups.define, "g", "orders.>", 4, "earliest", 0)
        self.streams: dict[str, Stream] = {}
        self.published: list[int] = []
        self.acked: dict[int, None] = {}

    @rule(keys=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6))
    def publish(self, keys: list[str]) -> None:
        first = self.machine.publish(*keys)
        self.published += range(first, first + len(keys))

    @rule()
    def publish_for_others(self) -> None:
        self.machine.publish("x", topic="other.topic")

    @rule(member=MEMBERS)
    def join(self, member: str) -> None:
        self.machine.do(groups.join, "g", member, TTL)
        self.streams[member] = Stream(self.machine, member)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.streams)))
        self.machine.do(groups.leave, member)
        del self.streams[member]

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), limit=st.integers(0, 9))
    def pump(self, data: st.DataObject, limit: int) -> None:
        self.streams[data.draw(st.sampled_from(sorted(self.streams)))].pump(limit)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        stream = self.streams[data.draw(st.sampled_from(sorted(self.streams)))]
        in_hand = [(c.number, r) for c in stream.cursors.values() for r in c.open]
        if in_hand:
            number, revision = data.draw(st.sampled_from(sorted(in_hand)))
            stream.cursors[number].settle(revision)
            self.acked[revision] = None

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        self.streams[data.draw(st.sampled_from(sorted(self.streams)))].checkpoint()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        """The same membership over a new stream: what is in hand comes again and is dropped."""
        stream = self.streams[data.draw(st.sampled_from(sorted(self.streams)))]
        stream.fold()
        stream.consumption = Consumption("g", stream.member, 1_000)
        stream.position = 0
        before = {n: (c.token, dict(c.open)) for n, c in stream.cursors.items()}
        sent = stream.consumption.pump(Source(self.machine), self.machine.connection, 0)
        told = {change.partition: change.token for change in sent.changes}
        stream.cursors = {n: c for n, c in stream.cursors.items() if told.get(n) == c.token}
        for kind, number, token in sent.changes:
            if kind == ASSIGNED and number not in stream.cursors:
                stream.cursors[number] = Cursor(number, token)
            stream.cursors[number].releasing = kind == RELEASING
        for number, cursor in stream.cursors.items():
            if number in before and before[number][0] == cursor.token:
                assert dict(cursor.open) == before[number][1]

    @invariant()
    def nothing_is_recorded_that_is_in_hand(self) -> None:
        """What a member holds under the token in force is not completed."""
        if not hasattr(self, "machine"):
            return
        described = groups.describe(self.machine.connection, "g")
        assert described is not None
        for item in described["partitions"]:
            stream = self.streams.get(item["owner"] or "")
            cursor = stream.cursors.get(item["partition"]) if stream else None
            if cursor is None or cursor.token != item["token"]:
                continue
            done = groups.completions(self.machine.connection, "g", item["partition"])
            assert all(r > item["floor"] and r not in done for r in cursor.open)

    def teardown(self) -> None:
        """One member that is left alone deals with everything, and the floors reach the end."""
        if not hasattr(self, "machine"):
            return
        for member in sorted(self.streams):
            self.leave_now(member)
        self.join("a")
        stream = self.streams["a"]
        for _ in range(200):
            stream.pump(5)
            for cursor in stream.cursors.values():
                for revision in list(cursor.open):
                    cursor.settle(revision)
                    self.acked[revision] = None
            assert stream.checkpoint() == []
        described = groups.describe(self.machine.connection, "g")
        assert described is not None
        assert {item["floor"] for item in described["partitions"]} == {self.machine.revision}
        assert sorted(self.acked) == self.published

    def leave_now(self, member: str) -> None:
        self.machine.do(groups.leave, member)
        del self.streams[member]


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
