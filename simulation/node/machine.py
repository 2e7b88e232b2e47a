"""One simulated machine: the production node in it, its clock, its ports, its deaths.

A node that crashes is dead before its own cleanup runs: its links carry nothing any more when the
cancellation reaches its tasks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import TypeVar, TypeVarTuple

import apsw
import trio

from cluster.config import load
from cluster.logs import NodeLog
from cluster.net import Network
from cluster.node import Node
from hooks.ports import Spawn
from hooks.registry import Registry
from simulation.node.links import Links

EPOCH_MS = 1_700_000_000_000
PEER_PORT, CLIENT_PORT, HTTP_PORT = 7471, 7470, 7472

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SimulatedPorts:
    """Implements `cluster.node.Ports` for one machine."""

    def __init__(self, machine: Machine, network: Network, random: Random) -> None:
        self.network = network
        self.random = random
        self.environment: Mapping[str, str] = {}
        self.spawn: Spawn = _refuse_to_spawn
        self.blocking = _on_the_loop
        self.registry: Registry | None = machine.registry
        self._machine = machine

    def wall_ms(self) -> int:
        return EPOCH_MS + int(trio.current_time() * 1000) + self._machine.clock_off_ms


class Machine:
    """A place for a node: it starts, crashes and starts again on the same disk."""

    def __init__(
        self, name: str, folder: Path, names: list[str], links: Links, random: Random
    ) -> None:
        self.name = name
        self.clock_off_ms = 0
        self.registry: Registry | None = None
        self.node: Node | None = None
        self.log = io.StringIO()
        self.problem: BaseException | None = None  # that ended the node, unasked
        self.lives = 0
        self._links = links
        self._random = random
        self._folder = folder / name
        self._names = names
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._stop = trio.Event()

    @property
    def is_alive(self) -> bool:
        return self.node is not None

    @property
    def is_connected(self) -> bool:
        """Alive, and no crash has begun: what it does now has an effect outside."""
        return self.node is not None and not self._scope.cancel_called

    def start(self, nursery: trio.Nursery) -> None:
        """Begin another life."""
        assert self.node is None, "one life at a time"
        self._links.revive(self.name)
        self._folder.mkdir(exist_ok=True)
        file = self._folder / "node.toml"
        file.write_text(self._text())
        network = self._links.at(self.name)
        ports = SimulatedPorts(self, network, Random(self._random.getrandbits(64)))
        log = NodeLog(self.log, node=self.name, level="info", format="text", wall_ms=ports.wall_ms)
        self.node = Node(load(file, {}), ports, log)
        self.lives += 1
        self._scope, self._gone, self._stop = trio.CancelScope(), trio.Event(), trio.Event()
        nursery.start_soon(self._live, self.node)

    async def crash(self, *, silent: bool = False) -> None:
        """As kill -9, or with `silent` as a power cut that nobody hears of."""
        self._links.crash(self.name, silent=silent)
        self._scope.cancel()
        await self._gone.wait()

    async def stop(self) -> None:
        """As SIGTERM."""
        self._stop.set()
        await self._gone.wait()

    async def at_rest(self) -> None:
        """Wait until a death that has begun is over."""
        if self.node is not None and (self._scope.cancel_called or self._stop.is_set()):
            await self._gone.wait()

    async def _live(self, node: Node) -> None:
        try:
            with self._scope:
                await node.run(self._stop)
        except Exception as problem:
            self.problem = problem
        finally:
            self._links.crash(self.name)
            _let_go(node)
            self.node = None
            self._gone.set()

    def _text(self) -> str:
        peers = ", ".join(f'{{name="{n}", address="{n}:{PEER_PORT}"}}' for n in self._names)
        return (
            f'[node]\nname = "{self.name}"\ndata_dir = "data"\n'
            f"[cluster]\npeers = [{peers}]\n"
            f'[listen]\npeer = "{self.name}:{PEER_PORT}"\nclient = "{self.name}:{CLIENT_PORT}"\n'
            f'http = "{self.name}:{HTTP_PORT}"\n[tls]\ninsecure = true\n'
        )


def _let_go(node: Node) -> None:
    """What the operating system does for a process that is gone."""
    if node.engine is not None:
        _close(node.engine.core.log.close)  # type: ignore[attr-defined]
    if node.storage is not None:
        _close(node.storage.machine.connection.close)
    _close(node.directory.close)


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except (apsw.Error, OSError):
        pass  # a node that stopped in order has closed it itself


async def _on_the_loop(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """A worker thread takes no virtual time."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


async def _refuse_to_spawn(*arguments: object, **options: object) -> trio.Process:
    raise OSError("a simulated machine has no processes")
