"""The shape of a request's arguments: checked once, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.errors import Malformed
from cluster.protocol import LINEARIZABLE, LOCAL


def shaped(args: list[Any], required: int, *checks: Callable[[Any], bool]) -> list[Any]:
    """The first arguments, padded with None; each but the `required` ones may be nil or missing."""
    if len(args) > len(checks) + 1:  # One more: the consistency level.
        raise Malformed(f"at most {len(checks) + 1} arguments")
    found: list[Any] = (args + [None] * len(checks))[: len(checks)]
    for position, (check, item) in enumerate(zip(checks, found, strict=True)):
        if not check(item) and (item is not None or position < required):
            raise Malformed(f"argument {position} must be {check.__name__}")
    return found


def is_linearizable(args: list[Any], position: int) -> bool:
    """The consistency level stands last among the arguments, and may be left out."""
    level = args[position] if len(args) > position else None
    if level is None or level == LINEARIZABLE:
        return True
    if level == LOCAL:
        return False
    raise Malformed(f'a consistency level is "{LINEARIZABLE}" or "{LOCAL}"')


def text(item: Any) -> bool:
    return isinstance(item, str)


def count(item: Any) -> bool:
    return type(item) is int and 0 <= item < 2**63


def boolean(item: Any) -> bool:
    return isinstance(item, bool)


def anything(item: Any) -> bool:
    return True
