"""Work that would block the loop for long goes through this port: a worker thread, or, in a
simulator, the loop itself on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

import trio

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Blocking(Protocol):
    """Runs `function(*arguments)` somewhere and waits for it."""

    async def __call__(
        self, function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
    ) -> T: ...


async def in_thread(function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """In a worker thread; a cancelled caller waits for it nevertheless."""
    return await trio.to_thread.run_sync(function, *arguments)
