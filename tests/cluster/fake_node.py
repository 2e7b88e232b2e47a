"""A node of one for the tests of the client port: the real state machine, and no Raft.

What was submitted since the last tick becomes one entry, as with the real engine, and everything is
answered in the same order: results, `on_applied`, `on_flush`. Faults are switched on by attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import msgpack
import trio

from cluster.blocking import Blocking, in_thread
from cluster.errors import LeaderChanged, NoLeader, TremulaError
from cluster.indexing import Parts
from cluster.machine import Machine
from cluster.operations import EACH, REGULAR, seal
from cluster.state import open_state
from pubsub import retention
from pubsub.events import Event
from pubsub.log import Compacted, Tail, read_events

Done = Callable[[object], None]


def requests_of(operation: bytes) -> list[tuple[int, str, list[Any]]]:
    """Number, name and arguments of each request that a packed operation stands for."""
    _, seq, name, args, _, _ = msgpack.unpackb(operation)
    if name != EACH:
        return [(seq, name, args)]
    return [(number, args[0], call) for number, call in enumerate(args[1], seq)]


class FakeNode:
    """Implements the interface that the client port needs from a node."""

    def __init__(self, name: str = "a", machine: Machine | None = None) -> None:
        self.name = name
        self.blocking: Blocking = in_thread
        self.cluster_id: str | None = "test-cluster"
        self.leader: str | None = name
        self.machine = machine or Machine(open_state(":memory:"))
        self.on_applied: list[Callable[[], None]] = []
        self.on_flush: list[Callable[[], None]] = []
        self.tail = Tail()
        self.held = False  # Nothing is answered while this is set: no quorum.
        self.calls: list[tuple[Any, ...]] = []  # administration that was asked for
        self.clock_ms = 1  # the leader's clocks, both
        self.operations = 0
        self.barriers = 0
        self.ticks = 0
        self._submitted: list[tuple[bytes, Done]] = []
        self._reads: list[Callable[[TremulaError | None], None]] = []
        self._work = trio.Event()

    @property
    def waiting(self) -> int:
        """How many submitted requests were not applied yet."""
        return sum(len(requests_of(operation)) for operation, _ in self._submitted)

    def open_reader(self) -> apsw.Connection:
        """See `ServedNode`; a database in memory is copied, for it has but one connection."""
        reader = apsw.Connection(":memory:")
        with reader.backup("main", self.machine.connection, "main") as copy:
            copy.step(-1)
        return reader

    def open_index(self) -> Parts:
        """See `ServedNode`; there is none, and every query looks at the events themselves."""
        return Parts([], None)

    def submit(self, operation: bytes, done: Done) -> None:
        """See `ServedNode`."""
        if self.leader is None:
            done(NoLeader())
            return
        self._submitted.append((operation, done))
        self._work.set()

    def read_index(self, done: Callable[[TremulaError | None], None]) -> None:
        """See `ServedNode`."""
        self.barriers += 1
        if self.leader is None:
            done(NoLeader())
            return
        self._reads.append(done)
        self._work.set()

    def hasten(self, is_alone: bool) -> None:
        """See `ServedNode`; tests say when work is done."""

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """See `ServedNode`."""
        return read_events(
            self.tail, lambda: self.machine.connection, from_revision, events_max, bytes_max
        )

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        """See `ServedNode`."""
        return retention.compacted(self.machine.connection, pattern, from_revision)

    def status(self) -> dict[str, Any]:
        """See `ServedNode`."""
        return {"node": self.name, "leader": self.leader, "revision": self.machine.revision}

    def add_member(self, name: str, address: str, done: Done) -> None:
        """See `ServedNode`."""
        self._administer(done, "add", name, address)

    def promote(self, name: str, done: Done) -> None:
        """See `ServedNode`."""
        self._administer(done, "promote", name)

    def remove_member(self, name: str, done: Done) -> None:
        """See `ServedNode`."""
        self._administer(done, "remove", name)

    def transfer_leadership(self, name: str | None, done: Done) -> None:
        """See `ServedNode`."""
        self._administer(done, "transfer", name)

    async def run(self) -> None:
        """Tick whenever there is work."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if not self.held:
                self.tick()

    def release(self) -> None:
        """Answer again."""
        self.held = False
        self.wake()

    def wake(self) -> None:
        """Let the task look whether there is something to do."""
        self._work.set()

    def drop_waiting(self) -> None:
        """Lose what was submitted, as a leader does that dies before it could replicate it."""
        self._submitted.clear()

    def lose_waiting(self) -> None:
        """The same, known to those who wait: a leader that steps down."""
        submitted, self._submitted = self._submitted, []
        for _, done in submitted:
            done(LeaderChanged())
        for call in self.on_flush:
            call()

    def tick(self) -> None:
        """Apply everything that waits as one entry, and answer it."""
        self.ticks += 1
        submitted, self._submitted = self._submitted, []
        reads, self._reads = self._reads, []
        if submitted:
            self.apply([operation for operation, _ in submitted], submitted)
        for read in reads:
            read(None)
        if submitted:
            for call in self.on_applied:
                call()
        for call in self.on_flush:
            call()

    def apply(self, operations: list[bytes], submitted: list[tuple[bytes, Done]]) -> None:
        """Apply one entry, and answer those who wait for it."""
        machine = self.machine
        self.operations += len(operations)
        self.clock_ms += 1
        command = bytes((REGULAR,)) + seal(operations, self.clock_ms, self.clock_ms)
        applied = machine.apply(max(machine.applied_index, 1) + 1, 1, command)
        self.tail.forget(applied.trimmed_to)
        if applied.batch is not None:
            self.tail.append(applied.batch)
        for (_, done), result in zip(submitted, applied.results, strict=True):
            done(result)

    def _administer(self, done: Done, *call: Any) -> None:
        self.calls.append(call)
        done(None)
