"""What a node runs: the handlers of its file, of the directory and of its Python code together, and
what of them cannot be loaded. Deciding code: what was found on disk is given to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final, NamedTuple

from hooks.configuration.definition import HandlerDefinition, HandlerType, Path, Problem
from hooks.configuration.handlers import parse_handler, unroutable
from hooks.configuration.relations import DECORATOR_KEYS, cycles_of_after, unknown_after
from hooks.configuration.sections import (
    ENTRY_POINT,
    HooksConfig,
    LoadProblem,
    RegisteredFunction,
)
from hooks.limits import DEFAULT_LIMITS, HookLimits
from pubsub.topics import closest

_FILE_KEYS: Final = ("handlers", "hooks")

Place = Callable[[Path], str]
"""Where in its file a key stands: FILE:LINE."""


class Candidate(NamedTuple):
    """A handler that may be run, and where it is defined."""

    handler: HandlerDefinition
    place: str
    path: Path = ()  # in the node's own file


class HandlersFile(NamedTuple):
    """A *.toml file of the directory."""

    path: str
    handlers: tuple[Candidate, ...] = ()
    problems: tuple[LoadProblem, ...] = ()


class Assembly(NamedTuple):
    """The handlers that this node can run, and what it cannot."""

    handlers: tuple[HandlerDefinition, ...]
    problems: tuple[LoadProblem, ...]

    @property
    def fatal(self) -> tuple[LoadProblem, ...]:
        """Why the node must not start; empty when it may."""
        return tuple(problem for problem in self.problems if problem.required)


def as_problem(problem: LoadProblem) -> Problem:
    """The problem with a path in the node's own file, for those who show its lines."""
    if problem.path:
        return Problem(problem.path, problem.text, problem.suggestion)
    return Problem(
        ("hooks",), f"{problem.place or problem.name}: {problem.text}", problem.suggestion
    )


def at_folder(handler: HandlerDefinition, folder: str) -> HandlerDefinition:
    """The handler with its relative paths counted from `folder`, that of the file it stands in."""
    base = PurePath(folder)
    return replace(
        handler,
        working_dir=str(base / handler.working_dir) if handler.working_dir else None,
        path=str(base / handler.path) if handler.path else None,
    )


def handlers_file(
    path: str, table: Mapping[str, object], place: Place, limits: HookLimits = DEFAULT_LIMITS
) -> HandlersFile:
    """The handlers of one file: those of `[[handlers]]` or of `[[hooks.handlers]]`. The only one of
    a file may go without a name: it is called like the file."""
    problems = [
        _file_problem(path, place, Problem((key,), "no such key", closest(key, _FILE_KEYS)))
        for key in table
        if key not in _FILE_KEYS
    ]
    section = table.get("hooks", {})
    if not isinstance(section, Mapping):
        problems.append(_file_problem(path, place, Problem(("hooks",), "a table is expected")))
        section = {}
    for key in section:
        if key != "handlers":
            wrong = Problem(("hooks", key), "only a node's own file says this", None)
            problems.append(_file_problem(path, place, wrong))
    handlers: list[Candidate] = []
    stem = PurePath(path).stem
    for at, tables in ((("handlers",), table), (("hooks", "handlers"), section)):
        rows = tables.get("handlers", [])
        if not isinstance(rows, list | tuple):
            wrong = Problem(at, "an array of tables is expected: [[handlers]]")
            problems.append(_file_problem(path, place, wrong))
            continue
        for number, row in enumerate(rows):
            where = (*at, number)
            if isinstance(row, Mapping) and "name" not in row and len(rows) == 1:
                row = {"name": stem, **row}
            candidate, found = _handler_of_file(path, row, where, place, limits)
            handlers += candidate
            problems += found
    if not handlers and not problems:
        problems.append(LoadProblem(name=path, text="has no [[handlers]]"))
    return HandlersFile(path, tuple(handlers), tuple(problems))


def _handler_of_file(
    path: str, row: object, at: Path, place: Place, limits: HookLimits
) -> tuple[list[Candidate], list[LoadProblem]]:
    if not isinstance(row, Mapping):
        return [], [_file_problem(path, place, Problem(at, "a table is expected"))]
    handler, problems = parse_handler(row, at, limits)
    if handler is None:
        name, required = str(row.get("name", path)), row.get("required") is True
        return [], [
            replace(_file_problem(path, place, each, len(at)), name=name, required=required)
            for each in problems
        ]
    return [Candidate(at_folder(handler, str(PurePath(path).parent)), place(at))], []


def _file_problem(path: str, place: Place, problem: Problem, known: int = 0) -> LoadProblem:
    key = ".".join(str(part) for part in problem.path[known:])
    text = f"{key}: {problem.message}" if key else problem.message
    return LoadProblem(
        name=path, text=text, place=place(problem.path), suggestion=problem.suggestion
    )


def assemble(
    config: HooksConfig,
    functions: Sequence[RegisteredFunction],
    files: Sequence[HandlersFile] = (),
    problems: Sequence[LoadProblem] = (),
    limits: HookLimits = DEFAULT_LIMITS,
) -> Assembly:
    """Put together what was found; `problems` are those of the directory and of the Python code.

    A function that a `[[handlers]]` table names is defined by that table alone. Of two handlers of
    one name the first stays: that of the node's file, then those of the directory by the names of
    their files, then those of the code in the order of its modules.
    """
    found = [_with_path(config, problem) for problem in problems]
    candidates = [
        Candidate(handler, "", ("hooks", "handlers", number))
        for number, handler in enumerate(config.handlers)
    ]
    for file in files:
        candidates += file.handlers
        found += file.problems
    named = {candidate.handler.handler_id for candidate in candidates}
    candidates = _with_function(candidates, functions, found)
    for function in functions:
        wrong = _unknown_options(function)
        found += wrong
        if function.handler_id not in named and not wrong:
            candidates += _decorated(function, found, limits)
    candidates = _routable(config, candidates, found)
    candidates = _allowed(config, candidates, found)
    candidates = _single(candidates, found, limits)
    candidates = _ordered(candidates, found)
    if config.required:
        found = [replace(problem, required=True) for problem in found]
    elif any(problem.required and problem.elsewhere for problem in found):
        # What it lacks may be in what did not load: that is why the node does not start, too.
        unread = [replace(problem, required=True) for problem in found[: len(problems)]]
        found = [*unread, *found[len(problems) :]]
    return Assembly(tuple(candidate.handler for candidate in candidates), tuple(found))


def _with_path(config: HooksConfig, problem: LoadProblem) -> LoadProblem:
    """A problem of the code with the key of the node's file that led to it."""
    name = problem.name
    path: Path = ("hooks",)
    if name in config.modules:
        path = ("hooks", "modules", name)
    elif config.directory and name.startswith(config.directory):
        path = ("hooks", "directory", PurePath(name).name)
    elif name.startswith(ENTRY_POINT):
        path = ("hooks", "entry_points", name.removeprefix(ENTRY_POINT))
    return replace(problem, path=path)


def _left_out(
    candidate: Candidate, text: str, suggestion: str | None = None, key: str = ""
) -> LoadProblem:
    handler, path = candidate.handler, candidate.path
    return LoadProblem(
        name=handler.name,
        text=text,
        place=candidate.place,
        required=handler.required,
        handler=handler,
        path=(*path, key) if path and key else path,
        suggestion=suggestion,
    )


def _with_function(
    candidates: Sequence[Candidate],
    functions: Sequence[RegisteredFunction],
    found: list[LoadProblem],
) -> list[Candidate]:
    identifiers = [function.handler_id for function in functions]
    kept: list[Candidate] = []
    for candidate in candidates:
        wanted = candidate.handler.handler_id
        if candidate.handler.type is HandlerType.IN_PROCESS and wanted not in identifiers:
            text = f'nothing that is loaded registers a function "{wanted}"'
            meant = closest(str(wanted), identifiers)
            missing = _left_out(candidate, text, meant, "handler_id")
            found.append(replace(missing, elsewhere=True))
        else:
            kept.append(candidate)
    return kept


def _unknown_options(function: RegisteredFunction) -> list[LoadProblem]:
    """What @hook was given and does not know: wrong also where a table defines the handler."""
    return [
        _of_decorator(function, f"{key}: @hook has no such option", closest(key, DECORATOR_KEYS))
        for key in function.options
        if key not in DECORATOR_KEYS
    ]


def _decorated(
    function: RegisteredFunction, found: list[LoadProblem], limits: HookLimits
) -> list[Candidate]:
    """The handler that a decorator defines."""
    name = function.handler_id
    if function.pattern is None and "pattern" not in function.options:
        text = "has no pattern, and no [[hooks.handlers]] names it"
        found.append(replace(_of_decorator(function, text), elsewhere=True))
        return []
    table = {
        "name": name,
        "pattern": function.pattern,
        "type": HandlerType.IN_PROCESS.value,
        "handler_id": name,
        **function.options,
    }
    at = _path_of(function)
    handler, problems = parse_handler(table, at, limits)
    for problem in problems:
        key = ".".join(str(part) for part in problem.path[len(at) :])
        found.append(_of_decorator(function, f"{key}: {problem.message}", problem.suggestion))
    return [] if handler is None else [Candidate(handler, function.where, at)]


def _of_decorator(
    function: RegisteredFunction, text: str, suggestion: str | None = None
) -> LoadProblem:
    return LoadProblem(
        name=function.handler_id,
        text=text,
        place=function.where,
        required=function.options.get("required") is True,
        path=_path_of(function),
        suggestion=suggestion,
    )


def _path_of(function: RegisteredFunction) -> Path:
    return ("hooks", "modules", function.where)


def _routable(
    config: HooksConfig, candidates: Sequence[Candidate], found: list[LoadProblem]
) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in candidates:
        if silent := unroutable(config, [candidate.handler], ("hooks",)):
            found.append(_left_out(candidate, silent[0].message))
        else:
            kept.append(candidate)
    return kept


def _allowed(
    config: HooksConfig, candidates: Sequence[Candidate], found: list[LoadProblem]
) -> list[Candidate]:
    """Leave out the commands that this node may not run; another node may."""
    kept: list[Candidate] = []
    for candidate in candidates:
        handler = candidate.handler
        if handler.type is HandlerType.SHELL and (refusal := config.shell.refusal(handler)):
            found.append(_left_out(candidate, refusal))
        else:
            kept.append(candidate)
    return kept


def _single(
    candidates: Sequence[Candidate], found: list[LoadProblem], limits: HookLimits
) -> list[Candidate]:
    """Each name once, and not too many. Two handlers of one name would share one place in the log,
    and each see half."""
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        name = candidate.handler.name
        if name in kept:
            first = kept[name].place
            where = f"; the first is in {first}" if first else ""
            text = f'a second handler has the name "{name}"{where}'
            # without `handler`: the name is that of the other one
            found.append(replace(_left_out(candidate, text, key="name"), handler=None))
        elif len(kept) == limits.handlers_max:
            text = f"one too many: at most {limits.handlers_max} handlers"
            found.append(_left_out(candidate, text))
        else:
            kept[name] = candidate
    return list(kept.values())


def _ordered(candidates: Sequence[Candidate], found: list[LoadProblem]) -> list[Candidate]:
    """Leave out what waits for a handler that does not exist, or in a ring for itself. While
    something else did not load, a name that nobody has may be the name of that."""
    handlers = [candidate.handler for candidate in candidates]
    wrong: dict[str, tuple[str, str | None]] = {}
    rings = cycles_of_after(handlers)
    if not found:
        names = [handler.name for handler in handlers]
        for name, (missing, meant) in unknown_after(handlers, names).items():
            wrong[name] = (f'there is no handler "{missing}" to wait for', meant)
    for ring in rings:
        for name in ring:
            wrong[name] = (f"would never start: {' after '.join((*ring, ring[0]))}", None)
    for candidate in candidates:
        if told := wrong.get(candidate.handler.name):
            text, meant = told
            problem = _left_out(candidate, text, meant, "after")
            in_ring = any(problem.name in ring for ring in rings)
            found.append(replace(problem, elsewhere=not in_ring))
    return [candidate for candidate in candidates if candidate.handler.name not in wrong]
