"""Where a reader begins, as people write it."""

from __future__ import annotations

import pytest
import typer

from cluster.cli.start import parse_start

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", "latest"),
        ("earliest", "earliest"),
        ("17", 17),
        ("10m", ["time", NOW_MS - 600_000]),
        ("7d", ["time", NOW_MS - 7 * 86_400_000]),
        ("2023-11-14T22:13:20+00:00", ["time", NOW_MS]),
        ("2023-11-14T22:13:20Z", ["time", NOW_MS]),
    ],
)
def test_a_start_is_a_word_a_revision_a_time_or_an_age(text: str, start: object) -> None:
    """Each becomes what the protocol takes."""
    assert parse_start(text, NOW_MS) == start


@pytest.mark.parametrize("text", ["", "0", "-1", "yesterday", "10 m", "2023-13-01", "1e3"])
def test_anything_else_is_refused_in_words(text: str) -> None:
    """And the words say what is possible."""
    with pytest.raises(typer.BadParameter, match="latest"):
        parse_start(text, NOW_MS)
