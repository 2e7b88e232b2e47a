"""Competing groups against a dumb model, which keeps every event in one dictionary.

The model says what each fetch hands out and what each answer is told. After each step the counts,
the floor and the dead letters must be its own, and a second node, which remembers no outline from
one entry to the next, must have the same rows.
"""

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pubsub import groups
from pubsub.consumer_groups import competing, competing_tables
from pubsub.consumer_groups.outlines import Outlines
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 3_000
LEASE = 600
IN_FLIGHT, DELIVERIES, BACKOFF = 4, 3, (100, 300)
LOOK, WAITING, HELD, LETTERS = 5, 4, 3, 2  # the bounds, made small enough to be met
members = st.sampled_from(["a", "a", "b"])
keys = st.sampled_from(["k", "l", None])
verdicts = st.sampled_from(
    [
        ("ack", None), ("ack", None), ("nack", None), ("nack", [0, None]),
        ("nack", [200, "boom"]), ("nack", [None, "boom"]), ("extend", None),
        ("extend", 900), ("dead", "no"),
    ]
)  # fmt: skip


class Leased:
    """A row of leases."""

    def __init__(self, token: int, member: str | None, deadline: int) -> None:
        self.token, self.member, self.deadline = token, member, deadline
        self.events: list[int] = []


class Model:
    """One group. `places` has each event that was read and is not completed: its place, attempts
    and, for one that waits, when it is due, or the error of its letter."""

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self.log: list[tuple[str, str | None, int]] = []  # topic, key, bytes; revision - 1
        self.now = 0
        self.sessions: dict[str, int] = {}
        self.start_at(0)
        self.token = self.completed = self.dead = 0
        self.paused = False
        self.letters: dict[int, str] = {}
        self.effects: dict[str, int] = {}

    def start_at(self, cursor: int) -> None:
        self.cursor = cursor
        self.places: dict[int, list[Any]] = {}
        self.leases: list[Leased] = []
        self.skipped: set[int] = set()

    def count(self, place: str) -> int:
        return [found for found, *_ in self.places.values()].count(place)

    def floor(self) -> int:
        return min([self.cursor + 1, *self.places]) - 1

    def order_key(self, revision: int) -> str | None:
        topic, key, _ = self.log[revision - 1]
        return topic if key is None else key

    def gone(self, revision: int) -> None:
        """It is completed: the next of its key need not be held any more."""
        del self.places[revision]
        if self.ordered:
            key = self.order_key(revision)
            same = [r for r in sorted(self.places) if self.order_key(r) == key]
            if same and self.places[same[0]][0] == "held":
                self.places[same[0]] = ["waiting", 0, self.now]

    def bury(self, revision: int, attempts: int, error: str) -> None:
        if len(self.letters) < LETTERS:
            self.letters[revision] = error
            self.dead += 1
            self.gone(revision)
        else:
            self.places[revision] = ["dying", attempts, error]

    def bury_dying(self) -> None:
        room = LETTERS - len(self.letters)
        for revision in [r for r in sorted(self.places) if self.places[r][0] == "dying"][:room]:
            self.bury(revision, *self.places[revision][1:])

    def failed(self, revision: int, error: str, delay: int | None = None) -> None:
        attempts = self.places[revision][1]
        if attempts >= DELIVERIES:
            self.bury(revision, attempts, error)
            return
        if delay is None:
            delay = BACKOFF[min(attempts, len(BACKOFF)) - 1]
        self.places[revision] = ["waiting", attempts, self.now + delay]

    def end_leases(self, member: str, *, left: bool) -> None:
        for lease in self.leases:
            if lease.member == member:
                lease.deadline = self.now
                lease.member = None if left else member

    def expire_leases(self) -> int:
        over = [lease for lease in self.leases if lease.deadline <= self.now]
        for lease in sorted(over, key=lambda lease: lease.deadline):
            self.leases.remove(lease)
            for revision in lease.events:
                if lease.member is None:
                    attempts = self.places[revision][1] - 1
                    self.places[revision] = ["waiting", attempts, self.now]
                else:
                    self.failed(revision, "the lease ended without an answer")
        return sum(len(lease.events) for lease in over)

    def fetch(self, member: str, events_max: int, bytes_max: int) -> Any:
        if self.sessions.get(member, 0) <= self.now:
            return "unknown_member"
        if self.paused:
            return [0, 0, []]
        found: list[list[int]] = []
        for revision in self.candidates(min(events_max, IN_FLIGHT - self.count("leased"))):
            size = self.log[revision - 1][2]
            if found and size > bytes_max:
                break
            bytes_max -= size
            attempts = self.places[revision][1] + 1 if revision in self.places else 1
            found.append([revision, attempts])
            self.cursor = max(self.cursor, revision)
            self.places[revision] = ["leased", attempts]
        self.cursor = max(self.cursor, self.reached)
        self.bury_dying()
        self.skipped = {revision for revision in self.skipped if revision > self.cursor}
        if not found:
            return [0, 0, []]
        self.token += 1
        lease = Leased(self.token, member, self.now + LEASE)
        lease.events = [revision for revision, _ in found]
        self.leases.append(lease)
        return [self.token, lease.deadline, found]

    def candidates(self, room: int) -> Iterator[int]:
        """What may be leased, in order; `reached`: how far the cursor goes if all of it is."""
        self.reached = self.cursor
        waiting = [(p[2], r) for r, p in self.places.items() if p[0] == "waiting"]
        due = [r for due, r in sorted(waiting) if due <= self.now]
        yield from due[: max(0, room)]
        room -= len(due)
        if room <= 0 or self.count("waiting") + self.count("dying") >= WAITING:
            return
        for revision in range(self.cursor + 1, min(self.cursor + LOOK, len(self.log)) + 1):
            if self.count("held") >= HELD:
                return
            self.reached = revision
            if not self.log[revision - 1][0].startswith("orders.") or revision in self.skipped:
                continue
            key = self.order_key(revision)
            if self.ordered and any(self.order_key(r) == key for r in self.places):
                self.places[revision] = ["held", 0]
                continue
            self.reached = revision - 1
            yield revision
            self.reached = revision
            room -= 1
            if not room:
                return

    def find(self, member: str, token: int, revision: int) -> Leased | None:
        for lease in self.leases:
            if (lease.token, lease.member) == (token, member) and revision in lease.events:
                return lease if lease.deadline > self.now else None
        return None

    def settle(self, member: str, item: list[Any], effect: str | None) -> str | None:
        """Take one answer; what it is told if it is refused."""
        revision, token, verdict, argument = item
        lease = self.find(member, token, revision)
        if lease is None:
            return "fenced"
        if verdict == "extend":
            deadline = self.now + (LEASE if argument is None else argument)
            if deadline > lease.deadline:
                self.move(lease, revision, deadline)
            return None
        lease.events.remove(revision)
        attempts = self.places[revision][1]
        if verdict == "dead":
            self.bury(revision, attempts, argument)
        elif verdict == "nack":
            delay, error = argument or (None, None)
            self.failed(revision, error or "nacked", delay)
        elif effect == "burn":
            self.bury(revision, attempts, "effects refused: refused: burn is always refused")
            return "refused"
        else:
            self.completed += 1
            self.gone(revision)
            if effect == "put":
                self.log.append(("puts", None, 0))
                name = f"e{revision}"
                self.effects[name] = self.effects.get(name, 0) + 1
        return None

    def move(self, lease: Leased, revision: int, deadline: int) -> None:
        lease.events.remove(revision)
        for other in self.leases:
            same = (other.token, other.member, other.deadline)
            if same == (lease.token, lease.member, deadline):
                break
        else:
            other = Leased(lease.token, lease.member, deadline)
            self.leases.append(other)
        other.events.append(revision)

    def skip(self, revision: int) -> bool:
        if revision > self.cursor:
            if revision in self.skipped:
                return False
            self.skipped.add(revision)
        elif revision not in self.places:
            return False
        elif self.places[revision][0] == "held":
            del self.places[revision]
        else:
            for lease in self.leases:
                lease.events = [other for other in lease.events if other != revision]
            self.gone(revision)
        self.completed += 1
        return True


class CompetingAgainstAModel(RuleBasedStateMachine):
    """One group of two possible members."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in (
            ("FETCH_LOOK_EVENTS_MAX", LOOK),
            ("WAITING_MAX", WAITING),
            ("HELD_MAX", HELD),
        ):
            self.patch.setattr(competing, name, value)
        self.patch.setattr(competing_tables, "DEAD_LETTERS_MAX", LETTERS)
        self.nodes = [SmallMachine(), SmallMachine()]
        self.handed_out: list[tuple[str, int, int]] = []  # member, revision, token

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(ordered=st.booleans())
    def define(self, ordered: bool) -> None:
        self.model = Model(ordered)
        options = {
            "mode": "competing", "lease_ms": LEASE, "max_deliveries": DELIVERIES,
            "backoff_ms": list(BACKOFF), "max_in_flight": IN_FLIGHT, "ordered": ordered,
        }  # fmt: skip
        assert self.both(groups.define, "g", "orders.>", 1, "earliest", 1, options) == 0
        self.publish(["k", "k", "l", None, "k"], True)
        self.join("a")

    def both(self, operation: Any, *args: Any) -> Any:
        self.nodes[1]._apply.outlines = Outlines()
        for node in self.nodes:
            node.elapsed_ms = self.model.now
        first, second = (node.do(operation, *args) for node in self.nodes)
        assert first == second
        return first.code if isinstance(first, Rejection) else first

    @rule(names=st.lists(keys, min_size=1, max_size=8), matching=st.booleans())
    def publish(self, names: list[str | None], matching: bool) -> None:
        topic = "orders.created" if matching else "other"
        for key in names:
            size = len(msgpack.packb([topic, key, [b"", None, None], None]))
            self.model.log.append((topic, key, size))
        for node in self.nodes:
            node.publish(*names, topic=topic)  # type: ignore[arg-type]

    @rule(member=members)
    def join(self, member: str) -> None:
        model = self.model
        model.end_leases(member, left=False)
        model.sessions[member] = model.now + TTL
        model.expire_leases()
        assert self.both(groups.join, "g", member, TTL) == model.now + TTL

    @rule(member=members)
    def leave(self, member: str) -> None:
        model = self.model
        model.end_leases(member, left=True)
        joined = model.sessions.pop(member, None) is not None
        model.expire_leases()
        assert self.both(groups.leave, member) == joined

    @rule(milliseconds=st.sampled_from([1, 50, 100, 300, LEASE]), kept=st.booleans())
    def time_passes(self, milliseconds: int, kept: bool) -> None:
        for member, deadline in self.model.sessions.items():
            if kept and deadline > self.model.now:
                self.both(groups.keepalive, member)
                self.model.sessions[member] = self.model.now + TTL
        self.model.now += milliseconds

    @rule()
    def sessions_end(self) -> None:
        model = self.model
        over = [name for name, at in model.sessions.items() if at <= model.now]
        for member in over:
            model.end_leases(member, left=False)
            del model.sessions[member]
        model.expire_leases()
        assert self.both(groups.expire, model.now) == len(over)

    @rule()
    def leases_end(self) -> None:
        expected = self.model.expire_leases()
        assert self.both(competing.expire, self.model.now) == expected
        due = competing.next_due(self.nodes[0].connection)
        assert due == min(
            [lease.deadline for lease in self.model.leases if lease.events], default=None
        )

    @rule(member=members, events_max=st.integers(1, 8), bytes_max=st.sampled_from([1, 60, 9_999]))
    def fetch(self, member: str, events_max: int, bytes_max: int) -> None:
        expected = self.model.fetch(member, events_max, bytes_max)

        result = self.both(competing.fetch, "g", member, events_max, bytes_max)

        assert expected == result
        if isinstance(result, list):
            self.handed_out += [(member, revision, result[0]) for revision, _ in result[2]]

    @rule(data=st.data(), verdict=verdicts, pause=st.sampled_from([0, 100, 300, LEASE]))
    def work(self, data: st.DataObject, verdict: tuple[str, Any], pause: int) -> None:
        """A member takes what it can get, and answers in time, or not."""
        if self.model.sessions.get("a", 0) <= self.model.now:
            self.join("a")
        before = len(self.handed_out)
        self.fetch("a", 8, 9_999)
        self.model.now += pause
        got = self.handed_out[before:]
        self.answer(data, "a", [[revision, token, *verdict] for _, revision, token in got])
        if pause:
            self.leases_end()

    @precondition(lambda self: self.handed_out)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Answers of one member, late and wrong ones too."""
        member, *_ = data.draw(st.sampled_from(self.handed_out[-8:]))
        deliveries = [(r, t) for _, r, t in self.handed_out[-12:]]
        chosen = data.draw(st.lists(st.sampled_from(deliveries), max_size=6))
        items = [[*delivery, *data.draw(verdicts)] for delivery in chosen]
        self.answer(data, member, items)

    def answer(self, data: st.DataObject, member: str, items: list[list[Any]]) -> None:
        acked = sorted({item[0] for item in items if item[2] == "ack"})
        kind = st.sampled_from(["put", "burn", None])
        effects = {revision: data.draw(kind) for revision in acked}
        wire = [
            [revision, [[name, [f"e{revision}"]]]] for revision, name in effects.items() if name
        ]
        expected = []
        for item in items:
            effect = effects.get(item[0]) if item[2] == "ack" else None
            refused = self.model.settle(member, item, effect)
            if item[2] == "ack" and refused != "fenced":
                effects.pop(item[0], None)
            if refused:
                expected.append([item[0], refused])
        self.model.leases = [lease for lease in self.model.leases if lease.events]

        result = self.both(competing.settle, "g", member, items, wire)

        assert expected == [item[:2] for item in result]

    @rule(data=st.data(), what=st.sampled_from(["pause", "seek", "skip", "discard"]))
    def operator(self, data: st.DataObject, what: str) -> None:
        """An operator's hand: rare, so that the group gets somewhere."""
        model = self.model
        if what == "pause":
            paused = data.draw(st.booleans())
            expected, model.paused = model.paused != paused, paused
            assert self.both(groups.pause if paused else groups.resume, "g") == expected
        elif what == "seek" and data.draw(st.integers(0, 9)) == 0:
            start = data.draw(st.integers(1, len(model.log) + 1))
            model.start_at(start - 1)
            assert self.both(groups.seek, "g", start) == start - 1
        elif what == "skip":
            unread = range(model.cursor + 1, len(model.log) + 1)[:4]
            revision = data.draw(st.sampled_from([*unread, *model.places, 1]))
            expected = model.skip(revision)
            assert self.both(groups.skip, "g", revision) == expected
            assert self.both(groups.skip, "g", revision) is False
        elif what == "discard":
            gone = sorted(model.letters)[: data.draw(st.integers(1, LETTERS))]
            for revision in gone:
                del model.letters[revision]
            model.bury_dying()
            assert self.both(groups.discard, "g", gone) == len(gone)

    @invariant()
    def holds(self) -> None:
        model, (first, second) = self.model, self.nodes
        assert first.dump() == second.dump()
        found = groups.describe(first.connection, "g")
        assert found is not None
        where = found["competing"]
        assert where["cursor"] == model.cursor
        assert where["in_flight"] == model.count("leased")
        for place in ("waiting", "dying", "held"):
            assert where[place] == model.count(place), place
        assert found["partitions"][0]["floor"] == model.floor()
        assert found["partitions"][0]["owner"] is None
        assert (found["completed"], found["dead"]) == (model.completed, model.dead)
        assert found["dead_held"] == len(model.letters)
        letters = groups.dead_letters(first.connection, "g")
        assert {letter["revision"]: letter["error"] for letter in letters} == model.letters
        standing = competing.standing(first.connection, "g")
        assert standing is not None
        assert standing.redelivery_due_ms == min(
            [place[2] for place in model.places.values() if place[0] == "waiting"], default=None
        )
        self.keeps_order()
        for name, count in model.effects.items():
            assert first.value(name) == count

    def keeps_order(self) -> None:
        """Of each key only the first event that is not completed may be with a member."""
        model = self.model
        if not model.ordered:
            return
        firsts: dict[str | None, int] = {}
        for revision in sorted(model.places):
            first = firsts.setdefault(model.order_key(revision), revision)
            assert (first == revision) == (model.places[revision][0] != "held")


CompetingAgainstAModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestCompetingAgainstAModel = CompetingAgainstAModel.TestCase
TestCompetingAgainstAModel.__doc__ = (
    "Random fetches, answers and ends of leases agree with the model."
)
