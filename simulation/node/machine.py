"""One simulated machine: the production node in it, its clock, its ports, its deaths.

A node that crashes is dead before its own cleanup runs: its links carry nothing any more when the
cancellation reaches its tasks.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar, TypeVarTuple

import apsw
import trio

from cluster.config import NodeConfig, load
from cluster.logs import NodeLog
from cluster.net import Network
from cluster.node import Node, Ports
from cluster.raft.core import Core
from cluster.raft.log import StorageFailed
from hooks.ports import Spawn
from hooks.registry import Registry
from simulation.node.determinism import Scheduler
from simulation.node.links import Links
from simulation.node.sqlite_disk import SimulatedDisks
from simulation.options import Options
from simulation.trace import Trace

EPOCH_MS = 1_700_000_000_000
PEER_PORT, CLIENT_PORT, HTTP_PORT = 7471, 7470, 7472

if TYPE_CHECKING:
    from simulation.node.observer import Observer

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Died(BaseException):
    """The process was killed in the middle of a call to its disk."""


class SimulatedPorts:
    """Implements `cluster.node.Ports` for one machine."""

    def __init__(self, machine: Machine, site: Site, random: Random) -> None:
        self.network: Network = site.links.at(machine.name)
        self.random = random
        self.environment: Mapping[str, str] = {}
        self.spawn: Spawn = _refuse_to_spawn
        self.blocking = self._aside
        self.registry: Registry | None = machine.registry
        self._machine = machine
        self._scheduler = site.scheduler

    def wall_ms(self) -> int:
        machine, now = self._machine, trio.current_time()
        drifted_ms = int(machine.clock_drift_ms_per_s * now)
        return EPOCH_MS + int(now * 1000) + machine.clock_off_ms + drifted_ms

    async def _aside(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """A worker thread: what it waits for its disk holds up nobody else."""
        result, seconds = self._scheduler.spent_aside(lambda: function(*arguments))
        await trio.sleep(seconds)
        return result


class Site(NamedTuple):
    """What all machines of a run stand on."""

    scheduler: Scheduler
    links: Links
    disks: SimulatedDisks
    observer: Observer
    trace: Trace
    folder: Path
    nursery: trio.Nursery


class _Log(io.StringIO):
    """What a node logs is in the trace as well, wherever the files of this run and ours lie."""

    def __init__(self, name: str, trace: Trace, folder: Path) -> None:
        super().__init__()
        self._name = name
        self._trace = trace
        self._places = (f"{folder}/", f"{Path(__file__).parents[2]}/")

    def write(self, text: str) -> int:
        for line in text.splitlines():
            what = line.split(None, 4)[-1]  # behind time, level, node and term
            for place in self._places:
                what = what.replace(place, "")
            self._trace.add(trio.current_time(), self._name, "log", what)
        return super().write(text)


class Machine:
    """A place for a node: it starts, dies and starts again on the same disk."""

    def __init__(
        self, name: str, site: Site, founders: list[str], random: Random, *, joins: bool = False
    ) -> None:
        self.name = name
        self.clock_off_ms = 0
        self.clock_drift_ms_per_s = 0.0
        self.registry: Registry | None = None
        self.options: Options | None = None  # those that concern a node's file
        self.frozen_until_s = 0.0  # the newest time at which it was stopped in the middle
        self.is_alive = False  # a process runs here; it may be about to die or to stop
        self.node: Node | None = None
        self.log = _Log(name, site.trace, site.folder)
        self.problem: Exception | None = None  # that ended the node, unasked
        self.may_fail = False  # its disk has given it a reason to end
        self.is_rotten = False  # a byte on its disk is not what was written
        self._rot: Random | None = None
        self.lives = 0
        self._founders = founders
        self._joins = joins  # its file says so, and it waits to be added
        self._site = site
        self._random = random
        self._folder = site.folder / name
        self._folder.mkdir()
        self.disk = site.disks.add(self._folder, Random(random.getrandbits(64)))
        self.disk.sync_takes = site.scheduler.spend
        self.disk.on_call = self._on_call
        self.on_sync: Callable[[], None] = lambda: None
        self._calls_left: int | None = None  # to the disk, before it dies there
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._stop = trio.Event()
        self._is_wanted = False
        self._dies = False
        self._loses_power = False

    @property
    def is_connected(self) -> bool:
        """Alive, and no crash has begun: what it does now has an effect outside."""
        return self.is_alive and not self._dies

    @property
    def is_up(self) -> bool:
        """Alive, and neither about to die nor to stop."""
        return self.is_connected and not self._stop.is_set()

    @property
    def is_leader(self) -> bool:
        return self.is_connected and self.has_core and self.core.is_leader

    @property
    def has_core(self) -> bool:
        """Its node has come so far that it takes part in Raft."""
        return self.node is not None and self.node.core is not None

    @property
    def core(self) -> Core:
        """Of a node that has one."""
        assert self.node is not None, "the caller has looked"
        assert self.node.core is not None, "the caller has looked"
        return self.node.core

    def start(self) -> None:
        """Begin another life, as soon as the last one is over."""
        self._is_wanted = True
        if self.is_alive:
            return
        self._is_wanted = self._dies = False
        self.is_alive = True
        self.frozen_until_s = 0.0
        site = self._site
        site.links.revive(self.name)
        self.disk.revive()
        file = self._folder / "node.toml"
        file.write_text(self._text())
        ports = SimulatedPorts(self, site, Random(self._random.getrandbits(64)))
        log = NodeLog(self.log, node=self.name, level="info", format="text", wall_ms=ports.wall_ms)
        self.lives += 1
        site.trace.add(trio.current_time(), self.name, "node", "starts")
        self._scope, self._gone, self._stop = trio.CancelScope(), trio.Event(), trio.Event()
        with site.scheduler.on(self.name):
            site.nursery.start_soon(self._live, self._configured(load(file, {})), ports, log)

    def crash(self, *, power: bool = False) -> None:
        """As kill -9, or as a power cut, which nobody hears of: from now on nothing that it does
        has an effect."""
        self._is_wanted = False
        if not self.is_alive:
            return
        self._loses_power = self._loses_power or power
        self._calls_left = None
        if not self._dies:
            self._dies = True
            self._site.links.crash(self.name, silent=power)
            self.disk.kill()
            self._scope.cancel()
            self._site.scheduler.go_on(self.name)

    def crash_at_call(self, calls: int | None, *, power: bool = False) -> None:
        """Crash after so many more calls to the disk; None: no more."""
        self._calls_left = calls
        self._loses_power = calls is not None and power

    def stop(self) -> None:
        """As SIGTERM."""
        self._is_wanted = False
        self._stop.set()

    def reload(self) -> None:
        """Its hooks are read again, and are what they were: a new service takes the old one's
        place. A node that has not come so far does nothing."""
        hooks = None if self.node is None else self.node.hooks
        if self.is_up and hooks is not None and hooks.is_running:
            with self._site.scheduler.on(self.name):
                hooks.reload_soon(hooks.runtime.config)

    def rot(self, random: Random) -> None:
        """It dies, and when it starts again a byte on its disk has changed."""
        self.may_fail = self.is_rotten = True
        self._rot = random
        self.crash()

    def wipe(self) -> None:
        """Its disk is lost: what starts here next is a new node, which waits to be added."""
        assert not self.is_alive, "crash it and wait until it is gone"
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self._joins = True
        self.is_rotten = False

    async def gone(self) -> None:
        """Wait until no node runs here."""
        if self.is_alive:
            await self._gone.wait()

    def _on_call(self, moment: str) -> None:
        if self._calls_left is not None and not self._dies:
            self._calls_left -= 1
            if self._calls_left < 0:
                self.crash(power=self._loses_power)
        if moment == "after sync" and not self._dies:
            self.on_sync()
        if self._dies:
            raise Died

    async def _live(self, config: NodeConfig, ports: Ports, log: NodeLog) -> None:
        try:
            with self._scope:
                self.node = Node(config, ports, log)
                self._site.observer.watch(self)
                await self.node.run(self._stop)
        except BaseException as problem:
            if not self._dies:  # the dead complain of dead disks
                if not isinstance(problem, Exception):
                    raise
                self.problem = problem
        finally:
            self._bury()

    def _bury(self) -> None:
        """What the operating system does for a process that is gone."""
        self._site.links.crash(self.name)
        if self.node is not None:
            _let_go(self.node)
        self.disk.kill()
        if self._loses_power:
            self.disk.lose_power()
        if self._rot is not None:
            # in the newest transaction of a log, rot and a torn write look the same
            self.disk.flip(self._rot, spared="raft.db-wal")
        self._rot = None
        self._loses_power = False
        self._calls_left = None
        self.node = None
        self.is_alive = False
        self._gone.set()
        if self._is_wanted:
            self.start()

    def _configured(self, config: NodeConfig) -> NodeConfig:
        """A log is cut far sooner here than any file may ask for."""
        if self.options is None or not self.options.compact_entries:
            return config
        entries_max = {"log_entries_max": self.options.compact_entries}
        return replace(config, raft=config.raft.model_copy(update=entries_max))

    def _text(self) -> str:
        addresses = {name: f"{name}:{PEER_PORT}" for name in self._founders if name != self.name}
        joins = ", ".join(f'"{address}"' for address in addresses.values())
        peers = ", ".join(
            f'{{name="{name}", address="{name}:{PEER_PORT}"}}' for name in self._founders
        )
        cluster = f"join = [{joins}]" if self._joins else f"peers = [{peers}]"
        ttl_ms = self.options.member_ttl_ms if self.options else 10_000
        return (
            f'[node]\nname = "{self.name}"\ndata_dir = "data"\n'
            f"[cluster]\n{cluster}\n"
            f'[listen]\npeer = "{self.name}:{PEER_PORT}"\nclient = "{self.name}:{CLIENT_PORT}"\n'
            f'http = "{self.name}:{HTTP_PORT}"\n[tls]\ninsecure = true\n'
            f"[limits.hooks]\nmember_ttl_ms = {ttl_ms}\nkeepalive_ms = {ttl_ms // 4}\n"
            f"lease_margin_ms = {max(ttl_ms // 10, 500)}\n"
        )


def _let_go(node: Node) -> None:
    if node.engine is not None:
        _close(node.engine.core.log.close)  # type: ignore[attr-defined]
        _close(node.engine.snapshots.stop_sending)
    if node.storage is not None:
        _close(node.storage.machine.connection.close)
    _close(node.directory.close)


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except (apsw.Error, StorageFailed, OSError, Died):
        pass  # a node that stopped in order has closed it itself


async def _refuse_to_spawn(*arguments: object, **options: object) -> trio.Process:
    raise OSError("a simulated machine has no processes")
