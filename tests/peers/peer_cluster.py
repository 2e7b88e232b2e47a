"""Three server processes of another system on loopback, and what they cost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

READY_S = 20.0
HOST = "127.0.0.1"


class NoPeer(Exception):
    """There is no such server to measure; the message says how to get one."""


class PeerCluster(ABC):
    """Use as a context manager; the processes end with it and the folder is the caller's."""

    name = ""

    def __init__(self, binary: str, folder: Path, size: int = 3) -> None:
        self._binary = binary
        self._folder = folder
        ports = free_ports(size * 2)
        self.client_ports = ports[:size]
        self._peer_ports = ports[size:]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size
        self.version = ""

    @property
    def title(self) -> str:
        """What stands in tables and rows."""
        return f"{self.name} {self.version}"

    def __enter__(self) -> Self:
        try:
            for member in range(len(self._processes)):
                self.start(member)
            self.prepare()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def arguments(self, member: int) -> list[str]:
        """How this member is started, new or again from its data folder."""

    @abstractmethod
    def leader_now(self) -> int | None:
        """The member that leads if every running member is ready, without waiting."""

    def prepare(self) -> None:
        """Wait until the cluster can be used."""
        self.leader()

    def start(self, member: int) -> None:
        with (self._folder / f"m{member}.log").open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [self._binary, *self.arguments(member)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is ours to pass on
            )

    def kill(self, member: int) -> None:
        """kill -9, and wait until it is gone."""
        process = self._processes[member]
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._processes[member] = None

    def stop(self) -> None:
        for member in range(len(self._processes)):
            self.kill(member)

    def leader(self) -> int:
        """The member that leads, once every running member is ready."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            found = self.leader_now()
            if found is not None:
                return found
            time.sleep(0.05)
        raise TimeoutError(f"no leader within {READY_S} s; see {self._folder}/m*.log")

    def processes(self) -> list[int]:
        """The process ids of the running members."""
        return [process.pid for process in self._processes if process is not None]

    def running(self) -> list[int]:
        return [member for member, process in enumerate(self._processes) if process is not None]

    def cpu_seconds(self) -> list[float]:
        """User and system time of each member so far."""
        return [_cpu_seconds(process.pid) if process else 0.0 for process in self._processes]

    def resident_mib(self) -> list[float]:
        return [_resident_mib(process.pid) if process else 0.0 for process in self._processes]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all held at once, so that they differ."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def machine_busy_seconds() -> float:
    """What all cores together have spent on anything but idling, by anybody."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting_for_disk = fields[3], fields[4]
    return (sum(fields) - idle - waiting_for_disk) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
