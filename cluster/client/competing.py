"""What a member of a competing group has in hand: leased deliveries, and what was said of them.

One fetch is under way at a time, for as many as there is room for; the node parks it while there is
nothing. Verdicts are gathered: one `group.settle` is under way, the rest goes with the next. Leases
of what is in hand are extended when half of their time is over.

A fetch has an identity of its own (client_id, seq): the window of the client's other mutations must
not wait for one that is parked. After an unknown outcome it is sent again under its number, at
once and without parking, so that what the first attempt leased is not left lying.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any, Final

import trio

from cluster.client.delivery import CLOSED, Delivery, Waiter
from cluster.client.intake import Host
from cluster.client.requesting import Requesting
from cluster.client.subscription import event_from_wire
from cluster.errors import (
    Closed,
    ConnectionLost,
    Fenced,
    OutcomeUnknown,
    Rejected,
    TremulaError,
)
from pubsub.consumer_groups.cursor import Verdict
from pubsub.limits import FETCH_EVENTS_MAX, SETTLE_ITEMS_MAX

LINGER_S: Final = 0.02
"""A verdict that nobody waits for may wait so long for company."""
SETTLE_EVENTS: Final = 256
"""With so many a settle goes at once."""
SETTLE_BYTES_MAX: Final = 2 * 1024 * 1024
FETCH_BYTES_MAX: Final = 1024 * 1024
FETCH_WAIT_MS: Final = 10_000
"""So long may the node park a fetch."""
FETCH_ANSWER_MS: Final = 5_000
"""So long may it take beyond that."""
PAUSE_S: Final = 0.1
EXTEND_MIN_S: Final = 0.1


Settled = tuple[list[Any], Verdict | None, Waiter | None]
"""`[revision, token, verdict, argument]`, its effects, and who waits for it."""


class _Lease:
    """The events of one fetch that are in hand."""

    __slots__ = ("extended", "held", "token", "until")

    def __init__(self, token: int, until: float) -> None:
        self.token = token
        self.until = until
        self.extended = False  # an extension is under way
        self.held: dict[int, Delivery] = {}


class CompetingIntake:
    """The events of one member. Implements `Holder` and `Intake`."""

    def __init__(self, requesting: Requesting, host: Host, prefetch: int, lease_ms: int) -> None:
        self.problem: str | None = None
        self._requesting = requesting
        self._host = host
        self._prefetch = min(prefetch, FETCH_EVENTS_MAX)
        self._lease_s = lease_ms * 0.001
        self._ready: deque[Delivery] = deque()
        self._leases: dict[int, _Lease] = {}
        self._in_hand = 0
        self._items: deque[Settled] = deque()
        self._items_at = inf
        self._waited_for = 0
        self._settling = False
        self._under_way: list[Settled] = []
        self._fetching = False
        self._voided = 0  # how often the session was lost
        self._draining = False
        self._client_id = 0
        self._seq = 0
        self._room = trio.Event()
        self._work = trio.Event()

    # --- Intake ---

    def begin(self) -> None:
        """See `Intake`."""
        self._fetching = True
        self._room.set()

    def end(self) -> None:
        """See `Intake`."""
        self._fetching = False
        self._draining = True
        self._work.set()

    def void(self) -> None:
        """See `Intake`; of what was settled the cluster knows whether it still counts."""
        self._fetching = False
        self._voided += 1
        self._ready.clear()
        self._leases.clear()
        self._in_hand = 0

    def next_nowait(self) -> Delivery | None:
        """See `Intake`. HOT."""
        return self._ready.popleft() if self._ready else None

    @property
    def is_flushed(self) -> bool:
        """See `Intake`."""
        return not self._items and not self._settling

    def abandon(self) -> None:
        """See `Intake`."""
        self.void()
        if self._client_id:  # Given back without waiting; else it expires in time.
            closing = [self._client_id]
            self._requesting.dispatcher.start("session.close", closing, lambda result: None)
        items, self._items = self._items, deque()
        for _, _, waiter in (*self._under_way, *items):
            if waiter is not None:
                waiter.tell(ConnectionLost(CLOSED) if self._settling else Closed())

    async def run(self) -> None:
        """See `Intake`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_fetches)
            nursery.start_soon(self._run_settles)
            nursery.start_soon(self._extend_leases)

    # --- Holder ---

    def is_valid(self, delivery: Delivery) -> bool:
        """See `Holder`."""
        lease = self._leases.get(delivery.token)
        return (
            lease is delivery.origin
            and lease is not None
            and self._host.now() < lease.until
            and self._host.is_alive
        )

    def settle(self, delivery: Delivery, verdict: Verdict | None, waiter: Waiter | None) -> None:
        """See `Holder`. HOT."""
        revision = delivery.revision
        if verdict is None or verdict.error is None:
            item = [revision, delivery.token, "ack", None]
        else:
            item = [revision, delivery.token, "dead", verdict.error]
        self._add(delivery, item, verdict, waiter)

    def send_back(
        self, delivery: Delivery, delay_ms: int | None, error: str | None, waiter: Waiter
    ) -> None:
        """See `Holder`."""
        argument = None if delay_ms is None and error is None else [delay_ms, error]
        item = [delivery.revision, delivery.token, "nack", argument]
        self._add(delivery, item, None, waiter)

    async def extend(self, delivery: Delivery, lease_ms: int | None) -> None:
        """See `Holder`."""
        if not self.is_valid(delivery) or delivery.is_settled:
            raise Fenced(self._host.group, delivery.revision)
        waiter = Waiter()
        self._queue([delivery.revision, delivery.token, "extend", lease_ms], None, waiter)
        await waiter.wait()

    def _add(
        self,
        delivery: Delivery,
        item: list[Any],
        verdict: Verdict | None,
        waiter: Waiter | None,
    ) -> None:
        lease = self._leases.get(delivery.token)
        if lease is None or lease is not delivery.origin or delivery.is_settled:
            raise Fenced(self._host.group, delivery.revision)
        delivery.is_settled = True
        del lease.held[delivery.revision]
        if not lease.held:
            del self._leases[delivery.token]
        self._in_hand -= 1
        if self._in_hand * 2 <= self._prefetch:
            self._room.set()
        self._queue(item, verdict, waiter)

    def _queue(self, item: list[Any], verdict: Verdict | None, waiter: Waiter | None) -> None:
        if not self._items:
            self._items_at = trio.current_time()
        self._items.append((item, verdict, waiter))
        self._waited_for += waiter is not None
        if waiter is not None or len(self._items) == 1 or len(self._items) >= SETTLE_EVENTS:
            self._work.set()

    # --- fetching ---

    async def _run_fetches(self) -> None:
        while True:
            if not self._fetching or self._in_hand * 2 > self._prefetch:
                self._room = trio.Event()
                await self._room.wait()
                continue
            started_at, voided = trio.current_time(), self._voided
            answer = await self._fetch()
            if isinstance(answer, TremulaError):
                if voided == self._voided:  # Else it speaks of the session before.
                    self._host.lose_session(answer)
                await trio.sleep(PAUSE_S)
            elif answer is not None and self._fetching:
                if voided == self._voided:
                    self._take(started_at, *answer)
                else:
                    self._give_back(*answer)

    async def _fetch(self) -> Any:
        """The answer to one fetch, definite; None: nothing is known to be leased, ask again."""
        if not self._client_id:
            try:
                self._client_id = await self._requesting.request("session.open")
            except TremulaError:
                await trio.sleep(PAUSE_S)
                return None
            self._seq = 0
        self._seq += 1
        wait_ms, events_max = FETCH_WAIT_MS, self._prefetch - self._in_hand
        while True:
            arguments = [
                self._host.group, self._host.member, events_max, FETCH_BYTES_MAX, wait_ms,
            ]  # fmt: skip
            try:
                return await self._requesting.request(
                    "group.fetch",
                    arguments,
                    timeout_ms=wait_ms + FETCH_ANSWER_MS,
                    identity=(self._client_id, self._seq),
                )
            except OutcomeUnknown:
                wait_ms = 0  # Whatever it leased is to be told now.
            except Rejected as error:
                if error.code not in ("session_expired", "request_too_old", "result_forgotten"):
                    return error
                self._client_id = 0
                return None
            except TremulaError:
                wait_ms = 0
            await trio.sleep(PAUSE_S)

    def _take(
        self, started_at: float, token: int, deadline_ms: int, items: list[Any], waited_ms: int
    ) -> None:
        """Take leased events in hand; the lease began no sooner than the node proposed it."""
        if not items:
            return
        lease = _Lease(token, started_at + waited_ms * 0.001 + self._lease_s)
        for attempt, fields, *original in items:
            if isinstance(fields, int):  # Retention took it: there is nothing to handle.
                self._queue([fields, token, "ack", None], None, None)
                continue
            event = event_from_wire(fields)
            delivery = Delivery(event, attempt, 0, token, self, lease)
            if original:
                delivery.stand_for(event_from_wire(original[0]), original[1])
            lease.held[event.revision] = delivery
            self._ready.append(delivery)
        if lease.held:
            self._leases[token] = lease
            self._in_hand += len(lease.held)
        self._host.tell_news()

    def _give_back(self, token: int, deadline_ms: int, items: list[Any], waited_ms: int) -> None:
        """Handle nothing that was leased in a session that is lost: the answer to a repeated fetch
        may be older than the new session, and somebody else has the events. What is leased after
        all goes out again at once; of the rest the cluster refuses to hear."""
        for _, fields, *_ in items:
            revision = fields if isinstance(fields, int) else fields[0]
            self._queue([revision, token, "nack", [0, None]], None, None)

    async def _extend_leases(self) -> None:
        """Ask for more time when half of it is over."""
        while True:
            half = max(self._lease_s / 2, EXTEND_MIN_S)
            await trio.sleep(half / 2)
            now = trio.current_time()
            for lease in list(self._leases.values()):
                if lease.until - now <= half and not lease.extended:
                    lease.extended = True
                    for revision in lease.held:
                        self._queue([revision, lease.token, "extend", None], None, None)

    # --- settling ---

    async def _run_settles(self) -> None:
        while True:
            now = trio.current_time()
            due = inf
            if self._items:
                hurry = self._waited_for or len(self._items) >= SETTLE_EVENTS or self._draining
                due = 0.0 if hurry else self._items_at + LINGER_S
            if due <= now:
                await self._settle()
                continue
            self._work = trio.Event()
            with trio.CancelScope(deadline=due):
                await self._work.wait()

    async def _settle(self) -> None:
        batch = self._gather()
        items = [item for item, _, _ in batch]
        effects = [
            [item[0], verdict.operations]
            for item, verdict, _ in batch
            if verdict is not None and verdict.operations is not None
        ]
        self._settling = True
        self._under_way = batch
        sent_at = trio.current_time()
        arguments = [self._host.group, self._host.member, items, effects]
        answer, is_certain = await self._host.submit("group.settle", arguments)
        self._settling = False
        self._under_way = []
        if isinstance(answer, TremulaError):
            self._refused(batch, answer)
            return
        self.problem = None
        refused = {revision: (code, detail) for revision, code, detail in answer}
        for item, _, waiter in batch:
            revision, token, verdict, argument = item
            if verdict == "extend" and argument is None and revision not in refused:
                self._prolonged(token, sent_at)
            if waiter is not None:
                self._waited_for -= 1
                error: TremulaError | None = None
                if revision in refused:
                    code, detail = refused[revision]
                    error = Rejected(code, detail)
                    if code == "fenced":
                        error = self._host.fenced(revision, is_certain)
                waiter.tell(error)
        if not self._items:
            self._host.tell_news()

    def _refused(self, batch: list[Settled], error: TremulaError) -> None:
        self.problem = error.message()
        for _, _, waiter in batch:
            if waiter is not None:
                self._waited_for -= 1
                waiter.tell(error)
        self._host.lose_session(error)

    def _prolonged(self, token: int, sent_at: float) -> None:
        lease = self._leases.get(token)
        if lease is not None:
            lease.until = max(lease.until, sent_at + self._lease_s)
            lease.extended = False

    def _gather(self) -> list[Settled]:
        """What fits into one settle, each event once."""
        batch: list[Settled] = []
        named: dict[int, None] = {}
        size = 0
        while self._items and len(batch) < SETTLE_ITEMS_MAX:
            item, verdict, _ = self._items[0]
            size += 0 if verdict is None else verdict.size_bytes + len(verdict.error or "")
            if item[0] in named or (batch and size > SETTLE_BYTES_MAX):
                break
            named[item[0]] = None
            batch.append(self._items.popleft())
        self._items_at = trio.current_time()
        return batch
