"""What groups and consumers need of a client."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

import trio

from cluster.client.dispatcher import Dispatcher


class Requesting(Protocol):
    """A client, as its groups see it."""

    dispatcher: Dispatcher
    random: Random
    nursery: trio.Nursery  # of the client's life: what works for a consumer runs there
    consumers: dict[Any, None]  # that have not left: the client lets them, before it closes

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
