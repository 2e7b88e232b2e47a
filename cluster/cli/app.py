"""The tree of commands: one noun, one verb. Each module of this package registers its own."""

from typing import Annotated

import typer

from cluster import __version__
from cluster.cli import (
    bench,
    certs,
    configuration,
    dead_letters,
    dev,
    doctor,
    event_store,
    groups,
    hooks,
    kv,
    members,
    node,
    replays,
    retention,
    topics,
)

app = typer.Typer(
    name="cluster",
    help="Tremula: a replicated key-value store and event log whose changes move hooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 did not happen, 2 wrong usage, 3 may have happened, "
    "4 the cluster cannot serve now.",
)

for module in (
    dev,
    node,
    configuration,
    members,
    kv,
    topics,
    event_store,
    replays,
    retention,
    dead_letters,
    groups,
    hooks,
    certs,
    doctor,
    bench,
):
    module.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tremula {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass
