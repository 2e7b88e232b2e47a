"""Transactions: look at some keys, then put some, delete one and publish, in one step.

Each is in the log whole or not at all, and where it is, the keys were as it expected. Each key is a
register on which a transaction is a compare and set; linearizable.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from pubsub.events import Event
from simulation.history import History, Kind, Operation, Outcome
from simulation.linearizability import Linearizable, check
from simulation.node.workloads.clients import Answer, ClientsWorkload, LoopingClient
from simulation.node.workloads.submissions import DELETE, WRITE, Submission, Submissions
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

CLIENTS = 3
NUMBER_FROM = 200
"""Their hosts are not those of other clients."""
KEYS = [f"t/{number}" for number in range(4)]
TOPIC = "t.done"
READS = 0.2
DELETES = 0.3
EXPECTS = 0.25
"""So many compare nothing, and expect a revision in their last put."""


class Known(NamedTuple):
    """What a client knows of a key that stands; of one that it wrote itself, not everything."""

    value: str
    mod_revision: int
    create_revision: int | None = None
    version: int | None = None


class Transactions(ClientsWorkload):
    """Several clients on a few keys."""

    def __init__(self, world: World, random: Random) -> None:
        self.history = History()
        self.submissions = Submissions("t")
        self.expected: dict[str, dict[str, str | None]] = {}  # submission -> key -> value
        super().__init__(
            [
                TransactionsClient(world, NUMBER_FROM + n, Random(random.getrandbits(64)), self)
                for n in range(CLIENTS)
            ]
        )

    def check(self, events: Sequence[Event]) -> None:
        """Whole, once, where they were told; with what they expected; linearizable."""
        self.submissions.check(events)
        self._replay(events)
        verdict = check(self.history)
        if not isinstance(verdict, Linearizable):
            raise Violation(str(verdict))

    def _replay(self, events: Sequence[Event]) -> None:
        """Walk the log: each transaction found what it expected, each event what it says."""
        stands: dict[str, tuple[str, int]] = {}  # key -> value, revision
        seen: set[str] = set()
        for event in events:
            name = self.submissions.find(event)
            if name is None:
                continue
            if name not in seen:
                seen.add(name)
                for key, expected in self.expected[name].items():
                    found, _ = stands.get(key, (None, 0))
                    if found != expected:
                        raise Violation(f"{name} found {key} = {found}, expected {expected}")
            if event.topic not in (WRITE, DELETE):
                continue
            assert event.key is not None, "an event of a key"
            before = event.data[3] if event.topic == WRITE else event.data[0]
            stood, revision = stands.pop(event.key, (None, 0))
            if before != revision:
                raise Violation(f"{event} follows {stood} at {revision}")
            if event.topic == WRITE:
                stands[event.key] = event.data[0].decode(), event.revision


class TransactionsClient(LoopingClient):
    """Goes by what it knows, which is soon out of date, and learns from what is refused."""

    def __init__(self, world: World, number: int, random: Random, workload: Transactions) -> None:
        super().__init__(world, number, random)
        self._workload = workload
        self._history = workload.history
        self._known: dict[str, Known | None] = dict.fromkeys(KEYS)

    async def operate(self, client: Client) -> None:
        if self.random.random() < READS:
            await self._read(client, self.random.choice(KEYS))
            return
        keys = self.random.sample(KEYS, 3)
        deleted = keys.pop() if self.random.random() < DELETES else None
        if self.random.random() < EXPECTS:
            await self._expect(client, keys[0], deleted, keys[1])
        else:
            await self._compare(client, keys[: self.random.choice([1, 2, 2])], deleted)

    async def _read(self, client: Client, key: str) -> None:
        operation = self._invoke(Kind.READ, key, None)
        answer = await self.ask(f"get {key}", client.get(key, timeout_ms=self.timeout_ms()))
        if answer.outcome is Outcome.OK:
            self._learn(key, answer.result)
            self._history.ok(operation, self._value(key), trio.current_time())
        else:
            self._close([operation], answer)

    async def _compare(self, client: Client, keys: list[str], deleted: str | None) -> None:
        """Compare one key or two and write them; else learn what they are."""
        submission = self._begin(keys)
        value = submission.name.encode()
        submission.planned += [(WRITE, key, value) for key in keys]
        submission.planned += [(DELETE, deleted, None)] if deleted else []
        submission.planned.append((TOPIC, None, value))
        guarded = [self._invoke(Kind.CAS, key, submission.name) for key in keys]
        others = [self._invoke(Kind.DELETE, deleted, None)] if deleted else []
        compares = [compare for key in keys for compare in self._compares(key)]
        args = [compares, submission.items, [["get", key] for key in keys]]
        await self._submit(client, submission, args, guarded, others)

    async def _expect(self, client: Client, key: str, deleted: str | None, last: str) -> None:
        """Write without comparing, and end with a put whose expected revision may refuse all."""
        submission = self._begin([last])
        value = submission.name.encode()
        submission.planned += [(WRITE, key, value), (TOPIC, key, value)]
        submission.planned += [(DELETE, deleted, None)] if deleted else []
        submission.planned.append((WRITE, last, value))
        others = [self._invoke(Kind.WRITE, key, submission.name)]
        others += [self._invoke(Kind.DELETE, deleted, None)] if deleted else []
        guarded = [self._invoke(Kind.CAS, last, submission.name)]
        items = submission.items
        known = self._known[last]
        items[-1] += [None, 0 if known is None else known.mod_revision]
        await self._submit(client, submission, [[], items], guarded, others)

    async def _submit(
        self,
        client: Client,
        submission: Submission,
        args: list[Any],
        guarded: list[Operation],
        others: list[Operation],
    ) -> None:
        """Ask, and note what the answer says about each key."""
        what = f"txn {submission.name} {' '.join(o.key for o in [*guarded, *others])}"
        timeout_ms = self.timeout_ms()
        request = client.request("txn", args, timeout_ms=timeout_ms, trace=submission.trace)
        answer = await self.ask(what, request)
        submissions = self._workload.submissions
        if answer.outcome is Outcome.OK and answer.result[0]:
            revisions = answer.result[1]
            submissions.end(submission, Outcome.OK, [r for r in revisions if r])
            self._succeed([*guarded, *others], submission, revisions)
            return
        refused = Answer(Outcome.FAIL, None, "refused")
        if answer.outcome is Outcome.OK:
            submissions.end(submission, Outcome.FAIL)
            self._refused(guarded, answer.result[1])
            self._close(others, refused)
        elif answer.error == "revision_mismatch":
            submissions.end(submission, Outcome.FAIL)
            self._history.ok(guarded[0], False, trio.current_time())
            self._close(others, refused)
            await self._read(client, guarded[0].key)
        else:
            submissions.end(submission, answer.outcome)
            self._close([*guarded, *others], answer)

    def _succeed(
        self, operations: list[Operation], submission: Submission, revisions: list[int]
    ) -> None:
        for (topic, key, _), revision in zip(submission.planned, revisions, strict=True):
            if topic == WRITE and key is not None:
                self._known[key] = Known(submission.name, revision)
            elif topic == DELETE and key is not None:
                self._known[key] = None
        for operation in operations:
            matched = True if operation.kind is Kind.CAS else None
            self._history.ok(operation, matched, trio.current_time())

    def _refused(self, guarded: list[Operation], rows: list[Any]) -> None:
        """The other branch told what stands: at least one key is not as it was expected."""
        for operation, row in zip(guarded, rows, strict=True):
            self._learn(operation.key, row)
            if self._value(operation.key) != operation.expected:
                self._history.ok(operation, False, trio.current_time())
            else:
                self._close([operation], Answer(Outcome.FAIL, None, "another key"))
        if not any(operation.result is False for operation in guarded):
            raise Violation(f"refused, and all was as it expected: {rows}")

    # --- what it knows, and its history ---

    def _value(self, key: str) -> str | None:
        known = self._known[key]
        return None if known is None else known.value

    def _learn(self, key: str, row: Any) -> None:
        if row is None:
            self._known[key] = None
        else:
            _, value, create_revision, mod_revision, version, _ = row
            self._known[key] = Known(value.decode(), mod_revision, create_revision, version)

    def _compares(self, key: str) -> list[list[Any]]:
        """One of the ways to ask whether a key is as this client knows it."""
        known = self._known[key]
        if known is None:
            field = self.random.choice(["exists", "version", "mod_revision", "create_revision"])
            return [[key, field, "=", False if field == "exists" else 0]]
        ways: list[list[list[Any]]] = [
            [[key, "value", "=", known.value.encode()]],
            [[key, "mod_revision", "=", known.mod_revision]],
        ]
        if known.version is not None:
            created = [key, "create_revision", "=", known.create_revision]
            ways.append([created, [key, "version", "=", known.version]])
        return self.random.choice(ways)

    def _begin(self, guarded: list[str]) -> Submission:
        submission = self._workload.submissions.begin()
        expected = {key: self._value(key) for key in guarded}
        self._workload.expected[submission.name] = expected
        return submission

    def _invoke(self, kind: Kind, key: str, value: str | None) -> Operation:
        expected = self._value(key) if kind is Kind.CAS else None
        now = trio.current_time()
        return self._history.invoke(self.number, kind, key, value, now, expected=expected)

    def _close(self, operations: list[Operation], answer: Answer) -> None:
        """None of them is known to have happened."""
        end = self._history.fail if answer.outcome is Outcome.FAIL else self._history.info
        for operation in operations:
            end(operation, answer.error, trio.current_time())
