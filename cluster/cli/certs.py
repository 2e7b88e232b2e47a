"""`cluster certs init | issue`: an authority for the cluster, certificates for nodes and people."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.output import Output
from cluster.cli.session import AsJson, finish
from cluster.security.certs import LEAF_DAYS_DEFAULT, Issued, Kind, create_authority, issue

Directory = Annotated[Path, typer.Option("--dir", help="Where the authority is.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    certs = typer.Typer(no_args_is_help=True, help="Certificates for nodes and clients.")
    certs.command("init")(_init)
    certs.command("issue")(_issue)
    app.add_typer(certs, name="certs")


def _init(
    directory: Annotated[Path, typer.Argument(help="Created when missing.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Name of the cluster.")] = "tremula",
    as_json: AsJson = False,
) -> None:
    """Make a certificate authority; keep its key away from the nodes."""
    out = Output(as_json=as_json)

    def run() -> None:
        issued = create_authority(directory, cluster, datetime.now(UTC))
        _show(out, issued)
        out.note(f"next: cluster certs issue NAME --host ADDRESS --dir {directory}")

    finish(out, run)


def _issue(
    name: Annotated[str, typer.Argument(help="Node's or client's name.")],
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Node: address or DNS name; repeatable.")
    ] = None,
    client: Annotated[
        bool, typer.Option("--client", help="For a client, which may not be a node.")
    ] = False,
    directory: Directory = Path(),
    days: Annotated[int, typer.Option(help="How long it counts.")] = LEAF_DAYS_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Issue a certificate with its key, for a node or (--client) for a client."""
    out = Output(as_json=as_json)

    def run() -> None:
        if client and host:
            raise typer.BadParameter("a client has no --host: nobody dials it")
        if not client and not host:
            raise typer.BadParameter("a node needs --host, the addresses that others dial")
        kind = Kind.CLIENT if client else Kind.NODE
        now = datetime.now(UTC)
        _show(out, issue(directory, name, kind=kind, hosts=tuple(host or ()), days=days, now=now))

    finish(out, run)


def _show(out: Output, issued: Issued) -> None:
    files = {"certificate": str(issued.certificate), "key": str(issued.key)}
    out.show(files, lambda: out.facts(files.items()))
