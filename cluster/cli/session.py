"""What all commands that talk to a cluster share: where it is, how it is reached, how they end.

`online` turns an async function into a command with the common options; the function gets a `Cli`.
"""

import errno
import inspect
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from cluster.cli.devfile import note_path, read_note
from cluster.cli.outcome import FULL, Exit, Failure, failure_of, report
from cluster.cli.output import Output
from cluster.client import Client, ClientOptions, Endpoint, open_client
from cluster.config import parse_address
from cluster.security.tls import client_context

Endpoints = Annotated[
    str | None,
    typer.Option(
        "--endpoints", "-e", envvar="TREMULA_ENDPOINTS", metavar="HOST:PORT,...",
        help="Client addresses of the nodes. Default: the running `cluster dev`.",
    ),
]  # fmt: skip
CaFile = Annotated[
    Path | None,
    typer.Option("--ca", envvar="TREMULA_CA", help="Certificate authority; turns TLS on."),
]
CertificateFile = Annotated[
    Path | None, typer.Option("--certificate", envvar="TREMULA_CERTIFICATE", help="Who you are.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", envvar="TREMULA_KEY", help="Key of the certificate.")
]
TimeoutSeconds = Annotated[
    float, typer.Option("--timeout", envvar="TREMULA_TIMEOUT", min=0.1, help="Seconds to wait.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


class Cli:
    """One run of a command."""

    def __init__(
        self,
        out: Output,
        *,
        endpoints: list[Endpoint],
        tls: ssl.SSLContext | None,
        certificate: Path | None,
        timeout_s: float,
    ) -> None:
        self.out = out
        self.endpoints = endpoints
        self.tls = tls
        self.certificate = certificate
        self.timeout_s = timeout_s

    def client(
        self, endpoints: Sequence[Endpoint] | None = None, *, timeout_s: float | None = None
    ) -> AbstractAsyncContextManager[Client]:
        """A client of the cluster, or of some of its nodes."""
        options = ClientOptions(timeout_ms=int((timeout_s or self.timeout_s) * 1000))
        return open_client(endpoints or self.endpoints, tls=self.tls, options=options)


def online(app: typer.Typer, name: str) -> Callable[[Callable[..., Awaitable[None]]], None]:
    """Register an async function as command `name`; its first parameter is the `Cli`."""

    def register(function: Callable[..., Awaitable[None]]) -> None:
        def command(**arguments: Any) -> None:
            common = {key: arguments.pop(key) for key in _COMMON}
            out = Output(as_json=common.pop("as_json"))
            finish(out, partial(_run, out, common, partial(function, **arguments)))

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = inspect.Signature([*keyword, *_COMMON.values()])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*keyword, *_COMMON.values())}
        command.__doc__ = function.__doc__
        app.command(name)(command)

    return register


def finish(out: Output, run: Callable[[], None]) -> None:
    """Run a command and leave with the exit code that its outcome means."""
    try:
        run()
    except BaseException as error:
        cause = only(error)
        if isinstance(cause, typer.Exit | typer.BadParameter):
            raise cause from None
        if isinstance(cause, KeyboardInterrupt):
            raise typer.Exit(130) from None
        failure = failure_of(cause)
        if isinstance(cause, OSError) and cause.errno in (errno.EPIPE, *FULL):
            # What is left of our output goes nowhere; Python must not complain of that at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if cause.errno == errno.EPIPE:  # whoever read it has had enough (`| head`)
                raise typer.Exit(Exit.OK) from None
        if failure is None:
            raise
        report(failure, out)
        raise typer.Exit(failure.code) from None


def _run(out: Output, common: dict[str, Any], function: Callable[[Cli], Awaitable[None]]) -> None:
    cli = _connect_options(out, **common)
    # Ctrl-C ends the command itself: in a task of the client, where it could also strike, it would
    # take the connection that is needed for leaving in good order.
    trio.run(partial(function, cli), restrict_keyboard_interrupt_to_checkpoints=True)


def _connect_options(
    out: Output,
    *,
    endpoints: str | None,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    timeout_s: float,
) -> Cli:
    if endpoints:
        found = [text.strip() for text in endpoints.split(",") if text.strip()]
    else:
        dev = read_note(note_path(os.environ))
        if dev is None:
            raise Failure(
                "no cluster to talk to",
                hint="Start one here with `cluster dev`, or name nodes with --endpoints HOST:PORT "
                "or TREMULA_ENDPOINTS.",
                code=Exit.USAGE,
            )
        found = dev.endpoints
        if dev.ca and dev.certificate and dev.key:
            tls_ca = tls_ca or Path(dev.ca)
            tls_certificate = tls_certificate or Path(dev.certificate)
            tls_key = tls_key or Path(dev.key)
    try:
        addresses: list[Endpoint] = [parse_address(text) for text in found]
    except ValueError as error:
        raise Failure(f"--endpoints: {error}", code=Exit.USAGE) from None
    if tls_ca is None and (tls_certificate or tls_key):
        raise Failure("--certificate and --key-file need --ca beside them", code=Exit.USAGE)
    tls = client_context(tls_ca, tls_certificate, tls_key) if tls_ca else None
    return Cli(out, endpoints=addresses, tls=tls, certificate=tls_certificate, timeout_s=timeout_s)


def only(error: BaseException) -> BaseException:
    """The one error inside nested groups: nurseries wrap what a command meant to say plainly."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        # A cancelled sibling may add noise; what the user must know is the most certain error.
        for each in error.exceptions:
            if failure_of(only(each)):
                return only(each)
    return error


def _option(name: str, annotation: object, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


_COMMON = {
    "endpoints": _option("endpoints", Endpoints, None),
    "tls_ca": _option("tls_ca", CaFile, None),
    "tls_certificate": _option("tls_certificate", CertificateFile, None),
    "tls_key": _option("tls_key", KeyFile, None),
    "timeout_s": _option("timeout_s", TimeoutSeconds, 10.0),
    "as_json": _option("as_json", AsJson, False),
}
