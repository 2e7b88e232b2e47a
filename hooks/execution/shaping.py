"""What holds a handler's events back on one node, put together: only for handlers that ask for it.

An event is asked about when it is the first of its key and a place is free:

    the handler   breaker, then its share of rate_limit       nothing of it starts
    the event     debounce, throttle, rate_limit_per_key      it is held, others go by
    the batch     batch_max, batch_wait_ms                    it waits for more

Deciding code; `work` keeps the events and does what is said here.
"""

from hooks.configuration.definition import HandlerDefinition
from hooks.execution.breaker import Breaker, BreakerState
from hooks.execution.coalescing import Throttle, debounced_until_ms
from hooks.execution.partition import Held, Item
from hooks.execution.rates import KeyRate, SharedRate
from hooks.limits import HookLimits


class Shaping:
    """The shaping of one handler, and what has to be remembered for it."""

    def __init__(self, definition: HandlerDefinition, limits: HookLimits, partitions: int) -> None:
        self.definition = definition
        self.coalesces = bool(definition.debounce_ms or definition.throttle_ms)
        self.batch_max = definition.batch_max
        self.breaker = Breaker() if definition.breaker_failures else None
        self.rate: SharedRate | None = None
        if definition.rate_limit is not None:
            self.rate = SharedRate(definition.rate_limit, partitions)
        self.key_rate: KeyRate | None = None
        if definition.rate_limit_per_key is not None:
            self.key_rate = KeyRate(definition.rate_limit_per_key, limits.shaping_keys_max)
        self.throttle: Throttle | None = None
        if definition.throttle_ms:
            self.throttle = Throttle(limits.shaping_keys_max)

    def inherit(self, older: "Shaping") -> None:
        """Go on where another policy of the same handler was; what has changed begins anew."""
        if self.breaker is not None and older.breaker is not None:
            self.breaker = older.breaker
        if self.rate is not None and older.rate is not None:
            self.rate = older.rate if older.rate.rate == self.rate.rate else self.rate
        if self.key_rate is not None and older.key_rate is not None:
            same = older.key_rate.rate == self.key_rate.rate
            self.key_rate = older.key_rate if same else self.key_rate
        if self.throttle is not None and older.throttle is not None:
            self.throttle = older.throttle

    def own(self, partitions: int) -> None:
        """So many partitions are this node's now."""
        if self.rate is not None:
            self.rate.own(partitions)

    def closed(self, now_ms: int) -> tuple[Held, int | None] | None:
        """Why nothing of the handler may start, and until when as far as time decides; or None."""
        if self.breaker is not None and not self.breaker.admits(now_ms):
            is_open = self.breaker.state is BreakerState.OPEN
            return Held.BREAKER, self.breaker.until_ms if is_open else None
        if self.rate is not None and (due_ms := self.rate.due_ms(now_ms)) is not None:
            return Held.RATE, due_ms
        return None

    def hold(self, item: Item, now_ms: int) -> tuple[Held, int] | None:
        """Why one event may not start, and until when; or None."""
        definition, until_ms = self.definition, None
        if not item.started and item.attempt == 1:
            if definition.debounce_ms:
                held, until_ms = Held.DEBOUNCE, debounced_until_ms(item, definition)
            elif self.throttle is not None:
                held = Held.THROTTLE
                until_ms = self.throttle.until_ms(item.key, definition.throttle_ms)
            if until_ms is not None and until_ms > now_ms:
                return held, until_ms
        if self.key_rate is not None:
            until_ms = self.key_rate.due_ms(item.key, now_ms)
            if until_ms is not None:
                return Held.KEY_RATE, until_ms
        return None

    def start(self, items: list[Item], now_ms: int) -> None:
        """An attempt starts, that nothing holds back."""
        if self.rate is not None:
            self.rate.start()
        if self.key_rate is not None:
            for key in dict.fromkeys(item.key for item in items):
                self.key_rate.start(key, now_ms)
        epoch = self.breaker.start() if self.breaker is not None else 0
        for item in items:
            if self.throttle is not None and not item.started:
                self.throttle.start(item.key, now_ms, self.definition.throttle_ms)
            item.started, item.epoch = True, epoch

    def end(self, item: Item, failed: bool, now_ms: int) -> bool:
        """The attempt at `item` ended; True when that has opened the breaker."""
        if self.breaker is None or not item.started:
            return False
        return self.breaker.end(
            item.epoch,
            failed,
            now_ms,
            self.definition.breaker_failures,
            self.definition.breaker_open_ms,
        )

    def cancel(self, item: Item) -> None:
        """The attempt at `item` was stopped through no fault of its own."""
        if self.breaker is not None and item.started:
            self.breaker.cancel(item.epoch)


def shaping(
    definition: HandlerDefinition, limits: HookLimits, partitions: int, older: Shaping | None = None
) -> Shaping | None:
    """The shaping that a definition asks for; None when it asks for none."""
    asks = (
        definition.debounce_ms
        or definition.throttle_ms
        or definition.batch_max > 1
        or definition.breaker_failures
        or definition.rate_limit is not None
        or definition.rate_limit_per_key is not None
    )
    if not asks:
        return None
    made = Shaping(definition, limits, partitions)
    if older is not None:
        made.inherit(older)
    return made
