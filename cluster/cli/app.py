"""The tree of commands: one noun, one verb. Each module of this package registers its own."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
from cluster.cli.outcome import Exit, Failure, report
from cluster.cli.output import Output


class _Commands(TyperGroup):
    """The commands; what is wrong with their arguments is said in JSON where that is asked for."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run one and leave."""
        given = sys.argv[1:] if args is None else list(args)
        own = given[: given.index("--")] if "--" in given else given
        if "--json" not in own:
            return super().main(args, *rest, **extra)
        try:
            left = super().main(args, *rest, **{**extra, "standalone_mode": False})
        except Exception as error:
            told = getattr(error, "format_message", None)  # of what the parser refuses
            if told is None:
                raise
            report(Failure(told(), code=Exit.USAGE), Output(as_json=True))
            left = int(Exit.USAGE)
        sys.exit(left)


app = typer.Typer(
    name="cluster",
    cls=_Commands,
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
