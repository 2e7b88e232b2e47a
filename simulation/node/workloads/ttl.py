"""Keys that expire: each once, never before its time, and all of them in the end.

Time is told twice: the cluster's clock is in the log, and a watcher looks at the virtual one while
the wall clock of one machine may be an hour off. What the cluster's clock shows may run faster by
`SLEW_MAX` (cluster/raft/clock.py), so that much a key may expire early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from cluster.raft.clock import SLEW_MAX
from pubsub.events import Event
from simulation.node.workloads.clients import OPEN_S, ClientsWorkload, LoopingClient
from simulation.node.workloads.submissions import DELETE, WRITE, Submissions
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

CLIENTS = 3
NUMBER_FROM = 400
"""Their hosts are not those of other clients."""
PREFIX = "ttl/"
KEYS = [f"{PREFIX}{number}" for number in range(8)]
TTLS_MS = [300, 1_000, 2_000, 5_000]
EXPIRED = "hooks.kv.ttl_expired"
ROUNDING_MS = 2
"""Both stamps are cut to whole milliseconds."""


class Ttl(ClientsWorkload):
    """Several clients that write keys for a short time, and one watcher of these keys."""

    def __init__(self, world: World, random: Random) -> None:
        self.submissions = Submissions("ttl")
        self.ttls_ms: dict[str, int | None] = {}  # of the write of each submission
        self.begun_s: dict[str, float] = {}
        self._world = world
        self._watcher = Watcher(world, NUMBER_FROM + CLIENTS, Random(random.getrandbits(64)))
        super().__init__(
            [
                TtlClient(world, NUMBER_FROM + number, Random(random.getrandbits(64)), self)
                for number in range(CLIENTS)
            ]
        )

    def begin(self, nursery: trio.Nursery) -> None:
        super().begin(nursery)
        nursery.start_soon(self._watcher.run)

    def is_done(self) -> bool:
        """Whether nothing is left that is to expire, and the watcher has seen all of it."""
        node = self._world.any_node()
        if node is None or not super().is_done():
            return False
        found = node.read_events(1, 1 << 30, 1 << 40)
        changes = _changes(event for event in found if isinstance(event, Event))
        newest = {event.key: event for event in changes}.values()
        if any(event.topic == WRITE and event.data[4] is not None for event in newest):
            return False
        return not changes or self._watcher.newest == changes[-1].revision

    def check(self, events: Sequence[Event]) -> None:
        """Each expiry is that of what stood; none is early, missing or told twice."""
        self.submissions.check(events)
        changes = _changes(events)
        if [event.revision for event in changes] != list(self._watcher.seen_s):
            raise Violation("the watcher did not see each change once and in order")
        stands: dict[str | None, Event] = {}
        for event in changes:
            before = stands.pop(event.key, None)
            if event.topic == WRITE:
                stands[event.key] = event
                self._check_write(event)
            elif event.topic == EXPIRED:
                self._check_expiry(event, before)
        if left := [event for event in stands.values() if event.data[4] is not None]:
            raise Violation(f"these never expired: {left}")

    def _check_write(self, write: Event) -> None:
        ttl_ms = self.ttls_ms[str(write.correlation_id)]
        wanted = None if ttl_ms is None else write.wall_ms + ttl_ms
        if write.data[4] != wanted:
            raise Violation(f"{write} is to expire at {write.data[4]}, not at {wanted}")

    def _check_expiry(self, expiry: Event, write: Event | None) -> None:
        if write is None or write.data[4] is None:
            raise Violation(f"{expiry}: nothing stood there that could expire")
        if list(expiry.data) != [write.revision, write.data[2], write.data[4]]:
            raise Violation(f"{expiry} is not that of {write}")
        if expiry.wall_ms < write.data[4]:
            raise Violation(f"{expiry} is early by the cluster's clock: {write}")
        name = str(write.correlation_id)
        lived_s = self._watcher.seen_s[expiry.revision] - self.begun_s[name]
        ttl_ms = self.ttls_ms[name] or 0
        if lived_s * 1000 < (ttl_ms - ROUNDING_MS) / SLEW_MAX:
            raise Violation(f"{expiry} after {lived_s:.3f} s: {ttl_ms} ms were asked")


def _changes(events: Iterable[Event]) -> list[Event]:
    """Of the keys of this workload."""
    topics = (WRITE, DELETE, EXPIRED)
    return [e for e in events if e.topic in topics and (e.key or "").startswith(PREFIX)]


class TtlClient(LoopingClient):
    """Writes keys with a short life, with another one while they live, or with none, or deletes."""

    def __init__(self, world: World, number: int, random: Random, workload: Ttl) -> None:
        super().__init__(world, number, random)
        self._workload = workload

    async def operate(self, client: Client) -> None:
        key = self.random.choice(KEYS)
        submission = self._workload.submissions.begin()
        name = submission.name
        if self.random.random() < 0.1:
            submission.planned.append((DELETE, key, None))
            args: list[Any] = [key]
        else:
            submission.planned.append((WRITE, key, name.encode()))
            ttl_ms = None if self.random.random() < 0.1 else self.random.choice(TTLS_MS)
            self._workload.ttls_ms[name] = ttl_ms
            self._workload.begun_s[name] = trio.current_time()
            args = [key, name.encode(), ttl_ms]
        verb = "put" if len(args) > 1 else "delete"
        timeout_ms = self.timeout_ms()
        request = client.request(verb, args, timeout_ms=timeout_ms, trace=submission.trace)
        answer = await self.ask(f"{verb} {name} {key} {args[2:]}", request)
        revisions = [answer.result] if answer.result else []
        self._workload.submissions.end(submission, answer.outcome, revisions)


class Watcher:
    """Watches the keys from the beginning, over clients that it closes now and then."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.newest = 0
        self.seen_s: dict[int, float] = {}  # revision -> when, in the order of sight
        self._world = world
        self._number = number
        self._random = random

    async def run(self) -> None:
        while True:
            with trio.move_on_after(self._random.uniform(0.5, 1.5) * OPEN_S):
                async with (
                    self._world.open_client(self._number, self._random) as client,
                    client.watch(PREFIX, self.newest + 1) as events,
                ):
                    async for event in events:
                        if event.revision <= self.newest:
                            raise Violation(f"the watcher saw {event} after {self.newest}")
                        self.newest = event.revision
                        self.seen_s[event.revision] = trio.current_time()
