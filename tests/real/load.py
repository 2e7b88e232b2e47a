"""Writers that never rest, and the check that nothing they were promised is lost, doubled or moved.

Each writer owns a key and writes rising numbers into it, one after the other, whatever happens to
the nodes. A number that was acknowledged must be one event; one without a definite answer may be
one; none may be two; and the numbers of a key rise through the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from cluster.client import Client
from cluster.errors import TremulaError
from tests.real.processes import BOUND_S, eventually

PREFIX: Final = "load/"
PAUSE_S: Final = 0.01  # a refused writer does not spin


class Load:
    """What was written under `PREFIX`, and what of it was acknowledged."""

    def __init__(self, client: Client, writers: int) -> None:
        self.acknowledged: dict[str, list[int]] = {f"{PREFIX}{n}": [] for n in range(writers)}
        self._client = client

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def run(self) -> None:
        """Write until cancelled."""
        async with trio.open_nursery() as nursery:
            for key in self.acknowledged:
                nursery.start_soon(self._write, key)

    async def _write(self, key: str) -> None:
        number = 0
        while True:
            number += 1
            try:
                await self._client.put(key, b"%d" % number)
                self.acknowledged[key].append(number)
            except TremulaError:
                await trio.sleep(PAUSE_S)

    async def more(self, count: int, bound_s: float = BOUND_S) -> None:
        """Wait until `count` more writes have been acknowledged."""
        goal = self.count + count

        async def ask() -> bool:
            return self.count >= goal

        await eventually(ask, f"{count} more writes are acknowledged", bound_s)

    async def verify(self) -> None:
        """Read the whole log, and hold it against what was acknowledged."""
        written: dict[str, list[int]] = {key: [] for key in self.acknowledged}
        following = 1
        while True:
            events, following, newest = await self._client.read_events(following)
            for event in events:
                if event.topic == "hooks.kv.write_committed" and event.key in written:
                    written[event.key].append(int(event.data[0]))
            if following > newest:
                break
        for key, numbers in written.items():
            assert numbers == sorted(set(numbers)), f"{key}: doubled or out of order: {numbers}"
            lost = set(self.acknowledged[key]) - set(numbers)
            assert not lost, f"{key}: acknowledged and lost: {sorted(lost)}"


@asynccontextmanager
async def open_load(client: Client, writers: int = 8) -> AsyncIterator[Load]:
    """A load for the time of the block; it has begun when the block does."""
    load = Load(client, writers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await load.more(writers)
        yield load
        nursery.cancel_scope.cancel()
