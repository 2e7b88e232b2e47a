"""The `[hooks]` section: from a plain table to definitions, with every problem found at once.

Plain functions for whoever reads the file: each problem carries the path of its key, and its reader
adds the line. Nothing is accepted and then ignored: a key that has no effect yet, or none for this
type of handler, is a problem. Deciding code.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hooks.configuration.assembly import Assembly, as_problem, assemble
from hooks.configuration.capture import parse_capture
from hooks.configuration.definition import HandlerDefinition, Path, Problem
from hooks.configuration.handlers import parse_handler, unroutable
from hooks.configuration.keys import pattern_problem, variables
from hooks.configuration.parsers import TableReader, flag, text, texts
from hooks.configuration.relations import cycles_of_after, unknown_after
from hooks.configuration.sections import (
    CodeSources,
    HooksConfig,
    LoadProblem,
    RegisteredFunction,
    ShellRules,
)
from hooks.events.catalogue import publish_problem
from hooks.limits import DEFAULT_LIMITS, HookLimits
from pubsub.topics import Pattern, closest

__all__ = [
    "SECTION_KEYS",
    "SHELL_KEYS",
    "Assembly",
    "CodeSources",
    "HooksConfig",
    "LoadProblem",
    "RegisteredFunction",
    "ShellRules",
    "as_problem",
    "assemble",
    "parse_handler",
    "parse_hooks",
    "unroutable",
    "with_registered",
]

SECTION_KEYS: Final = (
    "enabled", "publish_topics", "modules", "directory", "entry_points", "required", "watch_files",
    "shell", "capture", "handlers",
)  # fmt: skip
SHELL_KEYS: Final = ("allow_commands", "allow_env")


def parse_hooks(
    table: Mapping[str, object], path: Path = ("hooks",), limits: HookLimits = DEFAULT_LIMITS
) -> tuple[HooksConfig | None, list[Problem]]:
    """The `[hooks]` table as a whole, or None and everything that is wrong in it."""
    reader = TableReader(table, path, limits)
    for key in table:
        if key not in SECTION_KEYS:
            reader.problem(key, "no such key", closest(key, SECTION_KEYS))
    topics, modules = _texts(reader, "publish_topics"), _texts(reader, "modules")
    for number, topic in enumerate(topics):
        wrong = pattern_problem(topic)
        if wrong is None and (problem := publish_problem(topic)):
            wrong = problem.removeprefix("pattern: "), None
        if wrong:
            reader.problems.append(Problem((*path, "publish_topics", number), *wrong))
    for number, module in enumerate(modules):
        if not all(part.isidentifier() for part in module.split(".")):
            message = "the name of a Python module is expected"
            reader.problems.append(Problem((*path, "modules", number), message))
    directory = text(reader, "directory", table["directory"]) if "directory" in table else None
    entry_points = _entry_points(reader)
    capture, wrong_rules = parse_capture(table.get("capture", ()), (*path, "capture"))
    reader.problems += wrong_rules
    config = HooksConfig(
        enabled=_flag(reader, "enabled", True),
        publish_topics=tuple(Pattern(topic) for topic in topics if not pattern_problem(topic)),
        modules=modules,
        directory=directory,
        entry_points=entry_points,
        required=_flag(reader, "required", False),
        watch_files=_flag(reader, "watch_files", True),
        shell=_shell(reader),
        capture=capture,
        handlers=tuple(_handlers(reader, table.get("handlers", ()))),
    )
    if reader.problems:
        return None, reader.problems
    problems = unroutable(config, config.handlers, path) + _order_problems(config, path)
    return (None, problems) if problems else (config, [])


def with_registered(
    config: HooksConfig,
    functions: Sequence[RegisteredFunction],
    limits: HookLimits = DEFAULT_LIMITS,
) -> tuple[list[HandlerDefinition], list[Problem]]:
    """`assemble` for those who take a problem of any handler as theirs."""
    assembly = assemble(config, functions, limits=limits)
    return list(assembly.handlers), [as_problem(problem) for problem in assembly.problems]


def _flag(reader: TableReader, key: str, default: bool) -> bool:
    found = flag(reader, key, reader.table.get(key, default))
    return default if found is None else found


def _texts(reader: TableReader, key: str) -> tuple[str, ...]:
    return texts(reader, key, reader.table.get(key, ())) or ()


def _entry_points(reader: TableReader) -> bool | tuple[str, ...]:
    value = reader.table.get("entry_points", False)
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple):
        reader.problem("entry_points", "true, false or a list of names is expected")
        return False
    return texts(reader, "entry_points", value) or False


def _shell(reader: TableReader) -> ShellRules:
    table = reader.table.get("shell", {})
    if not isinstance(table, Mapping):
        reader.problem("shell", "a table is expected: [hooks.shell]")
        return ShellRules()
    inner = TableReader(table, (*reader.path, "shell"), reader.limits)
    for key in table:
        if key not in SHELL_KEYS:
            inner.problem(key, "no such key", closest(key, SHELL_KEYS))
    commands = _texts(inner, "allow_commands")
    for number, command in enumerate(commands):
        if "/" in command and not command.startswith("/"):
            message = "an absolute path is expected, or a name that is looked up in PATH"
            inner.problems.append(Problem((*inner.path, "allow_commands", number), message))
    names = variables(inner, "allow_env", table.get("allow_env", ())) or ()
    reader.problems += inner.problems
    return ShellRules(allow_commands=commands, allow_env=names)


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


def _order_problems(config: HooksConfig, path: Path) -> list[Problem]:
    """Rings of `after`; and names that no handler has, unless handlers come from elsewhere too."""
    places = {handler.name: number for number, handler in enumerate(config.handlers)}
    problems: list[Problem] = []
    if not config.names_code:
        for name, (missing, meant) in unknown_after(config.handlers, list(places)).items():
            at = (*path, "handlers", places[name], "after")
            problems.append(Problem(at, f'there is no handler "{missing}" to wait for', meant))
    for ring in cycles_of_after(config.handlers):
        at = (*path, "handlers", places[ring[0]], "after")
        message = f"would never start: {' after '.join((*ring, ring[0]))}"
        problems.append(Problem(at, message))
    return problems
