"""The `[hooks]` section: from a plain table to definitions, with every problem found at once.

Plain functions for whoever reads the file: each problem carries the path of its key, and its reader
adds the line. Nothing is accepted and then ignored: a key that has no effect yet, or none for this
type of handler, is a problem. Deciding code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hooks.configuration.definition import HandlerDefinition, HandlerType, Path, Problem
from hooks.configuration.keys import KEYS, NOT_YET, TableReader, pattern_problem
from hooks.limits import DEFAULT_LIMITS, HookLimits
from pubsub.events import SYSTEM_TOPICS
from pubsub.topics import Pattern, closest, is_reserved

SECTION_KEYS: Final = ("enabled", "publish_topics", "modules", "handlers")
_ONLY_SHELL: Final = ("command", "shell", "working_dir", "env", "output_bytes_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksConfig:
    """The `[hooks]` section, complete and valid."""

    enabled: bool = True
    publish_topics: tuple[Pattern, ...] = ()  # which hook events are routed; none means all
    modules: tuple[str, ...] = ()  # imported by the handler host; their @hook functions are found
    handlers: tuple[HandlerDefinition, ...] = ()

    def routes(self, topic: str) -> bool:
        """Whether events of this topic reach handlers: the filter is for the cluster's own ones."""
        if not self.publish_topics or not is_reserved(topic):
            return True
        return any(pattern.matches(topic) for pattern in self.publish_topics)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredFunction:
    """A function that the handler host found: what the decorator said about it."""

    handler_id: str
    where: str  # module and function, for messages
    pattern: str | None
    options: Mapping[str, object]


def parse_hooks(
    table: Mapping[str, object], path: Path = ("hooks",), limits: HookLimits = DEFAULT_LIMITS
) -> tuple[HooksConfig | None, list[Problem]]:
    """The `[hooks]` table as a whole, or None and everything that is wrong in it."""
    reader = TableReader(table, path, limits)
    for key in table:
        if key not in SECTION_KEYS:
            reader.problem(key, "no such key", closest(key, SECTION_KEYS))
    enabled = table.get("enabled", True)
    if not isinstance(enabled, bool):
        reader.problem("enabled", "true or false is expected")
    topics = _texts(reader, "publish_topics")
    for number, topic in enumerate(topics):
        if wrong := pattern_problem(topic):
            reader.problems.append(Problem((*path, "publish_topics", number), *wrong))
    modules = _texts(reader, "modules")
    for number, module in enumerate(modules):
        if not all(part.isidentifier() for part in module.split(".")):
            message = "the name of a Python module is expected"
            reader.problems.append(Problem((*path, "modules", number), message))
    handlers = _handlers(reader, table.get("handlers", ()))
    if reader.problems:
        return None, reader.problems
    config = HooksConfig(
        enabled=bool(enabled),
        publish_topics=tuple(Pattern(topic) for topic in topics),
        modules=modules,
        handlers=tuple(handlers),
    )
    problems = unroutable(config, config.handlers, path)
    return (None, problems) if problems else (config, [])


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
            reader.problem(key, "no such key", closest(key, KEYS))
        elif (parsed := KEYS[key](reader, key, value)) is not None:
            values[key] = parsed
    for key in ("name", "pattern", "type"):
        if key not in table:
            reader.problem(key, "is missing")
    _relate(reader, values)
    if reader.problems:
        return None, reader.problems
    values.pop("execution_mode", None)
    return HandlerDefinition(**{**values, "pattern": Pattern(values["pattern"])}), []


def with_registered(
    config: HooksConfig,
    functions: Sequence[RegisteredFunction],
    limits: HookLimits = DEFAULT_LIMITS,
) -> tuple[list[HandlerDefinition], list[Problem]]:
    """The handlers of the configuration and those that only a decorator defines.

    A function that a `[[hooks.handlers]]` table names is defined by that table alone.
    """
    problems: list[Problem] = []
    identifiers = [function.handler_id for function in functions]
    named = {handler.handler_id for handler in config.handlers}
    for number, handler in enumerate(config.handlers):
        if handler.type is HandlerType.IN_PROCESS and handler.handler_id not in identifiers:
            wanted = str(handler.handler_id)
            message = f'no module in hooks.modules registers a function "{wanted}"'
            where: Path = ("hooks", "handlers", number, "handler_id")
            problems.append(Problem(where, message, closest(wanted, identifiers)))
    decorated: list[HandlerDefinition] = []
    for function in functions:
        if function.handler_id in named:
            continue
        at: Path = ("hooks", "modules", function.where)
        if function.pattern is None:
            message = "has no pattern, and no [[hooks.handlers]] names it"
            problems.append(Problem(at, message))
            continue
        table = {
            "name": function.handler_id,
            "pattern": function.pattern,
            "type": HandlerType.IN_PROCESS.value,
            "handler_id": function.handler_id,
            **function.options,
        }
        definition, found = parse_handler(table, at, limits)
        problems += found
        if definition:
            decorated.append(definition)
    problems += unroutable(config, decorated, ("hooks",))
    handlers = [*config.handlers, *decorated]
    problems += _doubles(handlers, ("hooks", "handlers"))
    if len(handlers) > limits.handlers_max:
        message = f"{len(handlers)} handlers; at most {limits.handlers_max}"
        problems.append(Problem(("hooks", "handlers"), message))
    return handlers, problems


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


def _texts(reader: TableReader, key: str) -> tuple[str, ...]:
    value = reader.table.get(key, ())
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return tuple(value)
    reader.problem(key, "a list of texts is expected")
    return ()


def _handlers(reader: TableReader, tables: object) -> list[HandlerDefinition]:
    if not isinstance(tables, list | tuple):
        reader.problem("handlers", "an array of tables is expected: [[hooks.handlers]]")
        return []
    if len(tables) > reader.limits.handlers_max:
        reader.problem("handlers", f"{len(tables)} handlers; at most {reader.limits.handlers_max}")
    handlers: list[HandlerDefinition] = []
    for number, table in enumerate(tables):
        at = (*reader.path, "handlers", number)
        if not isinstance(table, Mapping):
            reader.problems.append(Problem(at, "a table is expected: [[hooks.handlers]]"))
            continue
        definition, problems = parse_handler(table, at, reader.limits)
        reader.problems += problems
        if definition:
            handlers.append(definition)
    reader.problems += _doubles(handlers, (*reader.path, "handlers"))
    return handlers


def _doubles(handlers: Iterable[HandlerDefinition], path: Path) -> list[Problem]:
    """Two handlers of one name would share one place in the log, and each see half."""
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, handler in enumerate(handlers):
        if handler.name in seen:
            at = (*path, number, "name")
            problems.append(Problem(at, f'a second handler has the name "{handler.name}"'))
        seen.add(handler.name)
    return problems


def _relate(reader: TableReader, values: Mapping[str, object]) -> None:
    """What keys demand of each other."""
    kind, table = values.get("type"), reader.table
    if kind is HandlerType.SHELL:
        if "command" not in table:
            reader.problem("command", 'is missing: a handler of type "shell" needs one')
        if "handler_id" in table:
            reader.problem("handler_id", 'only a handler of type "in_process" has one')
        command = table.get("command")
        if values.get("shell") is True and not isinstance(command, str):
            reader.problem("command", "sh -c takes one text, not a list")
    elif kind is HandlerType.IN_PROCESS:
        if "handler_id" not in table:
            reader.problem("handler_id", 'is missing: a handler of type "in_process" needs one')
        for key in _ONLY_SHELL:
            if key in table:
                reader.problem(key, 'only a handler of type "shell" has one')
