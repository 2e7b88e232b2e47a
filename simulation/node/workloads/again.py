"""Events that are handed out again: replays of a range, and dead letters that are redriven.

Two groups read one topic, while operators start and cancel replays and redrive letters. What a
replay is to hand out stands in the log once for each event of its range, and so does each letter
that was redriven; the group that it names deals with it once, as with any event, and is told what
it is. The other group never gets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from hooks.registry import Registry
from pubsub.consumer_groups import replays
from pubsub.events import Event
from simulation.history import Outcome
from simulation.node.machine import Machine
from simulation.node.workloads import consumers
from simulation.node.workloads.clients import LoopingClient
from simulation.node.workloads.consumers import Consumers
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.client.delivery import Delivery
    from simulation.node.world import World

TOPIC = "work.again"
REPLAYED = "hooks.group.event_replayed"
REDRIVEN = "hooks.group.event_redriven"
MEMBERS = 2
OPERATORS = 2
GIVES_UP = 0.15
NUMBERS = (30, 40)
OPERATORS_FROM = 650
"""Their hosts are not those of other clients."""
REPLAYS_MAX = 8
BEFORE_MAX = 60
RANGE_MAX = 30
RATES = [None, None, 20]
PAUSE_S = 0.3


class Handed(NamedTuple):
    """What a group deals with under some revision."""

    original: int
    is_again: bool
    redrives: int


class Taker(Consumers):
    """One of the groups."""

    def __init__(self, world: World, random: Random, number: int) -> None:
        draw = random.choice([consumers.partitioned, consumers.competing])
        plan = draw(random, f"again.{number}", number)
        super().__init__(world, random, plan, TOPIC, members=MEMBERS, gives_up=GIVES_UP)
        self.handed: dict[int, Handed] = {}
        self.redriven: dict[int, int] = {}  # letter -> event, as it was told

    def concerns(self, event: Event) -> bool:
        if event.topic in (REPLAYED, REDRIVEN):
            return bool(event.data[0] == self.group)
        return super().concerns(event)

    def deliver(self, run: str, delivery: Delivery) -> None:
        """A member was handed an event; it is one that concerns the group."""
        super().deliver(run, delivery)
        fact = self.world.archive.events[delivery.revision - 1]
        event = delivery.event
        handed = Handed(event.revision, delivery.replayed, delivery.redrives)
        if not self.concerns(fact) or handed != self.meant(fact):
            raise Violation(f"{self.group} was handed {handed} for {fact}")
        original = self.world.archive.events[event.revision - 1]
        if (event.topic, event.key, event.data) != (TOPIC, original.key, original.data):
            raise Violation(f"{self.group} was handed {event} for {original}")

    def meant(self, fact: Event) -> Handed:
        """What an event of the log stands for."""
        if fact.topic == REPLAYED:
            return Handed(fact.data[1], True, 0)
        if fact.topic == REDRIVEN:
            return Handed(fact.data[1], True, fact.data[4])
        return Handed(fact.revision, False, 0)

    def told(self, pairs: Iterable[Sequence[int]]) -> None:
        """Letters were redriven, as these events."""
        for letter, revision in pairs:
            if letter in self.redriven:
                raise Violation(f"{self.group}: letter {letter} was redriven twice")
            self.redriven[letter] = revision

    def check_missing(self, events: Sequence[Event], missing: set[int]) -> None:
        """They were dead letters, each of which went back once."""
        if killed := missing - self.given_up:
            raise Violation(f"{self.group}: never completed {sorted(killed)[:10]}")
        gone = (self.meant(events[revision - 1]) for revision in missing)
        wanted = Counter((letter.original, letter.redrives + 1) for letter in gone)
        facts = [event for event in events if event.topic == REDRIVEN and self.concerns(event)]
        found = Counter((fact.data[1], fact.data[4]) for fact in facts)
        if wanted != found:
            raise Violation(
                f"{self.group}: lost or doubled on their way out of the dead letters: "
                f"{list(((wanted - found) + (found - wanted)).items())[:10]}"
            )
        for letter, revision in self.redriven.items():
            of_letter, fact = self.meant(events[letter - 1]), events[revision - 1]
            if letter not in missing or fact not in facts or fact.data[1] != of_letter.original:
                raise Violation(f"{self.group}: letter {letter} was redriven as {fact}")


@dataclass(slots=True, eq=False)
class Replay:
    """A replay that was asked for."""

    group: str
    from_revision: int
    to_revision: int | None
    options: Mapping[str, Any]
    outcome: Outcome = Outcome.OPEN
    id: int = 0
    was_cancelled: bool = False

    def is_that(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the cluster can be this one."""
        return (
            row["group"] == self.group
            and row["from_revision"] == self.from_revision
            and self.to_revision in (None, row["to_revision"])
            and all(row[name] == value for name, value in self.options.items())
        )


class Again:
    """Both groups and their operators."""

    def __init__(self, world: World, random: Random) -> None:
        self.takers = [Taker(world, Random(random.getrandbits(64)), number) for number in NUMBERS]
        self.takers[1].producer.stopping = True  # one is enough
        self.replays: list[Replay] = []
        self.operators = [
            Rewinder(world, OPERATORS_FROM + number, Random(random.getrandbits(64)), self)
            for number in range(OPERATORS)
        ]
        self._world = world

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        for taker in self.takers:
            taker.begin(nursery)
        for operator in self.operators:
            nursery.start_soon(operator.run)

    def stop(self) -> None:
        for taker in self.takers:
            taker.stop()
        for operator in self.operators:
            operator.stopping = True

    def is_done(self) -> bool:
        """Whether nobody replays any more, and the groups have dealt with all of it."""
        return (
            all(operator.stopped for operator in self.operators)
            and all(row["state"] != replays.RUNNING for row in self._rows())
            and all(taker.is_done() for taker in self.takers)
        )

    def check(self, events: Sequence[Event]) -> None:
        """Each group did what it had to; what it had to is what the replays asked for."""
        for taker in self.takers:
            taker.check(events)
        rows = self._rows()
        self._check_asked(rows)
        wanted = Counter[tuple[str, int]]()
        for row in rows:
            reached = min(row["to_revision"], row["next_revision"] - 1)
            if row["state"] == replays.DONE and reached != row["to_revision"]:
                raise Violation(f"{row} ended before its end")
            chosen = [
                (str(row["group"]), event.revision)
                for event in events[row["from_revision"] - 1 : reached]
                if event.topic == TOPIC and row["key"] in (None, event.key)
            ]
            if len(chosen) != row["emitted"]:
                raise Violation(f"{row} was to hand out {chosen}")
            wanted.update(chosen)
        found = Counter(tuple(event.data[:2]) for event in events if event.topic == REPLAYED)
        if wanted != found:
            odd = list(((wanted - found) + (found - wanted)).items())
            raise Violation(f"not replayed once each: {odd[:10]}")

    def _check_asked(self, rows: Sequence[Mapping[str, Any]]) -> None:
        by_id = {row["id"]: row for row in rows}
        unknown = []
        for replay in self.replays:
            if replay.outcome is not Outcome.OK:
                unknown += [replay] if replay.outcome is not Outcome.FAIL else []
                continue
            row = by_id.pop(replay.id, None)
            if row is None or not replay.is_that(row):
                raise Violation(f"{replay} was begun, and the cluster has {row}")
            if replay.was_cancelled and row["state"] != replays.CANCELLED:
                raise Violation(f"{replay} was cancelled, and the cluster has {row}")
        for row in by_id.values():
            meant = next((replay for replay in unknown if replay.is_that(row)), None)
            if meant is None:
                raise Violation(f"nobody asked for {row}, or not so often")
            unknown.remove(meant)

    def _rows(self) -> list[dict[str, Any]]:
        node = self._world.any_node()
        return (
            [{"state": replays.RUNNING}]
            if node is None
            else replays.listing(node.machine.connection)
        )


class Rewinder(LoopingClient):
    """An operator who replays, cancels replays and redrives."""

    def __init__(self, world: World, number: int, random: Random, again: Again) -> None:
        super().__init__(world, number, random)
        self._again = again

    async def operate(self, client: Client) -> None:
        await trio.sleep(self.random.random() * PAUSE_S)
        taker = self.random.choice(self._again.takers)
        if not taker.is_defined:
            return
        chance = self.random.random()
        begun = [replay for replay in self._again.replays if replay.id]
        if chance < 0.4 and len(self._again.replays) < REPLAYS_MAX:
            await self._replay(client, taker)
        elif chance < 0.5 and begun:
            await self._cancel(client, begun[-1])
        else:
            await self._redrive(client, taker)

    async def _replay(self, client: Client, taker: Taker) -> None:
        random, newest = self.random, len(self.world.archive.events)
        first = random.randint(max(newest - BEFORE_MAX, 1), newest)
        last = min(first + random.randint(0, RANGE_MAX), newest)
        options = {
            "key": random.choice([None, None, random.choice(consumers.KEYS)]),
            "rate_per_s": random.choice(RATES),
        }
        replay = Replay(taker.group, first, random.choice([None, last, last]), options)
        self._again.replays.append(replay)
        args = [replay.group, replay.from_revision, replay.to_revision, options]
        request = client.request("replay.start", args, timeout_ms=self.timeout_ms())
        answer = await self.ask(f"replay {args}", request)
        replay.outcome = answer.outcome
        if answer.outcome is Outcome.OK:
            replay.id = answer.result

    async def _cancel(self, client: Client, replay: Replay) -> None:
        request = client.request("replay.cancel", [replay.id], timeout_ms=self.timeout_ms())
        answer = await self.ask(f"cancel replay {replay.id}", request)
        if answer.outcome is Outcome.OK and answer.result:
            if replay.was_cancelled:
                raise Violation(f"{replay} was cancelled twice")
            replay.was_cancelled = True

    async def _redrive(self, client: Client, taker: Taker) -> None:
        group = client.group(taker.group)
        found = await self.ask("letters", group.dead_letters(timeout_ms=self.timeout_ms()))
        letters = [letter["revision"] for letter in found.result or []]
        if letters:
            chosen = self.random.sample(letters, self.random.randint(1, len(letters)))
            request = group.redrive(chosen, timeout_ms=self.timeout_ms())
            answer = await self.ask(f"redrive {taker.group} {chosen}", request)
            taker.told(answer.result or [])
