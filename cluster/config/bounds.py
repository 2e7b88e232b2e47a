"""[limits]: the bounds that other parts define as dataclasses, as tables of the file.

The dataclass with its reasons stays the one definition of each bound; here its fields become keys.
"""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, TypeVar, get_type_hints

from pydantic import Field, create_model

from cluster.config.values import Section
from cluster.server.limits import ServerLimits
from hooks.configuration.definition import Problem
from hooks.limits import HookLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLimits:
    """The configurable bounds of a node."""

    client: ServerLimits = field(default_factory=ServerLimits)
    hooks: HookLimits = field(default_factory=HookLimits)


Bounds = TypeVar("Bounds", ServerLimits, HookLimits)


def _table(bounds: type[Any], name: str) -> type[Section]:
    hints = get_type_hints(bounds)
    keys: dict[str, Any] = {
        each.name: (Annotated[hints[each.name], Field(ge=0)], each.default)
        for each in fields(bounds)
    }
    return create_model(name, __base__=Section, **keys)


_TABLES: Final[dict[str, type[Any]]] = {"client": ServerLimits, "hooks": HookLimits}
_MODELS: Final = {name: _table(bounds, f"{name}_limits") for name, bounds in _TABLES.items()}
LimitsSection: Final[type[Section]] = create_model(
    "LimitsSection",
    __base__=Section,
    **{name: (model, Field(default_factory=model)) for name, model in _MODELS.items()},  # type: ignore[call-overload]
)


def node_limits(section: Section) -> tuple[NodeLimits | None, list[Problem]]:
    """The bounds of a valid [limits] table, or how they contradict each other."""
    problems: list[Problem] = []
    tables: dict[str, Any] = {}
    for name, bounds in _TABLES.items():
        values = getattr(section, name).model_dump()
        try:
            tables[name] = bounds(**values)
        except AssertionError as error:
            problems.append(Problem(("limits", name), f"must hold: {_broken(error)}"))
    return (None if problems else NodeLimits(**tables)), problems


def bound_keys() -> Iterator[tuple[str, str, object]]:
    """Table, key and default of every bound, for the tests of the documentation."""
    for name, bounds in _TABLES.items():
        for each in fields(bounds):
            yield name, each.name, each.default


def _broken(error: AssertionError) -> str:
    """The relation that does not hold, as its definition writes it."""
    line = (traceback.extract_tb(error.__traceback__)[-1].line or "").removeprefix("assert ")
    relation = line.replace("self.", "").partition(', "')[0].strip(" (,")
    return f"{relation} ({error})" if str(error) else relation
