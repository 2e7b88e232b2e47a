"""A consumer: one member of a group, for a program that takes its events one after the other.

    async for delivery in client.group("billing").consume():
        await charge(delivery.event)

The previous delivery is acked when the next is asked for. With `auto_ack=False` the program says it
itself: `await delivery.ack()`. `async with` leaves the group at the end of the block: what was
acked is written down first, what was not is delivered to somebody else.

It joins, keeps its session alive, and joins again under new tokens when it has lost it (a pause of
the process, a partition of the network): what was in hand is then void, `Delivery.is_valid` is
false, an ack raises Fenced, and the events come again, here or elsewhere.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

import trio

from cluster.client.competing import CompetingIntake
from cluster.client.delivery import Delivery
from cluster.client.intake import Intake
from cluster.client.partitioned import PartitionedIntake
from cluster.client.requesting import Requesting
from cluster.errors import (
    Closed,
    DefiniteError,
    Fenced,
    Malformed,
    OutcomeUnknown,
    Rejected,
    RetryRefused,
    TremulaError,
)

MEMBER_TTL_MS: Final = 10_000
"""After so long without a word the cluster gives what a member had to the others."""
LEASE_MARGIN: Final = 0.1
"""A member stops that much of its session's time before the cluster can give up on it."""
PREFETCH_PARTITIONED: Final = 1_024
PREFETCH_COMPETING: Final = 128
CLOSE_S: Final = 5.0
"""So long may a consumer take to write down what was acked and to leave."""
PAUSE_S: Final = 0.1
COMPETING: Final = "competing"
# The definite answers after which to go on makes no sense: the user is told.
_FINAL: Final = (
    "unknown_group", "wrong_mode", "malformed", "limit_exceeded", "unknown_operation",
    "unknown_request", "unauthorized", "closed",
)  # fmt: skip


class Consumer:
    """An asynchronous iterator of deliveries; use it as `async with` to leave in good order."""

    def __init__(
        self,
        requesting: Requesting,
        group: str,
        member: str | None = None,
        *,
        prefetch: int | None = None,
        auto_ack: bool = True,
        ttl_ms: int = MEMBER_TTL_MS,
    ) -> None:
        if prefetch is not None and not (isinstance(prefetch, int) and prefetch >= 1):
            raise Malformed(f"prefetch: from 1 on, got {prefetch!r}")
        self.group = group
        self.member = member or f"client-{requesting.random.getrandbits(48):012x}"
        self.lost = 0  # how often the session was lost
        self._requesting = requesting
        self._prefetch = prefetch
        self._auto_ack = auto_ack
        self._ttl_ms = ttl_ms
        self._intake: Intake | None = None
        self._last: Delivery | None = None
        self._alive_until = 0.0
        self._ended: TremulaError | None = None
        self._news = trio.Event()
        self._loss = trio.Event()
        self._loss_error: TremulaError | None = None
        self._clock: trio.abc.Clock | None = None
        self._scope: trio.CancelScope | None = None
        self._closed = False

    # --- for the user ---

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery; acks the one before, if it is still in hand and not settled."""
        last = self._last
        if last is not None and self._auto_ack:
            self._last = None
            if not last.is_settled:
                try:
                    last.ack_nowait()
                except Fenced:
                    pass  # It comes again, as what is not acked does.
        while True:
            delivery = self.next_nowait()
            if delivery is not None:
                self._last = delivery
                return delivery
            if self._ended is not None:
                raise self._ended
            await self._wait_news()

    async def __aenter__(self) -> Consumer:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def next_nowait(self) -> Delivery | None:
        """The next delivery that has arrived, or None; it acks nothing. HOT."""
        intake = self._intake
        if intake is None or self._closed:
            self._start()
            return None
        if trio.current_time() >= self._alive_until:
            return None
        return intake.next_nowait()

    async def flush(self) -> None:
        """Wait until the cluster has all that was settled so far."""
        while self._intake is not None and not self._intake.is_flushed and self._ended is None:
            await self._wait_news()

    async def aclose(self) -> None:
        """Write down what was settled, and leave the group; takes five seconds at most."""
        if self._closed:
            return
        self._closed = True
        if self._scope is None:
            return
        try:
            if self._intake is not None and self._ended is None:
                with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
                    self._intake.end()
                    await self.flush()
                    await self._leave()
        finally:
            self._end(Closed())
            self._scope.cancel()

    @property
    def problem(self) -> str | None:
        """Why what was settled is not written down, for people; None: it is."""
        return None if self._intake is None else self._intake.problem

    # --- Host ---

    @property
    def is_alive(self) -> bool:
        """See `Host`."""
        return self.now() < self._alive_until

    def now(self) -> float:
        """See `Host`; may be asked from any thread."""
        return 0.0 if self._clock is None else self._clock.current_time()

    def tell_news(self) -> None:
        """See `Host`."""
        self._news.set()

    def lose_session(self, error: TremulaError) -> None:
        """See `Host`."""
        self._loss_error = error
        self._loss.set()

    def fenced(self, revision: int, is_certain: bool) -> TremulaError:
        """See `Host`."""
        if is_certain:
            return Fenced(self.group, revision)
        return RetryRefused("fenced", f"event {revision}")

    async def submit(self, name: str, arguments: list[Any]) -> tuple[Any, bool]:
        """See `Host`."""
        is_certain = True
        while True:
            try:
                return await self._requesting.request(name, arguments), is_certain
            except Rejected as error:
                return error, is_certain
            except OutcomeUnknown:
                is_certain = False
            except Closed as error:
                return error, is_certain
            except DefiniteError as error:
                if error.code in _FINAL:
                    return error, is_certain
            await trio.sleep(PAUSE_S)

    # --- the member's life ---

    def _start(self) -> None:
        if self._scope is None and not self._closed:
            self._scope = trio.CancelScope()
            self._clock = trio.lowlevel.current_clock()
            self._requesting.nursery.start_soon(self._run)
            self._requesting.consumers[self] = None

    async def _run(self) -> None:
        assert self._scope is not None, "set by whoever starts it"
        with self._scope:
            try:
                await self._live()
            except TremulaError as error:
                self._end(error)
            finally:
                self._end(Closed())
                if self._intake is not None:
                    self._intake.abandon()
                self._requesting.consumers.pop(self, None)

    async def _live(self) -> None:
        settings = await self._describe()
        intake = self._intake = self._make_intake(settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(intake.run)
            while True:
                error = await self._join()
                if error is None:
                    intake.begin()
                    await self._stay()
                    self._alive_until = 0.0
                    intake.void()
                    self.lost += 1
                    error = self._loss_error
                    if error is None or error.code not in _FINAL:
                        continue
                self._end(error)  # Not raised: out of a nursery it would end the whole client.
                return nursery.cancel_scope.cancel()

    async def _describe(self) -> dict[str, Any]:
        """What the group is; waits for a cluster that answers."""
        while True:
            try:
                return dict(await self._requesting.request("group.describe", [self.group]))
            except TremulaError as error:
                if isinstance(error, Rejected) or error.code in _FINAL:
                    raise
            await trio.sleep(PAUSE_S)

    def _make_intake(self, settings: dict[str, Any]) -> Intake:
        if settings.get("mode") == COMPETING:
            prefetch = self._prefetch or PREFETCH_COMPETING
            lease_ms = int(settings["settings"]["lease_ms"])
            return CompetingIntake(self._requesting, self, prefetch, lease_ms)
        prefetch = self._prefetch or PREFETCH_PARTITIONED
        return PartitionedIntake(self._requesting.dispatcher, self, prefetch)

    async def _join(self) -> TremulaError | None:
        """Join the group; returns why that cannot be."""
        self._loss = trio.Event()
        self._loss_error = None
        sent_at = trio.current_time()
        answer, _ = await self.submit("group.join", [self.group, self.member, self._ttl_ms])
        if isinstance(answer, TremulaError):
            return answer
        self._renew(sent_at)
        return None

    async def _stay(self) -> None:
        """Keep the session until it is lost."""
        while not self._loss.is_set():
            with trio.move_on_after(self._ttl_ms / 3000):
                await self._loss.wait()
                return
            sent_at = trio.current_time()
            try:
                await self._requesting.request(
                    "group.keepalive", [self.member], timeout_ms=self._ttl_ms
                )
            except Rejected as error:
                self._loss_error = error
                return
            except TremulaError:
                continue
            self._renew(sent_at)

    async def _leave(self) -> None:
        try:
            await self._requesting.request("group.leave", [self.member, self.group])
        except TremulaError:
            pass  # The session ends in time.

    def _renew(self, sent_at: float) -> None:
        lease_s = self._ttl_ms * 0.001 * (1 - LEASE_MARGIN)
        self._alive_until = max(self._alive_until, sent_at + lease_s)
        self.tell_news()

    def _end(self, error: TremulaError) -> None:
        if self._ended is None:
            self._ended = error
        self.tell_news()

    async def _wait_news(self) -> None:
        """Wait for what happens after the caller looked."""
        if self._news.is_set():
            self._news = trio.Event()
        await self._news.wait()
