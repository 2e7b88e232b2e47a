"""One real node in a thread of the test process, and commands that are run against it."""

import json
import queue
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.config import NodeConfig, load
from cluster.daemon import RealPorts
from cluster.logs import NodeLog
from cluster.node import Node
from tests.cluster.waiting import until

START_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on standard output."""
        return json.loads(self.out)


def run(*arguments: str, environment: dict[str, str] | None = None, stdin: str = "") -> Ran:
    """Run a command in this process."""
    env = {"COLUMNS": "200", "NO_COLOR": "1", **(environment or {})}
    result = CliRunner().invoke(app, list(arguments), env=env, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(code=result.exit_code, out=result.stdout, err=result.stderr)


@contextmanager
def running_node(directory: Path, extra: str = "") -> Iterator[str]:
    """A cluster of one; yields its client endpoint."""
    ports = _free_ports(3)
    file = directory / "node.toml"
    listen = zip(("client", "peer", "http"), ports, strict=True)
    file.write_text(
        '[node]\nname = "solo"\ndata_dir = "data"\n[listen]\n'
        + "".join(f'{name} = "127.0.0.1:{port}"\n' for name, port in listen)
        + extra
    )
    config = load(file, {})
    handles: queue.Queue[tuple[Any, trio.Event] | BaseException] = queue.Queue()
    thread = threading.Thread(target=_serve, args=(config, handles))
    thread.start()
    handle = handles.get(timeout=START_S)
    if isinstance(handle, BaseException):
        thread.join()
        raise handle
    token, stop = handle
    try:
        yield f"127.0.0.1:{ports[0]}"
    finally:
        token.run_sync_soon(stop.set)
        thread.join(START_S)
        assert not thread.is_alive()


def _serve(config: NodeConfig, handles: "queue.Queue[Any]") -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            ports = RealPorts(nursery)
            ports.random = random.Random(1)
            log = NodeLog(
                sys.stderr, node="solo", level="error", format="text", wall_ms=ports.wall_ms
            )
            node = Node(config, ports, log)
            stop = trio.Event()

            async def serve() -> None:
                await node.run(stop)
                nursery.cancel_scope.cancel()  # what the network left running

            nursery.start_soon(serve)
            # after what it reports of itself nothing but a test makes events
            await until(lambda: node.not_ready() is None and _has_started(node))
            handles.put((trio.lowlevel.current_trio_token(), stop))

    try:
        trio.run(main)
    except BaseException as error:
        handles.put(error)
        raise


def _has_started(node: Node) -> bool:
    return any(
        event.topic == "hooks.system.node_started" for event in node.read_events(1, 100, 1 << 20)
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
