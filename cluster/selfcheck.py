"""A node looks through what it stores: the request behind `cluster doctor --deep`.

Reads every page of `state.db` against its checksum and every table against its indexes, in a
thread and on a connection of its own, so that the node goes on serving.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from cluster import state
from cluster.blocking import Blocking
from cluster.corruption import RECOVERY, CorruptState
from cluster.errors import Overloaded
from cluster.raft.log import StorageFailed

Done = Callable[[object], None]


class SelfCheck:
    """One scan at a time."""

    def __init__(self, path: Path, nursery: trio.Nursery, blocking: Blocking) -> None:
        self._path = path
        self._blocking = blocking
        self._nursery = nursery
        self._running = False

    def start(self, arguments: list[Any], actor: str, done: Done) -> None:
        """A request of the client port (`server.extra`)."""
        if self._running:
            done(Overloaded("doctor.scan", 1))
            return
        self._running = True
        self._nursery.start_soon(self._scan, done)

    async def _scan(self, done: Done) -> None:
        try:
            pages = await self._blocking(_verify, self._path)
            answer = {"problems": [], "detail": f"{pages} pages of {self._path.name} are whole"}
        except (CorruptState, StorageFailed) as problem:
            answer = {"problems": [str(problem)], "remedy": RECOVERY}
        finally:
            self._running = False
        done(answer)


def _verify(path: Path) -> int:
    connection = state.connect(path)
    try:
        return state.verify(connection)
    finally:
        connection.close()
