"""Registers: production clients that write unique values and read them; linearizable."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import trio

from cluster.errors import DefiniteError, TremulaError
from hooks.registry import Registry
from pubsub.events import Event
from simulation.history import History, Kind, Outcome
from simulation.linearizability import Linearizable, check
from simulation.node.machine import Machine
from simulation.violation import Violation

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

FAVOURS = 0.6
"""So many of the clients ask the favourite node."""


class Registers:
    """Several clients on a few keys."""

    def __init__(self, world: World, random: Random) -> None:
        self.history = History()
        self._world = world
        self._clients = [
            RegisterClient(world, number, Random(random.getrandbits(64)), self.history)
            for number in range(world.options.clients)
        ]

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        for client in self._clients:
            nursery.start_soon(client.run)

    def stop(self) -> None:
        for client in self._clients:
            client.stopping = True

    def is_done(self) -> bool:
        return all(client.stopped for client in self._clients)

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


class RegisterClient:
    """Reads and writes, one operation at a time, until it is told to stop."""

    def __init__(self, world: World, number: int, random: Random, history: History) -> None:
        self.stopping = False
        self.stopped = False
        self._world = world
        self._number = number
        self._history = history
        self._random = random
        self._written = 0

    async def run(self) -> None:
        world, random = self._world, self._random
        while not self.stopping:
            favourite = world.favourite
            first = favourite if random.random() < FAVOURS else None
            async with world.open_client(self._number, random, first=first) as client:
                while not self.stopping and world.favourite == favourite:
                    await trio.sleep(random.random() * world.options.think_s * 2)
                    await self._operate(client)
        self.stopped = True

    async def _operate(self, client: Client) -> None:
        options = self._world.options
        key = f"k{self._random.randrange(options.keys)}"
        now = trio.current_time
        value: str | None = None
        if self._random.random() < options.write_share:
            self._written += 1
            value = f"v-{self._number}-{self._written}"
        kind = Kind.READ if value is None else Kind.WRITE
        operation = self._history.invoke(self._number, kind, key, value, now())
        self._note(f"{kind.value} {key} {value or ''}")
        try:
            if value is not None:
                await client.put(key, value.encode())
                result = None
            else:
                row = await client.get(key)
                result = None if row is None else (row.value or b"").decode()
        except DefiniteError as error:
            self._history.fail(operation, error.code, now())
            outcome = f"fail {error.code}"
        except TremulaError as error:
            self._history.info(operation, error.code, now())
            outcome = f"info {error.code}"
        else:
            self._history.ok(operation, result, now())
            outcome = f"ok {result or ''}"
        self._note(f"{kind.value} {key} {value or ''} {outcome}")

    def _note(self, what: str) -> None:
        self._world.note(f"client-{self._number}", what)
