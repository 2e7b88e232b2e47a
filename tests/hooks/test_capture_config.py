"""`[[hooks.capture]]`: what a file says about the values that the log keeps."""

from __future__ import annotations

from typing import Any

import pytest

from hooks.configuration.capture import parse_capture
from hooks.configuration.config import parse_hooks
from hooks.replicated.capture import Rule
from pubsub.limits import CAPTURE_BYTES_DEFAULT, CAPTURE_RULES_MAX


def test_rules_are_read() -> None:
    """In their order, complete, as a part of the section."""
    tables = [
        {"prefix": "secrets/", "mode": "hash"},
        {"prefix": "", "mode": "truncated"},
        {"prefix": "b/", "mode": "truncated", "bytes": 7},
    ]
    config, problems = parse_hooks({"capture": tables})
    assert problems == []
    assert config is not None
    assert config.capture == (
        Rule("secrets/", "hash"),
        Rule("", "truncated", CAPTURE_BYTES_DEFAULT),
        Rule("b/", "truncated", 7),
    )


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        (3, "hooks.capture: an array of tables is expected"),
        ({"prefix": "a"}, "hooks.capture: an array of tables is expected"),
        (["a"], "hooks.capture.0: a table is expected"),
        ([{"mode": "hash"}], "hooks.capture.0.prefix: is missing"),
        ([{"prefix": "a"}], "hooks.capture.0.mode: is missing"),
        (
            [{"prefix": "a", "mode": "hash", "byte": 3}],
            'hooks.capture.0.byte: no such key (did you mean "bytes"?)',
        ),
        (
            [{"prefix": "a", "mode": "hahs"}],
            'hooks.capture.0.mode: one of "full", "truncated", "hash", "none" is expected'
            ' (did you mean "hash"?)',
        ),
        ([{"prefix": 3, "mode": "hash"}], "hooks.capture.0.prefix: a text of at most"),
        ([{"prefix": "a", "mode": ["hash"]}], "hooks.capture.0.mode: one of"),
        (
            [{"prefix": "a", "mode": "hash", "bytes": 3}],
            'hooks.capture.0.bytes: only mode "truncated" has it',
        ),
        (
            [{"prefix": "a", "mode": "truncated", "bytes": 0}],
            "hooks.capture.0.bytes: a whole number from 1",
        ),
        (
            [{"prefix": "a", "mode": "hash"}, {"prefix": "a", "mode": "none"}],
            'hooks.capture.1.prefix: a second rule for "a"',
        ),
    ],
)
def test_what_is_wrong_is_named(tables: Any, complaint: str) -> None:
    """With its place, and the spelling that was probably meant."""
    _, problems = parse_capture(tables)
    (problem,) = problems
    assert str(problem).startswith(complaint)
    config, found = parse_hooks({"capture": tables})
    assert (config, found) == (None, problems)


def test_there_is_a_most_of_rules() -> None:
    """A file with more than the cluster takes is refused as a whole."""
    tables = [{"prefix": str(number), "mode": "none"} for number in range(CAPTURE_RULES_MAX + 1)]
    _, problems = parse_capture(tables)
    assert [str(problem) for problem in problems] == ["hooks.capture: 65 rules; at most 64"]
