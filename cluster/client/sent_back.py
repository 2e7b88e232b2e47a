"""Events of a partitioned group that were sent back, and what waits behind them. No clock.

An event that was sent back comes again when its pause is over, no earlier one of its key still
pauses, and those that came again before it are settled; what follows under the key waits for all of
them. So a key stays in order, however many of its events a program takes at once and sends back,
and no other key waits.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from math import inf
from operator import itemgetter

from cluster.client.delivery import Delivery

Order = tuple[int, str]
"""Partition, and key or topic: what is to stay in order."""


class _Key:
    """One key of which something was sent back."""

    __slots__ = ("behind", "out", "pausing")

    def __init__(self) -> None:
        self.pausing: list[tuple[int, float, Delivery]] = []  # by revision: (revision, until, it)
        self.out: dict[int, None] = {}  # revisions that came again and are not settled
        self.behind: deque[Delivery] = deque()

    def pause(self, delivery: Delivery, until: float) -> None:
        self.out.pop(delivery.revision, None)
        insort(self.pausing, (delivery.revision, until, delivery), key=itemgetter(0))


class SentBack:
    """What of one member's deliveries was sent back. False as long as nothing was."""

    def __init__(self) -> None:
        self._keys: dict[Order, _Key] = {}
        self._times: list[tuple[float, Order]] = []  # a heap; some are of what is no longer here

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def next_at(self) -> float:
        """When `due` is to be asked next."""
        return self._times[0][0] if self._times else inf

    def add(self, delivery: Delivery, until: float) -> None:
        """It is to come again, not before `until`."""
        order = _order(delivery)
        key = self._keys.setdefault(order, _Key())
        key.pause(delivery, until)
        self._wait_for_first(order, key)

    def due(self, now: float) -> list[Delivery]:
        """What comes again now, each key in its order."""
        found: list[Delivery] = []
        while self._times and self._times[0][0] <= now:
            key = self._keys.get(heapq.heappop(self._times)[1])
            if key is None or key.out:
                continue
            while key.pausing and key.pausing[0][1] <= now:
                revision, _, delivery = key.pausing.pop(0)
                key.out[revision] = None
                found.append(delivery)
        return found

    def holds(self, delivery: Delivery) -> bool:
        """Keep a delivery that is not to be handed out before others of its key."""
        order = _order(delivery)
        key = self._keys.get(order)
        if key is None:
            return False
        if delivery.attempt == 1:
            key.behind.append(delivery)
            return True
        if key.pausing and key.pausing[0][0] < delivery.revision:
            key.pause(delivery, 0.0)  # one before it was sent back once more
            self._wait_for_first(order, key)
            return True
        return False

    def settled(self, delivery: Delivery) -> deque[Delivery]:
        """Who may go on now that this one is settled."""
        order = _order(delivery)
        key = self._keys.get(order)
        if key is None or delivery.attempt == 1:
            return deque()
        key.out.pop(delivery.revision, None)
        if key.out or key.pausing:
            self._wait_for_first(order, key)
            return deque()
        return self._keys.pop(order).behind

    def _wait_for_first(self, order: Order, key: _Key) -> None:
        """Only the first of a key can come next, and nothing before what is out is settled."""
        if key.pausing and not key.out:
            heapq.heappush(self._times, (key.pausing[0][1], order))

    def drop(self, partition: int) -> list[Delivery]:
        """Forget a partition; returns what was kept of it."""
        found: list[Delivery] = []
        for order in [order for order in self._keys if order[0] == partition]:
            key = self._keys.pop(order)
            found += [delivery for _, _, delivery in key.pausing]
            found += key.behind
        return found


def _order(delivery: Delivery) -> Order:
    event = delivery.event
    return delivery.partition, event.topic if event.key is None else event.key
