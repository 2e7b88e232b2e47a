"""Requests of the client port about handlers: their shapes, and the answers of `hooks.control`.

A request is answered from a task of its own, because some wait (`hooks.wait`) and some work for a
while in slices (`hooks.test`). What changes the cluster (enabling, settings) is a mutation like any
other and does not come here.

May not: decide anything about handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from cluster.errors import Overloaded, Timeout, TremulaError
from cluster.server import event_store
from cluster.server.arguments import anything, count, shaped, text
from hooks.control import answers, backtest, explanations, waiting
from hooks.events import catalogue
from hooks.execution.service import HookService
from hooks.ports import Unavailable
from pubsub.events import Event

if TYPE_CHECKING:
    from cluster.node import Node
    from hooks.execution.runtime import HookRuntime

PATIENCE_S: Final = 30.0  # how long the service repeats an operation; Raft elects in a second
PUBLISHED_READ_MAX: Final = 1_000  # events about handlers that one question looks at

Done = Callable[[object], None]
Extra = Callable[[list[Any], str, Done], None]


def options(item: Any) -> bool:
    """A map with texts as its keys."""
    return isinstance(item, dict) and all(isinstance(name, str) for name in item)


class Shape(NamedTuple):
    """What a request's arguments are, and how many must be there."""

    required: int
    checks: tuple[Callable[[Any], bool], ...]
    told_who: bool = False  # whoever asks is the first argument: it writes in their name


SHAPES: Final = {
    "hooks.list": Shape(0, ()),
    "hooks.info": Shape(1, (text,)),
    "hooks.metrics": Shape(0, (text,)),
    "hooks.trigger": Shape(1, (text, anything, text, text), told_who=True),
    "hooks.settings": Shape(0, ()),
    "hooks.events": Shape(0, ()),
    "hooks.wait": Shape(2, (text, count, count)),
    "hooks.explain": Shape(1, (options,)),
    "hooks.test": Shape(2, (text, count, count, options)),
    "hooks.history": Shape(1, (text, count)),
}


class HookRequests:
    """The requests about the handlers of one node."""

    def __init__(self, node: Node, runtime: HookRuntime, nursery: trio.Nursery) -> None:
        self._node = node
        self._runtime = runtime
        self._nursery = nursery
        limits = node.config.limits.hooks
        self._waits = trio.CapacityLimiter(limits.waits_max)
        self._tests = trio.CapacityLimiter(limits.backtests_max)

    def table(self) -> dict[str, Extra]:
        """For the `extra` of the server."""
        functions: dict[str, Callable[..., Awaitable[object]]] = {
            "hooks.list": self._list,
            "hooks.info": self._info,
            "hooks.metrics": self._metrics,
            "hooks.trigger": self._trigger,
            "hooks.settings": self._settings,
            "hooks.events": self._events,
            "hooks.wait": self._wait,
            "hooks.explain": self._explain,
            "hooks.test": self._test,
            "hooks.history": self._history,
        }
        return {name: partial(self._start, SHAPES[name], functions[name]) for name in SHAPES}

    def _start(
        self,
        shape: Shape,
        function: Callable[..., Awaitable[object]],
        arguments: list[Any],
        actor: str,
        done: Done,
    ) -> None:
        """Check the arguments here, where a refusal is an answer, and answer from a task."""
        found = shaped(arguments, shape.required, *shape.checks)
        if shape.told_who:
            found.insert(0, actor)
        self._nursery.start_soon(self._answer, function, found, done)

    async def _answer(
        self, function: Callable[..., Awaitable[object]], arguments: list[Any], done: Done
    ) -> None:
        try:
            done(await function(*arguments))
        except TremulaError as error:
            done(error)
        except Unavailable as problem:
            self._node.log.warning("hook request without an answer", reason=str(problem))
            done(Timeout(int(PATIENCE_S * 1000)))

    @property
    def _service(self) -> HookService:
        assert self._runtime.service is not None, "requests come after the start"
        return self._runtime.service

    async def _list(self) -> object:
        return answers.list_handlers(self._service)

    async def _info(self, name: str) -> object:
        return answers.handler_info(self._service, name)

    async def _metrics(self, name: str | None) -> object:
        return answers.handler_metrics(self._service, name)

    async def _trigger(
        self,
        actor: str,
        topic: str,
        payload: object,
        key: str | None,
        content_type: str | None,
    ) -> object:
        return await answers.trigger(self._service, topic, payload, key, content_type, actor=actor)

    async def _settings(self) -> object:
        return answers.cluster_settings(self._service)

    async def _events(self) -> object:
        return catalogue.document()

    async def _wait(self, handler: str, revision: int, timeout_ms: int | None) -> object:
        with _Place(self._waits, "hooks.wait"):
            limit_ms = self._node.config.limits.hooks.wait_ms_max
            patience_ms = min(timeout_ms or limit_ms, limit_ms)
            return await waiting.wait(
                self._service, handler, revision, patience_ms, self._published
            )

    async def _explain(self, what: dict[str, Any]) -> object:
        return await explanations.explain(self._service, what, self._published)

    async def _test(
        self, handler: str, first: int, last: int | None, asked: dict[str, Any] | None
    ) -> object:
        with _Place(self._tests, "hooks.test"):
            return await backtest.test(self._service, handler, first, last, asked or {})

    async def _history(self, name: str, limit: int | None) -> object:
        return answers.handler_history(self._service, name, limit)

    async def _published(self, topic: str, revision: int) -> list[Event]:
        """The events of a topic from a revision on, the oldest first."""
        node = self._node
        fields = {"pattern": topic, "from_revision": revision}
        node.machine.commit()  # so that another connection sees what is applied

        def run() -> list[Event]:
            reader = node.open_reader()
            try:
                return event_store.find_events(node, reader, fields, PUBLISHED_READ_MAX)
            finally:
                reader.close()

        return await node.blocking(run)


class _Place:
    """A place among those that do the same at one time; Overloaded when there is none."""

    def __init__(self, limiter: trio.CapacityLimiter, what: str) -> None:
        self._limiter = limiter
        self._what = what

    def __enter__(self) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            raise Overloaded(self._what, int(self._limiter.total_tokens)) from None

    def __exit__(self, *error: object) -> None:
        self._limiter.release_on_behalf_of(self)
