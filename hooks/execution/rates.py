"""How often a handler starts: over the whole cluster, and per key. Whole numbers only.

**Over the cluster** each node may start its share: as much of the rate as it owns of the handler's
partitions. What was not used is kept up to one period's share. Who asks nobody can promise this
much: nodes that begin, or that are given partitions, start with no more than one start in hand, so
after partitions have moved at most one start per node is too early.

**Per key** the count is exact as long as the key's partition stays where it is: at most the rate's
number at once, and one more each time that its share of the period has passed (the generic cell
rate algorithm: a key that is not in the table has had nothing lately). With a new owner, and for
a key that a full table has dropped, the count begins anew.
"""

from collections import OrderedDict

from hooks.configuration.definition import Rate


class SharedRate:
    """This node's share of a rate. Filled in units of which one start costs `_cost`."""

    def __init__(self, rate: Rate, partitions: int) -> None:
        self.rate = rate
        self._cost = rate.period_ms * partitions
        self._level = self._cost  # one start, however few partitions it has: or a rare rate waits
        self._owned = 0
        self._least = 0  # the fewest partitions that it had since it was last filled
        self._at_ms: int | None = None

    def own(self, partitions: int) -> None:
        """So many partitions are this node's now."""
        self._owned = partitions
        self._least = min(self._least, partitions)

    def due_ms(self, now_ms: int) -> int | None:
        """When the next start may be; None: now."""
        self._fill(now_ms)
        if self._level >= self._cost:
            return None
        missing = self._cost - self._level
        return now_ms + _ceil(missing, self.rate.starts * max(1, self._owned))

    def start(self) -> None:
        """One start, that `due_ms` allowed."""
        self._level -= self._cost

    def _fill(self, now_ms: int) -> None:
        passed_ms = 0 if self._at_ms is None else now_ms - self._at_ms
        share = self.rate.starts * self._owned * self.rate.period_ms
        filled = self._level + passed_ms * self.rate.starts * self._least
        self._level = min(filled, max(share, self._cost))
        self._least, self._at_ms = self._owned, now_ms


class KeyRate:
    """A rate that each key has for itself. Kept per key: when it will have nothing behind it."""

    def __init__(self, rate: Rate, keys_max: int) -> None:
        self.rate = rate
        self._clear = RecentKeys(keys_max)  # in ms times `rate.starts`

    def due_ms(self, key: str, now_ms: int) -> int | None:
        """When the key may start next; None: now."""
        starts, period_ms = self.rate
        clear = self._clear.get(key)
        # How much may be behind it: a whole burst, less the start that is asked for.
        excess = 0 if clear is None else clear - now_ms * starts - period_ms * (starts - 1)
        return now_ms + _ceil(excess, starts) if excess > 0 else None

    def start(self, key: str, now_ms: int) -> None:
        """One start, that `due_ms` allowed."""
        now = now_ms * self.rate.starts
        clear = self._clear.get(key)
        self._clear.put(key, max(now, now if clear is None else clear) + self.rate.period_ms, now)


class RecentKeys:
    """A number per key, of the keys that were set last: full, it drops the one set longest ago."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._values: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> int | None:
        return self._values.get(key)

    def put(self, key: str, value: int, outdated: int) -> None:
        """Set a key's number; what is not above `outdated` means nothing any more."""
        values = self._values
        values[key] = value
        values.move_to_end(key)
        for _ in range(2):  # so that the outdated go faster than others come
            oldest = next(iter(values))
            if values[oldest] > outdated:
                break
            del values[oldest]
        if len(values) > self._keys_max:
            values.popitem(last=False)


def _ceil(amount: int, divisor: int) -> int:
    return -(-amount // divisor)
