"""The handlers of one service: which of them take part in their groups, and how they get there."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from hooks.configuration.definition import HandlerDefinition, Scope
from hooks.execution.history import History
from hooks.execution.lane import Lane, Membership
from hooks.execution.partition import Item
from hooks.execution.placement import Here, InForce, Place, others_to_put_out, place
from hooks.execution.progress import Progress
from hooks.execution.session import MemberSession
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from hooks.ports import ClusterPort, Unavailable
from pubsub import groups
from pubsub.rejection import Rejection


class Lanes:
    """A lane for each handler that this node has code for."""

    def __init__(
        self,
        port: ClusterPort,
        session: MemberSession,
        handlers: Sequence[HandlerDefinition],
        problems: Mapping[str, str],
        limits: HookLimits,
        history: History,
        on_change: Callable[[], None],
    ) -> None:
        """`problems`: why a handler cannot run here whatever the cluster says. `on_change`: a lane
        may work on other partitions than before."""
        self.all: list[Lane] = []  # in the order of starts for one event
        self.works: list[HandlerWork] = []
        self.may_join = False  # once it is known what the cluster says
        self.is_retired = False  # another service takes this one's place: join nothing more
        self._port = port
        self._session = session
        self._handlers = handlers
        self._problems = problems
        self._limits = limits
        self._history = history
        self._on_change = on_change
        self._leads = False
        self._renew: list[HandlerDefinition] = []  # patterns that the groups do not have yet

    def place(self, in_force: InForce, here: Here) -> None:
        """Let every handler be where the cluster wants it, or on its way there."""
        self._leads = here.leads
        self.all = [lane for lane in self.all if not lane.is_gone]
        lanes = {lane.name: lane for lane in self.all}
        for handler in self._handlers:
            placed = place(handler, in_force, here)
            if problem := self._problems.get(handler.name):
                placed = Place(
                    definition=placed.definition,
                    group=placed.group,
                    is_member=False,
                    problem=problem,
                )
            lane = lanes.get(handler.name)
            if lane is None:
                self.all.append(self._open(placed))
            elif placed.continues(lane.place):
                self._update(lane, placed)
            else:  # what was in hand there is another group's; a new lane follows when it is gone
                lane.is_dropped = True
        self._sort()

    def has_gone(self) -> bool:
        """Whether a lane has gone whose handler may now begin anew."""
        return any(lane.is_gone for lane in self.all)

    def lose_all(self) -> list[Item]:
        """The session is over; returns the events whose attempts must be stopped."""
        stopped: list[Item] = []
        for lane in self.all:
            stopped += lane.work.lose_all()
            lane.refusal = None
            if lane.membership in (Membership.MEMBER, Membership.DRAINING):
                lane.membership = Membership.OUT
        return stopped

    def follow(
        self,
        nursery: trio.Nursery,
        stop: Callable[[Iterable[Item]], None],
        *,
        has_looked: bool,
    ) -> int | None:
        """Take the steps that are due, each in a task of its own; returns when more may be.
        `has_looked`: what the cluster says may have changed since the last time."""
        if not self.may_join:
            return None
        now_ms = self._port.monotonic_ms()
        due: list[int | None] = []
        for definition in self._renew:
            nursery.start_soon(self._define, definition)
        self._renew.clear()
        for lane in self.all:
            match lane.membership:
                case Membership.OUT:
                    if lane.is_wanted and lane.refusal is None and not self.is_retired:
                        lane.membership = Membership.JOINING
                        nursery.start_soon(self._join, lane)
                case Membership.MEMBER:
                    if not lane.is_wanted:
                        lane.drain(now_ms)
                        self._on_change()
                    elif lane.definition.scope is Scope.LEADER and (
                        has_looked or lane.rivals_since_ms is not None
                    ):
                        due.append(self._put_out_rivals(lane, now_ms, nursery))
                case Membership.DRAINING:
                    due.append(self._drain(lane, now_ms, nursery, stop))
                case _:
                    pass  # the answer decides
        return min((ms for ms in due if ms is not None), default=None)

    def _open(self, placed: Place) -> Lane:
        share = self._limits.buffered_bytes_max // max(1, len(self._handlers))
        work = HandlerWork(placed.definition, self._limits, share)
        work.metrics = self._history.metrics_of(placed.definition.name)
        return Lane(placed, work, Progress(work, self._limits, self._port.monotonic_ms()))

    def _update(self, lane: Lane, placed: Place) -> None:
        """The policy in force, or where the node stands, has changed."""
        before = lane.definition
        if placed == lane.place:
            return
        lane.place = placed
        lane.refusal = None
        if placed.definition != before:
            lane.work.update(placed.definition)
            is_member = lane.membership is Membership.MEMBER
            if is_member and placed.definition.pattern != before.pattern:
                self._renew.append(placed.definition)

    def _sort(self) -> None:
        self.all.sort(key=lambda lane: (lane.definition.priority, lane.name))
        self.works = [lane.work for lane in self.all]

    async def _define(self, definition: HandlerDefinition) -> None:
        """Have the group say the pattern that is in force; whoever joins next does it as well."""
        try:
            await self._session.define(definition)
        except Unavailable:
            pass

    async def _join(self, lane: Lane) -> None:
        definition = lane.definition
        refusal = await self._session.join(definition)
        if refusal is None:
            lane.membership = Membership.MEMBER
            lane.rivals_since_ms = None
            if lane.definition.pattern != definition.pattern:  # in force only since then
                self._renew.append(lane.definition)
        else:
            lane.membership = Membership.OUT
            lane.refusal = _why(refusal)
            self._port.log.error(
                "handler does not run on this node", handler=lane.name, reason=refusal.detail
            )
        self._on_change()

    async def _leave(self, lane: Lane) -> None:
        await self._session.leave(lane.place.group)
        lane.membership = Membership.OUT
        lane.work.lose_all()
        self._on_change()

    def _drain(
        self,
        lane: Lane,
        now_ms: int,
        nursery: trio.Nursery,
        stop: Callable[[Iterable[Item]], None],
    ) -> int | None:
        if lane.is_wanted and not self.is_retired:
            lane.membership = Membership.MEMBER
            self._on_change()
        elif lane.is_flushed:
            lane.membership = Membership.LEAVING
            nursery.start_soon(self._leave, lane)
        elif lane.definition.scope is Scope.LEADER and not lane.is_dropped:
            # whoever leads now waits no longer than this
            until_ms = lane.draining_since_ms + self._limits.leader_drain_ms
            if now_ms < until_ms:
                return until_ms
            stop(lane.running())
        return None

    def _put_out_rivals(self, lane: Lane, now_ms: int, nursery: trio.Nursery) -> int | None:
        """A handler of the leader belongs to the leader's node alone: who does not leave by itself
        in time is made to, and what it writes down later is refused by token."""
        if not self._leads or self.is_retired:
            return None
        session = self._session
        described = groups.describe(self._port.connection, lane.place.group)
        members = [] if described is None else [each["member"] for each in described["members"]]
        rivals = others_to_put_out(members, session.member, session.predecessor)
        if not rivals:
            lane.rivals_since_ms = None
            return None
        if lane.rivals_since_ms is None:
            lane.rivals_since_ms = now_ms
        patience_ms = self._limits.leader_drain_ms + self._limits.lease_margin_ms
        due_ms = lane.rivals_since_ms + patience_ms
        if any(rivals.values()) or now_ms >= due_ms:
            for rival, at_once in rivals.items():
                if at_once or now_ms >= due_ms:
                    self._port.log.warning(
                        "member put out of a handler of the leader",
                        handler=lane.name,
                        member=rival,
                    )
                    nursery.start_soon(session.put_out, lane.place.group, rival)
            lane.rivals_since_ms = None
            return None
        return due_ms


def _why(refusal: Rejection) -> str:
    return f"{refusal.code}: {refusal.detail}"
