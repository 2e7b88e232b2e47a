"""Consumer groups of clients, in both modes, over members that come, crash, dawdle and go.

Each event of the group's topic is completed once: its effect, which commits with the ack, is in the
log exactly once, or the event is a dead letter and has none. Where the group keeps order, effects
of one key are in the order of their events. A delivery, which is an event under a token, is handed
to one member only, and a later delivery of an event has a higher token.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from cluster.client.effects import publish
from cluster.errors import TremulaError
from hooks.registry import Registry
from pubsub import groups
from pubsub.consumer_groups.assignment import partition_of
from pubsub.consumer_groups.group_settings import COMPETING, PARTITIONED
from pubsub.events import Event
from simulation.node.machine import Machine
from simulation.node.workloads.clients import LoopingClient
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.client.delivery import Delivery
    from simulation.node.world import World

MEMBERS = 3
NUMBER_FROM = 600
"""Their hosts are not those of other clients."""
KEYS = [f"k{number}" for number in range(5)]
BATCH_MAX = 4
LIFE_S = 5.0
"""About so long a member lives before it crashes or leaves."""
TTL_MS = 2_000
LEASE_MS = 1_000
MAX_DELIVERIES = 40
"""More than bad luck needs: members crash and fail all the time."""
AGAIN_S = 0.2
GIVES_UP = 0.02


class Plan(NamedTuple):
    """How a group is defined. `number`: of its clients, beginning with that."""

    mode: str
    name: str
    number: int
    options: dict[str, Any]


def partitioned(random: Random, name: str, number: int) -> Plan:
    """A group whose members own partitions."""
    return Plan(PARTITIONED, name, number, {"cooldown_ms": random.choice([0, 0, 500])})


def competing(random: Random, name: str, number: int) -> Plan:
    """A group whose members lease events."""
    options = {
        "lease_ms": LEASE_MS,
        "max_deliveries": MAX_DELIVERIES,
        "backoff_ms": random.choice([[], [50, 200]]),
        "max_in_flight": random.choice([4, 100]),
        "ordered": random.random() < 0.5,
    }
    return Plan(COMPETING, name, number, options)


class Consumers:
    """One group, its producer and its members."""

    def __init__(
        self,
        world: World,
        random: Random,
        plan: Plan,
        topic: str | None = None,
        *,
        members: int = MEMBERS,
        gives_up: float = GIVES_UP,
    ) -> None:
        """`gives_up`: so many deliveries become dead letters."""
        self.world = world
        self.random = random
        self.mode = plan.mode
        self.group = f"sim.{plan.name}"
        self.topic = topic or f"work.{plan.name}"
        self.done_topic = f"done.{plan.name}"
        self.options = {"mode": plan.mode, **plan.options}
        self.keeps_order = plan.mode == PARTITIONED or self.options["ordered"]
        self.gives_up = gives_up
        self.is_defined = False
        self.stopping = False
        self.given: dict[tuple[int, int], str] = {}  # (revision, token): the run of a member
        self.tokens: dict[int, int] = {}  # by revision, the highest
        self.given_up: set[int] = set()
        self._number = NUMBER_FROM + plan.number
        self.producer = Producer(self, self._number)
        self.members = [Member(self, self._number + 1 + number) for number in range(members)]

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._define)
        nursery.start_soon(self.producer.run)
        for member in self.members:
            nursery.start_soon(member.run)

    def stop(self) -> None:
        self.stopping = self.producer.stopping = True

    def is_done(self) -> bool:
        """Whether the cluster knows that every event of the group was dealt with. The floor of a
        partition in which nothing happens follows only where a member lives for seconds."""
        node = self.world.any_node()
        if not self.producer.stopped or node is None:
            return False
        connection = node.machine.connection
        described = groups.describe(connection, self.group)
        if described is None:
            return False
        partitions = described["partitions"]
        done = [
            dict.fromkeys(groups.completions(connection, self.group, p["partition"]))
            for p in partitions
        ]
        for event in node.read_events(1, 1 << 30, 1 << 40):
            if self.concerns(event):
                number = partition_of(event.key or event.topic, len(partitions))
                floor = partitions[number]["floor"]
                if event.revision > floor and event.revision not in done[number]:
                    return False
        return True

    def concerns(self, event: Event) -> bool:
        """Whether the group is to deal with it."""
        return event.topic == self.topic

    def deliver(self, run: str, delivery: Delivery) -> None:
        """A member was handed an event."""
        revision, token = delivery.revision, delivery.token
        owner = self.given.setdefault((revision, token), run)
        if owner != run:
            raise Violation(f"{revision} was delivered under {token} to {owner} and to {run}")
        self.tokens[revision] = max(token, self.tokens.get(revision, 0))

    def check(self, events: Sequence[Event]) -> None:
        """Hold the effects against the events."""
        key_of = {event.revision: event.key for event in events if self.concerns(event)}
        done = [int(event.data[0]) for event in events if event.topic == self.done_topic]
        dead = self._dead()
        if repeated := [revision for revision, times in Counter(done).items() if times > 1]:
            raise Violation(f"{self.group}: effects more than once of {repeated[:10]}")
        if both := dead & set(done):
            raise Violation(f"{self.group}: dead and done {sorted(both)[:10]}")
        self.check_missing(events, key_of.keys() - dead - set(done))
        if strange := set(done) - key_of.keys():
            raise Violation(f"{self.group}: effects of nothing {sorted(strange)[:10]}")
        if killed := dead - self.given_up:
            raise Violation(f"{self.group}: nobody gave up {sorted(killed)[:10]}")
        if self.keeps_order:
            by_key: dict[str | None, list[int]] = defaultdict(list)
            for revision in done:
                by_key[key_of[revision]].append(revision)
            for key, revisions in by_key.items():
                if revisions != sorted(revisions):
                    raise Violation(f"{self.group}: {key} out of order: {revisions}")

    def check_missing(self, events: Sequence[Event], missing: set[int]) -> None:
        """Of these events there is neither an effect nor a dead letter."""
        if missing:
            raise Violation(f"{self.group}: never completed {sorted(missing)[:10]}")

    def _dead(self) -> set[int]:
        node = self.world.any_node()
        assert node is not None, "checked when all agree"
        letters = groups.dead_letters(node.machine.connection, self.group)
        return {int(letter["revision"]) for letter in letters}

    async def _define(self) -> None:
        """An operator defines it, and does not give up."""
        partitions = 4 if self.mode == PARTITIONED else 1
        arguments = [self.group, self.topic, partitions, "earliest", 1, self.options]
        async with self.world.open_client(self._number, self.random) as client:
            while not self.is_defined:
                try:
                    await client.request("group.define", arguments)
                    self.is_defined = True
                except TremulaError as error:
                    self.world.note("operator", f"define {self.group}: {error.code}")
                    await trio.sleep(AGAIN_S)


class Partitioned(Consumers):
    """Members own partitions."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random, partitioned(random, PARTITIONED, 10))


class Competing(Consumers):
    """Members lease events."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random, competing(random, COMPETING, 20))


class Producer(LoopingClient):
    """Publishes what is to be done, and does not care for the answers: the log tells."""

    def __init__(self, consumers: Consumers, number: int) -> None:
        super().__init__(consumers.world, number, Random(consumers.random.getrandbits(64)))
        self._topic = consumers.topic

    async def operate(self, client: Client) -> None:
        keys = [self.random.choice(KEYS) for _ in range(self.random.randint(1, BATCH_MAX))]
        items = [[self._topic, key, b"", None, None] for key in keys]
        request = client.publish_batch(items, timeout_ms=self.timeout_ms())
        await self.ask(f"publish {len(items)} to {self._topic}", request)


class Member:
    """One after the other: runs of a process that consumes."""

    def __init__(self, consumers: Consumers, number: int) -> None:
        self._consumers = consumers
        self._number = number
        self._random = Random(consumers.random.getrandbits(64))
        self._runs = 0

    async def run(self) -> None:
        """Until the world ends: now and then a crash, a leave in good order, or another name."""
        consumers, random = self._consumers, self._random
        while True:
            await trio.sleep(random.random() * 0.5)
            if not consumers.is_defined:
                continue
            self._runs += 1
            life_s = random.expovariate(1 / LIFE_S) + 0.2
            crashes = random.random() < 0.5
            leaves = trio.CancelScope(deadline=trio.current_time() + (1e9 if crashes else life_s))
            with trio.CancelScope(deadline=trio.current_time() + (life_s if crashes else 1e9)):
                async with consumers.world.open_client(self._number, random) as client:
                    await self._consume(client, leaves)
            consumers.world.note(f"client-{self._number}", "crashes" if crashes else "leaves")

    async def _consume(self, client: Client, leaves: trio.CancelScope) -> None:
        consumers, random = self._consumers, self._random
        name = f"m{self._number}" if random.random() < 0.5 else f"m{self._number}.{self._runs}"
        group = client.group(consumers.group)
        prefetch = random.choice([2, 8, 64])
        consumer = group.consume(name, prefetch=prefetch, auto_ack=False, ttl_ms=TTL_MS)
        async with consumer as deliveries:
            with leaves:
                async for delivery in deliveries:
                    await self._handle(delivery)

    async def _handle(self, delivery: Delivery) -> None:
        consumers, random = self._consumers, self._random
        revision = delivery.revision
        run = f"m{self._number}.{self._runs}"
        consumers.deliver(run, delivery)
        consumers.world.note(f"client-{self._number}", f"gets {revision} {delivery.token}")
        slow = random.random() < 0.03
        await trio.sleep(random.random() * (2.0 if slow else 0.05))
        chance = random.random()
        try:
            if chance < 0.1:
                await delivery.nack(random.choice([None, 0, 300]), "now and then")
            elif chance < 0.1 + consumers.gives_up:
                consumers.given_up.add(revision)
                await delivery.dead_letter("not this one")
            else:
                effect = publish(consumers.done_topic, b"%d" % revision, key=delivery.event.key)
                was_given_again = consumers.tokens[revision] > delivery.token
                if chance < 0.4:
                    delivery.ack_nowait([effect])
                    return
                await delivery.ack([effect])
                if was_given_again:
                    raise Violation(f"{revision} was acked under a token of the past: {run}")
        except TremulaError as error:
            consumers.world.note(f"client-{self._number}", f"{revision}: {error.code}")
