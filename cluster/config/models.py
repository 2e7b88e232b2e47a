"""The keys of a node's TOML file: their types, bounds and defaults, one model per section.

Only the shape of one section stands here; what relates sections to each other is in `relations`.
The default of every key is also in configs/production.toml, which a test compares with this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FolderPath
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from cluster.config.address import Address
from cluster.config.bounds import LimitsSection, NodeLimits
from cluster.config.values import (
    Addresses,
    AddressText,
    FilePath,
    Labels,
    Name,
    Section,
    to_tuple,
)
from cluster.process import Scheduling
from hooks.configuration.config import HooksConfig


class NodeSection(Section):
    name: Name
    data_dir: FilePath
    scheduling: Scheduling = "batch"
    labels: Labels = Field(default_factory=dict)


class PeerEntry(Section):
    name: Name
    address: AddressText


PeerList = Annotated[tuple[PeerEntry, ...], BeforeValidator(to_tuple)]


class ClusterSection(Section):
    name: Name = "tremula"
    peers: PeerList = ()
    join: Addresses = ()


class ListenSection(Section):
    peer: AddressText = Address("127.0.0.1", 7471)
    client: AddressText = Address("127.0.0.1", 7470)
    http: AddressText = Address("127.0.0.1", 7472)


class TlsSection(Section):
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    insecure: bool = False

    @property
    def enabled(self) -> bool:
        return self.certificate is not None


class RaftSection(Section):
    heartbeat_ms: int = Field(default=50, ge=5, le=10_000)
    election_timeout_min_ms: int = Field(default=300, ge=20, le=60_000)
    election_timeout_max_ms: int = Field(default=600, ge=40, le=120_000)
    entry_operations_max: int = Field(default=1000, ge=1, le=100_000)
    entry_bytes_max: int = Field(default=64 << 10, ge=4 << 10, le=64 << 20)
    log_entries_max: int = Field(default=50_000, ge=1_000)
    log_bytes_max: int = Field(default=32 << 20, ge=4 << 20)
    snapshot_chunk_bytes: int = Field(default=256 << 10, ge=16 << 10, le=4 << 20)


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that a node is told by its file and environment: complete, checked and frozen."""

    node: NodeSection
    cluster: ClusterSection = field(default_factory=ClusterSection)
    listen: ListenSection = field(default_factory=ListenSection)
    tls: TlsSection = field(default_factory=TlsSection)
    raft: RaftSection = field(default_factory=RaftSection)
    limits: NodeLimits = field(default_factory=NodeLimits)
    log: LogSection = field(default_factory=LogSection)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    folder: FolderPath = FolderPath()  # where the file lies: its relative paths begin there
    file: FolderPath | None = None  # itself, if there is one to read again


MODELS: Final[Mapping[str, type[Section]]] = {
    "node": NodeSection,
    "cluster": ClusterSection,
    "listen": ListenSection,
    "tls": TlsSection,
    "raft": RaftSection,
    "limits": LimitsSection,
    "log": LogSection,
}
SECTIONS: Final = (
    *MODELS,
    "hooks",
)  # [hooks] is parsed by hooks.configuration
