"""One event in the hands of a consumer, and what its user may say about it.

An event stays in hand until it is settled: acked, sent back, or given up. Each of these has two
forms. `ack` waits until the cluster has it, and raises what became of it instead; `ack_nowait` only
notes it, and it travels with the next batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgpack
import trio

from cluster.errors import LimitExceeded, Malformed, TremulaError
from pubsub.consumer_groups.cursor import Verdict
from pubsub.events import Event
from pubsub.limits import (
    EFFECT_OPERATIONS_MAX,
    ERROR_BYTES_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    REDELIVERY_DELAY_MS_MAX,
)

EFFECTS_BYTES_MAX: Final = 1024 * 1024
"""Of one event: they travel in one request with the acks of others."""

Effect = Sequence[Any]
"""`[operation, [argument, ...]]`, as `cluster.client.effects` makes them."""


class Holder(Protocol):
    """Who handed the delivery out."""

    def is_valid(self, delivery: Delivery) -> bool:
        """Whether it is still this consumer's."""

    def settle(self, delivery: Delivery, verdict: Verdict | None, waiter: Waiter | None) -> None:
        """It is completed or given up; raises Fenced."""

    def send_back(
        self, delivery: Delivery, delay_ms: int | None, error: str | None, waiter: Waiter
    ) -> None:
        """It is to be delivered again; raises Fenced."""

    async def extend(self, delivery: Delivery, lease_ms: int | None) -> None:
        """Keep it for longer; raises Fenced."""


CLOSED: Final = "the consumer was closed"


class Waiter:
    """Somebody waits until the cluster has what was said about an event."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._error: TremulaError | None = None

    def tell(self, error: TremulaError | None) -> None:
        """It has, or this is what became of it."""
        self._error = error
        self._event.set()

    async def wait(self) -> None:
        """Wait for `tell`; raises its error."""
        await self._event.wait()
        if self._error is not None:
            raise self._error


class Delivery:
    """An event and how it came; settle it once."""

    __slots__ = (
        "attempt", "event", "holder", "is_settled", "origin", "partition", "redrives", "replayed",
        "revision", "token",
    )  # fmt: skip

    def __init__(
        self,
        event: Event,
        attempt: int,
        partition: int,
        token: int,
        holder: Holder,
        origin: object,
    ) -> None:
        self.event = event
        self.revision = event.revision  # by which it counts: of a replay its own, not the event's
        self.replayed = False  # it was handed out before: by a replay or out of the dead letters
        self.redrives = 0  # how often it came back out of the dead letters
        self.attempt = attempt  # 1 for the first delivery, as far as is known
        self.partition = partition  # 0 in a competing group
        self.token = token  # the fencing token under which it was delivered
        self.holder = holder
        self.origin = origin  # the holder's own note
        self.is_settled = False

    def __repr__(self) -> str:
        return f"Delivery({self.revision}, {self.event.topic!r}, attempt={self.attempt})"

    def again(self) -> Delivery:
        """The next attempt at it."""
        next_one = Delivery(
            self.event, self.attempt + 1, self.partition, self.token, self.holder, self.origin
        )
        next_one.revision = self.revision
        next_one.replayed = self.replayed
        next_one.redrives = self.redrives
        return next_one

    def stand_for(self, original: Event, redrives: int) -> None:
        """It hands out `original` again."""
        self.event = original
        self.replayed = True
        self.redrives = redrives

    @property
    def is_valid(self) -> bool:
        """False once it was settled or lost: what is done about it now may be done twice."""
        return not self.is_settled and self.holder.is_valid(self)

    async def ack(self, effects: Iterable[Effect] = ()) -> None:
        """It is dealt with. `effects` are applied with that, all or none, exactly once.

        Raises Fenced if it is not this consumer's any more, and Rejected if the effects were
        refused: then none was applied, and the event is a dead letter that says why.
        """
        waiter = Waiter()
        self.holder.settle(self, verdict_of(effects), waiter)
        await waiter.wait()

    def ack_nowait(self, effects: Iterable[Effect] = ()) -> None:
        """The same without waiting: what becomes of it, `Consumer.flush` tells, or nobody."""
        self.holder.settle(self, verdict_of(effects) if effects else None, None)

    async def nack(self, delay_ms: int | None = None, error: str | None = None) -> None:
        """It was not dealt with: deliver it again, after a delay or the group's own backoff."""
        if delay_ms is not None and not _is_within(delay_ms, 0, REDELIVERY_DELAY_MS_MAX):
            raise Malformed(f"delay_ms: from 0 to {REDELIVERY_DELAY_MS_MAX}, got {delay_ms!r}")
        text = None if error is None else _error_text(error)
        waiter = Waiter()
        self.holder.send_back(self, delay_ms, text, waiter)
        await waiter.wait()

    async def dead_letter(self, error: str) -> None:
        """Give it up: it becomes a dead letter of the group, and is not delivered again."""
        verdict = Verdict(attempts=self.attempt, error=_error_text(error))
        waiter = Waiter()
        self.holder.settle(self, verdict, waiter)
        await waiter.wait()

    async def extend(self, lease_ms: int | None = None) -> None:
        """Keep it for longer than the group's lease. The consumer extends what is in hand by
        itself; this asks for more at once. A partitioned group has no leases: nothing to do."""
        if lease_ms is not None and not _is_within(lease_ms, LEASE_MS_MIN, LEASE_MS_MAX):
            raise Malformed(f"lease_ms: from {LEASE_MS_MIN} to {LEASE_MS_MAX}, got {lease_ms!r}")
        await self.holder.extend(self, lease_ms)


def verdict_of(effects: Iterable[Effect]) -> Verdict | None:
    """An ack with these effects; None: without any. What cannot travel is told before anything is
    settled."""
    try:
        operations = [_operation(effect) for effect in effects]
        size = len(msgpack.packb(operations)) if operations else 0
    except (TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"an effect is [operation, [argument, ...]]: {error}") from None
    if not operations:
        return None
    if len(operations) > EFFECT_OPERATIONS_MAX:
        raise LimitExceeded("effect_operations_max", len(operations), EFFECT_OPERATIONS_MAX)
    if size > EFFECTS_BYTES_MAX:
        raise LimitExceeded("effects_bytes_max", size, EFFECTS_BYTES_MAX)
    return Verdict(operations, size)


def _operation(effect: Effect) -> list[Any]:
    """An effect as `[name, arguments]`; those of handlers come as objects that can tell theirs."""
    to_wire = getattr(effect, "to_wire", None)
    name, arguments = to_wire() if to_wire is not None else effect
    return [name, list(arguments)]


def _error_text(error: object) -> str:
    """What is kept of an error; half of a surrogate pair, as in names of files, cannot travel."""
    if not isinstance(error, str):
        raise Malformed(f"the error is a text, got {error!r}")
    return error.encode("utf-8", "replace")[:ERROR_BYTES_MAX].decode("utf-8", "ignore")


def _is_within(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
