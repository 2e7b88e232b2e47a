"""This node as a member of its handlers' groups: joining, staying, noticing that it was cut off.

The lease is counted from when a keepalive was sent, on this node's own clock, and ends before the
cluster can give up on the member, whose time starts when it applied that keepalive. So a member
that cannot renew has stopped its attempts before a successor starts. One that was paused cannot
notice in time; its checkpoints are refused by token.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
        limits: HookLimits,
        *,
        predecessor: str | None,
        on_lease_end: Callable[[], None],
        on_session_end: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        """`predecessor`: the member whose place this one takes. `on_lease_end`: stop what runs, it
        may go on later. `on_session_end`: what this member owned belongs to others. `on_change`:
        look at the assignments and the lease again."""
        self.member = member
        self.is_succession_known = True  # the cluster knows what a predecessor is
        self._port = port
        self._limits = limits
        self.predecessor = predecessor
        self._on_lease_end = on_lease_end
        self._on_session_end = on_session_end
        self._on_change = on_change
        self._groups: dict[str, None] = {}
        self._memberships = 0  # counts the joins, so that a late refusal of a keepalive is known
        self._has_asked = False  # to be a member of anything
        self._lease_until_ms = 0
        self._renewed = trio.Event()
        self._scope = trio.CancelScope()

    def is_valid(self) -> bool:
        """Whether this member may start attempts now."""
        return self._port.monotonic_ms() < self._lease_until_ms

    async def run(self) -> None:
        """Stay a member of what was joined, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._watch_lease)
            while True:
                await trio.sleep(self._limits.keepalive_ms / 1000)
                if self._groups:
                    await self._keep_alive()

    async def join(self, definition: HandlerDefinition) -> Rejection | None:
        """Define a handler's group and join it; repeats until that is so, or is refused."""
        group = definition.group_of(self._port.node)
        while True:
            try:
                result: object = await self.define(definition)
                if not isinstance(result, Rejection):
                    self._has_asked = True
                    sent_ms = self._port.monotonic_ms()
                    result = await self._port.submit("group.join", self._joining(group))
                if not isinstance(result, Rejection):
                    self._groups[group] = None
                    self._memberships += 1
                    self._renew(sent_ms)
                    return None
                if result.code != "definition_conflict":  # another node was faster: look again
                    return result
            except Unavailable:
                pass
            await trio.sleep(self._limits.rejected_pause_ms / 1000)

    async def define(self, definition: HandlerDefinition) -> object:
        """Confirm the group's definition, or renew it when the pattern has changed since."""
        group = definition.group_of(self._port.node)
        known = groups.describe(self._port.connection, group)
        pattern = definition.pattern.text
        version = 0 if known is None else int(known["version"])
        if known is not None and known["pattern"] != pattern:
            self._port.log.warning(
                "handler pattern changed",
                handler=definition.name,
                was=known["pattern"],
                now=pattern,
            )
            version += 1
        start = definition.start
        return await self._port.submit(
            "group.define", [group, pattern, definition.partitions, start, version]
        )

    async def leave(self, group: str) -> None:
        """Leave one group; what was owned there moves at once."""
        await self.put_out(group, self.member)
        self._groups.pop(group, None)
        if not self._groups:
            self._lease_until_ms = 0

    async def put_out(self, group: str, member: str) -> None:
        """Take a member out of a group; repeats until that is so."""
        while True:
            try:
                await self._port.submit("group.leave", [member, group])
                return
            except Unavailable:
                await trio.sleep(self._limits.rejected_pause_ms / 1000)

    async def leave_all(self) -> bool:
        """Stop being a member; what was owned moves without waiting for the session's end. False
        when the cluster did not answer."""
        self._scope.cancel()
        self._lease_until_ms = 0
        if not self._has_asked:  # then nobody knows of this member
            return True
        try:
            await self._port.submit("group.leave", [self.member])
        except Unavailable:
            return False
        return True

    def _joining(self, group: str) -> Sequence[Any]:
        arguments = [group, self.member, self._limits.member_ttl_ms]
        if self.predecessor is not None and self.is_succession_known:
            arguments.append(self.predecessor)
        return arguments

    async def _keep_alive(self) -> None:
        """Renew; or learn that the cluster no longer knows this member."""
        memberships = self._memberships
        sent_ms = self._port.monotonic_ms()
        try:
            result = await self._port.submit("group.keepalive", [self.member])
        except Unavailable:
            return
        if not isinstance(result, Rejection):
            self._renew(sent_ms)
        elif self._groups and memberships == self._memberships:
            self._port.log.warning("hook session lost", member=self.member)
            self._groups.clear()
            self._lease_until_ms = 0
            self._on_session_end()

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
            if not self.is_valid() and self._groups:
                self._port.log.warning("hook lease ended", member=self.member)
                self._on_lease_end()
