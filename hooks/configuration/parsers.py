"""Parsers that several keys share. One takes a table, a key and its value; it returns the value in
the form that a definition takes, or None after it reported what is wrong. Deciding code.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hooks.configuration.definition import Path, Problem, parse_rate
from hooks.limits import HookLimits
from pubsub.topics import closest

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_PROMETHEUS_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_VALUE_BYTES_MAX: Final = 1024


class TableReader:
    """One table on its way to a definition, and what was found wrong with it."""

    def __init__(self, table: Mapping[str, object], path: Path, limits: HookLimits) -> None:
        self.table = table
        self.path = path
        self.limits = limits
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem((*self.path, key), message, suggestion))


Parser = Callable[[TableReader, str, object], object]


def text(reader: TableReader, key: str, value: object) -> str | None:
    """A text that says something."""
    if not isinstance(value, str) or not value or "\0" in value:
        reader.problem(key, "a non-empty text is expected")
        return None
    return value


def flag(reader: TableReader, key: str, value: object) -> bool | None:
    """True or false."""
    if not isinstance(value, bool):
        reader.problem(key, "true or false is expected")
        return None
    return value


def texts(reader: TableReader, key: str, value: object) -> tuple[str, ...] | None:
    """A list of texts, each once."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, str) and each and "\0" not in each for each in value
    ):
        reader.problem(key, "a list of non-empty texts is expected")
        return None
    for number, each in enumerate(value):
        if each in value[:number]:
            reader.problem(key, f'"{each}" stands here twice')
            return None
    return tuple(value)


def is_number(value: object, least: int, most: int) -> bool:
    """Whether a value is a whole number between two others; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(least: int, most: Callable[[HookLimits], int] | int) -> Parser:
    """A whole number between two others."""

    def parse(reader: TableReader, key: str, value: object) -> object:
        bound = most if isinstance(most, int) else most(reader.limits)
        if not is_number(value, least, bound):
            reader.problem(key, f"a whole number from {least} to {bound} is expected")
            return None
        return value

    return parse


def choice(
    names: Sequence[str], build: Callable[[str], object], later: Mapping[str, str] | None = None
) -> Parser:
    """One of some names; `later` says of others why they are not there yet."""

    def parse(reader: TableReader, key: str, value: object) -> object:
        if isinstance(value, str) and value in names:
            return build(value)
        if later and isinstance(value, str) and value in later:
            reader.problem(key, f'"{value}": {later[value]}')
            return None
        known = ", ".join(f'"{name}"' for name in names)
        meant = closest(value, names) if isinstance(value, str) else None
        reader.problem(key, f"one of {known} is expected", meant)
        return None

    return parse


def rate(reader: TableReader, key: str, value: object) -> object:
    """So many in a second, a minute or an hour."""
    try:
        found = parse_rate(value if isinstance(value, str) else str(value))
    except ValueError as error:
        reader.problem(key, str(error))
        return None
    most = reader.limits.rate_per_second_max
    if found.starts * 1000 > most * found.period_ms:
        reader.problem(key, f"at most {most} starts a second: more than that limits nothing")
        return None
    return found


def labels_problem(value: object) -> str | None:
    """What is wrong with the labels of a node, or with those that a handler wants of one."""
    if not isinstance(value, Mapping):
        return 'a table of texts is expected, like { zone = "a" }'
    for name, content in value.items():
        for part in (name, content):
            if not isinstance(part, str) or not _LABEL.fullmatch(part):
                return (
                    f"{part!r}: 1 to 63 of the characters A-Z a-z 0-9 . _ / - are expected,"
                    " the first and the last a letter or a digit"
                )
    return None


def labels(reader: TableReader, key: str, value: object) -> tuple[tuple[str, str], ...] | None:
    """Labels that a node must have."""
    if wrong := labels_problem(value):
        reader.problem(key, wrong)
        return None
    assert isinstance(value, Mapping)
    if not 1 <= len(value) <= reader.limits.labels_max:
        reader.problem(key, f"{len(value)} labels; 1 to {reader.limits.labels_max} are expected")
        return None
    return tuple(sorted(value.items()))


def prometheus_labels(
    reader: TableReader, key: str, value: object
) -> tuple[tuple[str, str], ...] | None:
    """Labels of a target: the names are those that Prometheus takes."""
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        reader.problem(key, 'a table of texts is expected, like { team = "a" }')
        return None
    for name, content in value.items():
        if not isinstance(name, str) or not _PROMETHEUS_LABEL.fullmatch(name):
            reader.problem(key, f"{name!r} is no label name: A-Z a-z 0-9 _, no digit first")
            return None
        if len(content.encode(errors="replace")) > _LABEL_VALUE_BYTES_MAX:
            reader.problem(key, f"{name}: longer than {_LABEL_VALUE_BYTES_MAX} bytes")
            return None
    if len(value) > reader.limits.labels_max:
        reader.problem(key, f"{len(value)} labels; at most {reader.limits.labels_max}")
        return None
    return tuple(sorted(value.items()))
