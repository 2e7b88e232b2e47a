"""`cluster dev`: a real three-node cluster on this machine, in one command."""

import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import trio
import typer

from cluster.cli.devfile import DevCluster, note_path, read_note, remove_note, write_note
from cluster.cli.devnodes import CLIENT, DevNode, prepare
from cluster.cli.events import show_event
from cluster.cli.outcome import Exit, Failure
from cluster.cli.output import Output
from cluster.cli.session import AsJson, finish
from cluster.client import open_client
from cluster.security.tls import client_context

READY_S = 30.0
TRY_NEXT = """
Try, in another terminal:
  cluster status
  cluster kv put greeting hello        cluster kv get greeting
  cluster kv watch                     cluster pub orders.created '{"id": 1}'
  kill -9 {pid}                        (the leader: the others go on)
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dev")(_dev)


def _dev(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="Run this against it, then stop."),
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="Where the nodes keep everything.")] = Path(
        ".tremula/dev"
    ),
    tls: Annotated[
        bool, typer.Option("--tls", help="Certificates for everybody (a new cluster only).")
    ] = False,
    hooks: Annotated[
        Path | None,
        typer.Option("--hooks", help="A file with [hooks], or a hooks.d folder, for all three."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what an earlier run left there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not follow events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start three nodes, follow their events until Ctrl-C, stop them cleanly."""
    out = Output(as_json=as_json)

    def run() -> None:
        note = note_path(os.environ)
        if not command and (running := read_note(note)):
            raise Failure(
                f"`cluster dev` runs already (process {running.pid}, data in {running.data})",
                hint=f"Use it, or stop it: kill {running.pid}",
            )
        nodes = prepare(data.absolute(), tls=tls, hooks=hooks, fresh=fresh)
        cluster = _describe(nodes, data.absolute())
        if command:
            raise typer.Exit(trio.run(_run_command, out, nodes, cluster, command))
        trio.run(_run, out, nodes, cluster, note, quiet)

    finish(out, run)


async def _run(
    out: Output, nodes: list[DevNode], cluster: DevCluster, note: Path, quiet: bool
) -> None:
    try:
        async with _stopped_by_signals() as nursery:
            await _start(out, nodes)
            write_note(note, cluster)
            await _welcome(out, nodes, cluster)
            for node in nodes:
                nursery.start_soon(_report_end, out, node)
            if not quiet:
                nursery.start_soon(_follow, out, nodes, cluster)
            await trio.sleep_forever()
    finally:
        remove_note(note, cluster.pid)
        await _stop(out, nodes)
        out.note(f"stopped; the data stays in {cluster.data} (--fresh begins anew)")


async def _run_command(
    out: Output, nodes: list[DevNode], cluster: DevCluster, command: list[str]
) -> int:
    """Run a command that finds the cluster in its environment; returns its exit code."""
    found = {
        "TREMULA_ENDPOINTS": ",".join(cluster.endpoints),
        "TREMULA_CA": cluster.ca,
        "TREMULA_CERTIFICATE": cluster.certificate,
        "TREMULA_KEY": cluster.key,
    }
    code = 1
    try:
        async with _stopped_by_signals():
            await _start(out, nodes)
            environment = {name: value for name, value in found.items() if value}
            process = await trio.run_process(
                command, env={**os.environ, **environment}, check=False, stdin=None
            )
            code = process.returncode
    except FileNotFoundError:
        raise Failure(f"there is no program {command[0]!r}", code=Exit.USAGE) from None
    finally:
        await _stop(out, nodes)
    return code


@asynccontextmanager
async def _stopped_by_signals() -> AsyncIterator[trio.Nursery]:
    """A nursery that SIGINT, SIGTERM and SIGHUP cancel."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(wait)
            yield nursery
            nursery.cancel_scope.cancel()


async def _stop(out: Output, nodes: list[DevNode]) -> None:
    """Stop all nodes cleanly; a second Ctrl-C kills them. None outlives this."""
    out.note("stopping ... (Ctrl-C again does not wait)")
    with (
        trio.CancelScope(shield=True),
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_on_signal, signals, nodes)
            async with trio.open_nursery() as stopping:
                for node in nodes:
                    stopping.start_soon(node.stop)
            nursery.cancel_scope.cancel()


async def _kill_on_signal(signals: AsyncIterator[int], nodes: list[DevNode]) -> None:
    async for _ in signals:
        for node in nodes:
            node.kill()


async def _start(out: Output, nodes: list[DevNode]) -> None:
    out.note(f"starting {len(nodes)} nodes ...")
    for node in nodes:
        await node.start()
    with trio.move_on_after(READY_S) as patience:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.wait_ready)
    if patience.cancelled_caught:
        tails = "\n".join(f"{node.name}:\n{node.tail()}" for node in nodes)
        raise Failure(f"the nodes were not ready within {READY_S:.0f} s\n{tails}")


async def _welcome(out: Output, nodes: list[DevNode], cluster: DevCluster) -> None:
    async with open_client(_endpoints(nodes), tls=_tls(cluster)) as client:
        leader = (await client.request("status")).get("leader")
    facts = [
        {
            "node": node.name,
            "clients": str(node.config.listen.client),
            "metrics": f"http://{node.config.listen.http}/metrics",
            "process": node.process.pid if node.process else None,
            "leader": node.name == leader,
        }
        for node in nodes
    ]

    def people() -> None:
        out.table(
            ("node", "clients", "metrics", "process", "leader"),
            [list(fact.values()) for fact in facts],
        )
        pid = next((fact["process"] for fact in facts if fact["leader"]), "PID")
        out.line(TRY_NEXT.replace("{pid}", str(pid)))
        out.line(f"Logs and data: {cluster.data}   Ctrl-C stops everything.\n")

    out.show({"ready": True, "data": cluster.data, "nodes": facts}, people)


async def _report_end(out: Output, node: DevNode) -> None:
    assert node.process is not None
    code = await node.process.wait()
    out.note(
        f"node {node.name} ended (exit code {code}); its log: {node.log}\n"
        f"  start it again: cluster node start --config {node.file}",
        style="yellow",
    )


async def _follow(out: Output, nodes: list[DevNode], cluster: DevCluster) -> None:
    async with open_client(_endpoints(nodes), tls=_tls(cluster)) as client:
        cluster_id = (await client.request("status"))["cluster_id"]
        async with client.subscribe(">") as events:
            async for event in events:
                show_event(out, event, cluster_id)


def _describe(nodes: list[DevNode], data: Path) -> DevCluster:
    certificates = data / "certs"
    has_tls = nodes[0].config.tls.enabled
    return DevCluster(
        pid=os.getpid(),
        data=str(data),
        endpoints=[str(node.config.listen.client) for node in nodes],
        http=[str(node.config.listen.http) for node in nodes],
        ca=str(certificates / "ca.crt") if has_tls else None,
        certificate=str(certificates / f"{CLIENT}.crt") if has_tls else None,
        key=str(certificates / f"{CLIENT}.key") if has_tls else None,
    )


def _endpoints(nodes: list[DevNode]) -> list[tuple[str, int]]:
    return [node.config.listen.client for node in nodes]


def _tls(cluster: DevCluster) -> ssl.SSLContext | None:
    if cluster.ca is None or cluster.certificate is None or cluster.key is None:
        return None
    return client_context(Path(cluster.ca), Path(cluster.certificate), Path(cluster.key))
