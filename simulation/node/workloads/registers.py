"""Registers: production clients that write unique values and read them; linearizable."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from pubsub.events import Event
from simulation.history import History, Kind, Outcome
from simulation.linearizability import Linearizable, check
from simulation.node.workloads.clients import ClientsWorkload, LoopingClient
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World


BURSTS = 0.3
"""So many steps of a client are several operations at once."""
BURST_MAX = 5
APART = 1_000
"""Between the numbers in the history of one client's operations of one burst."""


class Registers(ClientsWorkload):
    """Several clients on a few keys."""

    def __init__(self, world: World, random: Random) -> None:
        self.history = History()
        super().__init__(
            [
                RegisterClient(world, number, Random(random.getrandbits(64)), self.history)
                for number in range(world.options.clients)
            ]
        )

    def count(self, kind: Kind) -> int:
        """Operations of a kind that were answered."""
        return sum(o.kind is kind and o.outcome is Outcome.OK for o in self.history.operations)

    def check(self, events: Sequence[Event]) -> None:
        """Each acknowledged write is one event, each event one write that somebody asked for, what
        was refused is none; and all of it fits one order in time."""
        written = [
            e.data[0].decode()
            for e in events
            if e.topic == "hooks.kv.write_committed" and (e.key or "").startswith("k")
        ]
        if len(set(written)) != len(written):
            raise Violation("the log has a write twice")
        asked = {o.value for o in self.history.operations if o.kind is Kind.WRITE}
        if strange := set(written) - asked:
            raise Violation(f"nobody wrote {sorted(strange)}")
        present = set(written)
        for operation in self.history.operations:
            if operation.kind is not Kind.WRITE:
                continue
            is_there = operation.value in present
            if operation.outcome is Outcome.OK and not is_there:
                raise Violation(f"{operation.value} was acknowledged and is not in the log")
            if operation.outcome is Outcome.FAIL and is_there:
                raise Violation(f"{operation.value} was refused and is in the log")
        result = check(self.history)
        if not isinstance(result, Linearizable):
            raise Violation(str(result))


class RegisterClient(LoopingClient):
    """Reads and writes, mostly one operation at a time, else some at once on one connection: those
    travel together. In the history each of them has a client of its own."""

    def __init__(self, world: World, number: int, random: Random, history: History) -> None:
        super().__init__(world, number, random)
        self._history = history
        self._written = 0

    async def operate(self, client: Client) -> None:
        count = 1
        if self.random.random() < BURSTS:
            count = self.random.randint(2, BURST_MAX)
        async with trio.open_nursery() as nursery:
            for slot in range(count):
                nursery.start_soon(self._operate, client, self.number + slot * APART)

    async def _operate(self, client: Client, number: int) -> None:
        options = self.world.options
        key = f"k{self.random.randrange(options.keys)}"
        value: str | None = None
        if self.random.random() < options.write_share:
            self._written += 1
            value = f"v-{self.number}-{self._written}"
        kind = Kind.READ if value is None else Kind.WRITE
        operation = self._history.invoke(number, kind, key, value, trio.current_time())
        request = client.get(key) if value is None else client.put(key, value.encode())
        answer = await self.ask(f"{kind.value} {key} {value or ''}".strip(), request)
        if answer.outcome is Outcome.OK:
            result = None
            if value is None and answer.result is not None:
                result = (answer.result.value or b"").decode()
            self._history.ok(operation, result, trio.current_time())
        elif answer.outcome is Outcome.FAIL:
            self._history.fail(operation, answer.error, trio.current_time())
        else:
            self._history.info(operation, answer.error, trio.current_time())
