"""Writers beside the import: a few keys that change many times, so that order per key means much.

Each writer waits for every answer before it goes on, through all that happens to the nodes. What
was acknowledged is what must be in the log: each change once, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cluster.client import Client
from tests.real.processes import eventually
from tests.real.proof.packages import History, digest

PREFIX: Final = "churn/"
KEYS: Final = 20
STEP_S: Final = 600.0  # the whole import has a closer bound


class Churn:
    """Puts, overwrites and deletes of `KEYS` keys, spread over the time of the import."""

    def __init__(self, client: Client, rounds: int, progress: Callable[[], float]) -> None:
        """`progress` tells how far the import is, from 0 to 1: the rounds keep in step with it."""
        self.history: History = {f"{PREFIX}{number}": [] for number in range(KEYS)}
        self.longest_wait_s = 0.0
        self._client = client
        self._rounds = rounds
        self._progress = progress

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for key in self.history:
                nursery.start_soon(self._write, key)

    async def _write(self, key: str) -> None:
        for number in range(self._rounds):
            await self._in_step(number / self._rounds)
            for change in ("first", "second", None):
                began = trio.current_time()
                if change is None:
                    await self._client.delete(key)
                    self.history[key].append(None)
                else:
                    value = f"{change} of round {number}".encode()
                    await self._client.put(key, value)
                    self.history[key].append(digest(value))
                self.longest_wait_s = max(self.longest_wait_s, trio.current_time() - began)

    async def _in_step(self, share: float) -> None:
        async def ask() -> bool:
            return self._progress() >= share

        await eventually(ask, f"the import is at {share:.0%}", STEP_S)
