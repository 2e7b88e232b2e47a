"""`cluster node start | verify`: run one node in the foreground, or check what it stored."""

import errno
import os
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Annotated

import trio
import typer

from cluster.cli.outcome import Exit, Failure
from cluster.cli.output import Output
from cluster.cli.session import AsJson, finish, only
from cluster.config import load, located
from cluster.corruption import CorruptState, UnsupportedState
from cluster.datadir import IDENTITY, DataDirError
from cluster.divergence import Diverged
from cluster.installation import conflicts
from cluster.operations import UnsupportedEntry
from cluster.raft.log import CorruptLog, ForgottenEntries, StorageFailed
from cluster.scan import scan_stopped
from cluster.security.certs import CertificateError
from hooks.execution.runtime import HooksRefused
from hooks.handlers.host import HostNotStarted

# What stops a node that is not a bug: the message says what to do, a traceback would hide it.
_REFUSALS = (
    CertificateError, CorruptLog, CorruptState, DataDirError, Diverged, ForgottenEntries,
    HooksRefused, StorageFailed, UnsupportedEntry, UnsupportedState,
)  # fmt: skip
# A port that is taken, a directory that is not ours: the machine's word on what we asked of it.
_MACHINE_SAYS_NO = frozenset(
    (
        errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.ENOENT,
        errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.EMFILE,
    )
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    node = typer.Typer(no_args_is_help=True, help="Run a node.")
    node.command("start")(_start)
    node.command("verify")(_verify)
    app.add_typer(node, name="node")


Config = Annotated[Path, typer.Option("--config", "-c", help="The node's TOML file.")]


def _start(config: Config) -> None:
    """Start a node from its file and run it until SIGTERM or Ctrl-C, which hand over cleanly."""

    def run() -> None:
        from cluster.daemon import run as run_node  # only this command needs the whole node

        for conflict in conflicts(packages_distributions()):
            raise Failure(str(conflict), code=Exit.USAGE)
        checked = load(config, os.environ)
        try:
            trio.run(run_node, checked)
        except BaseException as error:
            cause = only(error)
            if isinstance(cause, HooksRefused):
                raise located(config, cause.problems) from None
            if isinstance(cause, HostNotStarted):
                raise Failure(
                    f"the modules of [hooks] cannot be loaded:\n{cause}", code=Exit.USAGE
                ) from None
            if isinstance(cause, _REFUSALS) or (
                isinstance(cause, OSError) and cause.errno in _MACHINE_SAYS_NO
            ):
                raise Failure(str(cause)) from None
            raise

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    finish(Output(as_json=False), run)


def _verify(config: Config, as_json: AsJson = False) -> None:
    """Read everything that a stopped node stored, a backup copy for example, and check it."""
    out = Output(as_json=as_json)

    def run() -> None:
        checked = load(config, os.environ)
        directory = checked.node.data_dir
        if not (directory / IDENTITY).exists():
            raise Failure(f"{directory} is not the data directory of a node", code=Exit.USAGE)
        try:
            sound, problems = scan_stopped(directory)
        except DataDirError as error:
            raise Failure(str(error)) from None
        if problems:
            raise Failure("\n".join(problems))
        out.say(f"{directory}: {sound}", {"data_dir": str(directory), "detail": sound})

    finish(out, run)
