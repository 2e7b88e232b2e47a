"""Registration in Python: the `@hook` decorator, and what a handler is called with.

    @hook("hooks.kv.*", priority=10)
    async def on_write(context: HookContext) -> list[Effect] | None: ...

The decorator only marks the function: there is no global registry, because many nodes may live in
one process. Whoever runs handlers collects the marked functions of the modules that it loads.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeVar

from hooks.configuration.config import RegisteredFunction
from hooks.delivery import Delivery, event_id
from hooks.execution.attempt import Function
from hooks.ports import Log
from pubsub.events import Event

_MARK: Final = "__tremula_hook__"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContext:
    """What a handler knows about its event and its attempt."""

    delivery: Delivery
    handler: str
    attempt: int  # from 1
    fencing_token: int  # higher than that of every earlier owner: downstream systems can compare
    cluster_id: str
    log: Log

    @property
    def event(self) -> Event:
        return self.delivery.event

    @property
    def topic(self) -> str:
        """The event's topic; of a triggered event, the one that it imitates."""
        return self.delivery.topic

    @property
    def key(self) -> str | None:
        return self.delivery.event.key

    @property
    def revision(self) -> int:
        return self.delivery.event.revision

    @property
    def triggered(self) -> bool:
        """True when a person triggered the handler instead of a change."""
        return self.delivery.triggered

    @property
    def replayed(self) -> bool:
        """True when the handler had this event before, and somebody wanted it to get it again: by
        a replay, or out of its dead letters."""
        return self.delivery.replayed

    @property
    def event_id(self) -> str:
        """The same for every attempt on every node: what outside systems can deduplicate by."""
        return event_id(self.cluster_id, self.revision)

    def payload(self) -> dict[str, Any]:
        """The event's payload as plain values (docs/events.md)."""
        return self.delivery.payload()


@dataclass(frozen=True, slots=True)
class _Mark:
    pattern: str | None
    name: str | None
    options: dict[str, object]


def hook(
    pattern: str | None = None,
    *,
    name: str | None = None,
    priority: int | None = None,
    timeout_ms: int | None = None,
    retry_count: int | None = None,
    concurrency: int | None = None,
    start: str | int | None = None,
    on_failure: str | None = None,
    enabled: bool | None = None,
) -> Callable[[_F], _F]:
    """Mark a function, sync or async, as a handler for topics that match `pattern`.

    Without a pattern the function only runs when a `[[hooks.handlers]]` table names it. Everything
    is checked when the node starts, by the same rules as the keys of that table.
    """
    given = {
        "priority": priority,
        "timeout_ms": timeout_ms,
        "retry_count": retry_count,
        "concurrency": concurrency,
        "start": start,
        "on_failure": on_failure,
        "enabled": enabled,
    }
    options: dict[str, object] = {key: value for key, value in given.items() if value is not None}

    def mark(function: _F) -> _F:
        setattr(function, _MARK, _Mark(pattern, name, options))
        return function

    return mark


class Registry:
    """The handlers that were found, by handler id."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self._found: dict[str, RegisteredFunction] = {}

    @property
    def found(self) -> list[RegisteredFunction]:
        """What the decorators said, in the order of registration."""
        return list(self._found.values())

    def add(self, function: Callable[..., Any], where: str = "") -> None:
        """Register a marked function; raises ValueError if another one has its name."""
        mark: _Mark = getattr(function, _MARK)
        handler_id = mark.name or str(getattr(function, "__name__", type(function).__name__))
        if self.functions.get(handler_id) is function:
            return
        where = where or f"{function.__module__}:{handler_id}"
        if handler_id in self.functions:
            other = self._found[handler_id].where
            raise ValueError(f'{where} and {other} both register a handler "{handler_id}"')
        self.functions[handler_id] = function
        self._found[handler_id] = RegisteredFunction(
            handler_id=handler_id, where=where, pattern=mark.pattern, options=mark.options
        )

    def collect(self, modules: Iterable[ModuleType]) -> "Registry":
        """Register every marked function that the modules hold, in the order of their text."""
        for module in modules:
            for name, value in vars(module).items():
                # isinstance, not hasattr: a lazy object may answer to any attribute.
                if isinstance(inspect.getattr_static(value, _MARK, None), _Mark):
                    self.add(value, f"{module.__name__}:{name}")
        return self
