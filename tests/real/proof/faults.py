"""The import of the proof, and what is done to the nodes while it runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from cluster.client import Client
from cluster.errors import TremulaError
from tests.real.processes import POLL_S, READY_S, RealCluster, eventually

FIRST_KILL: Final = 0.25
SECOND_KILL: Final = 0.6
STATUS_MS: Final = 500


@dataclass(slots=True)
class Progress:
    """How far the import is: the newest revision that any node told, and what it is out of."""

    records: int
    revision: int = 0

    def __call__(self) -> float:
        return min(1.0, self.revision / self.records)

    async def follow(self, client: Client) -> None:
        """Ask until cancelled; a node that is down makes the number old, not wrong."""
        while True:
            try:
                status = await client.status(timeout_ms=STATUS_MS)
                self.revision = max(self.revision, status["revision"])
            except TremulaError:
                pass
            await trio.sleep(POLL_S)

    async def reach(self, share: float, bound_s: float) -> None:
        async def ask() -> bool:
            return self() >= share

        await eventually(ask, f"{share:.0%} of the records are in the log", bound_s)


class Import:
    """`cluster kv import` as a process of its own."""

    def __init__(self, cluster: RealCluster, file: Path, records: int) -> None:
        # A short proof writes small batches one by one: it must last until the nodes were killed.
        small = records < 20_000
        batch, in_flight = (max(1, records // 500), 1) if small else (100, 8)
        self._command = [
            *(sys.executable, "-m", "cluster.cli", "kv", "import", str(file), "--json"),
            *("--batch", str(batch), "--in-flight", str(in_flight)),
        ]
        self._environment = cluster.cli_environment()
        self._output = file.with_suffix(".import.log")
        self._process: trio.Process | None = None
        self.seconds = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def run(self, bound_s: float) -> None:
        """To its end; AssertionError with its output when that is not a success."""
        began = trio.current_time()
        with self._output.open("wb") as output:
            self._process = await trio.lowlevel.open_process(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            with trio.move_on_after(bound_s):
                await self._process.wait()
        finally:
            self.send(signal.SIGKILL)
        self.seconds = trio.current_time() - began
        code = self._process.returncode
        assert code == 0, f"the import ended with {code}: {self._output.read_text()}"

    def send(self, number: signal.Signals) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    def result(self) -> dict[str, Any]:
        """What it said about itself."""
        return dict(json.loads(self._output.read_text().splitlines()[-1]))


@dataclass(slots=True)
class Faults:
    """kill -9 of the leader, then of another node, each started again."""

    cluster: RealCluster
    importing: Import
    progress: Progress
    bound_s: float
    killed: list[str] = field(default_factory=list)
    importing_at_kills: list[bool] = field(default_factory=list)

    async def run(self) -> None:
        await self.progress.reach(FIRST_KILL, self.bound_s)
        leader = await self.cluster.leader()
        await self._kill_and_start(leader)
        await self._hold_until_ready(leader)
        await self.progress.reach(SECOND_KILL, self.bound_s)
        new_leader = await self.cluster.leader()
        other = next(name for name in self.cluster.nodes if name not in (leader, new_leader))
        await self._kill_and_start(other)
        self.importing.send(signal.SIGCONT)
        await self.cluster.ready(other)

    async def _kill_and_start(self, name: str) -> None:
        self.importing_at_kills.append(self.importing.running)
        self.killed.append(name)
        await self.cluster.kill(name)
        await self.cluster.nodes[name].start()

    async def _hold_until_ready(self, name: str) -> None:
        """A short import that is about to end is held: the second kill belongs into it, too."""

        async def ask() -> bool:
            status = await self.cluster.status(name)
            if self.progress() >= SECOND_KILL:
                self.importing.send(signal.SIGSTOP)
            return status is not None and status["problem"] is None

        await eventually(ask, f"{name} is back", READY_S)
