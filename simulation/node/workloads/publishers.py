"""Publishers: events one by one and in batches, and batches of changes of keys.

Whatever was acknowledged is in the log once, where its publisher was told, behind all that had been
acknowledged before; a batch is whole and side by side, and a refused one leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from pubsub.events import Event
from simulation.history import Outcome
from simulation.node.workloads.clients import ClientsWorkload, LoopingClient
from simulation.node.workloads.submissions import DELETE, WRITE, Planned, Submissions

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

PUBLISHERS = 3
NUMBER_FROM = 500
"""Their hosts are not those of other clients."""
TOPICS = ["news.one", "news.two"]
EVENT_KEYS = [None, "x", "y"]
KEYS = [f"b/{number}" for number in range(4)]
BATCH_MAX = 5
IMPOSSIBLE_REVISION = 1 << 40
REFUSED = 0.2
"""So many batches of changes end with one that expects what is not."""


class Publishers(ClientsWorkload):
    """Several, each of which waits for its answer before it goes on."""

    def __init__(self, world: World, random: Random) -> None:
        self.submissions = Submissions("b")
        super().__init__(
            [
                Publisher(world, NUMBER_FROM + n, Random(random.getrandbits(64)), self.submissions)
                for n in range(PUBLISHERS)
            ]
        )

    def check(self, events: Sequence[Event]) -> None:
        """What the submissions promise."""
        self.submissions.check(events)


class Publisher(LoopingClient):
    """Publishes once or in a batch, or changes keys in a batch."""

    def __init__(self, world: World, number: int, random: Random, submissions: Submissions) -> None:
        super().__init__(world, number, random)
        self._submissions = submissions

    async def operate(self, client: Client) -> None:
        verb = self.random.choice(["publish", "publish_batch", "batch"])
        count = 1 if verb == "publish" else self.random.randint(1, BATCH_MAX)
        submission = self._submissions.begin()
        draw = self._draw_change if verb == "batch" else self._draw_event
        submission.planned += [draw(f"{submission.name}.{n}".encode()) for n in range(count)]
        args: list[Any]
        if verb == "batch":
            args = [submission.items]
            if self.random.random() < REFUSED:
                args[0].append(["delete", self.random.choice(KEYS), IMPOSSIBLE_REVISION])
        else:
            items = [item[1:] for item in submission.items]
            args = items[0] if verb == "publish" else [items]
        timeout_ms = self.timeout_ms()
        request = client.request(verb, args, timeout_ms=timeout_ms, trace=submission.trace)
        answer = await self.ask(f"{verb} {submission.name} of {count}", request)
        revisions: Sequence[int] = ()
        if answer.outcome is Outcome.OK:
            first, found = (answer.result, 1) if verb == "publish" else answer.result
            revisions = range(first, first + found)
        self._submissions.end(submission, answer.outcome, revisions)

    def _draw_event(self, payload: bytes) -> Planned:
        return self.random.choice(TOPICS), self.random.choice(EVENT_KEYS), payload

    def _draw_change(self, value: bytes) -> Planned:
        key = self.random.choice(KEYS)
        return (DELETE, key, None) if self.random.random() < 0.3 else (WRITE, key, value)
