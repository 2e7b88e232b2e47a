"""What the commands about handlers share: attempts as rows, and nodes that did not answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cluster.cli.output import Brief
from cluster.cli.session import Cli

# The revision of a batch is that of its newest event.
ATTEMPT_COLUMNS = ("started", "node", "revision", "events", "attempt", "outcome", "ms", "error")


def attempt_row(attempt: dict[str, Any]) -> list[object]:
    """One attempt that a node remembers."""
    started = attempt.get("started_ms")
    return [
        None
        if not started
        else datetime.fromtimestamp(started / 1000).isoformat(" ", "milliseconds"),
        attempt.get("node"),
        attempt.get("revision"),
        attempt.get("events"),
        attempt.get("attempt"),
        attempt.get("outcome"),
        attempt.get("duration_ms"),
        Brief(attempt.get("error")),
    ]


def note_silent(cli: Cli, answers: list[Any], reached: list[Any], what: str) -> None:
    """Say how many nodes did not answer, and what is missing for it."""
    if len(reached) < len(answers):
        silent = len(answers) - len(reached)
        cli.out.note(f"{silent} of {len(answers)} nodes did not answer: {what}", style="yellow")
