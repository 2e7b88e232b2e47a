"""The registry of errors: complete, documented, and the same on both ends of the wire."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cluster import errors
from cluster.errors import (
    REGISTRY,
    Compacted,
    DefiniteError,
    NoLeader,
    OtherDefinite,
    OtherUnknown,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    Timeout,
    TremulaError,
    field_names,
    from_wire,
)
from pubsub.rejection import Rejection

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
EXAMPLES = {
    "str": "word",
    "str | None": "word",
    "int": 7,
    "int | None": 7,
    "list[str]": ["a:1", "b:2"],
    "list[int]": [1, 2],
}


def example(error: type[TremulaError]) -> TremulaError:
    """An instance with a value in each field."""
    hints = inspect.get_annotations(error)
    return error(**{name: EXAMPLES[hints[name]] for name in field_names(error)})


def rows(heading: str) -> dict[str, str]:
    """The rows of the table under a heading: first column -> the others."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {
        found[1]: found[2] for found in re.finditer(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    }


def rejection_reasons() -> Iterator[str]:
    """Every constant reason with which some module makes a Rejection or a Rejected."""
    for package in ("cluster", "pubsub", "hooks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("Rejection", "Rejected")
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    yield str(node.args[0].value)


def test_every_error_is_registered() -> None:
    """A class that is not in the registry would arrive as an unknown error."""
    classes = {
        item
        for _, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, TremulaError)
    }
    assert set(REGISTRY.values()) == classes - {TremulaError, DefiniteError, OutcomeUnknown}
    assert all(error.kind == kind for kind, error in REGISTRY.items())


@pytest.mark.parametrize("kind", REGISTRY)
def test_every_error_is_documented_where_it_belongs(kind: str) -> None:
    """docs/errors.md has the kind under the right outcome, with all of its fields."""
    error = REGISTRY[kind]
    heading = "Definite" if issubclass(error, DefiniteError) else "Unknown outcome"
    row = rows(heading)[kind]
    for name in field_names(error):
        assert f"`{name}`" in row


def test_no_other_error_is_documented() -> None:
    """The document has no kind that does not exist."""
    assert {*rows("Definite"), *rows("Unknown outcome")} == set(REGISTRY)


def test_the_reasons_of_rejections_are_documented() -> None:
    """Each reason in the source stands in docs/errors.md, and no other does."""
    assert set(rows("Reasons of a rejection")) == set(rejection_reasons())


@pytest.mark.parametrize("kind", REGISTRY)
def test_an_error_survives_the_wire(kind: str) -> None:
    """Class, fields and message are the same at the other end."""
    error = example(REGISTRY[kind])
    back = from_wire(msgpack.unpackb(msgpack.packb(error.to_wire())))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error) == error.message()
    assert back.code == error.code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0, "from_the_future", "so it is", {}], OtherDefinite),
        ([1, "from_the_future", "so it is", {}], OtherUnknown),
        ([1, "no_leader", "now unknown", {}], OtherUnknown),
        ([0, "timeout", "now definite", {}], OtherDefinite),
        ([7, "no_leader", "an outcome of the future", {}], OtherUnknown),
        ([0, "compacted", "without its field", {}], OtherDefinite),
        ([0, 5, None, {}], OtherDefinite),
        ([0, "no_leader", "text"], OtherUnknown),
        ("no_leader", OtherUnknown),
        (None, OtherUnknown),
    ],
    ids=repr,
)
def test_what_is_not_known_keeps_its_outcome(value: Any, expected: type[TremulaError]) -> None:
    """The outcome on the wire decides; what cannot be understood may have happened."""
    assert type(from_wire(value)) is expected


def test_fields_of_a_newer_version_are_left_out() -> None:
    """A field that this version does not know does not hide the error."""
    error = from_wire([0, "compacted", "x", {"first_revision": 5, "archive": "s3://x"}])
    assert isinstance(error, Compacted)
    assert error.first_revision == 5


def test_a_rejection_becomes_an_error_with_its_reason() -> None:
    """`code` is what callers branch on, and the detail is in the message."""
    error = Rejected.of(Rejection("revision_mismatch", "k is at 5"))
    assert error.code == "revision_mismatch"
    assert str(error) == "revision_mismatch: k is at 5"


def test_messages_are_sentences_for_people() -> None:
    """The message says what happened and what it means."""
    assert str(NoLeader()) == "the cluster has no leader at the moment"
    assert str(Overloaded("queue", 5)) == "queue is full (bound 5), try again later"
    assert str(Timeout(50)) == "no answer within 50 ms; the request may still happen"
