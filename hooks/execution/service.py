"""The hook service of one node: reads its partitions' events, runs handlers, writes progress down.

Doing code around three deciding parts: `work` (what to read and start), `progress`
(checkpoints) and the groups in Raft (who owns what). Promises, and where they are kept:

- A handler runs on one node at a time, at least once per event, in order per key: ownership of a
  partition is a lease (`session`) with a fencing token; `work` keeps the order.
- Nothing is dropped: when a bound is reached reading stops, and the log waits on disk.
- After a crash, at most `unsettled_events_max` events per handler and node run again, and those
  that were running; after `stop`, a reload or a hand-over, nothing does.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import trio

from hooks.configuration.definition import HandlerDefinition, HandlerType
from hooks.delivery import TRIGGER_TOPIC, Delivery, deliver, deliver_again
from hooks.execution.attempt import Attempt, Failed, Outcome, Runner
from hooks.execution.partition import Item
from hooks.execution.progress import Checkpoint, Progress
from hooks.execution.session import MemberSession
from hooks.execution.work import HandlerWork
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClusterPort, Unavailable
from pubsub import groups
from pubsub.consumer_groups.addressing import ADDRESSED, recipient
from pubsub.events import Event
from pubsub.groups import Assignment
from pubsub.log import has_gap
from pubsub.rejection import Rejection
from pubsub.retention import compacted


class HookService:
    """Runs the enabled handlers among `handlers` as one member of the cluster."""

    def __init__(
        self,
        port: ClusterPort,
        handlers: Sequence[HandlerDefinition],
        runners: Mapping[HandlerType, Runner],
        *,
        boot_id: str,
        routes: Callable[[str], bool] = lambda topic: True,
        limits: HookLimits = DEFAULT_LIMITS,
    ) -> None:
        """`boot_id` must differ between any two runs of the node. `routes` tells of which topics
        events reach handlers at all (`HooksConfig.routes`)."""
        self.handlers = tuple(handlers)
        self.member = f"{port.node}/{boot_id}"
        self.port = port
        self._runners = runners
        self._limits = limits
        self._routes_topic = routes
        enabled = [handler for handler in handlers if handler.enabled]
        assert all(handler.type in runners for handler in enabled)
        share = limits.buffered_bytes_max // max(1, len(enabled))
        # In the order in which starts for one event come.
        self.works = [
            HandlerWork(handler, limits, share)
            for handler in sorted(enabled, key=lambda handler: (handler.priority, handler.name))
        ]
        now_ms = port.monotonic_ms()
        self._progress = [Progress(work, limits, now_ms) for work in self.works]
        self._routes: dict[tuple[str, bool], list[HandlerWork]] = {}
        self.session = MemberSession(
            port,
            self.member,
            enabled,
            limits,
            on_lease_end=self._stop_attempts,
            on_session_end=self._lose_everything,
            on_change=self._look_again,
        )
        self.in_flight = 0
        self._attempting: dict[Item, HandlerWork] = {}
        self._lost_to: dict[str, int] = {}  # handler -> up to where it was told
        self._assignments_version = -1
        self._assignments_due_ms = 0
        self._is_assignment_unread = True
        self._stopping = False
        self._flushing = False
        self._idle = trio.Event()  # it stops, and no attempt runs
        self._settled = trio.Event()  # and everything is written down
        self._wakeup = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or until cancelled."""
        # without a handler nothing that is applied concerns this service
        unwatch = self.port.watch_applied(self._on_applied) if self.works else lambda: None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.session.run)
                task_status.started()
                await self._serve()
        finally:
            self._nursery = None
            unwatch()

    async def stop(self, drain_ms: int | None = None) -> None:
        """Stop so that nothing runs again: finish what runs, write it down, leave the groups.

        An attempt that takes longer than `drain_ms` is stopped and left to the next owner.
        """
        self._stopping = True
        self._wake()
        drain_ms = self._limits.drain_ms_max if drain_ms is None else drain_ms
        with trio.move_on_after(drain_ms / 1000):
            await self._idle.wait()
        self._stop_attempts()
        left = not self.works  # then nobody knows of this member
        # without a majority nothing can be written down any more: that must not take long
        with trio.move_on_after(0 if left else self._limits.settle_ms_max / 1000):
            await self._settled.wait()
            left = await self.session.leave()
        if not left:
            self.port.log.warning("hooks stopped without the cluster knowing", member=self.member)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        while True:
            self._follow_assignments()
            has_more = self._read_slice()
            retry_due_ms = self._start_attempts()
            checkpoint_due_ms = self._send_checkpoints()
            if has_more:
                await trio.lowlevel.checkpoint()  # Raft has its turn between two slices
                continue
            due_ms = [due for due in (retry_due_ms, checkpoint_due_ms) if due is not None]
            if self._is_assignment_unread:
                due_ms.append(self._assignments_due_ms)
            timeout = float("inf")
            if due_ms:
                timeout = max(1, min(due_ms) - self.port.monotonic_ms()) / 1000
            with trio.move_on_after(timeout):
                await self._wakeup.wait()
            self._wakeup = trio.Event()

    # Who owns what

    def _follow_assignments(self) -> None:
        now_ms = self.port.monotonic_ms()
        if now_ms < self._assignments_due_ms:
            return
        self._assignments_due_ms = now_ms + self._limits.assignments_poll_ms
        self._is_assignment_unread = False
        connection = self.port.connection
        version = groups.assignments_version(connection)
        if version == self._assignments_version:
            return
        self._assignments_version = version
        owned: dict[str, list[Assignment]] = {}
        for assignment in groups.assignments(connection, self.member):
            owned.setdefault(assignment.group, []).append(assignment)
        for work in self.works:
            group = work.definition.group_of(self.port.node)
            completed = partial(groups.completions, connection, group)
            for item in work.assign(owned.get(group, ()), completed):
                _cancel(item)

    def _look_again(self) -> None:
        self._assignments_due_ms = 0
        self._wake()

    def _lose_everything(self) -> None:
        for work in self.works:
            for item in work.lose_all():
                _cancel(item)
        self._assignments_version = -1
        self._look_again()

    # Reading

    def _read_slice(self) -> bool:
        """One pass over the log for all handlers that want more; whether there may be more."""
        if self._stopping:
            return False
        for work in self.works:
            work.unpark()
        revision = self.port.revision
        hungry = [work for work in self.works if work.wants(revision)]
        if not hungry:
            return False
        position = min(work.position for work in hungry)
        limits = self._limits
        found = self.port.read_events(position + 1, limits.read_events_max, limits.read_bytes_max)
        if has_gap(found, position + 1):
            self._tell_lost(hungry, found)
        for event in found:
            self._route(event)
        for work in hungry:
            work.advance(found[-1].revision if found else position)
        return bool(found)

    def _route(self, event: Event) -> None:
        """Offer an event to the handlers of its topic. HOT."""
        delivery: Delivery | None = None
        topic, triggered = event.topic, False
        if topic in ADDRESSED:
            self._route_again(event)
            return
        if topic == TRIGGER_TOPIC:
            delivery = deliver(event)
            topic, triggered = delivery.topic, True
        route = self._routes.get((topic, triggered))
        if route is None:
            route = self._find_route(topic, triggered)
        if route:
            delivery = delivery or Delivery(event, topic, False)
            for work in route:
                work.offer(delivery)

    def _route_again(self, fact: Event) -> None:
        """Offer an event that is handed out again to the handler whose group it names."""
        group = recipient(fact)
        for work in self.works:
            if work.definition.group_of(self.port.node) == group:
                delivery = deliver_again(fact, self._read_event)
                if delivery is None:
                    self.port.log.warning("an event to replay is gone", revision=fact.data[1])
                else:
                    work.offer(delivery)

    def _read_event(self, revision: int) -> Event | None:
        found = self.port.read_events(revision, 1, 1)
        return found[0] if found and found[0].revision == revision else None

    def _tell_lost(self, hungry: Sequence[HandlerWork], found: Sequence[Event]) -> None:
        """Say what retention took from handlers: their groups are not protected, or the cap of the
        whole log outweighed them."""
        for work in hungry:
            first, last = work.position + 1, found[-1].revision
            lost = compacted(self.port.connection, work.definition.pattern.text, first)
            missing = last - first + 1 - sum(event.revision >= first for event in found)
            if lost is None or missing <= 0:
                continue
            work.metrics.compacted += missing
            name = work.definition.name
            if lost.first_revision > self._lost_to.get(name, 0):
                self._lost_to[name] = lost.first_revision
                self.port.log.error(
                    "retention took events that a handler had not read",
                    handler=name,
                    from_revision=first,
                    first_revision=lost.first_revision,
                )

    def _find_route(self, topic: str, triggered: bool) -> list[HandlerWork]:
        route: list[HandlerWork] = []
        if triggered or self._routes_topic(topic):  # who triggers by hand means it
            route = [work for work in self.works if work.definition.pattern.matches(topic)]
        if len(self._routes) >= self._limits.topics_cached_max:
            self._routes.clear()
        self._routes[topic, triggered] = route
        return route

    # Attempts

    def _start_attempts(self) -> int | None:
        """Start what may start, one event per handler and round; returns when a retry is due."""
        now_ms = self.port.monotonic_ms()
        due = [due for work in self.works if (due := work.wake(now_ms)) is not None]
        started = not self._stopping and self.session.is_valid()
        turn = trio.Event()
        turn.set()
        while started:
            started = False
            for work in self.works:
                # A place for each handler, whatever the others do.
                if self.in_flight >= self._limits.attempts_in_flight_max and work.running:
                    continue
                item = work.take()
                if item is not None:
                    turn = self._start_attempt(work, item, turn)
                    started = True
        return min(due, default=None)

    def _start_attempt(self, work: HandlerWork, item: Item, turn: trio.Event) -> trio.Event:
        """Start an attempt after those before it (trio starts tasks in no order, but priority is
        one); returns the turn of the next."""
        assert self._nursery is not None
        assert item.delivery is not None
        attempt = Attempt(
            handler=work.definition,
            deliveries=(item.delivery,),
            number=item.attempt,
            token=item.partition.token,
            cluster_id=self.port.cluster_id,
        )
        self.in_flight += 1
        item.scope = trio.CancelScope()
        self._attempting[item] = work
        next_turn = trio.Event()
        self._nursery.start_soon(self._attempt, work, item, attempt, turn, next_turn)
        return next_turn

    async def _attempt(
        self,
        work: HandlerWork,
        item: Item,
        attempt: Attempt,
        turn: trio.Event,
        next_turn: trio.Event,
    ) -> None:
        outcome: Outcome | None = None
        started_ms = self.port.monotonic_ms()
        assert item.scope is not None
        await turn.wait()
        next_turn.set()
        with item.scope:
            outcome = await self._runners[attempt.handler.type].execute(attempt)
        now_ms = self.port.monotonic_ms()
        self.in_flight -= 1
        del self._attempting[item]
        if outcome is None:
            work.cancel(item)
        else:
            work.metrics.note(outcome, now_ms - started_ms)
            work.end(item, outcome, now_ms, self.port.random())
        if isinstance(outcome, Failed):
            self.port.log.warning(
                "attempt failed",
                handler=attempt.handler.name,
                revision=attempt.delivery.revision,
                attempt=attempt.number,
                kind=outcome.kind.value,
                error=outcome.error,
            )
        self._wake()

    def _stop_attempts(self) -> None:
        for item in self._attempting:
            _cancel(item)

    # Checkpoints

    def _send_checkpoints(self) -> int | None:
        """Send the checkpoints that are due; returns when the next one will be."""
        assert self._nursery is not None
        now_ms = self.port.monotonic_ms()
        due: list[int] = []
        for progress in self._progress:
            if checkpoint := progress.build(now_ms, flush=self._flushing):
                self._nursery.start_soon(self._checkpoint, progress, checkpoint)
            elif progress.under_way is None:
                due.append(progress.due_ms(now_ms))
        if self._stopping and not self._attempting:
            self._idle.set()
            if self._flushing and all(progress.is_settled for progress in self._progress):
                self._settled.set()
            elif not self._flushing:
                self._flushing = True
                self._wake()
        return min(due, default=None)

    async def _checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        work = progress.work
        group = work.definition.group_of(self.port.node)
        arguments = [group, self.member, checkpoint.rows, checkpoint.effects]
        result = await self._submit(arguments)
        if isinstance(result, Rejection):
            await self._on_refusal(work, result)
            progress.refused()
        else:
            for _, revision, code, detail in result:
                self.port.log.warning(
                    "effects refused",
                    handler=work.definition.name,
                    revision=revision,
                    reason=f"{code}: {detail}",
                )
            progress.confirmed(len(result))
        self._look_again()

    async def _submit(self, arguments: Sequence[object]) -> Any:
        while True:
            try:
                return await self.port.submit("group.checkpoint", arguments)
            except Unavailable:
                await trio.sleep(self._limits.rejected_pause_ms / 1000)

    async def _on_refusal(self, work: HandlerWork, refusal: Rejection) -> None:
        """Stop partitions that have another owner; pause, so that nothing is refused in a loop."""
        if refusal.code == "fenced":
            work.metrics.checkpoints_fenced += 1
            self._assignments_due_ms = 0
            self._follow_assignments()
            await trio.sleep(self._limits.assignments_poll_ms / 1000)
            return
        work.metrics.checkpoints_refused += 1
        self.port.log.error(
            "checkpoint refused",
            handler=work.definition.name,
            code=refusal.code,
            reason=refusal.detail,
        )
        await trio.sleep(self._limits.rejected_pause_ms / 1000)

    def _on_applied(self) -> None:
        self._is_assignment_unread = True
        self._wake()

    def _wake(self) -> None:
        self._wakeup.set()


def _cancel(item: Item) -> None:
    if item.scope is not None:
        item.scope.cancel()
