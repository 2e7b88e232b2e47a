"""docs/limits.md lists every fixed limit of the cluster, the log and hooks, with its value."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster import limits as cluster_limits
from hooks import limits as hooks_limits
from pubsub import limits as pubsub_limits

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
UNITS = {"KiB": 1024, "MiB": 1024 * 1024, "bytes": 1, "ms": 1, "": 1}
NO_LIMITS = ("KIB", "MIB", "DEFAULT_LIMITS")


def constants(module: ModuleType) -> dict[str, Any]:
    """The limits that a module defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and name not in NO_LIMITS
    }


def documented() -> dict[str, int]:
    """Every limit of the page, in its smallest unit."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) ?(\w*) \|", PAGE.read_text(), re.MULTILINE)
    assert len(dict.fromkeys(row[0] for row in rows)) == len(rows), "a limit stands there twice"
    return {name: int(number.replace(",", "")) * UNITS[unit] for name, number, unit in rows}


LIMITS = constants(cluster_limits) | constants(pubsub_limits) | constants(hooks_limits)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_documented_with_its_value(name: str) -> None:
    """Name and number, so that a change of one without the other is noticed."""
    assert documented().get(name) == LIMITS[name]


def test_the_page_has_no_limit_that_is_gone() -> None:
    """What nobody checks any more must not be promised."""
    assert set(documented()) <= set(LIMITS)
