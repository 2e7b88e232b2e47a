"""`cluster config check`: everything that is wrong with a node's file, before a node is started."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.outcome import Exit
from cluster.cli.output import Output
from cluster.cli.session import AsJson, finish
from cluster.config import ConfigError, NodeConfig, load
from cluster.config.validate import validate_hooks
from cluster.security.certs import CertificateError
from cluster.security.tls import server_context
from hooks.configuration.discovery import read_directory
from hooks.handlers.shell import missing


def register(app: typer.Typer) -> None:
    """Add the commands."""
    config = typer.Typer(no_args_is_help=True, help="The configuration of a node.")
    config.command("check")(_check)
    app.add_typer(config, name="config")


def _check(
    file: Annotated[Path, typer.Argument(help="A node's TOML file.")],
    files: Annotated[
        bool,
        typer.Option("--files", help="Also check the files, folders and modules that it names."),
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
            problems = [str(problem) for problem in validate_hooks(file, config, os.environ)]
            problems += [f"{file}: {problem}" for problem in missing_files(config)]
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
    tables = read_directory(config.hooks.directory, config.limits.hooks).tables
    found = [candidate.handler for table in tables for candidate in table.handlers]
    for handler in (*config.hooks.handlers, *found):
        if reason := missing(handler, os.environ):
            yield f"handler {handler.name}: {reason}"


def _start(config: NodeConfig) -> str:
    if config.cluster.join:
        return f"joins through {', '.join(map(str, config.cluster.join))}"
    count = max(1, len(config.cluster.peers))
    return f"one of {count} first voters" if count > 1 else "a cluster of one"
