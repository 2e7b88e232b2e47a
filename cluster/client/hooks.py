"""The handlers of a cluster, as a client sees them.

    await client.hooks.enable("audit")
    revision = await client.put("greeting", b"hello")
    done = await client.hooks.wait("audit", revision)

What only the asked node knows of a handler (its attempts, what it has in hand) is marked with the
node's name; `cluster hook explain` asks every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import trio

from cluster.client.requesting import Requesting
from cluster.client.subscription import Start
from cluster.errors import Timeout

WAIT_MS: Final = 10_000
WAIT_ROUND_MS: Final = 2_000  # of one request: a node that dies costs no more than that
PENDING: Final = "pending"

Facts = dict[str, Any]
Rows = list[Facts]


class Handled(NamedTuple):
    """How a handler dealt with an event."""

    handler: str
    revision: int
    state: str  # "done", "dead_letter", "skipped" or "no_match"
    because: str | None  # why, for all but "done"

    @property
    def is_done(self) -> bool:
        """Whether the handler processed it, and not only gave it up."""
        return self.state == "done"


class Hooks:
    """What can be asked about handlers, and said to them."""

    def __init__(self, requesting: Requesting) -> None:
        self._requesting = requesting

    async def list(self, *, timeout_ms: int | None = None) -> Rows:
        """Every handler: where it stands and what is wrong with it."""
        return list(await self._requesting.request("hooks.list", timeout_ms=timeout_ms))

    async def info(self, name: str, *, timeout_ms: int | None = None) -> Facts:
        """Everything about one handler; raises Rejected("unknown_handler")."""
        return dict(await self._requesting.request("hooks.info", [name], timeout_ms=timeout_ms))

    async def metrics(self, name: str | None = None, *, timeout_ms: int | None = None) -> Rows:
        """What handlers did: counted by the cluster, and by the node that answers."""
        args = [name]
        return list(await self._requesting.request("hooks.metrics", args, timeout_ms=timeout_ms))

    async def trigger(
        self,
        topic: str,
        payload: Any = None,
        *,
        key: str | None = None,
        content_type: str | None = None,
        timeout_ms: int | None = None,
    ) -> Facts:
        """Run the handlers that match `topic` on an event made by hand. `payload` is what would be
        published, bytes or text, or data that becomes JSON; for a topic of the cluster's own always
        the latter. Returns its `revision` and the names of the `handlers`."""
        args = [topic, payload, key, content_type]
        return dict(await self._requesting.request("hooks.trigger", args, timeout_ms=timeout_ms))

    async def enable(
        self, name: str, start: Start | None = None, *, timeout_ms: int | None = None
    ) -> bool:
        """Let a handler go on where it stands, or from `start` on; False: it was enabled."""
        args = [name, start]
        return bool(await self._requesting.request("hook.enable", args, timeout_ms=timeout_ms))

    async def disable(
        self, name: str, reason: str | None = None, *, timeout_ms: int | None = None
    ) -> bool:
        """Start nothing more of a handler on any node; its events wait. False: it was disabled."""
        args = [name, reason]
        return bool(await self._requesting.request("hook.disable", args, timeout_ms=timeout_ms))

    async def forget(self, name: str, *, timeout_ms: int | None = None) -> None:
        """Forget a handler that no node has any more, with its place and its dead letters."""
        await self._requesting.request("hook.forget", [name], timeout_ms=timeout_ms)

    async def settings(self, *, timeout_ms: int | None = None) -> Facts:
        """What holds for the hooks of the whole cluster."""
        return dict(await self._requesting.request("hooks.settings", timeout_ms=timeout_ms))

    async def set_publish_topics(
        self, patterns: Iterable[str], *, timeout_ms: int | None = None
    ) -> None:
        """Which of the cluster's own events reach handlers; no pattern: all of them."""
        values = {"publish_topics": [*patterns]}
        await self._requesting.request("hook.settings", [values], timeout_ms=timeout_ms)

    async def events(self, *, timeout_ms: int | None = None) -> Facts:
        """The catalogue of the cluster's own event types, each with its JSON Schema."""
        return dict(await self._requesting.request("hooks.events", timeout_ms=timeout_ms))

    async def explain(
        self,
        revision: int | None = None,
        *,
        topic: str | None = None,
        payload: Any = None,
        key: str | None = None,
        handler: str | None = None,
        timeout_ms: int | None = None,
    ) -> Facts:
        """What every handler makes of an event: the one of a `revision`, or one of a `topic` that
        need not have happened."""
        given = {
            "revision": revision, "topic": topic, "payload": payload, "key": key,
            "handler": handler,
        }  # fmt: skip
        args = [{name: value for name, value in given.items() if value is not None}]
        return dict(await self._requesting.request("hooks.explain", args, timeout_ms=timeout_ms))

    async def test(
        self,
        name: str,
        first: int,
        last: int | None = None,
        *,
        run: bool = False,
        policy: Mapping[str, Any] | None = None,
        limit: int | None = None,
        timeout_ms: int | None = None,
    ) -> Facts:
        """Try a handler on a part of the log. One call looks at a bounded part: go on from
        `next_revision` of its answer until that is None. With `run` the node that answers makes
        attempts, whose effects are in the answer and nowhere else."""
        given = {"run": run or None, "policy": policy, "limit": limit}
        options = {name: value for name, value in given.items() if value is not None}
        args = [name, first, last, options]
        return dict(await self._requesting.request("hooks.test", args, timeout_ms=timeout_ms))

    async def history(
        self, name: str, limit: int | None = None, *, timeout_ms: int | None = None
    ) -> Facts:
        """The attempts that the node which answers made last, the newest first."""
        args = [name, limit]
        return dict(await self._requesting.request("hooks.history", args, timeout_ms=timeout_ms))

    async def wait(self, name: str, revision: int, *, timeout_ms: int = WAIT_MS) -> Handled:
        """Wait until a handler is done with an event, however that ends; raises Timeout."""
        deadline = trio.current_time() + timeout_ms / 1000
        while True:
            left_ms = int((deadline - trio.current_time()) * 1000)
            if left_ms <= 0:
                raise Timeout(timeout_ms)
            answer = await self._requesting.request(
                "hooks.wait", [name, revision, min(left_ms, WAIT_ROUND_MS)], timeout_ms=left_ms
            )
            if answer["state"] != PENDING:
                return Handled(name, revision, answer["state"], answer["because"])
