"""What a node tells the cluster about its handlers: the whole list, whenever it is not known there.

A service registers before it joins any group, and again when the cluster forgot it (the node was
removed and added) or when what it has to say changed. One that is being replaced says nothing any
more: its successor speaks for the node.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from hooks.configuration.definition import HandlerDefinition
from hooks.limits import HookLimits
from hooks.ports import ClusterPort, Unavailable
from hooks.replicated import registrations, settings
from pubsub.rejection import Rejection
from pubsub.topics import Pattern

_UNKNOWN: Final = "unknown_operation"  # the answer of a cluster whose entries are older


class Registering:
    """Registers the handlers of one node, and what its file says of the cluster's settings."""

    def __init__(
        self,
        port: ClusterPort,
        handlers: Sequence[HandlerDefinition],
        limits: HookLimits,
        *,
        publish_topics: Sequence[Pattern],
        load_problems: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        """`load_problems`: why a handler, or a module or file whose handlers are not known, could
        not be loaded. `on_change`: look at `is_settled` and `is_known` again."""
        self.is_settled = False  # registered, or told that the cluster is too old for it
        self.is_known = False  # the cluster keeps registrations
        self.kept: dict[str, str] = {}  # handler -> why another policy is in force
        self.problems: dict[str, str] = dict(load_problems)  # handler -> why it does not run here
        self._port = port
        self._handlers = handlers
        self._limits = limits
        self._topics = sorted({pattern.text for pattern in publish_topics})
        self._load_problems = load_problems
        self._on_change = on_change
        self._rows: list[list[Any]] | None = None  # as the cluster confirmed them
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Keep the cluster informed until `retire`."""
        with self._scope:
            while True:
                self._changed = trio.Event()
                pause_ms = 0
                if self._is_due():
                    try:
                        pause_ms = await self._register()
                    except Unavailable:
                        pause_ms = self._limits.rejected_pause_ms
                if pause_ms:
                    await trio.sleep(pause_ms / 1000)
                    continue
                if not self.is_settled:  # there is nothing to say
                    self.is_settled = True
                    self._on_change()
                await self._changed.wait()

    def retire(self) -> None:
        """Say nothing any more: another service speaks for this node."""
        self._scope.cancel()

    def tell(self, problems: Mapping[str, str]) -> None:
        """Why handlers do not run here, as it turned out."""
        problems = {**self._load_problems, **problems}
        if problems != self.problems:
            self.problems = problems
            self._changed.set()

    def look_again(self) -> None:
        """What the cluster knows may have changed."""
        self._changed.set()

    def _is_due(self) -> bool:
        rows, node = self._list(), self._port.node
        if self._rows is not None and self._rows != rows:
            return True
        registered = registrations.load(self._port.connection)
        if rows or self._rows is not None:
            return self._rows is None or any(
                handler.name not in registered or node not in registered[handler.name].nodes
                for handler in self._handlers
            )
        if self._topics:
            return True
        return any(node in registration.nodes for registration in registered.values())

    def _list(self) -> list[list[Any]]:
        """One row per handler of this node, and per thing that it could not load."""
        rows: list[list[Any]] = [
            [handler.policy(), handler.enabled, self.problems.get(handler.name)]
            for handler in self._handlers
        ]
        known = {handler.name for handler in self._handlers}
        unloaded = {
            name: problem for name, problem in self._load_problems.items() if name not in known
        }
        if unloaded:
            # Handlers that this node had before may be in what it could not load: as long as it
            # says that it has them, retention keeps their events.
            problem = f"not loaded: {next(iter(unloaded.values()))}"
            for name, registration in registrations.load(self._port.connection).items():
                if name not in known and self._port.node in registration.nodes:
                    unloaded.setdefault(name, problem)
        return rows + [[name, True, problem] for name, problem in unloaded.items()]

    async def _register(self) -> int:
        """Say everything once; returns how long to wait before saying it again, in milliseconds."""
        rows = self._list()
        answer = await self._port.submit("hook.register", [self._port.node, rows])
        if isinstance(answer, Rejection):
            self.is_settled = True
            if answer.code == _UNKNOWN:
                self._on_change()
                return self._limits.register_pause_ms
            self.is_known = True
            self._port.log.error("handlers not registered", reason=answer.detail, code=answer.code)
            self.kept = {handler.name: answer.detail for handler in self._handlers}
            self._on_change()
            return self._limits.rejected_pause_ms
        own = {handler.name for handler in self._handlers} - self._load_problems.keys()
        kept = {
            name: reason
            for name, _, verdict, reason in answer
            if verdict == registrations.KEPT and reason and name in own
        }
        for name, reason in kept.items():
            if self.kept.get(name) != reason:
                self._port.log.warning("another policy is in force", handler=name, reason=reason)
        self.kept = kept
        await self._seed()
        self._rows = rows
        self.is_settled = self.is_known = True
        self._on_change()
        return 0

    async def _seed(self) -> None:
        """Say what this node's file has for the whole cluster; it counts if it is the first."""
        port = self._port
        said = {settings.PUBLISH_TOPICS: self._topics} if self._topics else {}
        if said or any(item.node == port.node for item in settings.differing(port.connection)):
            answer = await port.submit("hook.settings", [said, port.node])
            if not isinstance(answer, Rejection):
                for name, value, verdict in answer:
                    if verdict == settings.KEPT:
                        port.log.warning(
                            "the cluster has another value than this node's file",
                            setting=name,
                            in_force=value,
                        )
