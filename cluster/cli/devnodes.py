"""The three nodes of `cluster dev`: their folders, files, ports and processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from cluster.cli.outcome import Exit, Failure
from cluster.config import Address, NodeConfig, load
from cluster.config.load import ANY_NODE
from cluster.security.certs import LEAF_DAYS_DEFAULT, Kind, create_authority, issue

NAMES: Final = ("a", "b", "c")
FIRST_PORT: Final = 7470
PORT_BLOCKS: Final = 100
STOP_S: Final = 60.0  # a node lets its handlers finish and hands over; after this it is killed
CLIENT: Final = "dev"  # the name in the certificate of whoever uses the cluster
LOG_TAIL_LINES: Final = 15


@dataclass(slots=True, kw_only=True)
class DevNode:
    """One node: its file and, once started, its process."""

    name: str
    file: Path
    config: NodeConfig
    process: trio.Process | None = None

    @property
    def log(self) -> Path:
        return self.file.with_name(f"{self.name}.log")

    async def start(self) -> None:
        """Start the node's process; its output goes to its log file."""
        with self.log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "cluster.cli", "node", "start", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C belongs to `cluster dev`, which stops the nodes in order.
                start_new_session=True,
            )

    async def wait_ready(self) -> None:
        """Wait until /readyz says so; a node that ends first is a Failure with its last words."""
        process = self.process
        assert process is not None
        while not await is_ready(self.config.listen.http):
            if process.poll() is not None:
                raise Failure(
                    f"node {self.name} ended with exit code {process.returncode}:\n{self.tail()}"
                )
            await trio.sleep(0.05)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for a node that does not end in time."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await process.wait()
            return
        process.kill()
        await process.wait()

    def kill(self) -> None:
        """SIGKILL, for whoever cannot wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def tail(self) -> str:
        """The end of the node's log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])


async def is_ready(address: Address) -> bool:
    """One question to a node's /readyz."""
    with trio.move_on_after(1.0):
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
        except OSError:
            return False
        async with stream:
            try:
                await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: dev\r\n\r\n")
                return (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            except trio.BrokenResourceError:
                return False
    return False


def prepare(data: Path, *, tls: bool, hooks: Path | None, fresh: bool = False) -> list[DevNode]:
    """The nodes under `data`: those of last time, with their ports, or new ones. Nothing is deleted
    or written before everything that will stand in their files is known to be right."""
    files = {name: data / f"{name}.toml" for name in NAMES}
    is_new = fresh or not all(file.exists() for file in files.values())
    ports = _choose_ports() if is_new else {}
    texts = {
        name: _node_file(name, ports, tls=tls) if is_new else file.read_text()
        for name, file in files.items()
    }
    if hooks is not None:
        section = _hooks_section(hooks)
        for name, text in texts.items():
            own, _, _ = text.partition(_HOOKS_MARK)
            texts[name] = f"{own}{_HOOKS_MARK}{section}"
    nodes = [
        DevNode(name=name, file=file, config=load(file, os.environ, text=texts[name]))
        for name, file in files.items()
    ]
    if fresh:
        _delete(data)
    data.mkdir(parents=True, exist_ok=True)
    if is_new and tls:
        _make_certificates(data / "certs")
    for node in nodes:
        node.file.write_text(texts[node.name])
    for node in nodes:
        listen = node.config.listen
        for address in (listen.client, listen.peer, listen.http):
            if not _is_free(address.port):
                raise Failure(
                    f"port {address.port} of node {node.name} is taken",
                    hint=f"Does a node of an earlier run still live? Otherwise change {node.file}.",
                )
    return nodes


def _hooks_section(hooks: Path) -> str:
    """What --hooks names, as a part of a node's file: a file's text, or a folder by its name.
    What is wrong in it is told with the lines of that file."""
    if hooks.is_dir():
        return f"[hooks]\ndirectory = {json.dumps(str(hooks.absolute()))}\n"
    try:
        text = hooks.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Failure(f"--hooks {hooks}: {reason}", code=Exit.USAGE) from None
    load(hooks, os.environ, ANY_NODE, text)
    return text


_HOOKS_MARK: Final = "\n# From --hooks:\n"


def _node_file(name: str, ports: dict[str, tuple[int, int, int]], *, tls: bool) -> str:
    client, peer, http = ports[name]
    peers = "".join(
        f'  {{ name = "{each}", address = "127.0.0.1:{ports[each][1]}" }},\n' for each in NAMES
    )
    text = f"""\
# Node {name} of `cluster dev`. Written once; yours to change.

[node]
name = "{name}"
data_dir = "{name}"

[cluster]
name = "dev"
peers = [
{peers}]

[listen]
client = "127.0.0.1:{client}"
peer = "127.0.0.1:{peer}"
http = "127.0.0.1:{http}"
"""
    if tls:
        text += f"""
[tls]
ca = "certs/ca.crt"
certificate = "certs/{name}.crt"
key = "certs/{name}.key"
"""
    return text


def _delete(data: Path) -> None:
    """Delete an earlier run's folder; only one that has the files of one."""
    if not data.exists():
        return
    if not (data / "a.toml").exists():
        raise Failure(f"{data} is no folder of `cluster dev`: not deleted")
    shutil.rmtree(data)


def _make_certificates(directory: Path) -> None:
    now = datetime.now(UTC)
    create_authority(directory, "dev", now)
    days = LEAF_DAYS_DEFAULT
    for name in NAMES:
        hosts = ("127.0.0.1", "localhost")
        issue(directory, name, kind=Kind.NODE, hosts=hosts, days=days, now=now)
    issue(directory, CLIENT, kind=Kind.CLIENT, hosts=(), days=days, now=now)


def _choose_ports() -> dict[str, tuple[int, int, int]]:
    """The ports of configs/three-node, or the next block of the same shape that is free.

    Not ports that the kernel chooses: those it also gives to outgoing connections, and the nodes
    want theirs again after a restart.
    """
    for block in range(PORT_BLOCKS):
        first = FIRST_PORT + block * 10 * len(NAMES)
        chosen = {
            name: (first + 10 * number, first + 10 * number + 1, first + 10 * number + 2)
            for number, name in enumerate(NAMES)
        }
        if all(_is_free(port) for ports in chosen.values() for port in ports):
            return chosen
    raise Failure(f"no free ports from {FIRST_PORT} to {first + 10 * len(NAMES)}")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
