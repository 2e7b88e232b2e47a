"""Retention: topics whose oldest events go, by age or by count, while others still want them.

What goes of the one topic a protected group has dealt with; nobody waits for the other topic. A
follower that is overtaken is told so and misses nothing else. Who looks back gets what is kept,
and what was gone once is gone for ever. A rule takes no event that it is to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import trio

from cluster.errors import Compacted, TremulaError
from hooks.registry import Registry
from pubsub import groups
from pubsub.events import Event
from simulation.history import Outcome
from simulation.node.machine import Machine
from simulation.node.workloads import consumers
from simulation.node.workloads.clients import LoopingClient
from simulation.node.workloads.consumers import Consumers
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.node import Node
    from simulation.node.world import World

HELD, FREE = TOPICS = ["kept.held", "kept.free"]
PATTERN = "kept.*"
NUMBER = 60  # of the group's clients, among those of groups
NUMBER_FROM = 670
"""Their hosts are not those of other clients."""
MEMBERS = 2
READERS = 2
FOLLOWERS = 2
AGES_MS = [300, 1_000, 3_000]
COUNTS = [1, 5, 20]
BATCH_MAX = 4
CREDITS = 4
DAWDLES = 0.03
PATIENCE_S = 4.0
BACK_MAX = 60
LOOKS_EVERY_S = 0.5
AGAIN_S = 0.2


class Rule(NamedTuple):
    """What is kept of some topics."""

    pattern: str
    topics: Sequence[str]
    max_age_ms: int | None
    max_events: int | None

    @property
    def is_held(self) -> bool:
        """Whether it waits for the protected group."""
        return HELD in self.topics

    def over(self, events: Iterable[Event], node: Node) -> list[Event]:
        """Those that it may take, of all events of a node's log or of those that are left."""
        mine = [event for event in events if event.topic in self.topics]
        kept_max = len(mine) if self.max_events is None else self.max_events
        since_ms = -1 if self.max_age_ms is None else node.machine.wall_ms - self.max_age_ms
        by_count = mine[: max(len(mine) - kept_max, 0)]
        return by_count + [e for e in mine[len(by_count) :] if e.wall_ms <= since_ms]


class Retained:
    """The rules, a protected group, and those who read beside it."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        draw = random.choice([consumers.partitioned, consumers.competing])
        plan = draw(random, "retained", NUMBER)
        self.group = Consumers(world, random, plan, HELD, members=MEMBERS)
        both = random.random() < 0.3
        chosen = {PATTERN: TOPICS} if both else {HELD: [HELD], FREE: [FREE]}
        self.rules = [self._draw_rule(pattern, topics) for pattern, topics in chosen.items()]
        self.gone: set[int] = set()  # as is known: nobody who asks now may get them
        self.followers = [
            Follower(world, NUMBER_FROM + number, Random(random.getrandbits(64)))
            for number in range(FOLLOWERS)
        ]
        self.readers = [
            Reader(world, NUMBER_FROM + FOLLOWERS + number, Random(random.getrandbits(64)), self)
            for number in range(READERS)
        ]
        world.trimmed_topics += TOPICS

    def _draw_rule(self, pattern: str, topics: Sequence[str]) -> Rule:
        random = self.random
        by_age, by_count = random.choice([(True, False), (False, True), (True, True)])
        max_age_ms = random.choice(AGES_MS) if by_age else None
        return Rule(pattern, topics, max_age_ms, random.choice(COUNTS) if by_count else None)

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        self.group.begin(nursery)
        nursery.start_soon(self._set_rules)
        nursery.start_soon(self._look)
        for follower in self.followers:
            nursery.start_soon(follower.run)
        for reader in self.readers:
            nursery.start_soon(reader.run)

    def stop(self) -> None:
        self.group.stop()
        for reader in self.readers:
            reader.stopping = True

    def is_done(self) -> bool:
        """Whether the group has dealt with its events, the rules have taken theirs, and those who
        follow know about all of them."""
        node = self.world.any_node()
        if node is None or not all(reader.stopped for reader in self.readers):
            return False
        newest = max((event.revision for event in self.events()), default=0)
        if not self.group.is_done() or any(f.newest < newest for f in self.followers):
            return False
        floor, kept = self._floor(node), self._kept(node)
        for rule in self.rules:
            last = node.machine.revision - 1
            last = min(floor, last) if rule.is_held else last
            if any(event.revision <= last for event in rule.over(kept.values(), node)):
                return False
        return True

    def events(self, first: int = 1) -> list[Event]:
        """Of these topics, all that there ever were from a revision on."""
        return [e for e in self.world.archive.events[first - 1 :] if e.topic in TOPICS]

    def check(self, events: Sequence[Event]) -> None:
        """Hold what everybody saw against what there was."""
        self.group.check(events)
        node = self.world.any_node()
        assert node is not None, "checked when all agree"
        kept, mine = self._kept(node), self.events()
        if back := self.gone & kept.keys():
            raise Violation(
                f"retention took {sorted(back)[:10]}, somebody was told: they are there"
            )
        for follower in self.followers:
            follower.check(mine, kept)

    # --- what is kept ---

    def _kept(self, node: Node) -> dict[int, Event]:
        found = node.read_events(1, 1 << 30, 1 << 40)
        return {event.revision: event for event in found if event.topic in TOPICS}

    def _floor(self, node: Node) -> int:
        """The group has dealt with everything up to there."""
        described = groups.describe(node.machine.connection, self.group.group)
        return (
            min((int(p["floor"]) for p in described["partitions"]), default=0) if described else 0
        )

    async def _look(self) -> None:
        """Whether a node has taken what it may not."""
        while True:
            await trio.sleep(LOOKS_EVERY_S)
            node = self.world.any_node()
            if node is not None:
                self._judge(node)

    def _judge(self, node: Node) -> None:
        """Between two ticks: the rules, against the log and the group of one node."""
        floor, kept, newest = self._floor(node), self._kept(node), node.machine.revision
        were = [event for event in self.events() if event.revision <= newest]
        for rule in self.rules:
            over = {event.revision for event in rule.over(were, node)}
            for event in were:
                if event.topic not in rule.topics or event.revision in kept:
                    continue
                if rule.is_held and event.revision > floor:
                    raise Violation(f"retention took {event}, the group has dealt with {floor}")
                if event.revision not in over:
                    raise Violation(f"retention took {event}, and {rule} keeps it")
                self.gone.add(event.revision)

    async def _set_rules(self) -> None:
        """An operator sets them as soon as the group is there, and does not give up."""
        left = [[rule.pattern, rule.max_age_ms, rule.max_events] for rule in self.rules]
        async with self.world.open_client(NUMBER_FROM + 9, self.random) as client:
            while left:
                await trio.sleep(AGAIN_S)
                if self.group.is_defined:
                    try:
                        await client.request("retention.set", left[0])
                        del left[0]
                    except TremulaError as error:
                        self.world.note("operator", f"keep {left[0]}: {error.code}")


class Follower:
    """Subscribes to the topics, over links that break, and dawdles."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.newest = 0
        self._seen: list[Event] = []
        self._missed: list[range] = []  # revisions of which it was told that some are gone
        self._world = world
        self._number = number
        self._random = random

    async def run(self) -> None:
        """Until the world ends."""
        while True:
            with trio.move_on_after(self._random.uniform(0.5, 1.5) * PATIENCE_S):
                async with self._world.open_client(self._number, self._random) as client:
                    try:
                        await self._follow(client)
                    except Compacted as told:
                        self._learn(told.first_revision)

    async def _follow(self, client: Client) -> None:
        async with client.subscribe(PATTERN, self.newest + 1, credits=CREDITS) as events:
            async for event in events:
                if event.revision <= self.newest:
                    raise Violation(f"a follower saw {event} after {self.newest}")
                self._seen.append(event)
                self.newest = event.revision
                if self._random.random() < DAWDLES:
                    await trio.sleep(self._random.random() * 2.0)

    def _learn(self, first_revision: int) -> None:
        self._world.note(f"client-{self._number}", f"missed {self.newest + 1}-{first_revision - 1}")
        if first_revision <= self.newest + 1:
            raise Violation(f"a follower at {self.newest} was told to go on at {first_revision}")
        self._missed.append(range(self.newest + 1, first_revision))
        self.newest = first_revision - 1

    def check(self, events: Sequence[Event], kept: dict[int, Event]) -> None:
        """It saw every event, or was told of a gap: and that was a gap."""
        told = {revision for missed in self._missed for revision in missed}
        wanted = [e for e in events if e.revision <= self.newest and e.revision not in told]
        if self._seen != wanted:
            strange = [event for event in self._seen if event not in events]
            unseen = [event for event in wanted if event not in self._seen]
            raise Violation(f"a follower missed {unseen[:5]}, and saw {strange[:5]} instead")
        taken = {event.revision for event in events} - kept.keys()
        if vain := [missed for missed in self._missed if missed[-1] not in taken]:
            raise Violation(f"a follower was told of gaps where none are: {vain[:5]}")


class Reader(LoopingClient):
    """Publishes to the topic that nobody waits for, and looks back."""

    def __init__(self, world: World, number: int, random: Random, workload: Retained) -> None:
        super().__init__(world, number, random)
        self._workload = workload

    async def operate(self, client: Client) -> None:
        random, newest = self.random, len(self.world.archive.events)
        first = random.randint(max(newest - BACK_MAX, 1), max(newest, 1))
        last = random.randint(first, max(newest, first))
        await random.choice([self._publish, self._get, self._query, self._page])(
            client, first, last
        )

    async def _publish(self, client: Client, first: int, last: int) -> None:
        items = [[FREE, None, b""]] * self.random.randint(1, BATCH_MAX)
        request = client.publish_batch(items, timeout_ms=self.timeout_ms())
        await self.ask(f"publish {len(items)} to {FREE}", request)

    async def _get(self, client: Client, first: int, last: int) -> None:
        """One event by its revision."""
        wanted = self._workload.events(first)[:1]
        if wanted:
            gone = set(self._workload.gone)
            request = client.event(wanted[0].revision, timeout_ms=self.timeout_ms())
            answer = await self.ask(f"event {wanted[0].revision}", request)
            if answer.outcome is Outcome.OK:
                self._judge(wanted, [] if answer.result is None else [answer.result], gone)

    async def _query(self, client: Client, first: int, last: int) -> None:
        """All events between two revisions, in pages."""
        descending, limit = self.random.random() < 0.5, self.random.choice([2, 10, 100])
        wanted = [e for e in self._workload.events(first) if e.revision <= last]
        gone, found, cursor = set(self._workload.gone), list[Event](), None
        while True:
            request = client.query_events(
                pattern=PATTERN, from_revision=first, to_revision=last, cursor=cursor,
                limit=limit, descending=descending, timeout_ms=self.timeout_ms(),
            )  # fmt: skip
            answer = await self.ask(f"query {first}-{last} at {cursor}", request)
            if answer.outcome is not Outcome.OK:
                return
            found += answer.result.events
            cursor = answer.result.cursor
            if cursor is None:
                break
        self._judge(wanted, found[::-1] if descending else found, gone)

    async def _page(self, client: Client, first: int, last: int) -> None:
        """A part of the log, of which nothing may be missing."""
        gone = set(self._workload.gone)
        request = client.read_events(
            first, pattern=PATTERN, limit=self.random.choice([5, 50]), timeout_ms=self.timeout_ms()
        )
        answer = await self.ask(f"read from {first}", request)
        if answer.outcome is Outcome.OK:
            found, following, _ = answer.result
            wanted = [e for e in self._workload.events(first) if e.revision < following]
            if found != wanted:
                raise Violation(f"{wanted} were to be read from {first} on: {found}")
            self._judge(wanted, found, gone)

    def _judge(self, wanted: list[Event], found: list[Event], gone: set[int]) -> None:
        """`gone`: what was known to be gone when this was asked for."""
        there = {event.revision for event in found}
        if [event for event in wanted if event.revision in there] != found:
            raise Violation(f"{found} was found, and there were {wanted}")
        if back := there & gone:
            raise Violation(f"retention took {sorted(back)} before, and they were found")
        self._workload.gone.update(
            event.revision for event in wanted if event.revision not in there
        )
