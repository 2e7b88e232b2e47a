"""What the proofs share as commands: a folder, bars, the table of checks, the exit code."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.cli.session import only
from cluster.errors import TremulaError
from tests.real.proof.bars import Bars, open_bars
from tests.real.proof.packages import NoIndex
from tests.real.proof.run import Outcome

Course = Callable[[Path, Bars], Awaitable[Outcome]]


def run_proof(what: str, course: Course, *, keep: bool) -> None:
    """Go through `course` in a new folder, show what came of it, and end with 0 if all checks
    passed. The folder goes away then, unless it is to be kept."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="tremula-proof-"))
    console.print(f"{what}; everything is in {folder}")
    outcome: Outcome | None = None
    try:
        with open_bars(console) as bars:
            outcome = trio.run(partial(course, folder, bars))
    except BaseException as error:
        cause = only(error)
        if isinstance(cause, NoIndex):
            shutil.rmtree(folder)
            console.print(str(cause), style="red", markup=False)
            raise typer.Exit(1) from None
        if not isinstance(cause, AssertionError | TremulaError):
            raise
        text = f"the proof did not come to its checks: {cause}"
        console.print(text, style="red", markup=False)
    if outcome is not None:
        show(console, outcome)
    if keep or outcome is None or not outcome.passed:
        console.print(f"the nodes' data and logs are in {folder}")
    else:
        shutil.rmtree(folder)
    raise typer.Exit(0 if outcome is not None and outcome.passed else 1)


def show(console: Console, outcome: Outcome) -> None:
    """The facts, and the table of checks."""
    for name, text in outcome.facts:
        console.print(f"[bold]{name}[/]: {escape(text)}", highlight=False)
    table = Table("", "check", "found")
    for check in outcome.checks:
        mark = "[green]ok[/]" if check.passed else "[red]NO[/]"
        table.add_row(mark, escape(check.name), escape(check.detail))
    console.print(table)
