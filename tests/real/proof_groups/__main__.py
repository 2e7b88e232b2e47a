"""`./dev proof-groups`: a million events through two groups, on this machine, all of it hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tests.real.proof.bars import Bars
from tests.real.proof.command import run_proof
from tests.real.proof.packages import index_lines
from tests.real.proof.run import Outcome
from tests.real.proof_groups.memory import MIB
from tests.real.proof_groups.run import Options, prove


def main(
    events: Annotated[
        int, typer.Option("--events", min=2_000, help="Only so many lines.")
    ] = 1_000_000,
    index: Annotated[
        Path | None,
        typer.Option("--index", exists=True, help="What `apt-cache dumpavail` printed elsewhere."),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Nodes, publishers, consumers speak TLS.")] = (
        False
    ),
    memory: Annotated[
        int, typer.Option("--memory", min=1, help="MiB that no node may go beyond.")
    ] = 250,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with the nodes' data and logs.")
    ] = False,
) -> None:
    """Publish the lines of Debian's package index and handle them in a partitioned and a competing
    group, three processes each. Meanwhile: kill -9 of the leader, of another node, and of consumers
    of both groups; SIGSTOP of consumers until they are given up; consumers that leave. Check from
    outside that nothing is lost, doubled, out of order or unexplained."""

    async def course(folder: Path, bars: Bars) -> Outcome:
        options = Options(events_max=events, tls=tls, node_bytes_max=memory * MIB)
        return await prove(folder, index_lines(index), options, bars)

    run_proof("three nodes, two publishers, six consumers", course, keep=keep)


if __name__ == "__main__":
    typer.run(main)
