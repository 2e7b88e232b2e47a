"""The hook service of one node: reads its partitions' events, runs handlers, writes progress down.

Doing code around deciding parts: `placement` (which handlers this node runs, by what the cluster
has registered), `work` (what to read and start), `progress` (checkpoints) and the groups in Raft
(who owns what). Promises, and where they are kept:

- A handler runs on one node at a time, at least once per event, in order per key: ownership of a
  partition is a lease (`session`) with a fencing token; `work` keeps the order.
- Nothing is dropped: when a bound is reached reading stops, and the log waits on disk.
- After a crash, at most `unsettled_events_max` events per handler and node run again, and those
  that were running; after `stop`, a reload (`succession`) or a hand-over, nothing does.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import trio

from hooks.configuration.definition import HandlerDefinition, HandlerType
from hooks.execution.attempt import Runner
from hooks.execution.attempts import Attempts, Blocked
from hooks.execution.checkpoints import Checkpoints
from hooks.execution.history import History
from hooks.execution.lane import Lane
from hooks.execution.lanes import Lanes
from hooks.execution.placement import Here, InForce, missing_types
from hooks.execution.reading import Reading
from hooks.execution.registering import Registering
from hooks.execution.session import MemberSession
from hooks.execution.waiting_for import Predecessors
from hooks.execution.work import HandlerWork
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClusterPort
from hooks.replicated import registrations
from pubsub import groups
from pubsub.groups import Assignment
from pubsub.topics import Pattern


class HookService:
    """Runs the handlers that this node has code for, as one member of the cluster."""

    def __init__(
        self,
        port: ClusterPort,
        handlers: Sequence[HandlerDefinition],
        runners: Mapping[HandlerType, Runner],
        *,
        boot_id: str,
        publish_topics: Sequence[Pattern] = (),
        load_problems: Mapping[str, str] | None = None,
        predecessor: "HookService | None" = None,
        limits: HookLimits = DEFAULT_LIMITS,
    ) -> None:
        """`boot_id` must differ between any two services of the node. `publish_topics` is
        what its file says of that setting of the cluster. `load_problems`: what it could not load,
        by handler, module or file, and why. `predecessor`: the service of this node whose place
        this one takes (`succession.take_over`)."""
        self.handlers = tuple(handlers)
        self.member = f"{port.node}/{boot_id}"
        self.port = port
        self.runners = runners  # `hooks.test` makes dry runs through them
        self.limits = limits
        self.history: History = History(limits) if predecessor is None else predecessor.history
        self._publish_topics = publish_topics
        problems = {**missing_types(handlers, runners), **(load_problems or {})}
        self.registering = Registering(
            port,
            self.handlers,
            limits,
            publish_topics=publish_topics,
            load_problems=problems,
            on_change=self._look_again,
        )
        self.session = MemberSession(
            port,
            self.member,
            limits,
            predecessor=None if predecessor is None else predecessor.member,
            on_lease_end=self._stop_attempts,
            on_session_end=self._lose_everything,
            on_change=self._look_again,
        )
        self._lanes = Lanes(
            port, self.session, self.handlers, problems, limits, self.history, self._read_again
        )
        self._attempts = Attempts(port, runners, limits, self.history, self._wake)
        self._checkpoints = Checkpoints(
            port,
            self.member,
            limits,
            self.history,
            on_fenced=self._on_fenced,
            on_answer=self._look_again,
        )
        self._reading = Reading(port, limits)
        self._predecessors = Predecessors(port.node)
        self._noted: dict[str, str] = {}  # see `note_problem`
        self._blocked: dict[str, Blocked] = {}
        self._seen: tuple[object, ...] | None = None  # of what the lanes were placed by
        self._assignments_version = -1
        self._look_due_ms = 0
        self._is_unread = True  # something was applied since the last look
        self._stopping = False
        self._flushing = False
        self._idle = trio.Event()  # it stops, and no attempt runs
        self._settled = trio.Event()  # and everything is written down
        self._wakeup = trio.Event()
        self.changed = trio.Event()  # set and made anew whenever a lane has changed
        self._nursery: trio.Nursery | None = None
        self._place(InForce.of_files(publish_topics))

    @property
    def works(self) -> list[HandlerWork]:
        """The work of each handler, in the order of starts for one event."""
        return self._lanes.works

    @property
    def lanes(self) -> list[Lane]:
        """Each handler with its place in its group, in the same order."""
        return self._lanes.all

    @property
    def in_flight(self) -> int:
        """Attempts that are being made."""
        return self._attempts.under_way

    @property
    def problems(self) -> dict[str, str]:
        """Why handlers do not run here, or run by another policy than this node's; of modules and
        files that could not be loaded, why."""
        return {**self.registering.kept, **self.registering.problems}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or until cancelled."""
        # without a handler nothing that is applied concerns this service
        unwatch = self.port.watch_applied(self._on_applied) if self.handlers else lambda: None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.session.run)
                nursery.start_soon(self.registering.run)
                task_status.started()
                await self._serve(nursery)
        finally:
            self._nursery = None
            unwatch()

    def note_problem(self, handler: str, problem: str | None) -> None:
        """Why a handler that takes part does not do what it is for on this node; None: it does."""
        self._noted.pop(handler, None)
        if problem is not None:
            self._noted[handler] = problem
        self._look_again()

    def retire(self) -> None:
        """Another service takes this one's place: join nothing more, speak for nobody."""
        self.registering.retire()
        self._lanes.is_retired = True

    async def stop(self, drain_ms: int | None = None) -> None:
        """Stop so that nothing runs again: finish what runs, write it down, leave the groups.

        An attempt that takes longer than `drain_ms` is stopped and left to the next owner.
        """
        self._stopping = True
        self.registering.retire()
        self._wake()
        drain_ms = self.limits.drain_ms_max if drain_ms is None else drain_ms
        with trio.move_on_after(drain_ms / 1000):
            await self._idle.wait()
        self._stop_attempts()
        left = False
        # without a majority nothing can be written down any more: that must not take long
        with trio.move_on_after(self.limits.settle_ms_max / 1000):
            await self._settled.wait()
            left = await self.session.leave_all()
        if not left:
            self.port.log.warning("hooks stopped without the cluster knowing", member=self.member)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            has_looked = self._look()
            due_ms: list[int | None] = []
            if not self._stopping:
                due_ms.append(
                    self._lanes.follow(nursery, self._attempts.stop, has_looked=has_looked)
                )
            has_more = not self._stopping and self._reading.read_slice()
            due_ms.append(self._start_attempts(nursery))
            due_ms.append(self._send_checkpoints(nursery))
            if has_more:
                await trio.lowlevel.checkpoint()  # Raft has its turn between two slices
                continue
            if self._is_unread:
                due_ms.append(self._look_due_ms)
            due = [ms for ms in due_ms if ms is not None]
            timeout = float("inf")
            if due:
                timeout = max(1, min(due) - self.port.monotonic_ms()) / 1000
            with trio.move_on_after(timeout):
                await self._wakeup.wait()
            self._wakeup = trio.Event()

    # What the cluster says

    def _look(self) -> bool:
        """Follow registrations, the leader and the assignments, some times a second at most;
        whether it was time to."""
        now_ms = self.port.monotonic_ms()
        if now_ms < self._look_due_ms:
            return False
        self._look_due_ms = now_ms + self.limits.assignments_poll_ms
        self._is_unread = False
        connection = self.port.connection
        registering = self.registering
        if registering.is_settled:
            changes = registrations.changes(connection) if registering.is_known else 0
            seen = (registering.is_known, self.port.entry_version, changes, self.port.leads)
            if seen != self._seen or self._lanes.has_gone():
                self._seen = seen
                self.session.is_succession_known = registering.is_known
                if registering.is_known:
                    self._place(InForce.load(connection))
                else:
                    self._place(InForce.of_files(self._publish_topics))
                for lane in self.lanes:
                    lane.progress.entry_version = self.port.entry_version
                self._lanes.may_join = True
                registering.look_again()
            unplaced = {lane.name: lane.problem for lane in self.lanes if lane.problem}
            registering.tell({**self._noted, **unplaced})
        self._follow_assignments()
        self.changed.set()
        self.changed = trio.Event()
        return True

    def _place(self, in_force: InForce) -> None:
        """Give every handler its place by what is in force now."""
        port = self.port
        here = Here(name=port.node, labels=port.labels, leads=port.leads)
        self._lanes.place(in_force, here)
        works = self._lanes.works
        self._reading.route_to(works, in_force.publish_topics)
        self._predecessors.learn(in_force, works)
        is_blocked = self._predecessors.is_blocked
        self._blocked = {
            work.definition.name: partial(is_blocked, port.connection, work.definition)
            for work in works
            if work.definition.after
        }

    def _follow_assignments(self) -> None:
        connection = self.port.connection
        version = groups.assignments_version(connection)
        if version == self._assignments_version:
            return
        self._assignments_version = version
        owned: dict[str, list[Assignment]] = {}
        for assignment in groups.assignments(connection, self.member):
            owned.setdefault(assignment.group, []).append(assignment)
        for lane in self.lanes:
            group = lane.place.group
            completed = partial(groups.completions, connection, group)
            self._attempts.stop(lane.work.assign(lane.owned(owned.get(group, ())), completed))

    def _look_again(self) -> None:
        self._look_due_ms = 0
        self._wake()

    def _read_again(self) -> None:
        """A lane may work on other partitions than before, whatever the cluster says."""
        self._assignments_version = -1
        self._look_again()

    def _on_fenced(self) -> None:
        self._look_due_ms = 0
        self._look()

    def _lose_everything(self) -> None:
        self._attempts.stop(self._lanes.lose_all())
        self._read_again()

    # Attempts and checkpoints

    def _start_attempts(self, nursery: trio.Nursery) -> int | None:
        """Start what may start; returns when more may."""
        now_ms = self.port.monotonic_ms()
        works = self.works
        for work in works:
            work.wake(now_ms)
        if not self._stopping and self.session.is_valid():
            self._attempts.start(works, self._blocked, nursery)
        due = [due for work in works if (due := work.due_ms(now_ms)) is not None]
        return min(due, default=None)

    def _send_checkpoints(self, nursery: trio.Nursery) -> int | None:
        """Send the checkpoints that are due; returns when the next one will be."""
        due_ms = self._checkpoints.send(self.lanes, nursery, flush=self._flushing)
        if self._stopping and not self._attempts.under_way:
            self._idle.set()
            if self._flushing and all(lane.progress.is_settled for lane in self.lanes):
                self._settled.set()
            elif not self._flushing:
                self._flushing = True
                self._wake()
        return due_ms

    def _stop_attempts(self) -> None:
        self._attempts.stop_all()

    def _on_applied(self) -> None:
        self._is_unread = True
        self._wake()

    def _wake(self) -> None:
        self._wakeup.set()
