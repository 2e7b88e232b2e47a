"""The deciding parts of the hook service against real consumer groups, under random schedules."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from hooks.delivery import deliver
from hooks.execution.attempt import Failed, FailureKind, Succeeded
from hooks.execution.partition import Item, State
from hooks.execution.progress import Progress
from hooks.execution.work import HandlerWork
from pubsub import groups, log
from pubsub.consumer_groups.assignment import partition_of
from pubsub.rejection import Rejection
from tests.hooks.workbench import TIGHT_LIMITS, definition
from tests.pubsub.small_machine import SmallMachine

GROUP = "hook.h"
PARTITIONS = 4
LIMITS = TIGHT_LIMITS
FAILURE = Failed(FailureKind.ERROR, "planned")
STEPS = 300


class Member:
    """One member's deciding parts, moved by hand."""

    def __init__(
        self, machine: SmallMachine, name: str, now_ms: int, keys: Mapping[str, object]
    ) -> None:
        handler = definition(
            **{"pattern": "orders.*", "concurrency": 3, "partitions": PARTITIONS, **keys}
        )
        self.machine = machine
        self.name = name
        self.work = HandlerWork(handler, LIMITS, 1 << 20)
        self.progress = Progress(self.work, LIMITS, now_ms)
        self.running: list[tuple[Sequence[Item], int]] = []  # with the token of their partition

    def assign(self) -> None:
        owned = [
            each
            for each in groups.assignments(self.machine.connection, self.name)
            if each.group == GROUP
        ]

        def completed(partition: int) -> Sequence[int]:
            return groups.completions(self.machine.connection, GROUP, partition)

        stopped = self.work.assign(owned, completed)
        for items, _ in list(self.running):
            if any(item in stopped for item in items):
                self.stop(items)

    def stop(self, items: Sequence[Item]) -> None:
        self.running = [pair for pair in self.running if pair[0] is not items]
        self.work.cancel(items)

    def read(self) -> None:
        self.work.unpark()
        if self.work.wants(self.machine.revision):
            events = log.read(
                self.machine.connection, self.work.position + 1, LIMITS.read_events_max, 1 << 20
            )
            assert isinstance(events, list)
            for event in events:
                if event.topic.startswith("orders."):
                    self.work.offer(deliver(event))
            self.work.advance(events[-1].revision)


class Schedule:
    """Members come, go, are cut off and come back; the bookkeeping must survive all of it.

    Everything is drawn from one seed. After each step: a floor passes nothing that nobody handled,
    and what is in hand is bounded. At the end those who are left finish everything.
    """

    def __init__(self, seed: int, **keys: object) -> None:
        self.random = random.Random(seed)
        self.machine = SmallMachine()
        self.machine.do(groups.define, GROUP, "orders.*", PARTITIONS, "earliest", 0)
        self.now_ms = 0
        self.retry_count = self.random.randrange(3)
        self.keys = {"retry_count": self.retry_count, **keys}
        self.coalesces = not {"debounce_ms", "throttle_ms"}.isdisjoint(keys)
        self.members: dict[str, Member] = {}
        self.published: dict[int, str] = {}  # revision -> key
        self.handled: set[int] = set()  # a handler ended it, or it was given up
        self.completed: set[int] = set()  # of these, what the cluster was told
        self.begun: dict[tuple[str, int], int] = {}  # per key and token, the last revision begun
        self.replayed = False

    def run(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (6, self.publish),
            (1, self.publish_something_else),
            (2, self.join),
            (1, self.leave),
            (30, self.take_a_turn),
            (10, self.end),
            (6, self.wait),
            (6, self.send),
            (8, self.answer),
            (2, self.refuse),
            (2, self.lose_lease),
            (5, self.let_a_visitor_in),
            (self.random.random() < 0.3, self.seek_back),
        ]
        weights = [weight * self.random.random() for weight, _ in steps]  # the mix differs, too
        self.join()
        for _ in range(STEPS):
            ((_, step),) = self.random.choices(steps, weights)
            step()
            self.check()
        self.finish()

    def publish(self) -> None:
        keys = self.random.choices("klmnopq", k=self.random.randint(1, 12))
        first = self.machine.publish(*keys)
        self.published |= {first + offset: key for offset, key in enumerate(keys)}

    def publish_something_else(self) -> None:
        self.machine.publish("k", topic="billing.paid")

    def join(self) -> None:
        """Also: a process that was killed, and starts again under the same name."""
        name = self.random.choice("abc")
        self.machine.do(groups.join, GROUP, name, 10_000)
        self.members[name] = Member(self.machine, name, self.now_ms, self.keys)
        self.members[name].assign()

    def leave(self) -> None:
        """The cluster gives up on a member that does not know it yet."""
        self.machine.do(groups.leave, self.random.choice("abc"))

    def take_a_turn(self) -> None:
        """What the service does in one pass."""
        member = self._any()
        if self.random.random() < 0.8:
            member.assign()
        member.read()
        member.work.wake(self.now_ms)
        self._start(member)

    def end(self) -> None:
        member = self._any()
        self.random.shuffle(member.running)
        for items, _ in member.running[: self.random.randint(1, 3)]:
            self._end(member, items, fails=self.random.random() < 0.3)

    def wait(self) -> None:
        self.now_ms += self.random.choice([10, 300, 6000])

    def send(self) -> None:
        """A checkpoint leaves; much may happen before its answer comes."""
        self._build(self._any(), flush=self.random.random() < 0.2)

    def answer(self) -> None:
        member = self._any()
        if member.progress.under_way:
            self._answer(member)

    def refuse(self) -> None:
        """The cluster has no room for dead letters, say; the checkpoint was not applied."""
        member = self._any()
        if member.progress.under_way:
            member.progress.refused()

    def lose_lease(self) -> None:
        """A member without a leader stops what it runs, and goes on later."""
        member = self._any()
        for items, _ in list(member.running):
            member.stop(items)

    def let_a_visitor_in(self) -> None:
        """Partitions are to be released; some steps later they are not."""
        if self.random.random() < 0.5:
            self.machine.do(groups.join, GROUP, "visitor", 10_000)
        else:
            self.machine.do(groups.leave, "visitor")

    def seek_back(self) -> None:
        """Somebody replays the last events."""
        floor = self._described()["floor"]
        floor = self.machine.do(groups.seek, GROUP, max(1, floor + 1 - self.random.randint(0, 20)))
        self.completed = {revision for revision in self.completed if revision <= floor}
        self.replayed = True

    def check(self) -> None:
        done: dict[int, set[int]] = {}
        floors: dict[int, int] = {}
        for partition in self._described()["partitions"]:
            number = partition["partition"]
            done[number] = {*groups.completions(self.machine.connection, GROUP, number)}
            floors[number] = partition["floor"]
        for revision, key in self.published.items():
            number = partition_of(key, PARTITIONS)
            if revision <= floors[number] or revision in done[number]:
                assert revision in self.handled or self._has_newer(revision)
        for member in self.members.values():
            work = member.work
            assert work.running == len(member.running) <= 3
            bound = LIMITS.unsettled_events_max
            if self.coalesces or "batch_max" in self.keys:
                bound = 2 * bound + LIMITS.read_events_max
            assert len(work.finished) <= bound + 3
            for held in work.partitions.values():
                assert held.unfinished <= LIMITS.partition_events_max
                assert held.unfinished == sum(map(len, held.queues.values()))
                assert (
                    len(held.ahead) <= LIMITS.completed_ahead_max + LIMITS.unsettled_events_max + 8
                )
            reading = [p.unfinished for p in work.partitions.values() if p.reading]
            assert sum(reading) <= LIMITS.handler_events_max + LIMITS.partition_events_max

    def finish(self) -> None:
        """When the trouble ends, those who are left handle everything."""
        self.machine.do(groups.leave, "visitor")
        while not self._living():
            self.join()
        for _ in range(1_000):
            self.now_ms += 10_000
            for member in self.members.values():
                if member.progress.under_way:
                    self._answer(member)
                member.assign()
                member.read()
                member.work.wake(self.now_ms)
                self._start(member)
                for items, _ in list(member.running):
                    self._end(member, items, fails=False)
                if self._build(member):
                    self._answer(member)
            if self._described()["floor"] >= self.machine.revision:
                break
        else:
            pytest.fail(f"stuck at {self._described()['floor']} of {self.machine.revision}")
        self.check()
        newest = {key: revision for revision, key in sorted(self.published.items())}
        assert set(newest.values()) <= self.handled, "the newest of a key was lost"
        described = self._described()
        if not self.replayed:
            assert described["completed"] + described["dead"] == len(self.published)

    def _described(self) -> dict[str, Any]:
        described = groups.describe(self.machine.connection, GROUP)
        assert described is not None
        return {**described, "floor": min(p["floor"] for p in described["partitions"])}

    def _living(self) -> list[str]:
        members = [row["member"] for row in self._described()["members"]]
        return [name for name in members if name in self.members]

    def _any(self) -> Member:
        return self.random.choice(list(self.members.values()))

    def _start(self, member: Member) -> None:
        while items := member.work.take(self.now_ms):
            token = items[0].partition.token
            member.running.append((items, token))
            revisions = [item.revision for item in items]
            assert revisions == sorted(set(revisions))
            assert len({item.partition.number for item in items}) == 1
            for item in items:
                self._begin(member, item, token, revisions)

    def _begin(self, member: Member, item: Item, token: int, together: Sequence[int]) -> None:
        # In order per key under one owner; a retry begins the same revision again.
        last = self.begun.get((item.key, token), 0)
        if len(together) == 1 and not item.alone:  # a batch that failed begins again from its first
            assert item.revision >= last
        assert (
            item.revision <= last
            or last == 0
            or last in self.handled
            or last in together
            or self._has_newer(last)
        )
        keys = [
            {each.key for each in items}
            for items, _ in member.running
            if items[0].state is State.RUNNING
        ]
        assert sum(item.key in each for each in keys) == 1, "one key twice at once"
        self.begun[item.key, token] = item.revision
        if self._is_current(member, item.partition.number, token):
            assert item.revision not in self.completed, "it runs again without need"
            for name in self._living():
                for others, _ in self.members[name].running:
                    for other in others:
                        assert other.revision in together or other.key != item.key, "two owners"

    def _has_newer(self, revision: int) -> bool:
        """Whether an event may have been coalesced."""
        key = self.published[revision]
        return self.coalesces and any(
            newer > revision and other == key for newer, other in self.published.items()
        )

    def _build(self, member: Member, *, flush: bool = False) -> bool:
        checkpoint = member.progress.build(self.now_ms, flush=flush)
        if checkpoint is None:
            return False
        for number, _, floor, done, release, _, _ in checkpoint.rows:
            held = member.work.partitions[number]  # type: ignore[index]
            if release:
                assert held.releasing
                assert all(item.included for item in held.open.values()), "released unfinished"
            assert set(done).isdisjoint(range(floor + 1))  # type: ignore[call-overload, operator]
        return True

    def _is_current(self, member: Member, partition: int, token: int) -> bool:
        owned = groups.assignments(self.machine.connection, member.name)
        return any((row.partition, row.token) == (partition, token) for row in owned)

    def _end(self, member: Member, items: Sequence[Item], fails: bool) -> None:
        member.running = [pair for pair in member.running if pair[0] is not items]
        for item in items:
            is_over = len(items) == 1 and item.attempt > self.retry_count
            if item.state is State.RUNNING and (not fails or is_over):
                self.handled.add(item.revision)
        member.work.end(items, FAILURE if fails else Succeeded(), self.now_ms, 0.5)

    def _answer(self, member: Member) -> None:
        checkpoint = member.progress.under_way
        assert checkpoint is not None
        result: Any = self.machine.do(
            groups.checkpoint, GROUP, member.name, checkpoint.rows, checkpoint.effects
        )
        if isinstance(result, Rejection):
            assert result.code == "fenced"
            member.assign()
            member.progress.refused()
        else:
            self.completed |= {item.revision for item in checkpoint.items}
            member.progress.confirmed(len(result))
            member.assign()


@pytest.mark.parametrize("seed", range(100))
def test_a_random_schedule_loses_nothing_and_keeps_the_order(seed: int) -> None:
    """Whatever members, answers and failures do: floors are true, keys in order, all is handled."""
    Schedule(seed).run()


SHAPES: list[dict[str, object]] = [
    {"debounce_ms": 400, "debounce_ms_max": 1_000},
    {"throttle_ms": 700},
    {"batch_max": 4, "batch_wait_ms": 300},
    {"batch_max": 3, "rate_limit_per_key": "20/m"},
    {"rate_limit": "2/s", "breaker_failures": 2, "breaker_open_ms": 1_000},
    {"debounce_ms": 100, "rate_limit_per_key": "1/s", "breaker_failures": 1},
]


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: ",".join(shape))
def test_shaping_keeps_the_same_promises(seed: int, shape: dict[str, object]) -> None:
    """Whatever holds events back: keys stay in order, and the newest of each is handled."""
    Schedule(seed, **shape).run()
