"""A node as a program: the real network, clock and disk, and the signals that it follows."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping

import trio

from cluster import process
from cluster.blocking import Blocking, in_thread
from cluster.config import NodeConfig
from cluster.logs import NodeLog
from cluster.net import Network, TcpNetwork
from cluster.node import Node
from hooks.handlers.strays import Strays, adopt
from hooks.ports import Spawn
from hooks.registry import Registry


class RealPorts:
    """The machine's own network, clock and randomness."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network: Network = TcpNetwork(nursery)
        self.random = random.Random(os.urandom(32))
        self.environment: Mapping[str, str] = os.environ
        self.spawn: Spawn = trio.lowlevel.open_process
        self.blocking: Blocking = in_thread
        self.registry: Registry | None = None

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def run(config: NodeConfig) -> None:
    """Run a node until SIGTERM or SIGINT; SIGHUP has it read its hooks again. Raises what must
    stop a node, with words for people."""
    process.settle(config.node.scheduling)
    async with trio.open_nursery() as nursery:
        ports = RealPorts(nursery)
        log = NodeLog(
            sys.stderr,
            node=config.node.name,
            level=config.log.level,
            format=config.log.format,
            wall_ms=ports.wall_ms,
        )
        stop = trio.Event()
        on_hangup: list[Callable[[], None]] = []
        await nursery.start(_follow_signals, stop, on_hangup)
        strays = Strays(log)
        if adopt():
            ports.spawn = strays.spawn
            nursery.start_soon(strays.run)
        node = Node(config, ports, log)
        node.metrics.sample("tremula_handler_strays_total", lambda: {(): strays.killed})
        on_hangup.append(node.reload)
        await node.run(stop)
        nursery.cancel_scope.cancel()


async def _follow_signals(
    stop: trio.Event,
    on_hangup: list[Callable[[], None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number != signal.SIGHUP:
                stop.set()
            for reload in on_hangup if number == signal.SIGHUP else ():
                reload()
