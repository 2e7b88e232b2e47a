"""Competing consumer groups: whichever member asks gets the next event, and answers for each one.

An event is leased with a token that rises with every fetch of the group: (revision, token) is one
delivery. It is delivered at least once; with `ordered`, one event of a key at a time, in the order
of the log. Answering has its own file (`competing_settle`), and so has a lease's end
(`competing_leases`); this is where the state machine and the server find all of it.
"""

from typing import Any, Final, NamedTuple

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import competing_tables as tables
from pubsub.consumer_groups.competing_leases import expire, next_due
from pubsub.consumer_groups.competing_settle import settle
from pubsub.consumer_groups.competing_tables import CompetingGroup, Pending
from pubsub.consumer_groups.group_settings import stands_still
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.consumer_groups.outlines import Outline
from pubsub.limits import (
    FETCH_EVENTS_MAX,
    FETCH_LOOK_BYTES_MAX,
    FETCH_LOOK_EVENTS_MAX,
    HELD_MAX,
    LETTERS_WRITTEN_MAX,
    READ_BYTES_MAX,
    WAITING_MAX,
)
from pubsub.log import Compacted
from pubsub.rejection import Rejection
from pubsub.retention_rules import compacted
from pubsub.topics import compiled

__all__ = ["Standing", "expire", "fetch", "next_due", "settle", "standing"]

# A batch so small comes with its row: asking for it by itself would cost more than it does.
_SMALL_BYTES: Final = 2_048
_BATCHES: Final = (
    "SELECT first_revision, count, length(events),"
    f" CASE WHEN length(events) <= {_SMALL_BYTES} THEN events END FROM event_batches"
    " WHERE first_revision >= (SELECT coalesce(max(first_revision), 0) FROM event_batches"
    " WHERE first_revision <= ?) ORDER BY first_revision"
)
_BATCH_OF: Final = (
    "SELECT first_revision, count, length(events) FROM event_batches WHERE first_revision <= ?"
    " ORDER BY first_revision DESC LIMIT 1"
)


class Standing(NamedTuple):
    """What a server must know of a competing group to let a fetch wait without a Raft entry."""

    pattern: str
    paused: bool
    cursor: int  # every event up to here was looked at
    may_lease: bool  # fewer events than max_in_flight are leased
    may_read: bool  # and there is room for events after the cursor, which may have to wait
    redelivery_due_ms: int | None  # elapsed clock: when the first waiting event may go out again
    lease_due_ms: int | None  # elapsed clock: when the first lease of the group ends


def standing(connection: apsw.Connection, group: str) -> Standing | None:
    """How a competing group stands; None if there is none of that name, or it is partitioned.

    A fetch hands something out when the group is not paused, `may_lease`, and either
    `redelivery_due_ms` has come, or `may_read` and an event after `cursor` matches.
    """
    row = connection.execute(
        f"SELECT pattern, {stands_still('g.id')}, cursor,"
        " in_flight < max_in_flight, waiting + dying < ? AND held < ?,"
        " (SELECT min(due_ms) FROM competing_waiting AS w"
        "  WHERE w.group_id = g.id AND due_ms IS NOT NULL),"
        " (SELECT min(deadline_ms) FROM competing_leases AS l WHERE l.group_id = g.id)"
        " FROM consumer_groups AS g JOIN competing_groups AS c ON c.group_id = g.id"
        " JOIN group_settings AS s ON s.group_id = g.id WHERE name = ?",
        (WAITING_MAX, HELD_MAX, group),
    ).fetchone()
    if row is None:
        return None
    pattern, paused, cursor, may_lease, may_read, *due = row
    return Standing(pattern, bool(paused), cursor, bool(may_lease), bool(may_read), *due)


def fetch(
    apply: Apply, group: Any, member: Any, events_max: Any, bytes_max: Any
) -> list[Any] | Rejection:
    """Lease events to `member`: `[token, deadline_elapsed_ms, [[revision, attempt], ...]]`.

    Due redeliveries first, then what follows the cursor. `[0, 0, []]` when nothing is due, when the
    group is paused or has enough in flight, or when none of a bounded number of events matched: the
    cursor has moved, ask again. `attempt` counts from 1; the first event may exceed `bytes_max`.
    """
    if not is_count(events_max, 1) or events_max > FETCH_EVENTS_MAX:
        return malformed(f"events_max: from 1 to {FETCH_EVENTS_MAX} is needed")
    if not is_count(bytes_max, 1) or bytes_max > READ_BYTES_MAX:
        return malformed(f"bytes_max: from 1 to {READ_BYTES_MAX} is needed")
    row = tables.load(apply, group)
    if row is None:
        return tables.not_competing(apply.connection, group)
    if not _is_member(apply, row.id, member):
        shown = member if isinstance(member, str) else "?"
        return Rejection(
            "unknown_member", f'member "{shown}" has no session in group "{row.name}"; it must join'
        )
    if row.paused:
        return [0, 0, []]
    fetch = _Fetch(apply, row, events_max, bytes_max)
    fetch.redeliver()
    gap = fetch.read_on()
    events = fetch.events
    row.bury_dying(LETTERS_WRITTEN_MAX)
    deadline_ms = 0
    if events:
        row.token += 1
        deadline_ms = apply.elapsed_ms + row.settings.lease_ms
        row.in_flight += len(events)
        row.lease(member, row.token, deadline_ms, events)
    elif gap is not None and not row.is_changed:
        return Rejection(
            "compacted",
            f'retention took events from group "{row.name}"; nothing is missing from revision'
            f" {gap.first_revision} on: seek there",
        )
    row.store()
    token = row.token if events else 0
    return [token, deadline_ms, [[event.revision, event.attempt] for event in events]]


class _Fetch:
    """What one fetch gathers, within its bounds and those of the group."""

    __slots__ = ("_apply", "_bytes_left", "_group", "_is_full", "_room", "events")

    def __init__(
        self, apply: Apply, group: CompetingGroup, events_max: int, bytes_max: int
    ) -> None:
        self.events: list[Pending] = []
        self._apply = apply
        self._group = group
        self._room = min(events_max, group.settings.max_in_flight - group.in_flight)
        self._bytes_left = bytes_max
        self._is_full = self._room <= 0

    def redeliver(self) -> None:
        """Take what waits and is due."""
        group = self._group
        if self._is_full or not group.waiting:
            return
        rows: list[Any] = self._apply.connection.execute(
            "SELECT revision, attempt, size_bytes, order_key FROM competing_waiting"
            " WHERE group_id = ? AND due_ms <= ? ORDER BY due_ms, revision LIMIT ?",
            (group.id, self._apply.elapsed_ms, self._room),
        ).fetchall()
        looked: dict[int, int] = {}  # bytes of the batches that had to be looked into
        taken: list[int] = []
        for revision, attempt, size_bytes, order_key in rows:
            event = Pending(revision, attempt + 1, size_bytes, order_key)
            is_there = self._is_there(revision, looked)
            if is_there and not self._add(event):
                break
            taken.append(revision)
            if not is_there:  # a hard cap of retention outweighs the group that needs it
                group.forget(event)
            if sum(looked.values()) > FETCH_LOOK_BYTES_MAX:
                self._is_full = True
                break
        group.take_waiting(taken)
        group.waiting -= len(taken)

    def read_on(self) -> Compacted | None:
        """Take what follows the cursor. What retention took of that is passed over, as in the other
        mode: the group is not protected, or the cap of the whole log outweighed it.

        Looks at a bounded number of events and bytes, and moves the cursor over what does not
        match: a group of rare events costs a fetch no more than any other.
        """
        group, connection = self._group, self._apply.connection
        if self._is_full or group.waiting + group.dying >= WAITING_MAX or group.held >= HELD_MAX:
            return None
        if self._apply.version < 3:  # It stood still there until somebody moved it.
            gap = compacted(connection, group.pattern, group.cursor + 1)
            if gap is not None:
                return gap
        skipped = tables.skipped(connection, group.id)
        outlines = self._apply.outlines
        looked, looked_bytes = FETCH_LOOK_EVENTS_MAX, 0
        rows = connection.execute(_BATCHES, (group.cursor + 1,))
        for first_revision, count, size_bytes, blob in rows:
            looked_bytes += size_bytes
            if looked_bytes > max(size_bytes, FETCH_LOOK_BYTES_MAX):
                break
            batch = outlines.of_batch(connection, first_revision, size_bytes, blob)
            start = max(0, group.cursor + 1 - first_revision)
            stop = min(count, start + looked)
            if not self._look_at(batch, first_revision, start, stop, skipped):
                break
            looked -= stop - start
            if not looked:
                break
        if skipped and group.cursor >= min(skipped):
            tables.forget_skipped(connection, group.id, group.cursor)
        return None

    def _look_at(
        self,
        batch: list[Outline | None],
        first_revision: int,
        start: int,
        stop: int,
        skipped: dict[int, None],
    ) -> bool:
        """Take what matches of a part of a batch; False once there is no room for more. HOT."""
        group = self._group
        name, matches, ordered = group.name, compiled(group.pattern).matches, group.settings.ordered
        for ordinal in range(start, stop):
            outline = batch[ordinal]
            if outline is None:
                continue
            topic, key, named, size_bytes = outline
            if named != name if named is not None else not matches(topic):
                continue
            revision = first_revision + ordinal
            if skipped and revision in skipped:
                continue
            order_key = None
            if ordered:
                order_key = topic if key is None else key
                if group.is_busy(order_key):
                    group.hold(revision, order_key, size_bytes)
                    group.held += 1
                    if group.held >= HELD_MAX:
                        group.cursor = revision
                        return False
                    continue
            if not self._add(Pending(revision, 1, size_bytes, order_key)):
                group.cursor = revision - 1
                return False
            if order_key is not None:
                group.hold(revision, order_key, size_bytes)
            if self._is_full:
                group.cursor = revision
                return False
        group.cursor = max(group.cursor, first_revision + stop - 1)
        return True

    def _add(self, event: Pending) -> bool:
        """Lease an event, unless it is too large for what else is leased. HOT."""
        if event.size_bytes > self._bytes_left and self.events:
            self._is_full = True
            return False
        self.events.append(event)
        self._bytes_left -= event.size_bytes
        self._room -= 1
        self._is_full = self._room <= 0
        return True

    def _is_there(self, revision: int, looked: dict[int, int]) -> bool:
        """Whether retention has left an event that waits."""
        connection = self._apply.connection
        row = connection.execute(_BATCH_OF, (revision,)).fetchone()
        if row is None or revision >= row[0] + row[1]:
            return False
        first_revision, _, size_bytes = row
        looked[first_revision] = size_bytes
        batch = self._apply.outlines.of_batch(connection, first_revision, size_bytes)
        return batch[revision - first_revision] is not None


def _is_member(apply: Apply, group_id: int, member: Any) -> bool:
    """Whether `member` has joined the group and its session is not over."""
    if not isinstance(member, str):
        return False
    deadline_ms = apply.connection.execute(
        "SELECT deadline_ms FROM group_members NATURAL JOIN group_sessions"
        " WHERE member = ? AND group_id = ?",
        (member, group_id),
    ).get
    return deadline_ms is not None and deadline_ms > apply.elapsed_ms
