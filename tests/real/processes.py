"""Real clusters for tests: one server process per node, from generated files, on loopback.

    async with RealCluster(folder, tls=True) as cluster:
        await cluster.kill(await cluster.leader())

Everything that is awaited has a bound, and what is not met within it fails with the nodes' last
words. Only processes that were started here are ever signalled, each by its pid.

May not: look into a node. What is known of it is what its ports, its exit and its log say.
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import trio

from cluster.cli.devnodes import is_ready
from cluster.client import Client, ClientOptions, open_client
from cluster.config import Address
from cluster.errors import TremulaError
from cluster.security.certs import Kind, create_authority, issue
from cluster.security.tls import client_context
from tests.real.ports import HOST, Ports, free_ports

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = ("a", "b", "c")
CLIENT: Final = "tests"
CERTIFICATE_DAYS: Final = 7
READY_S: Final = 30.0  # three interpreters that start at once on two busy cores
BOUND_S: Final = 30.0
PROBE_MS: Final = 1_000
POLL_S: Final = 0.02
LOG_TAIL_LINES: Final = 30

T = TypeVar("T")


async def eventually(
    ask: Callable[[], Awaitable[T | None]], what: str, bound_s: float = BOUND_S
) -> T:
    """Ask until the answer is true and return it; AssertionError naming `what` after the bound."""
    with trio.move_on_after(bound_s):
        while True:
            if found := await ask():
                return found
            await trio.sleep(POLL_S)
    raise AssertionError(f"not within {bound_s:.0f} s: {what}")


@dataclass(slots=True, kw_only=True)
class RealNode:
    """What a node's file says, and its process once started."""

    label: str  # of its files; also its name, unless a test wants two of one name
    name: str
    folder: Path
    data_dir: Path
    ports: Ports
    peers: Mapping[str, int] = field(default_factory=dict)
    join: tuple[int, ...] = ()
    certificates: Path | None = None
    settings: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("cluster.cli",)
    process: trio.Process | None = None
    paused: bool = False
    may_end: bool = False  # a test expects it to end by itself, or has ended it

    @property
    def file(self) -> Path:
        return self.folder / f"{self.label}.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.label}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.label} was never started"
        return self.process.pid

    def log(self) -> str:
        """Everything that the node has printed, in all its lives."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def tail(self) -> str:
        """The end of it, for messages."""
        lines = self.log().splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"  {self.label}| {line}" for line in lines)

    async def start(self) -> None:
        """Write the node's file as it is now, and start its process."""
        assert not self.running, f"{self.label} runs already"
        self.file.write_text(self.text())
        self.paused = self.may_end = False
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TREMULA_")}
        with self.log_file.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", *self.program, "node", "start", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONPATH": str(ROOT), **self.environment},
                start_new_session=True,  # Ctrl-C is for the tests, which end their nodes in order
            )

    async def ended(self, bound_s: float = BOUND_S) -> int:
        """Wait until the process has ended; returns its exit code."""
        assert self.process is not None, f"{self.label} was never started"
        self.may_end = True
        with trio.move_on_after(bound_s):
            return await self.process.wait()
        raise AssertionError(f"{self.label} did not end within {bound_s:.0f} s\n{self.tail()}")

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it still runs."""
        if self.running:
            assert self.process is not None
            self.process.send_signal(number)

    def text(self) -> str:
        """The node's file."""
        peers = ", ".join(
            f'{{ name = "{name}", address = "{HOST}:{port}" }}' for name, port in self.peers.items()
        )
        join = ", ".join(f'"{HOST}:{port}"' for port in self.join)
        text = f'[node]\nname = "{self.name}"\ndata_dir = "{self.data_dir}"\n\n[cluster]\n'
        text += f"join = [{join}]\n" if self.join else f"peers = [{peers}]\n"
        text += "\n[listen]\n"
        for key, port in self.ports._asdict().items():
            text += f'{key} = "{HOST}:{port}"\n'
        if self.certificates is not None:
            at = self.certificates
            text += f'\n[tls]\nca = "{at / "ca.crt"}"\n'
            text += f'certificate = "{at / self.name}.crt"\nkey = "{at / self.name}.key"\n'
        return f"{text}\n{self.settings}"


class RealCluster:
    """Nodes that know each other. As a context: starts the founders and waits until all are ready;
    at the end, ends every process, and fails if a node had ended or stumbled unasked."""

    def __init__(
        self,
        folder: Path,
        names: Iterable[str] = NAMES,
        *,
        tls: bool = False,
        settings: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`settings`: further TOML for each node's file; `environment`: for their processes."""
        self.folder = folder
        self.settings = settings
        self.environment = environment or {}
        self.certificates = folder / "certificates" if tls else None
        self.founders = tuple(names)
        self.nodes: dict[str, RealNode] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.certificates is not None:
            make_authority(self.certificates)
        for name in self.founders:
            self.add(name)
        peers = {name: self.nodes[name].ports.peer for name in self.founders}
        for name in self.founders:
            self.nodes[name].peers = peers

    def add(self, label: str, *, name: str | None = None, joins: bool = False) -> RealNode:
        """Prepare another node; it is not started. Its fields may be changed before that."""
        name = name or label
        if self.certificates is not None and not (self.certificates / f"{name}.crt").exists():
            make_certificate(self.certificates, name)
        node = RealNode(
            label=label,
            name=name,
            folder=self.folder,
            data_dir=self.folder / f"data-{label}",
            ports=free_ports(),
            certificates=self.certificates,
            settings=self.settings,
            environment=self.environment,
        )
        if joins:
            node.join = tuple(self.nodes[founder].ports.peer for founder in self.founders)
        self.nodes[label] = node
        return node

    async def __aenter__(self) -> RealCluster:
        try:
            await self.start(*self.founders)
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        nodes = self.nodes.values()
        unasked = [node for node in nodes if node.process and not (node.running or node.may_end)]
        with trio.CancelScope(shield=True):
            for node in nodes:
                node.send(signal.SIGKILL)
            for node in nodes:
                if node.process is not None:
                    await node.process.wait()
        if error is not None:
            print("\n".join(node.tail() for node in nodes), file=sys.stderr)
            return
        for node in unasked:
            raise AssertionError(f"node {node.label} ended by itself\n{node.tail()}")
        for node in nodes:
            assert "Traceback" not in node.log(), f"node {node.label} stumbled\n{node.tail()}"

    # --- processes ---

    async def start(self, *labels: str) -> None:
        """Start nodes, and wait until each is ready."""
        for label in labels:
            await self.nodes[label].start()
        await self.ready(*labels)

    async def ready(self, *labels: str, bound_s: float = READY_S) -> None:
        """Wait until /readyz of each says so; a node that ends first fails at once."""
        for label in labels:
            node = self.nodes[label]

            async def ask(node: RealNode = node) -> bool:
                assert node.running, f"{node.label} ended instead of being ready\n{node.tail()}"
                return await is_ready(Address(HOST, node.ports.http))

            await eventually(ask, f"{label} is ready", bound_s)

    async def stop(self, label: str) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.nodes[label].may_end = True
        self.nodes[label].send(signal.SIGTERM)
        return await self.nodes[label].ended()

    async def kill(self, *labels: str) -> None:
        """`kill -9` all of them at once."""
        for label in labels:
            self.nodes[label].may_end = True
            self.nodes[label].send(signal.SIGKILL)
        for label in labels:
            await self.nodes[label].ended()

    def pause(self, label: str) -> None:
        """SIGSTOP: the node still has its sockets, and does nothing."""
        self.nodes[label].send(signal.SIGSTOP)
        self.nodes[label].paused = True

    def resume(self, label: str) -> None:
        self.nodes[label].send(signal.SIGCONT)
        self.nodes[label].paused = False

    # --- what the nodes say ---

    def context(self) -> ssl.SSLContext | None:
        """What a client of this cluster presents, when it speaks TLS."""
        at = self.certificates
        if at is None:
            return None
        return client_context(at / "ca.crt", at / f"{CLIENT}.crt", at / f"{CLIENT}.key")

    def endpoint(self, label: str) -> Address:
        return Address(HOST, self.nodes[label].ports.client)

    def client(self, *labels: str, timeout_ms: int = 20_000) -> AbstractAsyncContextManager[Client]:
        """A client of these nodes, in this order; of all when none is named."""
        endpoints = [self.endpoint(label) for label in labels or self.nodes]
        options = ClientOptions(timeout_ms=timeout_ms)
        return open_client(endpoints, tls=self.context(), options=options)

    async def status(self, label: str) -> dict[str, Any] | None:
        """What a node says of itself; None when it does not answer."""
        node = self.nodes[label]
        if not node.running or node.paused:
            return None
        try:
            async with self.client(label, timeout_ms=PROBE_MS) as client:
                return await client.status()
        except TremulaError:
            return None

    async def leader(self, *, other_than: str | None = None, bound_s: float = BOUND_S) -> str:
        """Wait until some node leads and says so itself; returns its label."""

        async def ask() -> str | None:
            for label in self.nodes:
                status = await self.status(label)
                if status and status["role"] == "leader" and label != other_than:
                    return label
            return None

        but = f" other than {other_than}" if other_than else ""
        return await eventually(ask, f"there is a leader{but}", bound_s)

    async def same_state(self, *labels: str, bound_s: float = BOUND_S) -> dict[str, Any]:
        """Wait until all answer at one applied index, and compare their digests; returns one."""

        async def ask() -> list[dict[str, Any]] | None:
            found = [await self.status(label) for label in labels or self.nodes]
            answers = [status for status in found if status is not None]
            indexes = {status["applied_index"] for status in answers}
            return answers if len(answers) == len(found) and len(indexes) == 1 else None

        answers = await eventually(ask, "all nodes are at one applied index", bound_s)
        digests = {status["node"]: status["digest"] for status in answers}
        assert len(set(digests.values())) == 1, f"the states differ: {digests}"
        return answers[0]

    async def logged(self, label: str, text: str, bound_s: float = BOUND_S) -> None:
        """Wait until a node's log holds `text`."""

        async def ask() -> bool:
            return text in self.nodes[label].log()

        await eventually(ask, f"{label} logs {text!r}", bound_s)

    async def cli(
        self, *arguments: str, via: Iterable[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `cluster ARGUMENTS` as a user would, against these nodes or all."""
        with trio.fail_after(BOUND_S):
            done = await trio.run_process(
                [sys.executable, "-m", "cluster.cli", *arguments],
                env=self.cli_environment(via),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        out, err = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def cli_environment(self, via: Iterable[str] = ()) -> dict[str, str]:
        """What tells the command line tool where these nodes are, or all."""
        endpoints = [str(self.endpoint(label)) for label in tuple(via) or self.nodes]
        found = {"PYTHONPATH": str(ROOT), "TREMULA_ENDPOINTS": ",".join(endpoints)}
        if (at := self.certificates) is not None:
            found["TREMULA_CA"] = str(at / "ca.crt")
            found["TREMULA_CERTIFICATE"] = str(at / f"{CLIENT}.crt")
            found["TREMULA_KEY"] = str(at / f"{CLIENT}.key")
        return {**os.environ, **found}


def make_authority(directory: Path) -> None:
    """An authority of its own for one cluster, and the certificate of its client."""
    now = datetime.now(UTC)
    create_authority(directory, "tests", now)
    issue(directory, CLIENT, kind=Kind.CLIENT, hosts=(), days=CERTIFICATE_DAYS, now=now)


def make_certificate(directory: Path, name: str) -> None:
    """A node's certificate, signed by the authority that is there."""
    hosts = (HOST, "localhost")
    now = datetime.now(UTC)
    issue(directory, name, kind=Kind.NODE, hosts=hosts, days=CERTIFICATE_DAYS, now=now)
