"""Clients for the handlers of the tests: they answer with what they know of their origin."""

from typing import Any

import trio

from hooks.ports import Origin


class SampleClients:
    """What a node's package would make; see `hooks.ports.Clients`."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    def of_async(self, origin: Origin) -> str:
        return self._told("async", origin)

    def of_sync(self, origin: Origin) -> str:
        return self._told("sync", origin)

    def _told(self, how: str, origin: Origin) -> str:
        cause = f"{origin.correlation_id} {origin.causation_id} {origin.hops}"
        return f"{self._greeting} {how} {origin.handler} {cause}"


def open_clients(nursery: trio.Nursery, arguments: dict[str, Any]) -> SampleClients:
    """The function that a `ClientFactory` names."""
    return SampleClients(arguments["greeting"])
