"""Clients of the whole-node level: production clients that write unique values and read them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import trio

from cluster.errors import DefiniteError, TremulaError
from simulation.history import History, Kind

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

KEYS = 5
THINK_S = 0.2


class RegisterClient:
    """Reads and writes registers, one operation at a time, until it is told to stop."""

    def __init__(self, world: World, number: int, history: History) -> None:
        self.stopping = False
        self.stopped = False
        self._world = world
        self._number = number
        self._history = history
        self._random = Random(world.random.getrandbits(64))
        self._written = 0

    async def run(self) -> None:
        async with self._world.open_client(self._number, self._random) as client:
            while not self.stopping:
                await trio.sleep(self._random.random() * THINK_S)
                await self._operate(client)
        self.stopped = True

    async def _operate(self, client: Client) -> None:
        key = f"k{self._random.randrange(KEYS)}"
        begun = trio.current_time
        is_write = self._random.random() < 0.6
        value: str | None = None
        if is_write:
            self._written += 1
            value = f"v-{self._number}-{self._written}"
        kind = Kind.WRITE if is_write else Kind.READ
        operation = self._history.invoke(self._number, kind, key, value, begun())
        self._world.note(f"client-{self._number}", f"{kind.value} {key} {value or ''}")
        try:
            if value is not None:
                await client.put(key, value.encode())
                result = None
            else:
                row = await client.get(key)
                result = None if row is None else (row.value or b"").decode()
        except DefiniteError as error:
            self._history.fail(operation, error.code, begun())
            outcome = f"fail {error.code}"
        except TremulaError as error:
            self._history.info(operation, error.code, begun())
            outcome = f"info {error.code}"
        else:
            self._history.ok(operation, result, begun())
            outcome = f"ok {result or ''}"
        self._world.note(f"client-{self._number}", f"{kind.value} {key} {value or ''} {outcome}")
