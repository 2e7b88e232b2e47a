"""Debounce and throttle: when an event starts, of which only the newest of its key is handled.

    debounce_ms   starts when so long nothing came for its key, or so long after the first that
                  it stands for (`debounce_ms_max`)
    throttle_ms   starts at once, unless the last one of its key has started less than this ago

What came before and has not started is finished without being handled once a newer event of its
key is in hand (`work`). Times are those of this node; who takes a partition over waits anew.
"""

from hooks.configuration.definition import HandlerDefinition
from hooks.execution.partition import Item
from hooks.execution.rates import RecentKeys

DEBOUNCE_FACTOR = 10  # of debounce_ms, when debounce_ms_max says nothing


def debounced_until_ms(item: Item, definition: HandlerDefinition) -> int | None:
    """When an event has waited long enough; None when nobody saw it come."""
    if item.arrived_ms is None or item.first_ms is None:
        return None
    longest_ms = definition.debounce_ms_max or DEBOUNCE_FACTOR * definition.debounce_ms
    return min(item.arrived_ms + definition.debounce_ms, item.first_ms + longest_ms)


class Throttle:
    """When the last event of each key has started. A key that a full table drops, or whose
    partition comes from elsewhere, may start once too early."""

    def __init__(self, keys_max: int) -> None:
        self._started_ms = RecentKeys(keys_max)

    def until_ms(self, key: str, throttle_ms: int) -> int | None:
        """When the key may start next."""
        started_ms = self._started_ms.get(key)
        return None if started_ms is None else started_ms + throttle_ms

    def start(self, key: str, now_ms: int, throttle_ms: int) -> None:
        """An event of the key starts, for the first time."""
        self._started_ms.put(key, now_ms, now_ms - throttle_ms)
