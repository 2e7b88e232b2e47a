"""What the commands about handlers share: attempts as rows, and nodes that did not answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from cluster.cli.session import Cli

ATTEMPT_COLUMNS = ("started", "node", "revision", "attempt", "outcome", "ms", "error")
TEXT_CHARACTERS_MAX = 100  # on a line; --json has all of it

Name = Annotated[str, typer.Argument(help="The handler's name.")]


def attempt_row(attempt: dict[str, Any]) -> list[object]:
    """One attempt that a node remembers."""
    started = attempt.get("started_ms")
    return [
        None
        if not started
        else datetime.fromtimestamp(started / 1000).isoformat(" ", "milliseconds"),
        attempt.get("node"),
        attempt.get("revision"),
        attempt.get("attempt"),
        attempt.get("outcome"),
        attempt.get("duration_ms"),
        first_line(attempt["error"]) if attempt.get("error") else None,
    ]


def note_silent(cli: Cli, answers: list[Any], reached: list[Any], what: str) -> None:
    """Say how many nodes did not answer, and what is missing for it."""
    if len(reached) < len(answers):
        silent = len(answers) - len(reached)
        cli.out.note(f"{silent} of {len(answers)} nodes did not answer: {what}", style="yellow")


def first_line(text: str) -> str:
    """As much of a text as a table has room for."""
    return text.partition("\n")[0][:TEXT_CHARACTERS_MAX]
