"""Fetches of competing groups: parked while there is nothing, so that waiting costs no entry.

A fetch is the operation `group.fetch` under the client's own (client_id, seq). It is proposed only
when the applied state of this node says that something may be due; then it is answered with the
events themselves, which this node has applied, and with how long it was parked: the lease counts
from the entry, so from that long after the request was sent.

Fetches of a group are woken in the order in which they came, no more of them than there seem to be
events. What another node's members took meanwhile makes an empty answer, and the client asks again:
under the next number, because the cluster remembers the empty answer of this one.

May not: decide what a member gets (pubsub/consumer_groups/competing.py does), or keep an event.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from cluster.errors import NoLeader, Stopping, TremulaError
from cluster.operations import pack as pack_operation
from cluster.server.arguments import count, shaped, text
from cluster.server.node import ServedNode
from pubsub.consumer_groups import competing
from pubsub.consumer_groups.addressing import ADDRESSED, concerns, resolve
from pubsub.consumer_groups.consumption import read_one
from pubsub.events import Event
from pubsub.limits import BOOKMARK_REVISIONS
from pubsub.rejection import Rejection
from pubsub.topics import Pattern

if TYPE_CHECKING:
    from cluster.server.connection import Connection

FETCH: Final = "group.fetch"
LOOK_EVERY_S: Final = 0.05
"""What no event announces (a redelivery that becomes due) is noticed so much later at most."""
LEADERLESS_S: Final = 2.0
"""So long may a node that knows no leader keep a fetch that could be served elsewhere."""
LOOK_EVENTS_MAX: Final = 64
READ_GAP_MAX: Final = 16
"""Events nearer to each other than this are read in one go, with those between them."""

# After one of these a group may have something to hand out that no new event speaks of.
_UNSPOKEN: Final = (
    "group.settle", "group.seek", "group.resume", "group.leave", "group.expire", "lease.expire",
)  # fmt: skip


class _Fetch:
    """One fetch that waits or is under way."""

    __slots__ = ("connection", "events_max", "operation", "parked_at", "request_id", "until")

    def __init__(
        self,
        connection: Connection,
        request_id: int,
        operation: bytes,
        events_max: int,
        until: float,
    ) -> None:
        self.connection = connection
        self.request_id = request_id
        self.operation = operation
        self.events_max = events_max
        self.parked_at = trio.current_time()
        self.until = until


class _Group:
    """The fetches of one group."""

    __slots__ = ("looked", "name", "parked", "pattern", "retry_at", "under_way")

    def __init__(self, name: str) -> None:
        self.name = name
        self.parked: dict[_Fetch, None] = {}
        self.under_way = 0  # how many events they may take
        self.looked = 0  # nothing up to here matches that is after the cursor
        self.pattern: Pattern | None = None
        self.retry_at = 0.0  # an empty answer: not again before something changed, or this


class Fetches:
    """All fetches of a node's client port."""

    def __init__(self, node: ServedNode, flush: Callable[[], None]) -> None:
        self._node = node
        self._flush = flush
        self._groups: dict[str, _Group] = {}
        self._seen = 0  # the log was looked through up to here
        self._unspoken = 0
        self._elapsed: tuple[int, float] = (0, 0.0)  # the elapsed clock, and when it was read
        self._leaderless_at: float | None = None
        self._work = trio.Event()

    @property
    def parked(self) -> int:
        """How many fetches wait."""
        return sum(len(group.parked) for group in self._groups.values())

    def start(
        self,
        connection: Connection,
        request_id: int,
        args: list[Any],
        identity: tuple[int, int],
        trace: list[Any] | None,
    ) -> None:
        """Take a fetch: propose it now if something may be due, else park it."""
        name, member, events_max, bytes_max, wait_ms = shaped(
            args, 4, text, text, count, count, count
        )
        arguments = [name, member, events_max, bytes_max]
        operation = pack_operation(*identity, FETCH, arguments, connection.actor, trace)
        until = trio.current_time() + (wait_ms or 0) * 0.001
        fetch = _Fetch(connection, request_id, operation, max(1, events_max), until)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        if not wait_ms:
            self._propose(group, fetch)
            return
        group.parked[fetch] = None
        self._work.set()
        self._look(group)

    def applied(self) -> None:
        """Entries were applied: wake those whose group may have something now."""
        if not self._groups:
            return
        machine = self._node.machine
        self._elapsed = (machine.elapsed_ms, trio.current_time())
        counts = machine.operations
        unspoken = sum(counts[name][0] for name in _UNSPOKEN if name in counts)
        everybody = unspoken != self._unspoken
        self._unspoken = unspoken
        topics: dict[str, None] = {}
        if not everybody and machine.revision > self._seen:
            found = self._node.read_events(self._seen + 1, LOOK_EVENTS_MAX, 1 << 20)
            everybody = len(found) >= LOOK_EVENTS_MAX
            topics = {event.topic: None for event in found}
        self._seen = machine.revision
        for group in list(self._groups.values()):
            if group.parked and (everybody or group.pattern is None or self._speaks(group, topics)):
                group.retry_at = 0.0
                self._look(group)

    def stop(self) -> None:
        """Let everybody go who waits: there is another node."""
        self._refuse(Stopping())

    async def run(self) -> None:
        """Look for what becomes due with time, and answer who has waited long enough."""
        while True:
            await self._work.wait()
            await trio.sleep(LOOK_EVERY_S)
            now = trio.current_time()
            self._check_leader(now)
            for group in list(self._groups.values()):
                self._end_waiting(group, now)
                if group.parked:
                    self._look(group)
                elif not group.under_way:
                    del self._groups[group.name]
            if not self._groups:
                self._work = trio.Event()
            self._flush()

    def _speaks(self, group: _Group, topics: dict[str, None]) -> bool:
        assert group.pattern is not None, "asked for before"
        return any(topic in ADDRESSED or group.pattern.matches(topic) for topic in topics)

    def _check_leader(self, now: float) -> None:
        if self._node.leader is not None:
            self._leaderless_at = None
        elif self._leaderless_at is None:
            self._leaderless_at = now
        elif now >= self._leaderless_at + LEADERLESS_S:
            self._refuse(NoLeader())

    def _refuse(self, error: TremulaError) -> None:
        for group in self._groups.values():
            for fetch in group.parked:
                fetch.connection.answer(fetch.request_id, error)
            group.parked.clear()
        self._flush()

    def _end_waiting(self, group: _Group, now: float) -> None:
        """Answer those with nothing whose time is over; forget those that are gone."""
        for fetch in list(group.parked):
            if not fetch.connection.is_pending(fetch.request_id):
                del group.parked[fetch]
            elif now >= fetch.until:
                del group.parked[fetch]
                fetch.connection.answer(fetch.request_id, [0, 0, [], 0])

    def _look(self, group: _Group) -> None:
        """Propose the first of those that wait if there may be something for them."""
        while group.parked and trio.current_time() >= group.retry_at:
            if self._expected(group) <= group.under_way:
                return
            fetch = next(iter(group.parked))
            del group.parked[fetch]
            if fetch.connection.is_pending(fetch.request_id):
                self._propose(group, fetch)

    def _expected(self, group: _Group) -> int:
        """About how many events the group could hand out now, counted up to a bound."""
        machine = self._node.machine
        standing = competing.standing(machine.connection, group.name)
        if standing is None:
            return 1 << 30  # Not there, or of the other mode: the operation says so to each.
        if group.pattern is None or group.pattern.text != standing.pattern:
            group.pattern, group.looked = Pattern(standing.pattern), 0
        if standing.paused or not standing.may_lease:
            return 0
        elapsed_ms, at = self._elapsed
        elapsed_ms = max(elapsed_ms, machine.elapsed_ms)
        now_ms = elapsed_ms + int((trio.current_time() - at) * 1000) if at else elapsed_ms
        due = standing.redelivery_due_ms
        expected = int(due is not None and due <= now_ms)
        if standing.may_read:
            expected += self._unread(group, standing.cursor)
        return expected

    def _unread(self, group: _Group, cursor: int) -> int:
        """How many events after the cursor match, counted up to a bound."""
        assert group.pattern is not None, "asked for before"
        if cursor < group.looked - BOOKMARK_REVISIONS:
            return 1  # Nothing for anybody; but the cursor must move, or retention waits for it.
        position = max(cursor, group.looked)
        found = self._node.read_events(position + 1, LOOK_EVENTS_MAX, 1 << 20)
        matching = 0
        for event in found:
            if concerns(event, group.name, group.pattern):
                matching += 1
            elif not matching:
                group.looked = event.revision
        return matching or int(len(found) >= LOOK_EVENTS_MAX)

    def _propose(self, group: _Group, fetch: _Fetch) -> None:
        group.under_way += fetch.events_max
        waited_ms = int((trio.current_time() - fetch.parked_at) * 1000)
        self._node.submit(fetch.operation, partial(self._fetched, group, fetch, waited_ms))

    def _fetched(self, group: _Group, fetch: _Fetch, waited_ms: int, result: Any) -> None:
        """The operation was applied here, or ended in an error."""
        group.under_way -= fetch.events_max
        answer: object = result
        if not isinstance(result, (Rejection, TremulaError)):
            token, deadline_ms, leased = result
            if not leased:
                group.retry_at = trio.current_time() + LOOK_EVERY_S
            answer = [token, deadline_ms, self._with_events(leased), waited_ms]
        fetch.connection.answer(fetch.request_id, answer)

    def _with_events(self, leased: list[list[int]]) -> list[list[object]]:
        """`[[attempt, event], ...]`, and `[attempt, event, original, redrives]` of one that is
        handed out again; the bare revision where retention took the event."""
        found: dict[int, Event] = {}
        answer: list[list[object]] = []
        revisions = sorted(revision for revision, _ in leased)
        position = 0
        while position < len(revisions):
            first = last = revisions[position]
            while position < len(revisions) and revisions[position] - last <= READ_GAP_MAX:
                last = revisions[position]
                position += 1
            found |= self._read(first, last)
        for revision, attempt in leased:
            event = found.get(revision)
            if event is None:
                answer.append([attempt, revision])
            elif event.topic not in ADDRESSED:
                answer.append([attempt, event])
            else:
                resolved = resolve(event, partial(read_one, self._node))
                if resolved is None:
                    answer.append([attempt, revision])
                else:
                    answer.append([attempt, event, resolved.event, resolved.redrives])
        return answer

    def _read(self, first: int, last: int) -> dict[int, Event]:
        """The events from `first` to `last` that are still there."""
        found: dict[int, Event] = {}
        while first <= last:
            page = self._node.read_events(first, last - first + 1, 1 << 20)
            if not page:
                break
            found.update((event.revision, event) for event in page)
            first = page[-1].revision + 1
        return found
