"""One handler: from a table, of a file or of a decorator, to its definition. Deciding code."""

from collections.abc import Iterable, Mapping
from typing import Any

from hooks.configuration.definition import HandlerDefinition, HandlerType, Path, Problem
from hooks.configuration.keys import KEYS, NOT_YET
from hooks.configuration.parsers import TableReader
from hooks.configuration.relations import complete, relate
from hooks.configuration.sections import HooksConfig
from hooks.limits import DEFAULT_LIMITS, HookLimits
from pubsub.events import SYSTEM_TOPICS
from pubsub.topics import Pattern, closest, is_reserved


def parse_handler(
    table: Mapping[str, object], path: Path = (), limits: HookLimits = DEFAULT_LIMITS
) -> tuple[HandlerDefinition | None, list[Problem]]:
    """The definition in one `[[hooks.handlers]]` table, or None and everything that is wrong."""
    reader = TableReader(table, path, limits)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in NOT_YET:
            reader.problem(key, NOT_YET[key])
        elif key not in KEYS:
            reader.problem(key, "no such key", closest(key, (*KEYS, *NOT_YET)))
        elif (parsed := KEYS[key](reader, key, value)) is not None:
            values[key] = parsed
    for key in ("name", "type"):
        if key not in table:
            reader.problem(key, "is missing")
    if "pattern" not in table and values.get("type") is not HandlerType.FILE:
        reader.problem("pattern", "is missing")
    complete(values)
    relate(reader, values)
    if reader.problems:
        return None, reader.problems
    values.pop("execution_mode", None)
    return HandlerDefinition(**{**values, "pattern": Pattern(values["pattern"])}), []


def unroutable(
    config: HooksConfig, handlers: Iterable[HandlerDefinition], path: Path
) -> list[Problem]:
    """Handlers of the cluster's own topics that `publish_topics` leaves without any event."""
    return [
        Problem(
            (*path, "publish_topics"),
            f'no topic of handler "{handler.name}" ({handler.pattern.text}) is in it,'
            " so the handler would never run",
        )
        for handler in handlers
        if is_reserved(handler.pattern.text)
        and not any(
            handler.pattern.matches(topic) and config.routes(topic)
            for topic in SYSTEM_TOPICS.values()
        )
    ]
