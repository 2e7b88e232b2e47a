"""This node as a member of its handlers' groups: joining, staying, noticing that it was cut off.

The lease is counted from when a keepalive was sent, on this node's own clock, and ends before the
cluster can give up on the member, whose time starts when it applied that keepalive. So a member
that cannot renew has stopped its attempts before a successor starts. One that was paused cannot
notice in time; its checkpoints are refused by token.
"""

from collections.abc import Callable, Sequence

import trio

from hooks.configuration.definition import HandlerDefinition
from hooks.limits import HookLimits
from hooks.ports import ClusterPort, Unavailable
from pubsub import groups
from pubsub.rejection import Rejection


class MemberSession:
    """The session of one member in the groups of its handlers."""

    def __init__(
        self,
        port: ClusterPort,
        member: str,
        handlers: Sequence[HandlerDefinition],
        limits: HookLimits,
        *,
        on_lease_end: Callable[[], None],
        on_session_end: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        """`on_lease_end`: stop what runs, it may go on later. `on_session_end`: what this member
        owned belongs to others. `on_change`: look at the assignments and the lease again."""
        self.member = member
        self.problems: dict[str, str] = {}  # handler name -> why it does not run here
        self._port = port
        self._handlers = handlers
        self._limits = limits
        self._on_lease_end = on_lease_end
        self._on_session_end = on_session_end
        self._on_change = on_change
        self._lease_until_ms = 0
        self._renewed = trio.Event()
        self._scope = trio.CancelScope()

    def is_valid(self) -> bool:
        """Whether this member may start attempts now."""
        return self._port.monotonic_ms() < self._lease_until_ms

    async def run(self) -> None:
        """Join, and stay a member until cancelled."""
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._watch_lease)
            while True:
                await self._join_all()
                if len(self.problems) == len(self._handlers):  # no session to keep alive
                    await trio.sleep(self._limits.member_ttl_ms / 1000)
                    continue
                await self._keep_alive()
                self._port.log.warning("hook session lost", member=self.member)
                self._lease_until_ms = 0
                self._on_session_end()

    async def leave(self) -> bool:
        """Stop being a member; what was owned moves without waiting for the session's end. False
        when the cluster did not answer."""
        self._scope.cancel()
        self._lease_until_ms = 0
        try:
            await self._port.submit("group.leave", [self.member])
        except Unavailable:
            return False
        return True

    async def _keep_alive(self) -> None:
        """Renew until the cluster no longer knows this member."""
        while True:
            await trio.sleep(self._limits.keepalive_ms / 1000)
            sent_ms = self._port.monotonic_ms()
            try:
                result = await self._port.submit("group.keepalive", [self.member])
            except Unavailable:
                continue
            if isinstance(result, Rejection):
                return
            self._renew(sent_ms)

    async def _join_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for handler in self._handlers:
                nursery.start_soon(self._join, handler)

    async def _join(self, handler: HandlerDefinition) -> None:
        """Define the handler's group and join it; a refusal keeps the handler from running here."""
        while True:
            try:
                result = await self._define(handler)
                if not isinstance(result, Rejection):
                    sent_ms = self._port.monotonic_ms()
                    group = handler.group_of(self._port.node)
                    arguments = [group, self.member, self._limits.member_ttl_ms]
                    result = await self._port.submit("group.join", arguments)
                if not isinstance(result, Rejection):
                    self.problems.pop(handler.name, None)
                    self._renew(sent_ms)
                    return
                if result.code != "definition_conflict":  # another node was faster: look again
                    break
            except Unavailable:
                pass
            await trio.sleep(self._limits.rejected_pause_ms / 1000)
        self.problems[handler.name] = f"{result.code}: {result.detail}"
        self._port.log.error(
            "handler does not run on this node", handler=handler.name, reason=result.detail
        )

    async def _define(self, handler: HandlerDefinition) -> object:
        """Confirm the group's definition, or renew it when the pattern has changed since."""
        group = handler.group_of(self._port.node)
        known = groups.describe(self._port.connection, group)
        pattern = handler.pattern.text
        version = 0 if known is None else int(known["version"])
        if known is not None and known["pattern"] != pattern:
            self._port.log.warning(
                "handler pattern changed", handler=handler.name, was=known["pattern"], now=pattern
            )
            version += 1
        return await self._port.submit(
            "group.define", [group, pattern, handler.partitions, handler.start, version]
        )

    def _renew(self, sent_ms: int) -> None:
        lease_ms = self._limits.member_ttl_ms - self._limits.lease_margin_ms
        self._lease_until_ms = max(self._lease_until_ms, sent_ms + lease_ms)
        self._renewed.set()
        self._on_change()

    async def _watch_lease(self) -> None:
        """Stop attempts when the lease ends without a renewal."""
        while True:
            self._renewed = trio.Event()
            if not self.is_valid():
                await self._renewed.wait()
                continue
            remaining_ms = self._lease_until_ms - self._port.monotonic_ms()
            with trio.move_on_after(remaining_ms / 1000):
                await self._renewed.wait()
            if not self.is_valid():
                self._port.log.warning("hook lease ended", member=self.member)
                self._on_lease_end()
