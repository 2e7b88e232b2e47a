"""Events that are published under message ids, and events that wait for their time.

A message is published again and again under its id, by any client, over any node, whether or not
the attempt before was answered: it is one event, and all answers name it. A delayed event comes
out once, never before its time, or it was cancelled: one of the two, never both.

Time is told twice, as for keys that expire (`simulation.node.workloads.ttl`): by the cluster's
clock, which is in the log, and by the virtual one, of which the cluster's may run ahead by
`SLEW_MAX`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from cluster.raft.clock import SLEW_MAX
from pubsub.events import Event
from pubsub.publishing import delayed
from simulation.history import Outcome
from simulation.node.workloads.clients import Answer, ClientsWorkload, LoopingClient
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

CLIENTS = 3
NUMBER_FROM = 700
"""Their hosts are not those of other clients."""
PREFIX = "later."
TOPICS = [f"{PREFIX}one", f"{PREFIX}two"]
BATCH_MAX = 3
NEW = 0.5
"""So many of the steps are about something new; the others repeat or cancel what came lately."""
LATELY = 8
CRASHES = 0.1
"""So many requests are not waited for: the client hangs up while they are under way."""
CRASH_S = 0.05
DELAYS_MS = [0, 300, 1_000, 3_000]
TIMES_MS = [-1_000, 200, 1_000, 3_000]
"""From the cluster's clock, for what is to come at a named time."""
WITHOUT_ID = 0.3
ROUNDING_MS = 2


@dataclass(slots=True, eq=False)
class Message:
    """Something to publish: its name is its payload and its message id."""

    name: str
    topic: str
    delay_ms: int | None = None
    at_ms: int | None = None
    has_id: bool = True
    begun_s: float = 0.0
    begun_ms: int = 0  # on the cluster's clock
    attempts: list[Outcome] = field(default_factory=list)
    answer: int | None = None  # the revision, or the id of what waits
    cancels: list[Outcome | bool] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return self.delay_ms is not None or self.at_ms is not None

    @property
    def due_ms(self) -> int:
        """At the earliest, on the cluster's clock."""
        return self.begun_ms + (self.delay_ms or 0) if self.at_ms is None else self.at_ms

    @property
    def item(self) -> list[Any]:
        """As a batch takes it."""
        options = {"message_id": self.name} if self.has_id else None
        return [self.topic, None, self.name.encode(), None, None, options]


class Later(ClientsWorkload):
    """Several clients that publish the same messages, and cancel each other's."""

    def __init__(self, world: World, random: Random) -> None:
        self.messages: list[Message] = []
        self._world = world
        self._found: dict[str, Event] = {}  # by name; those of the log up to _read
        self._read = 0
        super().__init__(
            [
                LaterClient(world, NUMBER_FROM + number, Random(random.getrandbits(64)), self)
                for number in range(CLIENTS)
            ]
        )

    def is_done(self) -> bool:
        """Whether nothing waits any more."""
        node = self._world.any_node()
        if node is None or not super().is_done():
            return False
        return delayed.next_due(node.machine.connection) is None

    def find(self, message: Message) -> Event | None:
        """Its event, as soon as anybody has applied it."""
        events = self._world.archive.events
        for event in events[self._read :]:
            if event.topic.startswith(PREFIX):
                self._found.setdefault(event.data[0].decode(), event)
        self._read = len(events)
        return self._found.get(message.name)

    def answered(self, message: Message, answer: int) -> None:
        """A publish of it was acknowledged."""
        if message.answer is None:
            message.answer = answer
        if message.answer != answer:
            raise Violation(f"{message} was answered {message.answer} and then {answer}")
        event = self.find(message)
        if not message.waits and (event is None or event.revision != answer):
            raise Violation(f"{message} was answered, and is in the log as {event}")

    def cancelled(self, message: Message) -> None:
        """Some cancel of it was answered: if each came too late, the event is there."""
        if all(outcome is False for outcome in message.cancels) and self.find(message) is None:
            raise Violation(f"{message} did not wait any more, and did not come")

    def check(self, events: Sequence[Event]) -> None:
        """Each is in the log as often as it was promised, and not before its time."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            if event.topic.startswith(PREFIX):
                found[event.data[0].decode()].append(event)
        if strange := found.keys() - {message.name for message in self.messages}:
            raise Violation(f"nobody published {sorted(strange)}")
        for message in self.messages:
            came = found[message.name]
            if len(came) > 1:
                raise Violation(f"{message} is in the log {len(came)} times: {came}")
            self._check_presence(message, came)
            if came and message.waits:
                self._check_time(message, came[0])

    def _check_presence(self, message: Message, came: list[Event]) -> None:
        cancels = message.cancels.count(True)
        if cancels > 1:
            raise Violation(f"{message} was cancelled {cancels} times")
        if came and cancels:
            raise Violation(f"{message} was cancelled, and it came: {came}")
        if came and all(outcome is Outcome.FAIL for outcome in message.attempts):
            raise Violation(f"{message} was refused, and it came: {came}")
        unclear = any(outcome in (Outcome.OPEN, Outcome.INFO) for outcome in message.cancels)
        if message.answer is not None and not (came or cancels or unclear):
            raise Violation(f"{message} was accepted, and it never came")

    def _check_time(self, message: Message, event: Event) -> None:
        if event.wall_ms < message.due_ms:
            raise Violation(f"{message} came early by the cluster's clock: {event}")
        waited_s = self._world.archive.seen_s[event.revision - 1] - message.begun_s
        if waited_s * 1000 < ((message.delay_ms or 0) - ROUNDING_MS) / SLEW_MAX:
            raise Violation(f"{message} came early, after {waited_s:.3f} s: {event}")


class LaterClient(LoopingClient):
    """Publishes, at once and for later, what is new and what was published before; cancels."""

    def __init__(self, world: World, number: int, random: Random, workload: Later) -> None:
        super().__init__(world, number, random)
        self._workload = workload

    async def operate(self, client: Client) -> None:
        random, lately = self.random, self._workload.messages[-LATELY:]
        if random.random() < NEW or not lately:
            message = self._draw(waits=random.random() < 0.5)
        else:
            message = random.choice(lately)
        if not message.waits:
            await self._publish(client, message)
        elif message.answer is not None and random.random() < 0.6:
            await self._cancel(client, message)
        elif message.has_id or not message.attempts:
            await self._delay(client, message)

    def _draw(self, *, waits: bool) -> Message:
        random, messages = self.random, self._workload.messages
        message = Message(f"m-{len(messages)}", random.choice(TOPICS))
        message.begun_s, message.begun_ms = trio.current_time(), self.world.wall_ms()
        if waits:
            message.has_id = random.random() >= WITHOUT_ID
            if random.random() < 0.5:
                message.delay_ms = random.choice(DELAYS_MS)
            else:
                message.at_ms = max(message.begun_ms + random.choice(TIMES_MS), 0)
        messages.append(message)
        return message

    async def _publish(self, client: Client, message: Message) -> None:
        """Alone, in a transaction, or in a batch with others, some of which may be itself."""
        verb = self.random.choice(["publish", "txn", "batch"])
        messages = [message]
        timeout_ms = self.timeout_ms()
        if verb == "publish":
            request: Awaitable[Any] = client.request("publish", message.item, timeout_ms=timeout_ms)
        elif verb == "txn":
            request = client.txn([], [["publish", *message.item]], timeout_ms=timeout_ms)
        else:
            lately = [each for each in self._workload.messages[-LATELY:] if not each.waits]
            count = self.random.randint(0, BATCH_MAX - 1)
            messages += [self.random.choice(lately or messages) for _ in range(count)]
            request = client.publish_all([m.item for m in messages], timeout_ms=timeout_ms)
        names = " ".join(each.name for each in messages)
        answer = await self._attempt(f"{verb} {names}", request, messages)
        if answer.outcome is Outcome.OK:
            told = answer.result
            revisions = [told] if verb == "publish" else told[1] if verb == "txn" else told
            for each, revision in zip(messages, revisions, strict=True):
                self._workload.answered(each, revision)

    async def _delay(self, client: Client, message: Message) -> None:
        args = [*message.item, message.delay_ms, message.at_ms]
        request = client.request("publish_later", args, timeout_ms=self.timeout_ms())
        what = f"publish later {message.name} {message.delay_ms} {message.at_ms}"
        answer = await self._attempt(what, request, [message])
        if answer.outcome is Outcome.OK:
            self._workload.answered(message, answer.result)

    async def _cancel(self, client: Client, message: Message) -> None:
        assert message.answer is not None, "the caller has looked"
        number = len(message.cancels)
        message.cancels.append(Outcome.OPEN)
        request = client.cancel_delayed(message.answer, timeout_ms=self.timeout_ms())
        answer = await self._asked(f"cancel {message.name}", request)
        is_ok = answer.outcome is Outcome.OK
        message.cancels[number] = answer.result if is_ok else answer.outcome
        if is_ok:
            self._workload.cancelled(message)

    async def _attempt(self, what: str, request: Awaitable[Any], messages: list[Message]) -> Answer:
        numbers = []
        for message in messages:
            numbers.append(len(message.attempts))
            message.attempts.append(Outcome.OPEN)
        answer = await self._asked(what, request)
        for message, number in zip(messages, numbers, strict=True):
            message.attempts[number] = answer.outcome
        return answer

    async def _asked(self, what: str, request: Awaitable[Any]) -> Answer:
        """The answer, or none: the client crashes before it comes."""
        patience_s = CRASH_S * self.random.random() if self.random.random() < CRASHES else 1e9
        with trio.move_on_after(patience_s):
            return await self.ask(what, request)
        self.world.note(f"client-{self.number}", f"{what} and crashes")
        self.hang_up()
        return Answer(Outcome.INFO, None, "crashed")
