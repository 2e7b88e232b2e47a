"""From a TOML file and the environment to a `NodeConfig`, or to the list of all that is wrong.

The environment overrides single keys: `TREMULA__RAFT__HEARTBEAT_MS=100`. A value is taken as TOML
(`true`, `5`, `["a:1", "b:1"]`), except that a key which holds text takes it as it stands.
Relative paths count from the directory of the file.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

import tomli
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.config.bounds import NodeLimits, node_limits
from cluster.config.models import MODELS, SECTIONS, NodeConfig, NodeSection
from cluster.config.problems import ConfigError, Located, dotted
from cluster.config.relations import relation_problems
from cluster.config.values import Section
from hooks.configuration.assembly import at_folder
from hooks.configuration.config import HooksConfig, parse_hooks
from hooks.configuration.definition import Path, Problem
from hooks.configuration.locate import key_lines, line_of
from pubsub.topics import closest

ENVIRONMENT_PREFIX = "TREMULA__"
_WANTED = {
    "string_type": "text in quotes",
    "int_type": "an integer",
    "bool_type": "true or false",
    "tuple_type": "an array, [...]",
    "model_type": "a table",
}
NOTHING: Mapping[str, Any] = {}
ANY_NODE: Mapping[str, Any] = {"node": {"name": "any", "data_dir": "any"}}
"""The section that a file of [hooks] alone lacks (`load`)."""
FILE_BYTES_MAX = 1 << 20  # a configuration of a megabyte is some other file


def load(
    path: FilePath,
    environment: Mapping[str, str],
    instead: Mapping[str, Any] = NOTHING,
    text: str | None = None,
) -> NodeConfig:
    """Read and check everything; raises `ConfigError` with all problems. `instead` has sections for
    a file that is only a part of a node's; `text` is what the file is going to say."""
    text = _read(path) if text is None else text
    try:
        table = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        problem = Problem((), f"is not TOML: {error.msg}")
        raise ConfigError((Located(f"{path}:{error.lineno}", problem),)) from None
    except RecursionError:
        raise ConfigError((Located(str(path), Problem((), "is nested too deeply")),)) from None
    table = {**{name: dict(section) for name, section in instead.items()}, **table}
    places = _Places(path, key_lines(text))
    problems = list(_override(table, environment, places))
    sections, shape_problems = _sections(table)
    limits, limits_problems = (
        node_limits(sections["limits"]) if "limits" in sections else (None, [])
    )
    problems += _label_problems(sections.get("node"), limits or NodeLimits())
    # A [limits] that is wrong is reported as such; what depends on it is held to the defaults.
    hooks, hooks_problems = _hooks(table, limits or NodeLimits())
    problems += [*shape_problems, *limits_problems, *relation_problems(sections), *hooks_problems]
    if problems or hooks is None or limits is None:
        raise ConfigError(tuple(places.locate(problem) for problem in problems))
    config = NodeConfig(**{**sections, "limits": limits, "hooks": hooks})  # type: ignore[arg-type]
    return _absolute(config, path)


def located(path: FilePath, problems: Iterable[Problem]) -> ConfigError:
    """The refusal of a file that had loaded: problems that showed only when it was used."""
    places = _Places(path, key_lines(_read(path)))
    return ConfigError(tuple(places.locate(problem) for problem in problems))


class _Places:
    """Where each path was written: a line of the file, or a variable that overrides it."""

    def __init__(self, file: FilePath, lines: dict[Path, int]) -> None:
        self._file = file
        self._lines = lines
        self.variables: dict[Path, str] = {}

    def locate(self, problem: Problem) -> Located:
        for length in range(len(problem.path), 0, -1):
            if variable := self.variables.get(problem.path[:length]):
                return Located(f"environment variable {variable}", problem)
        line = line_of(self._lines, problem.path)
        return Located(f"{self._file}:{line}" if line else str(self._file), problem)


def _read(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(
                (Located(str(path), Problem((), f"is larger than {FILE_BYTES_MAX} bytes")),)
            )
        return data.decode()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    raise ConfigError((Located(str(path), Problem((), reason)),))


def _override(
    table: dict[str, Any], environment: Mapping[str, str], places: _Places
) -> Iterator[Problem]:
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = tuple(part.lower() for part in variable[len(ENVIRONMENT_PREFIX) :].split("__"))
        if len(path) != 2:
            places.variables[(variable,)] = variable
            yield Problem((variable,), f"expected {ENVIRONMENT_PREFIX}SECTION__KEY")
            continue
        section, key = path
        places.variables[path] = variable
        target = table.setdefault(section, {})
        if isinstance(target, dict):
            target[key] = _value(section, key, environment[variable])


def _value(section: str, key: str, text: str) -> object:
    """TOML for numbers, switches and arrays; a key that holds text takes it as it stands."""
    model = MODELS.get(section)
    field = model.model_fields.get(key) if model else None
    holds_text = field is not None and not (
        field.annotation in (int, bool) or get_origin(field.annotation) is tuple
    )
    if holds_text:
        return text
    try:
        return tomli.loads(f"value = {text}")["value"]
    except (tomli.TOMLDecodeError, RecursionError):
        return text  # refused by its type, which then shows the text


def _sections(table: dict[str, Any]) -> tuple[dict[str, Section], list[Problem]]:
    sections: dict[str, Section] = {}
    problems = [
        Problem((name,), f"there is no section [{name}]", closest(name, SECTIONS))
        for name in table
        if name not in SECTIONS
    ]
    for name, model in MODELS.items():
        if not isinstance(table.get(name, {}), dict):
            problems.append(Problem((name,), f"must be a table, [{name}]"))
            continue
        try:
            sections[name] = model.model_validate(table.get(name, {}))
        except ValidationError as error:
            for detail in error.errors():
                problems += _problems(name, model, detail)
    return sections, problems


def _label_problems(node: Section | None, limits: NodeLimits) -> Iterator[Problem]:
    most = limits.hooks.labels_max
    if isinstance(node, NodeSection) and len(node.labels) > most:
        yield Problem(("node", "labels"), f"{len(node.labels)} labels; at most {most}")


def _hooks(table: dict[str, Any], limits: NodeLimits) -> tuple[HooksConfig | None, list[Problem]]:
    hooks = table.get("hooks", {})
    if not isinstance(hooks, dict):
        return None, [Problem(("hooks",), "must be a table, [hooks]")]
    return parse_hooks(hooks, limits=limits.hooks)


def _problems(section: str, model: type[BaseModel], detail: ErrorDetails) -> Iterator[Problem]:
    path = (section, *detail["loc"])
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        yield Problem(path, "is missing")
    elif kind == "extra_forbidden":
        keys = list(_keys(model, detail["loc"][:-1]))
        nearest = closest(str(path[-1]), keys)
        known = "" if nearest else f" (keys: {', '.join(keys)})"
        yield Problem(path, f"there is no such key in {dotted(path[:-1])}{known}", nearest)
    elif kind == "literal_error":
        expected = context["expected"]
        nearest = closest(given, _quoted(expected)) if isinstance(given, str) else None
        yield Problem(path, f"expected {expected}, got {given!r}", nearest)
    elif kind == "value_error":
        yield Problem(path, str(context["error"]))
    else:
        wanted = _WANTED.get(kind) or detail["msg"].removeprefix("Input should be ")
        yield Problem(path, f"must be {wanted}, got {given!r}")


def _quoted(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").replace("'", "").split(", ")


def _keys(model: Any, location: tuple[int | str, ...]) -> Iterator[str]:
    """The keys of the table at `location` below `model`."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(iter(get_args(annotation)), annotation)  # Model, or tuple[Model, ...]
    yield from model.model_fields


def _absolute(config: NodeConfig, path: FilePath) -> NodeConfig:
    base = path.absolute().parent
    node = config.node.model_copy(update={"data_dir": base / config.node.data_dir})
    tls_paths = {
        key: base / value
        for key in ("ca", "certificate", "key")
        if (value := getattr(config.tls, key)) is not None
    }
    hooks = config.hooks
    directory = None if hooks.directory is None else str(base / hooks.directory)
    handlers = tuple(at_folder(handler, str(base)) for handler in hooks.handlers)
    return replace(
        config,
        folder=base,
        file=path.absolute(),
        node=node,
        tls=config.tls.model_copy(update=tls_paths),
        hooks=replace(hooks, directory=directory, handlers=handlers),
    )
