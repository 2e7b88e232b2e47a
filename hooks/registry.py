"""Registration in Python: the `@hook` decorator, and what a handler is called with.

    @hook("hooks.kv.*", priority=10)
    async def on_write(context: HookContext) -> list[Effect] | None: ...

The decorator only marks the function: there is no global registry, because many nodes may live in
one process. Whoever runs handlers collects the marked functions of the modules that it loads.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Never, TypeVar

import trio

from hooks.configuration.sections import RegisteredFunction
from hooks.delivery import Delivery, event_id
from hooks.execution.attempt import DRY_RUN_TOKEN, Function
from hooks.ports import Clients, Log, Origin
from pubsub.events import Event

_MARK: Final = "__tremula_hook__"
_OF_THE_MARK: Final = ("pattern", "name")  # arguments of @hook that are no options
_F = TypeVar("_F", bound=Callable[..., Any])


class GiveUp(Exception):
    """Raised by a handler: this event will never succeed, so that no retry is made. What becomes of
    it then is up to the handler's `on_failure`."""


class ClientUnavailable(Exception):
    """There is no client for handlers where this one runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContext:
    """What a handler knows about its events and its attempt."""

    deliveries: tuple[Delivery, ...]  # several only where the handler takes batches
    handler: str
    attempt: int  # from 1
    fencing_token: int  # higher than that of every earlier owner: downstream systems can compare
    cluster_id: str
    log: Log
    coalesced: int = 0  # earlier events of the key that were passed over in favour of this one
    scope: trio.CancelScope | None = None  # see `cancel_scope`
    clients: Clients | None = None  # see `client`

    @property
    def delivery(self) -> Delivery:
        return self.deliveries[-1]

    @property
    def event(self) -> Event:
        """The event; of a batch the newest."""
        return self.deliveries[-1].event

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the batch, in the order of the log; without batches the one event."""
        return tuple(delivery.event for delivery in self.deliveries)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """What an async handler runs in. Its deadline is the attempt's: moving it forward gains
        nothing, because the attempt is stopped from outside as well. A sync handler has none."""
        if self.scope is None:
            raise RuntimeError("a sync handler has no cancel scope: nothing can cancel it")
        return self.scope

    @property
    def client(self) -> Any:
        """A client of this node: `cluster.client.Client` in an async handler, in a sync one
        `cluster.client.blocking.BlockingClient`.

        What it causes names the event as its cause, as effects do. It is not part of the event's
        completion: it happens again when the attempt is made again, and may have happened when the
        attempt failed. Effects do not.
        """
        if self.clients is None:
            raise ClientUnavailable(
                "handlers have no client here: it comes with a node. Return effects, or give the"
                " InlineRunner some clients"
            )
        if self.scope is None:
            return self.clients.of_sync(self.origin)
        return self.clients.of_async(self.origin)

    @property
    def origin(self) -> Origin:
        """Why this handler does what it does, for what it causes."""
        event = self.event
        correlation_id = event.correlation_id
        return Origin(
            handler=self.handler,
            correlation_id=event.revision if correlation_id is None else correlation_id,
            causation_id=event.revision,
            hops=1 + max(delivery.event.hops for delivery in self.deliveries),
            traceparent=event.traceparent,
        )

    @property
    def dry_run(self) -> bool:
        """True when the handler is only tried out (`cluster hook test --run`): the effects that it
        returns are shown and thrown away. What it does by itself is done."""
        return self.fencing_token == DRY_RUN_TOKEN

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
        """The event's payload as plain values (docs/events.md); of a batch the newest one's."""
        return self.delivery.payload()

    def payloads(self) -> list[dict[str, Any]]:
        """The payloads of a batch, in the order of `events`."""
        return [delivery.payload() for delivery in self.deliveries]


@dataclass(frozen=True, slots=True)
class _Mark:
    pattern: object
    name: object
    options: dict[str, object]


def hook(
    pattern: str | None = None,
    *,
    name: str | None = None,
    version: int | None = None,
    filter: str | None = None,
    scope: str | None = None,
    selector: Mapping[str, str] | None = None,
    partitions: int | None = None,
    order_by: str | None = None,
    start: str | int | None = None,
    priority: int | None = None,
    after: str | Sequence[str] | None = None,
    concurrency: int | None = None,
    rate_limit: str | None = None,
    rate_limit_per_key: str | None = None,
    debounce_ms: int | None = None,
    debounce_ms_max: int | None = None,
    throttle_ms: int | None = None,
    batch_max: int | None = None,
    batch_wait_ms: int | None = None,
    timeout_ms: int | None = None,
    retry_count: int | None = None,
    on_failure: str | None = None,
    breaker_failures: int | None = None,
    breaker_open_ms: int | None = None,
    report_executions: bool | None = None,
    enabled: bool | None = None,
    required: bool | None = None,
    **unknown: Never,
) -> Callable[[_F], _F]:
    """Mark a function, sync or async, as a handler for topics that match `pattern`.

    Without a pattern the function only runs when a `[[hooks.handlers]]` table names it. The
    arguments are the keys of that table (docs/hooks.md), and everything is checked when the node
    starts, by the same rules; what is not given has the table's default. A misspelt one is told
    there as well: an error here would take the other functions of the module with it.
    """
    given = dict(locals())
    if callable(pattern):
        raise TypeError("@hook needs its parentheses: @hook() or @hook(PATTERN)")
    options = {key: given[key] for key in _OPTIONS if given[key] is not None} | unknown

    def mark(function: _F) -> _F:
        setattr(function, _MARK, _Mark(pattern, name, options))
        return function

    return mark


_OPTIONS: Final = tuple(
    name
    for name, parameter in inspect.signature(hook).parameters.items()
    if name not in _OF_THE_MARK and parameter.kind is not inspect.Parameter.VAR_KEYWORD
)


def is_marked(value: object) -> bool:
    """Whether a value carries the mark of @hook itself. Not by hasattr: a lazy object may answer to
    any attribute."""
    return isinstance(inspect.getattr_static(value, _MARK, None), _Mark)


def marked(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The marked functions of a module with their names in it, in the order of its text."""
    for name, value in vars(module).items():
        if is_marked(value):
            yield name, value


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
        handler_id = str(getattr(function, "__name__", type(function).__name__))
        pattern, options = None, mark.options
        if isinstance(mark.name, str):
            handler_id = mark.name
        elif mark.name is not None:
            options = {**options, "name": mark.name}  # wrong, and told with the other options
        if isinstance(mark.pattern, str):
            pattern = mark.pattern
        elif mark.pattern is not None:
            options = {**options, "pattern": mark.pattern}
        if self.functions.get(handler_id) is function:
            return
        where = where or f"{function.__module__}:{handler_id}"
        if handler_id in self.functions:
            other = self._found[handler_id].where
            raise ValueError(f'{where} and {other} both register a handler "{handler_id}"')
        self.functions[handler_id] = function
        self._found[handler_id] = RegisteredFunction(
            handler_id=handler_id, where=where, pattern=pattern, options=options
        )

    def collect(self, modules: Iterable[ModuleType]) -> "Registry":
        """Register every marked function that the modules hold, in the order of their text."""
        for module in modules:
            for name, function in marked(module):
                self.add(function, f"{module.__name__}:{name}")
        return self
