"""The keys of a handler's table: the type, bounds and meaning of each, one parser per key.

A parser returns the value in the form that `HandlerDefinition` takes, or None after it reported
what is wrong. Deciding code: it looks at no file, no clock and no environment.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hooks.configuration.definition import HandlerType, OnFailure, Path, Problem
from hooks.events import catalogue
from hooks.limits import HookLimits
from pubsub.limits import INTEGER_MAX, PARTITIONS_MAX
from pubsub.topics import closest, is_reserved

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TableReader:
    """One table on its way to a definition, and what was found wrong with it."""

    def __init__(self, table: Mapping[str, object], path: Path, limits: HookLimits) -> None:
        self.table = table
        self.path = path
        self.limits = limits
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem((*self.path, key), message, suggestion))


def pattern_problem(text: object) -> tuple[str, str | None] | None:
    """What is wrong with a handler's pattern and the nearest right one: a misspelt topic of the
    cluster would register and stay silent for ever. Topics of users cannot be checked."""
    if not isinstance(text, str):
        return "a text is expected", None
    if problem := catalogue.pattern_problem(text):
        return problem.removeprefix("pattern: "), None
    first, _, rest = text.partition(".")
    if not is_reserved(text) and rest and closest(first, ("hooks",)):
        meant = f"hooks.{rest}"
        if catalogue.pattern_problem(meant) is None:
            return 'the topics of the cluster begin with "hooks."', meant
    return None


Parser = Callable[[TableReader, str, object], object]


def _text(reader: TableReader, key: str, value: object) -> str | None:
    if not isinstance(value, str) or not value or "\0" in value:
        reader.problem(key, "a non-empty text is expected")
        return None
    return value


def _flag(reader: TableReader, key: str, value: object) -> bool | None:
    if not isinstance(value, bool):
        reader.problem(key, "true or false is expected")
        return None
    return value


def _name(reader: TableReader, key: str, value: object) -> str | None:
    longest = reader.limits.handler_name_bytes_max
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > longest:
        reader.problem(
            key,
            f"1 to {longest} of the characters A-Z a-z 0-9 . _ - are expected,"
            " the first a letter or a digit",
        )
        return None
    return value


def _pattern(reader: TableReader, key: str, value: object) -> str | None:
    if wrong := pattern_problem(value):
        reader.problem(key, *wrong)
        return None
    return str(value)


def _number(least: int, most: Callable[[HookLimits], int]) -> Parser:
    def parse(reader: TableReader, key: str, value: object) -> int | None:
        bound = most(reader.limits)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= bound:
            reader.problem(key, f"a whole number from {least} to {bound} is expected")
            return None
        return value

    return parse


def _partitions(reader: TableReader, key: str, value: object) -> int | None:
    number = _number(1, lambda _: PARTITIONS_MAX)(reader, key, value)
    if isinstance(number, int) and number & (number - 1):
        reader.problem(key, "a power of two is expected: it is fixed for the handler's life")
        return None
    return number if isinstance(number, int) else None


def _choice(
    names: Sequence[str], later: Mapping[str, str], build: Callable[[str], object]
) -> Parser:
    def parse(reader: TableReader, key: str, value: object) -> object:
        if isinstance(value, str) and value in names:
            return build(value)
        if isinstance(value, str) and value in later:
            reader.problem(key, f'"{value}": {later[value]}')
            return None
        known = ", ".join(f'"{name}"' for name in names)
        meant = closest(value, names) if isinstance(value, str) else None
        reader.problem(key, f"one of {known} is expected", meant)
        return None

    return parse


def _start(reader: TableReader, key: str, value: object) -> str | int | None:
    if value in ("latest", "earliest"):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= INTEGER_MAX:
        return value
    meant = closest(value, ("latest", "earliest")) if isinstance(value, str) else None
    reader.problem(key, '"latest", "earliest" or a revision from 1 is expected', meant)
    return None


def _command(reader: TableReader, key: str, value: object) -> tuple[str, ...] | None:
    """A list is the argument vector; a text is split like a shell would, but not given to one."""
    arguments: object = value
    if isinstance(value, str):
        try:
            arguments = [value] if reader.table.get("shell") is True else shlex.split(value)
        except ValueError as error:
            reader.problem(key, f"cannot be split into arguments: {str(error).lower()}")
            return None
    if not isinstance(arguments, list | tuple) or not arguments or not arguments[0]:
        reader.problem(key, "a text or a non-empty list of texts is expected")
        return None
    if not all(isinstance(argument, str) and "\0" not in argument for argument in arguments):
        reader.problem(key, "every argument must be a text without NUL")
        return None
    limits = reader.limits
    if len(arguments) > limits.command_arguments_max:
        reader.problem(key, f"{len(arguments)} arguments; at most {limits.command_arguments_max}")
        return None
    size = sum(len(argument.encode(errors="replace")) + 1 for argument in arguments)
    if size > limits.command_bytes_max:
        reader.problem(key, f"{size} bytes; at most {limits.command_bytes_max}")
        return None
    return tuple(arguments)


def _variables(reader: TableReader, key: str, value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and _VARIABLE.fullmatch(name) for name in value
    ):
        reader.problem(key, "a list of names of environment variables is expected")
        return None
    if len(value) > reader.limits.environment_names_max:
        reader.problem(key, f"at most {reader.limits.environment_names_max} names")
        return None
    return tuple(value)


KEYS: Final[dict[str, Parser]] = {
    "name": _name,
    "pattern": _pattern,
    "execution_mode": _choice(
        ("direct",), {"job": 'there are no jobs yet; use "direct"'}, lambda value: value
    ),
    "type": _choice(
        tuple(HandlerType),
        {
            "forward": "forwarding to another cluster does not exist yet",
            "webhook": "webhooks do not exist yet",
            "job": "there are no jobs yet",
        },
        HandlerType,
    ),
    "handler_id": _text,
    "command": _command,
    "shell": _flag,
    "working_dir": _text,
    "env": _variables,
    "output_bytes_max": _number(0, lambda limits: limits.output_bytes_max),
    "timeout_ms": _number(1, lambda limits: limits.handler_timeout_ms_max),
    "retry_count": _number(0, lambda limits: limits.retry_count_max),
    "enabled": _flag,
    "scope": _choice(
        ("cluster",),
        {
            "node": "only handlers that run once per cluster exist yet",
            "leader": "only handlers that run once per cluster exist yet",
            "selector": "only handlers that run once per cluster exist yet",
        },
        lambda value: value,
    ),
    "concurrency": _number(1, lambda limits: limits.concurrency_max),
    "partitions": _partitions,
    "priority": _number(0, lambda _: 1_000),
    "start": _start,
    "on_failure": _choice(tuple(OnFailure), {}, OnFailure),
}

# Keys of the design that nothing reads yet.
NOT_YET: Final[dict[str, str]] = {
    "job_priority": "there are no jobs yet",
    "target_cluster": "forwarding to another cluster does not exist yet",
    "target_topic": "forwarding to another cluster does not exist yet",
    "filter": "filters do not exist yet",
    "rate_limit": "rate limits do not exist yet",
    "debounce_ms": "debouncing does not exist yet",
    "after": "ordering between handlers does not exist yet",
}
