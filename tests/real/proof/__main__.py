"""`./dev proof`: the main job on real input, on this machine, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tests.real.proof.bars import Bars
from tests.real.proof.command import run_proof
from tests.real.proof.packages import index_lines
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

    async def course(folder: Path, bars: Bars) -> Outcome:
        return await prove(folder, index_lines(index), Options(records_max=records), bars)

    run_proof("three nodes with TLS, two handlers", course, keep=keep)


if __name__ == "__main__":
    typer.run(main)
