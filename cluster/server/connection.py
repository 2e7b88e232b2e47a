"""One client's connection to a node. HOT: one task, no task per request, no await per request.

The task decodes everything that one received chunk completes and starts it; answers are collected
and leave in one write, when the engine has finished a tick or, for what is answered on the spot,
when the chunk is done. A client with too much under way is not read from until there is room again.

May not: decide anything about the data, or know what a request means (requests.py does).
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import msgpack
import trio

from cluster import protocol
from cluster.errors import (
    DefiniteError,
    LimitExceeded,
    Malformed,
    Overloaded,
    Rejected,
    Stopping,
    Timeout,
    TremulaError,
    Unauthorized,
)
from cluster.net import Session
from cluster.operations import EACH_SINCE
from cluster.operations import pack as pack_operation
from cluster.protocol import (
    ERROR,
    META_HOPS,
    META_TRACE,
    MUTATIONS,
    NO_REQUEST,
    OK,
    RESULTS,
    SERIES,
    ProtocolViolation,
    Reader,
    decode_meta,
)
from cluster.server.fetching import FETCH
from cluster.server.node import Read
from cluster.server.requests import single_read, start, start_one_way
from cluster.server.series import Series
from hooks.configuration.definition import GROUP_PREFIX
from pubsub.limits import EFFECT_HOPS_MAX
from pubsub.rejection import Rejection

if TYPE_CHECKING:
    from cluster.server.server import Server
    from cluster.server.streams import Stream

ANONYMOUS = "anonymous"
READS_PER_WRITE = 32
"""After so many answers to reads the client may work on them while it gets the next: measured a
sixth quicker. Answers to writes leave together: what the client would do with the first half is to
send a smaller next entry."""
LARGE_ANSWER_BYTES = 4_096
# A peer that is dismissed may send this long, and is closed when it says nothing for so long.
DISMISS_S = 1.0
DISMISS_QUIET_S = 0.05
_MANY = frozenset(("batch", "txn", "publish_batch"))
_PROPOSED = MUTATIONS - {FETCH}
# Of a handler's group these are for the nodes alone: another pattern or member would take events
# away from the handler. What an operator may do to its place (pause, seek, skip ...) is open.
_OF_MEMBERS = frozenset(
    ("group.define", "group.remove", "group.join", "group.checkpoint", "group.settle")
)

pack = msgpack.Packer(autoreset=True).pack


class Connection:
    """The requests under way of one client, and its answers that have not left yet."""

    __slots__ = (
        "_answers", "_last_id", "_next_deadline", "_pending", "_pending_bytes", "_reads",
        "_room", "_server", "_settled_bytes", "actor", "draining", "gets", "session", "streams",
    )  # fmt: skip

    def __init__(self, server: Server, session: Session) -> None:
        self.session = session
        self.actor = session.peer.name or ANONYMOUS
        self.streams: dict[int, Stream] = {}
        self.draining = False  # Somebody waits for the session to take what was sent.
        self._server = server
        self._last_id = 0
        self._pending: dict[int, tuple[float, int]] = {}  # id -> (deadline, timeout_ms)
        self._pending_bytes = 0  # of mutations
        self._settled_bytes = 0  # how many of them the server has counted
        self._next_deadline = inf  # No request under way is due before this.
        self._reads: list[Read] = []  # Linearizable reads of this chunk: one barrier serves all.
        # The hot kind of them, (request id, key), without an object each.
        self.gets: list[tuple[int, str]] = []
        self._answers: list[bytes] = []
        self._room: trio.Event | None = None  # Set while the reader waits for room.

    async def run(self) -> None:
        """Greet, then serve until either side has had enough."""
        try:
            refusal = await self._greet()
            if refusal is None:
                await self._serve()
            else:
                await self._dismiss(protocol.server_refusal(refusal))
        except ProtocolViolation as violation:
            self._server.count("violations")
            self.flush()
            await self._dismiss(pack((NO_REQUEST, ERROR, violation.error.to_wire())))
        finally:
            self._pending.clear()  # Answers still to come have no reader any more.
            for stream in list(self.streams.values()):
                stream.end()

    @property
    def is_idle(self) -> bool:
        """True while no request is under way."""
        return not self._pending

    @property
    def is_slow(self) -> bool:
        """True while the client does not take what it was sent."""
        return self.session.buffered_bytes > self._server.limits.unsent_bytes_max

    def answer(self, request_id: int, result: object) -> None:
        """Answer a request that is under way; a late answer, after its deadline, is none. HOT."""
        if self._pending.pop(request_id, None) is None:
            self._settle()  # The client may be gone, and then nobody flushes.
            self._make_room()
            return
        status = OK
        if isinstance(result, (Rejection, TremulaError)):
            status = ERROR
            error = Rejected.of(result) if isinstance(result, Rejection) else result
            result = error.to_wire()
        answers = self._answers
        if not answers:
            self._server.unflushed.append(self)
        answers.append(pack((request_id, status, result)))
        if self._room is not None:
            self._make_room()

    def _answer_all(self, series: Series, results: list[Any]) -> None:
        """Answer requests that were logged together. HOT."""
        pending = self._pending
        if set(map(type, results)) == {int} and pending.keys() >= set(series.ids):
            for request_id in series.ids:
                del pending[request_id]
            self.send(series.ids[0], RESULTS, results)
            if self._room is not None:
                self._make_room()
            return
        for request_id, result in zip(series.ids, results, strict=True):
            self.answer(request_id, result)

    def answer_now(self, request_id: int, result: object) -> None:
        """Answer outside of a tick of the engine and of this connection's own task."""
        self.answer(request_id, result)
        self._server.flush()

    def send(self, request_id: int, status: int, value: object) -> None:
        """Add a response of a subscription to those that leave with the next flush."""
        if not self._answers:
            self._server.unflushed.append(self)
        self._answers.append(pack((request_id, status, value)))

    def flush(self) -> None:
        """Send the collected responses in one write."""
        answers = self._answers
        if answers:
            self.session.send_nowait(answers[0] if len(answers) == 1 else b"".join(answers))
            answers.clear()
        self._settle()

    def is_pending(self, request_id: int) -> bool:
        """Whether the client still waits for the answer to this request."""
        return request_id in self._pending

    def detach(self, request_id: int) -> None:
        """A subscription goes on without a deadline: it is no request under way any more."""
        self._pending.pop(request_id, None)

    def read(self, read: Read, linearizable: bool) -> None:
        """Start a read: at once, or behind the barrier that all reads of this chunk share."""
        self._server.count("reads_linearizable" if linearizable else "reads_local")
        if linearizable:
            self._reads.append(read)
        else:
            self._server.run_read(self, read)

    def expire(self, now: float) -> float:
        """Answer what is overdue; returns the deadline that comes next."""
        if now >= self._next_deadline:
            pending = self._pending
            for request_id in [key for key, (deadline, _) in pending.items() if deadline <= now]:
                self._server.count("timeouts")
                self.answer(request_id, Timeout(pending[request_id][1]))
            self._next_deadline = min((deadline for deadline, _ in pending.values()), default=inf)
        return self._next_deadline

    async def _greet(self) -> TremulaError | None:
        """Exchange greetings; returns why this client will not be served."""
        server = self._server
        reader = protocol.greeting_reader()
        greetings: list[Any] = []
        with trio.move_on_after(server.limits.greeting_s):
            while not greetings and (chunk := await self.session.receive()):
                try:
                    reader.feed(chunk)
                    greetings = reader.take(1)
                except ProtocolViolation as violation:
                    server.count("stranger_bytes")
                    return violation.error
        if not greetings:
            server.count("stranger_silent")
            return Malformed("no greeting")
        try:
            version = protocol.choose_version(greetings[0])
        except ProtocolViolation as violation:
            server.count("stranger_greeting")
            return violation.error
        if server.certificate_required and self.session.peer.name is None:
            server.count("stranger_certificate")
            return Unauthorized("a certificate is needed")
        self.session.send_nowait(protocol.server_greeting(version, server.facts()))
        return None

    async def _dismiss(self, last_words: bytes) -> None:
        """Say why, and close once the peer is quiet: closing with its bytes unread would reset the
        connection, and the reset can overtake the reason."""
        self.session.send_nowait(last_words)
        with trio.move_on_after(DISMISS_S):
            chunk = b"."
            while chunk:
                chunk = b""
                with trio.move_on_after(DISMISS_QUIET_S):
                    chunk = await self.session.receive()

    async def _serve(self) -> None:
        server = self._server
        reader = Reader(server.limits.request_bytes_max, protocol.REQUEST_ITEMS_MAX)
        while chunk := await self.session.receive():
            reader.feed(chunk)
            left: list[Any] = []
            while True:
                room = await self._wait_room()
                requests = left or reader.take(room)
                if not requests:
                    break
                try:
                    left = self._start(requests, trio.current_time())
                finally:
                    self._start_reads()
                nobody_else = server.inflight_bytes == self._settled_bytes
                server.node.hasten(len(self._pending) == 1 and nobody_else)
                server.flush()

    async def _wait_room(self) -> int:
        """Wait until more requests may be started; returns how many."""
        if not self._has_room() or self.is_slow:
            self._server.count("stalls")
        while self.is_slow and not self.session.closed:
            await self.session.drain()
        while not self._has_room():
            self._room = trio.Event()
            await self._room.wait()
            self._room = None
        return self._server.limits.pipelined_requests_max - len(self._pending)

    def _make_room(self) -> None:
        if self._room is not None and self._has_room():
            self._room.set()

    def _has_room(self) -> bool:
        limits = self._server.limits
        return (
            len(self._pending) < limits.pipelined_requests_max
            and self._pending_bytes < limits.pipelined_bytes_max
        )

    def _start(self, requests: list[Any], now: float) -> list[Any]:
        """Start each request; returns those that wait for room, as series may be too many. HOT."""
        server = self._server
        server.requests += len(requests)
        actor, pending, submit = self.actor, self._pending, server.node.submit
        timeout_ms: int | None = None
        due = self._due(now, None)
        following = iter(requests)
        for request in following:
            try:
                request_id, name, args, raw_meta = request
            except (TypeError, ValueError):
                raise ProtocolViolation(Malformed("a request is [id, name, args, meta]")) from None
            if type(request_id) is not int or type(name) is not str or type(args) is not list:
                raise ProtocolViolation(Malformed("a request is [integer, text, array, meta]"))
            if request_id <= self._last_id:
                self._take_one_way(request_id, name, args)
                continue
            if name == SERIES:
                if not self._has_room():
                    left = [request, *following]
                    server.requests -= len(left)
                    self._settle()
                    return left
                self._start_series(request_id, args, raw_meta, now)
                continue
            self._last_id = request_id
            pending[request_id] = due
            try:
                client_id, seq, wanted_ms, trace = decode_meta(raw_meta)
                if wanted_ms != timeout_ms:  # Neighbours mostly want the same.
                    timeout_ms, due = wanted_ms, self._due(now, wanted_ms)
                    pending[request_id] = due
                if server.stopping:
                    raise Stopping
                if name not in _PROPOSED:
                    if name == FETCH:
                        identity = (client_id, seq)
                        server.fetches.start(self, request_id, args, identity, trace)
                    else:
                        start(server, self, request_id, name, args)
                    continue
                if name in _MANY or server.inflight_bytes > server.limits.inflight_bytes_max:
                    self._check_bounds(args)
                elif name in _OF_MEMBERS:
                    _refuse_handlers_groups(args)
                if trace is not None and (trace[META_HOPS - META_TRACE] or 0) > EFFECT_HOPS_MAX:
                    chain = f"a chain of more than {EFFECT_HOPS_MAX} effects"
                    raise Rejected("hops_exceeded", chain)
                operation = pack_operation(client_id, seq, name, args, actor, trace)
                size = len(operation)
                self._pending_bytes += size
                submit(operation, partial(self._mutated, request_id, size))
            except DefiniteError as error:
                self.answer(request_id, error)
        self._settle()
        return []

    def _start_series(self, first_id: int, args: list[Any], raw_meta: Any, now: float) -> None:
        """Start requests that came as one, as one operation if that is possible. HOT."""
        try:
            series = Series.of(first_id, args, raw_meta)
        except Malformed as error:  # Nobody knows how many ids it has.
            raise ProtocolViolation(error) from None
        server = self._server
        # Not while the cluster has members that could not read it, nor when there may be no room.
        if (
            server.node.machine.entry_version < EACH_SINCE
            or server.inflight_bytes > server.limits.inflight_bytes_max
            or server.stopping
        ):
            server.requests -= 1
            self._start(series.requests(), now)
            return
        server.requests += len(series.ids) - 1
        self._last_id = series.ids[-1]
        self._pending.update(dict.fromkeys(series.ids, self._due(now, series.timeout_ms)))
        operation = series.operation(self.actor)
        size = len(operation)
        self._pending_bytes += size
        server.node.submit(operation, partial(self._all_mutated, series, size))

    def _due(self, now: float, timeout_ms: int | None) -> tuple[float, int]:
        """The deadline that a timeout means, and the timeout in force."""
        limits = self._server.limits
        if timeout_ms is None:
            timeout_ms = limits.timeout_ms_default
        timeout_ms = min(timeout_ms, limits.timeout_ms_max)
        deadline = now + timeout_ms * 0.001
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            self._server.watch_deadline(deadline)
        return deadline, timeout_ms

    def _take_one_way(self, request_id: int, name: str, args: list[Any]) -> None:
        if request_id != NO_REQUEST:
            raise ProtocolViolation(Malformed("request ids must rise"))
        try:
            start_one_way(self, name, args)
        except DefiniteError as error:
            raise ProtocolViolation(error) from None  # There is no id to answer to.

    def _check_bounds(self, args: list[Any]) -> None:
        """Refuse a list of operations that is too long, and anything while the node is full."""
        limits = self._server.limits
        if self._server.inflight_bytes > limits.inflight_bytes_max:
            raise Overloaded("bytes of requests under way", limits.inflight_bytes_max)
        for arg in args:
            if isinstance(arg, list) and len(arg) > limits.batch_operations_max:
                maximum = limits.batch_operations_max
                raise LimitExceeded("batch_operations_max", len(arg), maximum)

    def _settle(self) -> None:
        """Bring the node's sum of bytes under way up to date (per chunk, not per request)."""
        change = self._pending_bytes - self._settled_bytes
        if change:
            self._server.inflight_bytes += change
            self._settled_bytes = self._pending_bytes

    def _start_reads(self) -> None:
        reads, gets = self._reads, self.gets
        if reads or gets:
            self._reads, self.gets = [], []
            self._server.count("reads_linearizable", len(gets))
            self._server.node.read_index(partial(self._serve_reads, reads, gets))

    def _serve_reads(
        self, reads: list[Read], gets: list[tuple[int, str]], error: TremulaError | None
    ) -> None:
        if error is not None:
            for request_id in [read.request_id for read in reads] + [read[0] for read in gets]:
                self.answer(request_id, error)
            return
        self._serve_gets(gets)
        for read in reads:
            self._server.run_read(self, read)
            # A large answer leaves at once, so that `is_slow` sees it before the next read.
            if self._answers and len(self._answers[-1]) > LARGE_ANSWER_BYTES:
                self.flush()

    def _serve_gets(self, gets: list[tuple[int, str]]) -> None:
        """Answer from the applied state while the client takes its answers. HOT."""
        get, answer, is_slow = self._server.node.machine.get, self.answer, self.is_slow
        for request_id, key in gets:
            if is_slow:
                self._server.run_read(self, single_read(request_id, key))
                continue
            row = get(key)
            answer(request_id, row)
            if row is not None and len(row.value or b"") > LARGE_ANSWER_BYTES:
                self.flush()
                is_slow = self.is_slow
            elif len(self._answers) >= READS_PER_WRITE:
                self.flush()

    def _mutated(self, request_id: int, size: int, result: object) -> None:
        self._pending_bytes -= size
        self.answer(request_id, result)

    def _all_mutated(self, series: Series, size: int, results: object) -> None:
        """Each of them has a result, or all the same error. HOT."""
        self._pending_bytes -= size
        if isinstance(results, list):
            self._answer_all(series, results)
        elif isinstance(results, Rejection):
            # A new leader that had not applied yet what the others had wrote an older entry, which
            # does not have it: none of them happened.
            for request_id, name, call, (client_id, seq, _) in series.requests():
                operation = pack_operation(client_id, seq, name, call, self.actor)
                size = len(operation)
                self._pending_bytes += size
                self._server.node.submit(operation, partial(self._mutated, request_id, size))
        else:
            for request_id in series.ids:
                self.answer(request_id, results)


def _refuse_handlers_groups(args: list[Any]) -> None:
    if args and type(args[0]) is str and args[0].startswith(GROUP_PREFIX):
        detail = f'"{args[0]}" belongs to a handler: `cluster hook` changes or forgets it'
        raise Rejected("reserved_group", detail)
