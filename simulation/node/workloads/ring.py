"""A ring: each key holds the number of the next one, and clients swap neighbours in transactions.

After any number of swaps it is one ring over all keys (FoundationDB's cycle). Every page that a
reader gets is the state at the revision that came with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.protocol import LINEARIZABLE, LOCAL
from pubsub.events import Event
from simulation.history import Outcome
from simulation.node.workloads.clients import ClientsWorkload, LoopingClient
from simulation.node.workloads.submissions import WRITE, Submission, Submissions
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

CLIENTS = 3
NUMBER_FROM = 300
"""Their hosts are not those of other clients."""
SIZE = 6
KEYS = [f"ring/{number}" for number in range(SIZE)]
END = "ring0"  # "0" follows "/"
READS = 0.4


class Seen(NamedTuple):
    """A page: the keys from `start` on that stood at `revision`, with their values."""

    start: str
    values: dict[str, int]
    more: bool
    revision: int
    floor: int  # the newest revision that anybody had been told when it was asked for
    level: str


class Ring(ClientsWorkload):
    """Several clients on one ring."""

    def __init__(self, world: World, random: Random) -> None:
        self.submissions = Submissions("ring")
        self.pages: list[Seen] = []
        super().__init__(
            [
                RingClient(world, NUMBER_FROM + number, Random(random.getrandbits(64)), self)
                for number in range(CLIENTS)
            ]
        )

    def check(self, events: Sequence[Event]) -> None:
        """One ring after each transaction, and each page is a part of what stood."""
        self.submissions.check(events)
        stands: dict[str, int] = {}
        states = [stands]  # by revision
        for event, following in zip(events, [*events[1:], None], strict=True):
            name = self.submissions.find(event)
            if name is not None and event.topic == WRITE and event.key is not None:
                stands = {**stands, event.key: int(event.data[0])}
                if following is None or self.submissions.find(following) != name:
                    hold_together(stands, f"revision {event.revision}")
            states.append(stands)
        for page in self.pages:
            found = {
                key: value for key, value in states[page.revision].items() if key >= page.start
            }
            if page.more:
                found = dict(sorted(found.items())[: len(page.values)])
            if found != page.values:
                raise Violation(f"{page} was read, and {found} stood at that revision")
            if page.level == LINEARIZABLE and page.revision < page.floor:
                raise Violation(f"{page} was read when revision {page.floor} had been told")


class RingClient(LoopingClient):
    """Makes the ring if it finds none; then it reads it, or swaps two neighbours."""

    def __init__(self, world: World, number: int, random: Random, workload: Ring) -> None:
        super().__init__(world, number, random)
        self._workload = workload
        self._is_made = False

    async def operate(self, client: Client) -> None:
        if not self._is_made:
            await self._make(client)
        elif self.random.random() < READS:
            await self.random.choice([self._read_pages, self._read_in_transaction])(client)
        else:
            await self._swap(client)

    async def _make(self, client: Client) -> None:
        submission = self._workload.submissions.begin()
        submission.planned += [
            (WRITE, key, b"%d" % ((number + 1) % SIZE)) for number, key in enumerate(KEYS)
        ]
        compares = [[KEYS[0], "exists", "=", False]]
        self._is_made = await self._submit(client, submission, compares) is not None

    async def _read_pages(self, client: Client) -> None:
        """All keys, in one page or in several, each of them as of its own revision."""
        level = self.random.choice([LINEARIZABLE, LINEARIZABLE, LOCAL])
        limit = self.random.choice([2, 4, 100])
        after: str | None = None
        more = True
        while more:
            floor = self._workload.submissions.newest
            request = client.range(
                KEYS[0], END, limit=limit, after=after, level=level, timeout_ms=self.timeout_ms()
            )
            answer = await self.ask(f"range {level} after {after}", request)
            if answer.outcome is not Outcome.OK:
                return
            entries, more, revision = answer.result
            values = {entry.key: int(entry.value) for entry in entries}
            start = KEYS[0] if after is None else after + "\0"
            self._workload.pages.append(Seen(start, values, more, revision, floor, level))
            after = entries[-1].key if entries else None

    async def _read_in_transaction(self, client: Client) -> None:
        request = client.txn([], [["get", key] for key in KEYS], timeout_ms=self.timeout_ms())
        answer = await self.ask("read all", request)
        if answer.outcome is Outcome.OK:
            rows = answer.result[1]
            hold_together({row[0]: int(row[1]) for row in rows if row}, "a transaction's reads")

    async def _swap(self, client: Client) -> None:
        """first -> second -> third -> fourth becomes first -> third -> second -> fourth."""
        number = self.random.randrange(SIZE)
        numbers, rows = [number], []
        for _ in range(3):
            request = client.get(KEYS[number], timeout_ms=self.timeout_ms())
            answer = await self.ask(f"get {KEYS[number]}", request)
            if answer.outcome is not Outcome.OK:
                return
            if answer.result is None:
                raise Violation(f"{KEYS[number]} is gone")
            rows.append(answer.result)
            number = int(answer.result.value)
            numbers.append(number)
        first, second, third, fourth = numbers
        submission = self._workload.submissions.begin()
        submission.planned += [
            (WRITE, KEYS[first], b"%d" % third),
            (WRITE, KEYS[second], b"%d" % fourth),
            (WRITE, KEYS[third], b"%d" % second),
        ]
        if self.random.random() < 0.5:
            compares = [[row.key, "value", "=", row.value] for row in rows]
        else:
            compares = [[row.key, "mod_revision", "=", row.mod_revision] for row in rows]
        await self._submit(client, submission, compares)

    async def _submit(
        self, client: Client, submission: Submission, compares: list[Any]
    ) -> bool | None:
        """Whether the comparisons held; None: not known."""
        args = [compares, submission.items]
        timeout_ms = self.timeout_ms()
        request = client.request("txn", args, timeout_ms=timeout_ms, trace=submission.trace)
        what = f"txn {submission.name} {[(key, value) for _, key, value in submission.planned]}"
        answer = await self.ask(what, request)
        if answer.outcome is not Outcome.OK:
            self._workload.submissions.end(submission, answer.outcome)
            return None
        succeeded, revisions = answer.result
        outcome = Outcome.OK if succeeded else Outcome.FAIL
        self._workload.submissions.end(submission, outcome, revisions)
        return bool(succeeded)


def hold_together(values: Mapping[str, int], when: str) -> None:
    """Raises Violation unless this is one ring over all the keys."""
    at, steps = KEYS[0], 0
    while at in values and steps < SIZE:
        at, steps = KEYS[values[at]], steps + 1
        if at == KEYS[0]:
            break
    if at != KEYS[0] or steps != SIZE or len(values) != SIZE:
        raise Violation(f"no ring at {when}: {values}")
