"""The processes of the proof beside the nodes: publishers and consumers, in all their lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.real.processes import BOUND_S, CLIENT, ROOT, RealCluster


@dataclass(slots=True)
class Program:
    """One program, and the process that runs it now. Only that process is ever signalled."""

    name: str
    module: str
    settings: dict[str, Any]
    folder: Path
    process: trio.Process | None = None
    lives: list[int] = field(default_factory=list)  # the process ids that it has had

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.lives[-1]

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.out"

    async def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        with self.output.open("ab") as output:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", self.module, json.dumps(self.settings)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.lives.append(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        if self.running:
            assert self.process is not None
            self.process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`, and wait."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def ended(self, bound_s: float = BOUND_S) -> int:
        """Wait until the process has ended; returns its exit code."""
        assert self.process is not None, f"{self.name} was never started"
        with trio.move_on_after(bound_s):
            return await self.process.wait()
        raise AssertionError(f"{self.name} did not end within {bound_s:.0f} s: {self.said()}")

    def said(self) -> str:
        """Everything that it has printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def reaching(cluster: RealCluster, first: int = 0) -> dict[str, Any]:
    """What `reach` needs: the nodes, beginning with the `first`, and the certificate."""
    labels = list(cluster.founders)
    labels = labels[first % len(labels) :] + labels[: first % len(labels)]
    at = cluster.certificates
    names = ("ca.crt", f"{CLIENT}.crt", f"{CLIENT}.key")
    return {
        "endpoints": [list(cluster.endpoint(label)) for label in labels],
        "tls": None if at is None else [str(at / name) for name in names],
    }
