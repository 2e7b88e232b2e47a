"""What a member of a partitioned group has in hand: deliveries, cursors, checkpoints.

The node streams what belongs to the partitions that the member owns; cursors
(pubsub/consumer_groups/cursor.py) turn acks into floors and completions; one checkpoint is under
way at a time, and what is settled meanwhile goes with the next. A new link begins at the confirmed
floors: what is in hand comes again and is dropped here, so the user gets nothing twice from one
consumer.

A partition that is to be released hands out nothing more: what is in hand is waited for, and the
checkpoint that settles the last of it gives the partition up.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any, Final

import trio

from cluster.client.delivery import CLOSED, Delivery, Waiter
from cluster.client.dispatcher import Dispatcher
from cluster.client.intake import Host
from cluster.client.link import Link
from cluster.client.sent_back import SentBack
from cluster.client.subscription import event_from_wire
from cluster.errors import (
    Closed,
    ConnectionLost,
    Fenced,
    NoLeader,
    NotLeader,
    Overloaded,
    Rejected,
    Stopping,
    TremulaError,
    from_wire,
)
from pubsub.consumer_groups.consumption import ASSIGNED, RELEASING
from pubsub.consumer_groups.cursor import Budget, Cursor, Row, Verdict

LINGER_S: Final = 0.05
"""An ack that nobody waits for may wait so long for company: it is what a crash hands out again."""
CHECKPOINT_EVENTS: Final = 1_000
"""With so many settled a checkpoint goes at once."""
UNCONFIRMED_MAX: Final = 8_192
"""With so many settled that the cluster has not confirmed nothing more is handed out: without a
majority a node goes on sending what it has, and a crash of the program repeats all of it."""
CHECKPOINT_BYTES_MAX: Final = 2 * 1024 * 1024
FLOORS_EVERY_S: Final = 5.0
"""Floors that moved over events of others are written so often: retention waits for them."""
REFUSED_PAUSE_S: Final = 0.05
FULL_PAUSE_S: Final = 1.0


class PartitionedIntake:
    """The events of one member. Implements `Resumable`, `Sink`, `Holder` and `Intake`."""

    def __init__(self, dispatcher: Dispatcher, host: Host, prefetch: int) -> None:
        self.ready: deque[Delivery] = deque()
        self.cursors: dict[int, Cursor] = {}
        self.problem: str | None = None
        self._dispatcher = dispatcher
        self._host = host
        self._prefetch = prefetch
        self._link: Link | None = None
        self._id = 0
        self._next_number = 1
        self._spent = 0  # credits used up and not granted again
        self._position = 0  # everything up to here of what is read was received on this link
        self._mentioned: dict[int, None] | None = None  # until a new link has told all that is held
        self._waiters: dict[tuple[Cursor, int], Waiter] = {}
        self._settled = 0  # events that wait for a checkpoint
        self._room = UNCONFIRMED_MAX  # for them, beside the checkpoint that is under way
        self._settled_at = inf
        self._floors_at = trio.current_time() + FLOORS_EVERY_S
        self._ahead = True
        self._released: dict[Cursor, None] = {}  # given up, as far as this member is concerned
        self._sent_back = SentBack()
        self._is_subscribed = False
        self._draining = False
        self._work = trio.Event()
        self._settling = False

    # --- Intake ---

    def begin(self) -> None:
        """The member has joined: ask for what it owns."""
        if not self._is_subscribed:
            self._is_subscribed = True
            self._dispatcher.subscribe(self)

    def end(self) -> None:
        """Ask for nothing more; what was handed out can still be settled."""
        if self._is_subscribed:
            self._is_subscribed = False
            self._dispatcher.unsubscribe(self)
        if self._link is not None:
            self._link.close_sink(self._id)
            self._link = None
        self._fold()
        self._draining = True
        self._work.set()

    def void(self) -> None:
        """The session is lost: nothing in hand is this member's any more."""
        self.end()
        self._draining = False
        for number in list(self.cursors):
            self._lose(number)

    def next_nowait(self) -> Delivery | None:
        """What to hand out next. HOT."""
        while self.ready and self._settled < self._room:
            delivery = self.ready.popleft()
            if self._sent_back and self._sent_back.holds(delivery):
                self._work.set()
                continue
            return delivery
        return None

    @property
    def is_flushed(self) -> bool:
        """See `Intake`; at the end this includes the floors."""
        return not (self._settled or self._settling or (self._draining and self._floors_due()))

    def abandon(self) -> None:
        """See `Intake`."""
        self.end()
        for waiter in self._waiters.values():
            waiter.tell(ConnectionLost(CLOSED) if self._settling else Closed())
        self._waiters.clear()
        self._settled = 0
        self.cursors.clear()

    async def run(self) -> None:
        """Write down what is settled and deliver again what was sent back, until cancelled."""
        while True:
            now = trio.current_time()
            self._deliver_again(now)
            due = self._due()
            if due <= now:
                await self._checkpoint(now)
                continue
            due = min(due, self._sent_back.next_at)
            self._work = trio.Event()
            with trio.CancelScope(deadline=due):
                await self._work.wait()

    # --- Holder ---

    def is_valid(self, delivery: Delivery) -> bool:
        """See `Holder`."""
        return self.cursors.get(delivery.partition) is delivery.origin and self._host.is_alive

    def settle(self, delivery: Delivery, verdict: Verdict | None, waiter: Waiter | None) -> None:
        """See `Holder`. HOT."""
        cursor = self.cursors.get(delivery.partition)
        if cursor is not delivery.origin or delivery.is_settled or cursor is None:
            raise Fenced(self._host.group, delivery.revision)
        delivery.is_settled = True
        revision = delivery.revision
        cursor.settle(revision, verdict)
        if waiter is not None:
            self._waiters[cursor, revision] = waiter
        if not self._settled:
            self._settled_at = trio.current_time()
        self._settled += 1
        self._free(1)
        if self._sent_back:
            self._work.set()
            if behind := self._sent_back.settled(delivery):
                self.ready.extendleft(reversed(behind))
                self._host.tell_news()
        is_last = cursor.releasing and not cursor.open
        if waiter or self._settled == 1 or self._settled >= CHECKPOINT_EVENTS or is_last:
            self._work.set()

    def send_back(
        self, delivery: Delivery, delay_ms: int | None, error: str | None, waiter: Waiter
    ) -> None:
        """See `Holder`. The partition is this member's, so it delivers the event again itself; what
        follows under the same key waits for that."""
        cursor = self.cursors.get(delivery.partition)
        if cursor is not delivery.origin or delivery.is_settled or cursor is None:
            raise Fenced(self._host.group, delivery.revision)
        delivery.is_settled = True
        if cursor.releasing:
            cursor.forget([delivery.revision])
            self._free(1)
        else:
            until = trio.current_time() + (delay_ms or 0) * 0.001
            self._sent_back.add(delivery.again(), until)
        self._work.set()
        waiter.tell(None)

    async def extend(self, delivery: Delivery, lease_ms: int | None) -> None:
        """See `Holder`."""
        if not self.is_valid(delivery):
            raise Fenced(self._host.group, delivery.revision)
        await trio.lowlevel.checkpoint()

    # --- Resumable ---

    def link_up(self, link: Link) -> None:
        """See `Resumable`."""
        held = sum(len(cursor.open) for cursor in self.cursors.values())
        self._link = link
        self._next_number = 1
        self._fold()
        self._position = 0
        self._mentioned = {}
        granted = max(0, self._prefetch - held)
        self._spent = self._prefetch - held - granted  # what is in hand beyond it, if any
        arguments = [self._host.group, self._host.member, granted]
        self._id = link.open_sink(self, arguments, "group.consume")

    def link_lost(self) -> None:
        """See `Resumable`."""
        self._link = None

    def client_closed(self) -> None:
        """See `Resumable`."""
        self._link = None

    # --- Sink ---

    def take_events(self, first_number: int, events: list[Any]) -> None:
        """See `Sink`; an event is `[partition, token, event]`. HOT."""
        if first_number != self._next_number and self._link is not None:
            self._link.session.close(f"event {self._next_number} of a group is missing")
            return
        self._next_number += len(events)
        ready, cursors = self.ready.append, self.cursors
        unwanted = 0
        for number, token, fields, *original in events:
            cursor = cursors.get(number)
            if (
                cursor is None
                or cursor.token != token
                or cursor.releasing
                or not cursor.receive(fields[0])
            ):
                unwanted += 1
                continue
            delivery = Delivery(event_from_wire(fields), 1, number, token, self, cursor)
            if original:
                delivery.stand_for(event_from_wire(original[0]), original[1])
            ready(delivery)
        self._position = events[-1][2][0]
        if unwanted:
            self._free(unwanted)
        self._host.tell_news()

    def take_bookmark(self, revision: int) -> None:
        """See `Sink`. The first one of a link says that all partitions were mentioned."""
        if self._mentioned is not None:
            mentioned, self._mentioned = self._mentioned, None
            for number in list(self.cursors):
                if number not in mentioned:
                    self._lose(number)
        if revision > self._position:
            self._position = revision

    def take_change(self, kind: str, partition: int, token: int) -> None:
        """See `Sink`."""
        self._fold()
        self._position = 0
        cursor = self.cursors.get(partition)
        if kind == ASSIGNED:
            if cursor is None or cursor.token != token:
                self._lose(partition)
                cursor = self.cursors[partition] = Cursor(partition, token)
            cursor.releasing = False
            self._released.pop(cursor, None)
            if self._mentioned is not None:
                self._mentioned[partition] = None
        elif cursor is not None and cursor.token == token:
            if kind == RELEASING:
                cursor.releasing = True
                self._let_go(cursor, forget=True)
            else:
                self._lose(partition)
        self._work.set()

    def take_end(self, error: list[Any] | None) -> None:
        """See `Sink`."""
        link, self._link = self._link, None
        problem = Stopping() if error is None else from_wire(error)
        if isinstance(problem, (Stopping, NoLeader, NotLeader, Overloaded)):
            if link is not None:
                link.session.close(f"trying another endpoint: {problem}")
            return
        if isinstance(problem, TremulaError):
            self._host.lose_session(problem)

    # --- what is in hand ---

    def _fold(self) -> None:
        """What was read on this link counts for every partition that is read."""
        if self._position:
            for cursor in self.cursors.values():
                if not cursor.releasing:
                    cursor.reach(self._position)

    def _lose(self, number: int) -> None:
        cursor = self.cursors.pop(number, None)
        if cursor is None:
            return
        self._released.pop(cursor, None)
        self._let_go(cursor, forget=False)
        self._settled -= len(cursor.settled)
        self._host.tell_news()
        self._free(len(cursor.open))
        sent = cursor.sent.revisions if cursor.sent is not None else {}
        for key in [key for key in self._waiters if key[0] is cursor and key[1] not in sent]:
            self._waiters.pop(key).tell(Fenced(self._host.group, key[1]))

    def _let_go(self, cursor: Cursor, *, forget: bool) -> None:
        """Keep nothing of a partition that the user was not given."""

        def kept(delivery: Delivery) -> bool:
            if delivery.origin is not cursor:
                return True
            dropped.append(delivery.revision)
            return False

        dropped: list[int] = []
        self.ready = deque(filter(kept, self.ready))
        for delivery in self._sent_back.drop(cursor.number):
            kept(delivery)
        if forget:
            cursor.forget(dropped)
            self._free(len(dropped))

    def _free(self, credits: int) -> None:
        self._spent += credits
        if self._link is not None and self._spent * 2 >= self._prefetch:
            self._link.grant(self._id, self._spent)
            self._spent = 0

    def _deliver_again(self, now: float) -> None:
        if due := self._sent_back.due(now):
            self.ready.extendleft(reversed(due))
            self._host.tell_news()

    # --- checkpoints ---

    def _due(self) -> float:
        """When the next checkpoint is due."""
        if self._settled and (
            self._waiters or self._settled >= CHECKPOINT_EVENTS or self._draining
        ):
            return 0.0
        if any(
            cursor.releasing and not cursor.open and cursor not in self._released
            for cursor in self.cursors.values()
        ):
            return 0.0
        due = self._floors_at if self.cursors else inf
        if self._draining:
            return 0.0 if self._floors_due() else inf
        return min(due, self._settled_at + LINGER_S) if self._settled else due

    def _floors_due(self) -> bool:
        """Whether some floor may be ahead of what the cluster has."""
        return any(
            not (cursor.open or cursor.sent or cursor in self._released)
            and cursor.reached > cursor.floor
            for cursor in self.cursors.values()
        )

    async def _checkpoint(self, now: float) -> None:
        self._fold()
        floors_due = now >= self._floors_at or self._draining
        if floors_due:
            self._floors_at = now + FLOORS_EVERY_S
        budget = Budget(CHECKPOINT_BYTES_MAX)
        rows: dict[Cursor, Row] = {}
        for cursor in self.cursors.values():
            if cursor in self._released:
                continue
            row = cursor.take(budget, floors_due=floors_due, ahead=self._ahead)
            if row is not None:
                rows[cursor] = row
        if not rows:
            self._settled = sum(len(cursor.settled) for cursor in self.cursors.values())
            if self._settled or not floors_due:
                await trio.sleep(REFUSED_PAUSE_S)
            self._host.tell_news()
            return
        under_way = sum(len(row.revisions) for row in rows.values())
        self._settled -= under_way
        self._room = UNCONFIRMED_MAX - under_way
        self._settled_at = now
        arguments = [
            self._host.group,
            self._host.member,
            [row.fields for row in rows.values()],
            [effect for row in rows.values() for effect in row.effects],
        ]
        self._settling = True
        answer, is_certain = await self._host.submit("group.checkpoint", arguments)
        self._settling = False
        self._room = UNCONFIRMED_MAX
        if isinstance(answer, TremulaError):
            await self._refused(rows, answer, is_certain)
            return
        self.problem = None
        self._ahead = True
        refused = {
            (number, revision): Rejected(code, detail) for number, revision, code, detail in answer
        }
        for cursor, row in rows.items():
            cursor.confirmed()
            if row.fields[4] and self.cursors.get(cursor.number) is cursor:
                self._released[cursor] = None
            if self._waiters:
                for revision in row.revisions:
                    self._tell(cursor, revision, refused.get((cursor.number, revision)))
        if self.ready or not self._settled:
            self._host.tell_news()

    async def _refused(
        self, rows: dict[Cursor, Row], error: TremulaError, is_certain: bool
    ) -> None:
        """The checkpoint as a whole was not applied: what it carried waits again."""
        for cursor, row in rows.items():
            cursor.refused()
            if self.cursors.get(cursor.number) is cursor:
                self._settled += len(row.revisions)
            else:
                for revision in row.revisions:
                    self._tell(cursor, revision, self._host.fenced(revision, is_certain))
        self.problem = error.message()
        if error.code == "limit_exceeded" and self._ahead:
            self._ahead = False
        elif error.code == "dead_letters_full":
            await trio.sleep(FULL_PAUSE_S)
        elif error.code in ("unknown_group", "malformed", "wrong_mode"):
            self._host.lose_session(error)
            await trio.sleep(REFUSED_PAUSE_S)
        else:  # Fenced: the stream is about to say which partition was lost.
            await trio.sleep(REFUSED_PAUSE_S)

    def _tell(self, cursor: Cursor, revision: int, error: TremulaError | None) -> None:
        waiter = self._waiters.pop((cursor, revision), None)
        if waiter is not None:
            waiter.tell(error)
