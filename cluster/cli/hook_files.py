"""`cluster hook validate | events`: what needs no cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.outcome import Exit, Failure
from cluster.cli.output import Output
from cluster.cli.patterns import check_pattern
from cluster.cli.session import AsJson, finish
from cluster.config.validate import validate_path
from hooks.events.catalogue import CATALOGUE, document

EVENT_COLUMNS = ("topic", "version", "what it says")


def register(hook: typer.Typer) -> None:
    """Add the commands to `cluster hook`."""
    hook.command("validate")(_validate)
    hook.command("events")(_events)


def _validate(
    path: Annotated[
        Path, typer.Argument(help="A node's file, one with [[handlers]], a module, or a folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Load handlers as a node would, and list everything that is wrong with them."""
    out = Output(as_json=as_json)

    def run() -> None:
        if not path.exists():
            raise Failure(f"{path}: there is no such file", code=Exit.USAGE)
        problems = [str(problem) for problem in validate_path(path, os.environ)]
        told = problems or [f"{path}: ok"]
        out.show({"path": str(path), "problems": problems}, lambda: out.line("\n".join(told)))
        if problems:
            out.note(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}", style="red")
            raise typer.Exit(Exit.USAGE)

    finish(out, run)


def _events(
    pattern: Annotated[str, typer.Argument(help="Only those that match.")] = "hooks.>",
    as_json: AsJson = False,
) -> None:
    """The cluster's own event types; with --json each with the JSON Schema of its payload."""
    out = Output(as_json=as_json)

    def run() -> None:
        matches = check_pattern(pattern).matches
        types = [each for each in CATALOGUE.values() if matches(each.topic)]
        if not types:
            raise typer.BadParameter(f'no event type of the cluster matches "{pattern}"')
        known = document()
        known["events"] = [each for each in known["events"] if matches(each["topic"])]

        def people() -> None:
            if len(types) == 1:
                (only,) = types
                out.line(f"{only.topic} (version {only.version}): {only.summary}\n")
                rows = [(name, field.kind, field.meaning) for name, field in only.fields.items()]
                out.table(("field", "type", "meaning"), rows)
                return
            out.table(EVENT_COLUMNS, [(each.topic, each.version, each.summary) for each in types])

        out.show(known, people)

    finish(out, run)
