"""`cluster config check`: everything that is wrong with a node's file, before a node is started."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.outcome import Exit
from cluster.cli.output import Output
from cluster.cli.session import AsJson, finish
from cluster.config import ConfigError, NodeConfig, load
from cluster.security.certs import CertificateError
from cluster.security.tls import server_context


def register(app: typer.Typer) -> None:
    """Add the commands."""
    config = typer.Typer(no_args_is_help=True, help="The configuration of a node.")
    config.command("check")(_check)
    app.add_typer(config, name="config")


def _check(
    file: Annotated[Path, typer.Argument(help="A node's TOML file.")],
    files: Annotated[
        bool, typer.Option("--files", help="Also check the files that it names, here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List all problems of a file: place, key, reason and nearest spelling."""
    out = Output(as_json=as_json)

    def run() -> None:
        problems: list[str] = []
        config: NodeConfig | None = None
        try:
            config = load(file, os.environ)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
        if config and files:
            problems = [f"{file}: {problem}" for problem in missing_files(config)]
        if config and not problems:
            sentence = f"{file}: ok (node {config.node.name}, {_start(config)})"
            out.say(sentence, {"file": str(file), "problems": []})
            return
        out.show(
            {"file": str(file), "problems": problems},
            lambda: out.line("\n".join(problems)),
        )
        out.note(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}", style="red")
        raise typer.Exit(Exit.USAGE)

    finish(out, run)


def missing_files(config: NodeConfig) -> Iterator[str]:
    """Files that a configuration names and that are not there, or not what they should be."""
    tls = config.tls
    if tls.ca and tls.certificate and tls.key:
        try:
            server_context(tls.ca, tls.certificate, tls.key)
        except CertificateError as error:
            yield f"tls: {error}"
    for handler in config.hooks.handlers:
        where = f"handler {handler.name}"
        if handler.working_dir and not Path(handler.working_dir).is_dir():
            yield f"{where}: working_dir {handler.working_dir} is no directory"
        program = "sh" if handler.shell else handler.command[0] if handler.command else None
        if program and not shutil.which(program, path=None):
            yield f"{where}: there is no program {program}"


def _start(config: NodeConfig) -> str:
    if config.cluster.join:
        return f"joins through {', '.join(map(str, config.cluster.join))}"
    count = max(1, len(config.cluster.peers))
    return f"one of {count} first voters" if count > 1 else "a cluster of one"
