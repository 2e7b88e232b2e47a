"""What the hook tests share: events, definitions, attempts and a log that can be read."""

from dataclasses import replace
from typing import Any

from hooks.configuration.config import parse_handler
from hooks.configuration.definition import HandlerDefinition
from hooks.delivery import deliver
from hooks.execution.attempt import Attempt
from hooks.limits import HookLimits
from pubsub.events import Event

CLUSTER_ID = "c1"
TIGHT_LIMITS = HookLimits(
    handler_events_max=16,
    partition_events_max=5,
    completed_ahead_max=6,
    read_events_max=8,
    checkpoint_events=3,
    unsettled_events_max=6,
)


class ListLog:
    """A log whose lines can be looked at."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def debug(self, message: str, /, **fields: object) -> None:
        self.lines.append(("debug", message, fields))

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(("info", message, fields))

    def warning(self, message: str, /, **fields: object) -> None:
        self.lines.append(("warning", message, fields))

    def error(self, message: str, /, **fields: object) -> None:
        self.lines.append(("error", message, fields))

    def messages(self, level: str) -> list[str]:
        return [message for at, message, _ in self.lines if at == level]


def write_event(revision: int = 1, key: str = "k", value: bytes = b"v", **fields: Any) -> Event:
    """A `hooks.kv.write_committed` as the log gives it."""
    event = Event(
        revision=revision,
        topic="hooks.kv.write_committed",
        key=key,
        data=(value, revision, 1, 0, None),
        actor=None,
        correlation_id=None,
        causation_id=None,
        hops=0,
        traceparent=None,
        wall_ms=1_700_000_000_000,
        log_index=revision,
        ordinal=0,
        size_bytes=len(value) + 64,
    )
    return event._replace(**fields)


def definition(**keys: object) -> HandlerDefinition:
    """A handler as its table would give it; in-process and named `h` unless told otherwise."""
    table = {"name": "h", "pattern": "hooks.kv.*", "type": "in_process", **keys}
    if table["type"] == "in_process":
        table.setdefault("handler_id", table["name"])
    handler, problems = parse_handler(table)
    assert handler is not None, problems
    return handler


def attempt(handler: HandlerDefinition, event: Event | None = None, **fields: Any) -> Attempt:
    """The first attempt of a handler at an event."""
    made = Attempt(
        handler=handler,
        deliveries=(deliver(event or write_event()),),
        number=1,
        token=7,
        cluster_id=CLUSTER_ID,
    )
    return replace(made, **fields)
