"""One connection of a client: it multiplexes requests and subscriptions over one session. HOT.

A lone request leaves at once. Requests that are made in one pass of the scheduler leave in one
write: those made while a received chunk is worked off when it is done, all others when the sender
task, woken by the first of them, gets its turn.

May not: retry, or know endpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgpack
import trio

from cluster import protocol
from cluster.client.call import Call
from cluster.client.series import Series
from cluster.errors import LimitExceeded, Malformed
from cluster.net import Session
from cluster.protocol import (
    BOOKMARK,
    CHANGE,
    ERROR,
    EVENTS,
    NO_REQUEST,
    OK,
    RESULTS,
    ProtocolViolation,
    Reader,
)

_FINAL = (OK, ERROR)

_pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True).pack
# What it raises for arguments that it cannot carry, such as an integer of more than 64 bits or a
# text with half of a surrogate pair.
_UNPACKABLE = (TypeError, ValueError, OverflowError)


class Sink(Protocol):
    """Where the responses of a subscription go."""

    def take_events(self, first_number: int, events: list[Any]) -> None:
        """Events in the form of the wire."""

    def take_bookmark(self, revision: int) -> None:
        """Everything up to this revision was delivered."""

    def take_change(self, kind: str, partition: int, token: int) -> None:
        """A partition was assigned, is to be released, or is lost (streams of groups only)."""

    def take_end(self, error: list[Any] | None) -> None:
        """The node ended the stream."""


class Owner(Protocol):
    """Who is told what became of the calls."""

    def answered(self, call: Call, value: Any) -> None:
        """The result of a call arrived."""

    def refused(self, call: Call, error: list[Any]) -> None:
        """An error arrived instead."""


async def greet(session: Session, info: dict[str, object]) -> dict[str, Any]:
    """Exchange greetings; returns the node's facts, raises its refusal or ProtocolViolation."""
    session.send_nowait(protocol.client_greeting(info))
    reader = protocol.greeting_reader()
    while chunk := await session.receive():
        reader.feed(chunk)
        for greeting in reader.take(1):
            return protocol.accepted_greeting(greeting)
    raise ConnectionError(session.close_reason)


class Link:
    """A greeted session, the calls under way on it, and its subscriptions."""

    def __init__(self, session: Session, facts: dict[str, Any], owner: Owner, now: float) -> None:
        self.session = session
        self.facts = facts
        self.pending: dict[int, Call] = {}
        self.sinks: dict[int, Sink] = {}
        self.received_at = now  # also the moment from which an answer is waited for
        self.refusing_since: float | None = None  # refusals that pass, and no good answer since
        self.pinged = False
        self.request_bytes_max = int(facts.get("request_bytes_max", 0)) or 2**31
        self._owner = owner
        self._next_id = 1
        self._unsent: list[bytes] = []
        self._series: Series | None = None  # follows what is unsent
        self._in_series = frozenset(facts.get("series") or ())  # names that the node takes in one
        self.corked = False  # a received chunk is worked off: what is sent waits for its end
        self._sender = trio.lowlevel.ParkingLot()

    @property
    def is_active(self) -> bool:
        """True while the node owes us something."""
        return bool(self.pending or self.sinks)

    def send(self, call: Call, timeout_ms: int) -> None:
        """Send a call, whose answer is of use for so long. HOT.

        Raises Malformed for arguments that cannot be sent, and LimitExceeded for more bytes than
        the node accepts; then nothing was sent.
        """
        request_id = self._next_id
        is_first = not self._unsent and self._series is None
        try:
            if call.name in self._in_series and call.client_id and call.trace is None:
                self._send_in_series(request_id, call, timeout_ms)
            else:
                meta = [call.client_id, call.seq, timeout_ms, *(call.trace or ())]
                data = _pack((request_id, call.name, call.args, meta))
                self._check_size(data)
                self._close_series()
                self._unsent.append(data)
        except _UNPACKABLE as error:
            raise _malformed(error) from error
        self._next_id = request_id + 1
        self.pending[request_id] = call
        if not self.corked:
            self._leave(is_first)

    def _send_in_series(self, request_id: int, call: Call, timeout_ms: int) -> None:
        packed = _pack(call.args)
        if self._series is not None and self._series.add(call, timeout_ms, packed):
            return
        series = Series(request_id, call, timeout_ms, packed)
        if series.is_full:  # it may be too large for the node
            self._check_size(series.encode())
        self._close_series()
        self._series = series

    def _check_size(self, data: bytes) -> None:
        if len(data) > self.request_bytes_max:
            raise LimitExceeded("request_bytes_max", len(data), self.request_bytes_max)

    def _close_series(self) -> None:
        if self._series is not None:
            self._unsent.append(self._series.encode())
            self._series = None

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.pinged = True
        self._queue(_pack((self._take_id(), "ping", (), None)))

    def tell_now(self, name: str, args: list[Any]) -> None:
        """Send a request whose answer nobody waits for, at once: the link is about to end."""
        self._queue(_pack((self._take_id(), name, args, None)))
        self._flush()

    def open_sink(self, sink: Sink, args: list[Any], name: str = "subscribe") -> int:
        """Start a stream; returns the id for `grant` and `close_sink`. One that cannot be asked
        for ends at once."""
        request_id = self._take_id()
        try:
            data = _pack((request_id, name, args, None))
        except _UNPACKABLE as error:
            sink.take_end(_malformed(error).to_wire())
            return request_id
        self.sinks[request_id] = sink
        self._queue(data)
        return request_id

    def grant(self, request_id: int, credits: int) -> None:
        """Let the node send more events of a subscription."""
        if request_id in self.sinks:
            self._queue(_pack((NO_REQUEST, "credit", (request_id, credits), None)))

    def close_sink(self, request_id: int) -> None:
        """End a subscription; nothing more reaches its sink."""
        if self.sinks.pop(request_id, None) is not None:
            self._queue(_pack((NO_REQUEST, "cancel", (request_id,), None)))

    async def run(self) -> None:
        """Receive and send until the session is closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_when_woken)
                await self._receive()
                nursery.cancel_scope.cancel()
        finally:
            self.session.close()

    async def _receive(self) -> None:
        reader = Reader(protocol.RESPONSE_BYTES_MAX)
        pending, answered = self.pending, self._owner.answered
        try:
            while chunk := await self.session.receive():
                reader.feed(chunk)
                self.received_at = trio.current_time()
                self.pinged = False
                self.corked = True
                try:
                    # Each value that is complete now ended in this chunk: there are no more.
                    for response in reader.take(len(chunk)):
                        try:
                            request_id, status, value = response
                        except (TypeError, ValueError):
                            error = Malformed("a response is [id, status, value]")
                            raise ProtocolViolation(error) from None
                        if status == RESULTS:
                            self._take_results(request_id, value)
                            continue
                        call = pending.pop(request_id, None) if status == OK else None
                        if call is not None:
                            self.refusing_since = None
                            answered(call, value)
                        else:
                            self._take(request_id, status, value)
                finally:
                    self.corked = False
                self._flush()
        except ProtocolViolation as violation:
            self.session.close(f"protocol violation of the node: {violation.error}")

    def _take_results(self, first_id: int, results: list[Any]) -> None:
        """Of a series. HOT."""
        if type(results) is not list:
            raise ProtocolViolation(Malformed("the results of a series are an array"))
        self.refusing_since = None
        take, answered = self.pending.pop, self._owner.answered
        for request_id, result in enumerate(results, first_id):
            call = take(request_id, None)
            if call is not None:
                answered(call, result)

    def _take(self, request_id: Any, status: Any, value: Any) -> None:
        """Everything but the result of a call."""
        if status in _FINAL:
            call = self.pending.pop(request_id, None)
            if call is not None:
                self._owner.refused(call, value)
                return
            sink = self.sinks.pop(request_id, None)
            if sink is not None:
                sink.take_end(value if status == ERROR else None)
            elif request_id == NO_REQUEST:
                self.session.close(f"the node closed the connection: {value}")
            # Else a ping, or a call that was given up in the meantime.
            return
        sink = self.sinks.get(request_id)
        if sink is not None and status == EVENTS:
            sink.take_events(*value)
        elif sink is not None and status == BOOKMARK:
            sink.take_bookmark(value)
        elif sink is not None and status == CHANGE:
            sink.take_change(*value)

    def _take_id(self) -> int:
        self._close_series()  # its ids follow each other
        request_id = self._next_id
        self._next_id = request_id + 1
        return request_id

    def _queue(self, data: bytes) -> None:
        is_first = not self._unsent and self._series is None
        self._unsent.append(data)
        if not self.corked:
            self._leave(is_first)

    def _leave(self, is_first: bool) -> None:
        """See to it that what was queued, perhaps as the first, leaves in this pass of the
        scheduler."""
        if len(self.pending) <= 1:
            self._flush()  # a lone request gains nothing from waiting for company
        elif is_first:
            self._sender.unpark()

    def _flush(self) -> None:
        self._close_series()
        unsent = self._unsent
        if unsent:
            self.session.send_nowait(b"".join(unsent))
            unsent.clear()

    async def _send_when_woken(self) -> None:
        while True:
            self._flush()
            await self._sender.park()


def _malformed(error: Exception) -> Malformed:
    return Malformed(f"an argument cannot be sent: {error}")
