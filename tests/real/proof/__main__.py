"""`./dev proof`: the main job on real input, on this machine, in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.cli.session import only
from cluster.errors import TremulaError
from tests.real.proof.bars import open_bars
from tests.real.proof.packages import NoIndex, index_lines
from tests.real.proof.run import Options, Outcome, prove


def main(
    records: Annotated[
        int | None, typer.Option("--records", min=100, help="Only so many packages.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", exists=True, help="What `apt-cache dumpavail` printed elsewhere."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with the nodes' data and logs.")
    ] = False,
) -> None:
    """Import Debian's package index into three nodes with TLS, through kill -9 of two of them, and
    check that nothing is lost, doubled or out of order: values, events, handlers, digests."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="tremula-proof-"))
    console.print(f"three nodes with TLS, two handlers; everything is in {folder}")
    outcome: Outcome | None = None
    try:
        with open_bars(console) as bars:
            options = Options(records_max=records)
            outcome = trio.run(partial(prove, folder, index_lines(index), options, bars))
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
        console.print(f"[bold]{name}[/]: {text}", highlight=False)
    table = Table("", "check", "found")
    for check in outcome.checks:
        mark = "[green]ok[/]" if check.passed else "[red]NO[/]"
        table.add_row(mark, check.name, escape(check.detail))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
