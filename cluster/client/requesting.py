"""What the parts of a client need of it: its publishing, its event store, groups, consumers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Any

import trio

from cluster.client.dispatcher import Dispatcher


class Requesting(ABC):
    """A client, as its parts see it."""

    dispatcher: Dispatcher
    random: Random
    nursery: trio.Nursery  # of the client's life: what works for a consumer runs there
    consumers: dict[Any, None]  # that have not left: the client lets them, before it closes

    @abstractmethod
    async def request(
        self,
        name: str,
        args: Sequence[Any] = (),
        *,
        timeout_ms: int | None = None,
        trace: list[Any] | None = None,
        identity: tuple[int, int] | None = None,
    ) -> Any:
        """Any request of docs/protocol.md."""
