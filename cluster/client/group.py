"""One consumer group, as a client sees it: its definition, its state, and its events.

group = client.group("billing")
await group.create("orders.>", mode="competing", start="earliest")
async with group.consume() as deliveries:
    async for delivery in deliveries:
        ...
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.client.consumer import MEMBER_TTL_MS, Consumer
from cluster.client.requesting import Requesting
from cluster.client.subscription import Start
from cluster.protocol import LINEARIZABLE
from pubsub.limits import PARTITIONS_DEFAULT

COMPETING = "competing"


class Group:
    """The group of that name, whether or not it exists yet."""

    def __init__(self, requesting: Requesting, name: str) -> None:
        self.name = name
        self._requesting = requesting

    async def create(
        self,
        pattern: str,
        *,
        mode: str = "partitioned",
        start: Start = "latest",
        partitions: int | None = None,
        version: int = 0,
        protected: bool | None = None,
        cooldown_ms: int | None = None,
        lease_ms: int | None = None,
        max_deliveries: int | None = None,
        backoff_ms: Iterable[int] | None = None,
        max_in_flight: int | None = None,
        ordered: bool | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Define the group, or confirm that it is defined so; returns the lowest floor.

        "partitioned": the members share the partitions, each key is in order with one of them.
        "competing": any member takes the next event, under a lease. Mode and partitions stay for
        ever; another pattern or other options need a higher `version`. docs/consumers.md describes
        the options.
        """
        given = {
            "protected": protected, "cooldown_ms": cooldown_ms, "lease_ms": lease_ms,
            "max_deliveries": max_deliveries,
            "backoff_ms": None if backoff_ms is None else list(backoff_ms),
            "max_in_flight": max_in_flight, "ordered": ordered,
        }  # fmt: skip
        options: dict[str, Any] = {n: value for n, value in given.items() if value is not None}
        if mode != "partitioned":
            options["mode"] = mode
        count = partitions or (1 if mode == COMPETING else PARTITIONS_DEFAULT)
        args = [self.name, pattern, count, start, version]
        if options:
            args.append(options)
        return int(await self._requesting.request("group.define", args, timeout_ms=timeout_ms))

    async def describe(
        self, *, level: str = LINEARIZABLE, timeout_ms: int | None = None
    ) -> dict[str, Any]:
        """Everything about the group but its dead letters; raises Rejected("unknown_group")."""
        args = [self.name, level]
        return dict(await self._requesting.request("group.describe", args, timeout_ms=timeout_ms))

    async def pause(self, *, timeout_ms: int | None = None) -> None:
        """Hand out nothing until `resume`; what is in hand can still be acked."""
        await self._requesting.request("group.pause", [self.name], timeout_ms=timeout_ms)

    async def resume(self, *, timeout_ms: int | None = None) -> None:
        """Hand out events again."""
        await self._requesting.request("group.resume", [self.name], timeout_ms=timeout_ms)

    async def seek(self, start: Start, *, timeout_ms: int | None = None) -> int:
        """Go to another place of the log, back or forth; returns the new floor. What the members
        have in hand is void."""
        args = [self.name, start]
        return int(await self._requesting.request("group.seek", args, timeout_ms=timeout_ms))

    async def skip(self, revision: int, *, timeout_ms: int | None = None) -> Any:
        """Complete one event without handling it."""
        args = [self.name, revision]
        return await self._requesting.request("group.skip", args, timeout_ms=timeout_ms)

    async def delete(self, *, timeout_ms: int | None = None) -> None:
        """Forget the group with all that it holds; it lets go of retention."""
        await self._requesting.request("group.remove", [self.name], timeout_ms=timeout_ms)

    async def dead_letters(
        self, after: int = 0, limit: int | None = None, *, timeout_ms: int | None = None
    ) -> list[dict[str, Any]]:
        """A page of the dead letters after a revision, by revision."""
        args = [self.name, after, limit]
        return list(await self._requesting.request("dlq.list", args, timeout_ms=timeout_ms))

    async def redrive(self, revisions: Iterable[int], *, timeout_ms: int | None = None) -> Any:
        """Deliver dead letters again, to this group alone."""
        args = [self.name, list(revisions)]
        return await self._requesting.request("dlq.redrive", args, timeout_ms=timeout_ms)

    async def purge(self, revisions: Iterable[int], *, timeout_ms: int | None = None) -> int:
        """Delete dead letters; returns how many there were."""
        args = [self.name, list(revisions)]
        return int(await self._requesting.request("group.discard", args, timeout_ms=timeout_ms))

    def consume(
        self,
        member: str | None = None,
        *,
        prefetch: int | None = None,
        auto_ack: bool = True,
        ttl_ms: int = MEMBER_TTL_MS,
    ) -> Consumer:
        """A consumer of the group's events. `member` names a running process: a second one under
        the same name takes over from the first. `prefetch` events may be in hand at once."""
        return Consumer(
            self._requesting,
            self.name,
            member,
            prefetch=prefetch,
            auto_ack=auto_ack,
            ttl_ms=ttl_ms,
        )
