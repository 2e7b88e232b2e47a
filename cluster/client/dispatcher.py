"""Brings each call of a client to its one answer: queues, retries, deadlines.

Everything is decided synchronously. A call waits in a queue until it can be sent, is under way on
the link, or pauses before its next attempt. Two tasks drive it: one keeps a link to some endpoint,
one timer sleeps until the next thing that is due. No task per call.

A mutation keeps its (client_id, seq) over all attempts, so that it applies once however often it
is sent. When no attempt can have happened its error is definite; otherwise it is OutcomeUnknown.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any, Protocol

import trio

from cluster.client.call import (
    MUTATION,
    OTHER,
    SESSION_CLOSE,
    SESSION_OPEN,
    Call,
    Done,
    Next,
    after_error,
)
from cluster.client.connector import Connector
from cluster.client.link import Link
from cluster.client.options import ClientOptions
from cluster.client.window import Window
from cluster.errors import (
    Closed,
    ConnectionLost,
    DefiniteError,
    LimitExceeded,
    Malformed,
    OutcomeUnknown,
    Overloaded,
    Stopping,
    Timeout,
    TremulaError,
    Unreachable,
    from_wire,
)


class Resumable(Protocol):
    """A subscription that goes on over links."""

    def link_up(self, link: Link) -> None:
        """Subscribe on this link, from where the reader is."""

    def link_lost(self) -> None:
        """Wait for the next link."""

    def client_closed(self) -> None:
        """There will be no link any more."""


class Dispatcher:
    """The engine of a client; `run` drives it."""

    def __init__(self, connector: Connector, options: ClientOptions) -> None:
        self.options = options
        self.link: Link | None = None
        self._connector = connector
        self._closed = False
        self._attempt_timeout_ms = int(options.attempt_timeout_ms)
        self._in_flight_max = options.requests_in_flight_max
        # Calls that wait: for a link, and mutations also for a session and for room in the window.
        self._queued: deque[Call] = deque()
        self._queued_mutations: deque[Call] = deque()
        self._pausing: list[tuple[float, int, Call]] = []  # a heap by the time of the next attempt
        self._pauses = 0  # breaks ties in the heap
        self._window = Window(options.mutations_in_flight_max)
        self._opening: Call | None = None
        self._subscriptions: dict[Resumable, None] = {}
        self._wake_at = inf
        self._timer: trio.CancelScope | None = None

    def start(
        self,
        name: str,
        args: list[Any],
        done: Done,
        timeout_ms: int | None = None,
        trace: list[Any] | None = None,
        identity: tuple[int, int] | None = None,
    ) -> None:
        """Start a request; `done(result or TremulaError)` is called exactly once, maybe at once.

        With an `identity` of its own, (client_id, seq), a mutation takes no place in the window: it
        may wait at the node for long. Whoever gave it repeats it after an unknown outcome.

        HOT: what need not wait is sent past the queues.
        """
        if timeout_ms is None:
            timeout_ms = self.options.timeout_ms
        waiting = len(self._queued) + len(self._queued_mutations)
        if self._closed:
            done(Closed())
        elif waiting >= self.options.requests_waiting_max:
            done(Overloaded("queue of the client", self.options.requests_waiting_max))
        else:
            link = self.link
            # while a chunk is worked off its time is near enough, and costs nothing
            now = link.received_at if link is not None and link.corked else trio.current_time()
            deadline = now + timeout_ms * 0.001
            if deadline < self._wake_at:
                self._wake(deadline)
            call = Call(name, args, done, timeout_ms, deadline, trace)
            if identity is not None:
                call.kind = OTHER
                call.client_id, call.seq = identity
            if waiting or link is None or not self._send(link, call):
                self._queue_of(call).append(call)
                self._send_queued()

    def subscribe(self, subscription: Resumable) -> None:
        """Keep a subscription open on whatever link there is."""
        self._subscriptions[subscription] = None
        if self._closed:
            subscription.client_closed()
        elif self.link is not None:
            self._expect_answer(self.link)
            subscription.link_up(self.link)

    def unsubscribe(self, subscription: Resumable) -> None:
        """Forget a subscription."""
        self._subscriptions.pop(subscription, None)

    async def run(self) -> None:
        """Drive everything until cancelled; then answer what is still open."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_time)
                nursery.start_soon(self._connector.run, self)
        finally:
            self._close()

    def farewell(self) -> None:
        """Give the session back, without waiting for it; otherwise it expires in time."""
        if self.link is not None and self._window.client_id:
            self.link.tell_now(SESSION_CLOSE, [self._window.client_id])

    def link_up(self, link: Link) -> None:
        """The connector has a link."""
        self.link = link
        for subscription in list(self._subscriptions):
            self._expect_answer(link)
            subscription.link_up(link)
        self._send_queued()

    def link_lost(self, link: Link) -> None:
        """What was under way may have happened; repeat what can be repeated, in its order."""
        self.link = None
        calls = list(link.pending.values())
        link.pending.clear()
        for subscription in list(self._subscriptions):
            subscription.link_lost()
        for call in reversed(calls):
            if call.kind is OTHER:
                self._finish(call, ConnectionLost(link.session.close_reason or ""))
            else:
                call.attempts += 1
                call.maybe_happened = True
                self._queue_of(call).appendleft(call)

    def answered(self, call: Call, value: Any) -> None:
        """A result arrived on the link. HOT."""
        if call.kind is MUTATION:  # this and the next are `_finish`, without another call
            self._window.release(call)
        call.done(value)
        if self._queued_mutations or self._queued:
            self._send_queued()

    def refused(self, call: Call, error: list[Any]) -> None:
        """An error arrived on the link."""
        self._failed(call, from_wire(error))
        self._send_queued()

    def _finish(self, call: Call, result: Any) -> None:
        if call.kind is MUTATION:
            self._window.release(call)
        call.done(result)

    def _failed(self, call: Call, error: TremulaError) -> None:
        """An attempt was answered with an error: finish, or go on."""
        then, error = after_error(call, error)
        if then is Next.FINISH:
            self._finish(call, error)
        elif then is Next.RETRY:
            call.last_error = error
            call.maybe_happened |= isinstance(error, OutcomeUnknown)
            self._pause(call)
            self._consider_leaving(error)
        else:
            if then is Next.RENEW_SESSION:
                self._window.forget_session(call.client_id)
            self._window.release(call)
            call.renew()
            self._queued_mutations.append(call)

    def _pause(self, call: Call) -> None:
        call.attempts += 1
        at = trio.current_time() + self._connector.backoff_s(call.attempts)
        self._pauses += 1
        heapq.heappush(self._pausing, (at, self._pauses, call))
        self._wake(at)

    def _consider_leaving(self, error: TremulaError) -> None:
        """A node that stops, or has only refused for a while, is left for another endpoint."""
        link = self.link
        if link is not None and len(self._connector.endpoints) > 1:
            if link.refusing_since is None:
                link.refusing_since = link.received_at
            refused_s = link.received_at - link.refusing_since
            if isinstance(error, Stopping) or refused_s > self.options.refusals_s_max:
                link.session.close(f"trying another endpoint: {error}")

    def _queue_of(self, call: Call) -> deque[Call]:
        return self._queued_mutations if call.kind is MUTATION else self._queued

    def _send_queued(self) -> None:
        """Send what can be sent now, each kind in the order in which it came."""
        link = self.link
        if link is None:
            return
        for queued in (self._queued, self._queued_mutations):
            while queued:
                call = queued.popleft()
                if not self._send(link, call):
                    queued.appendleft(call)
                    break
        if self._queued_mutations and not self._window.client_id:
            self._open_session(link)

    def _send(self, link: Link, call: Call) -> bool:
        """Send one attempt; False if it must wait: for room, a session or a link. HOT."""
        pending = link.pending
        if link.session.closed or len(pending) >= self._in_flight_max:
            return False
        if call.kind is MUTATION and not call.seq and not self._window.identify(call):
            return False
        if not pending:
            self._expect_answer(link)
        timeout_ms = self._attempt_timeout_ms
        left_ms: float = call.timeout_ms
        if call.attempts:
            left_ms = max(1, (call.deadline - trio.current_time()) * 1000)
        if left_ms < timeout_ms or call.kind is OTHER:
            timeout_ms = int(left_ms)
        try:
            link.send(call, timeout_ms)
        except (Malformed, LimitExceeded) as error:  # One call's own: the client's others go on.
            self._failed(call, error)
        return True

    def _open_session(self, link: Link) -> None:
        if self._opening is None:
            # Those who wait for the session have deadlines; it needs none of its own.
            timeout_ms = self.options.attempt_timeout_ms
            call = Call(SESSION_OPEN, [], self._session_opened, timeout_ms, inf, None)
            self._opening = call
            if not self._send(link, call):
                self._opening = None

    def _session_opened(self, result: Any) -> None:
        self._opening = None
        if not isinstance(result, TremulaError):
            self._window.client_id = result
        else:
            # No session is to be had, so nothing that waits for one was sent: as definite as it is.
            queued = self._queued_mutations
            waiting = [call for call in queued if not call.seq]
            kept = [call for call in queued if call.seq]
            queued.clear()
            queued.extend(kept)
            for call in waiting:
                self._finish(call, result)
        if not self._closed:
            self._send_queued()

    def _expect_answer(self, link: Link) -> None:
        """The node owes us something from now on: its silence counts from here."""
        if not link.is_active:
            link.received_at = trio.current_time()
            self._wake(link.received_at + self.options.ping_after_s)

    def _wake(self, at: float) -> None:
        if at < self._wake_at:
            self._wake_at = at
            if self._timer is not None:
                self._timer.deadline = at

    async def _watch_time(self) -> None:
        """One timer for everything that is due at some time."""
        while True:
            with trio.CancelScope(deadline=self._wake_at) as self._timer:
                await trio.sleep_forever()
            self._timer = None
            self._wake_at = inf
            now = trio.current_time()
            self._give_up_overdue(now)
            while self._pausing and self._pausing[0][0] <= now:
                call = heapq.heappop(self._pausing)[2]
                self._queue_of(call).append(call)
            self._check_silence(now)
            self._send_queued()
            self._wake(self._next_time())

    def _give_up_overdue(self, now: float) -> None:
        """End every call whose deadline has passed, wherever it is."""
        ended: list[tuple[Call, TremulaError]] = []
        if self.link is not None:
            pending = self.link.pending
            for request_id in [key for key, call in pending.items() if call.deadline <= now]:
                call = pending.pop(request_id)
                ended.append((call, Timeout(call.timeout_ms)))
        for queue in (self._queued, self._queued_mutations):
            ended += [(call, self._unsent(call)) for call in queue if call.deadline <= now]
            kept = [call for call in queue if call.deadline > now]
            queue.clear()
            queue.extend(kept)
        pauses = self._pausing
        ended += [(call, self._unsent(call)) for _, _, call in pauses if call.deadline <= now]
        self._pausing = [pause for pause in pauses if pause[2].deadline > now]
        heapq.heapify(self._pausing)
        for call, error in ended:  # Last, because what is called back may start new calls.
            self._finish(call, error)

    def _unsent(self, call: Call) -> TremulaError:
        """Why a call that is not under way at its deadline ends."""
        if call.maybe_happened:
            return Timeout(call.timeout_ms)
        opening = self._opening.last_error if self._opening is not None else None
        if call.last_error is not None:
            return call.last_error
        if isinstance(opening, DefiniteError):
            return opening
        if self.link is None:
            return Unreachable(self._connector.names, self._connector.problem)
        return Overloaded("requests under way of the client", self.options.mutations_in_flight_max)

    def _check_silence(self, now: float) -> None:
        """A node that does not even answer a ping is left for another endpoint."""
        link = self.link
        if link is not None and link.is_active:
            heard_at = link.received_at
            # sums, as in `_next_time`: a difference can be a hair short, for ever
            if now >= heard_at + self.options.silence_s_max:
                link.session.close(f"the node was silent for {now - heard_at:.1f} s")
            elif now >= heard_at + self.options.ping_after_s and not link.pinged:
                link.ping()

    def _next_time(self) -> float:
        """When something is due next, after everything that is due was done."""
        calls: list[Iterable[Call]] = [self._queued, self._queued_mutations]
        times = [at for at, _, _ in self._pausing[:1]]
        times += [call.deadline for _, _, call in self._pausing]
        link = self.link
        if link is not None:
            calls.append(link.pending.values())
            if link.is_active:
                options = self.options
                silence = options.silence_s_max if link.pinged else options.ping_after_s
                times.append(link.received_at + silence)
        times += [call.deadline for group in calls for call in group]
        return min(times, default=inf)

    def _close(self) -> None:
        """Nothing is sent any more; what was may have happened, all else did not."""
        self._closed = True
        calls = [*self._queued, *self._queued_mutations, *(call for _, _, call in self._pausing)]
        self._queued.clear()
        self._queued_mutations.clear()
        self._pausing.clear()
        for call in calls:
            lost = call.maybe_happened
            self._finish(call, ConnectionLost("the client was closed") if lost else Closed())
        for subscription in list(self._subscriptions):
            subscription.client_closed()
