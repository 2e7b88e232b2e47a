"""What must hold between keys and sections, though each value alone is valid."""

from collections.abc import Iterator, Mapping
from typing import cast

from cluster.config.address import Address
from cluster.config.models import (
    ClusterSection,
    ListenSection,
    NodeSection,
    RaftSection,
    TlsSection,
)
from cluster.config.values import Section
from hooks.configuration.definition import Path, Problem

HEARTBEATS_IN_TIMEOUT_MIN = 3  # one lost heartbeat, or two, must not cost the cluster its leader


def relation_problems(sections: Mapping[str, Section]) -> Iterator[Problem]:
    """All problems between the sections that have a valid shape; the others are left out."""
    node = cast("NodeSection | None", sections.get("node"))
    cluster = cast("ClusterSection | None", sections.get("cluster"))
    listen = cast("ListenSection | None", sections.get("listen"))
    tls = cast("TlsSection | None", sections.get("tls"))
    raft = cast("RaftSection | None", sections.get("raft"))
    if tls:
        yield from _tls(tls)
        yield from _plaintext(tls, listen, cluster)
    if listen:
        yield from _listen(listen)
    if cluster:
        yield from _cluster(cluster, node, listen)
    if raft:
        yield from _raft(raft)


def _tls(tls: TlsSection) -> Iterator[Problem]:
    given = {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key}
    missing = [key for key, path in given.items() if path is None]
    if 0 < len(missing) < len(given):
        for key in missing:
            yield Problem(("tls", key), "is missing; ca, certificate and key belong together")
    if tls.insecure and len(missing) < len(given):
        yield Problem(
            ("tls", "insecure"), "contradicts the certificates beside it: take one of them out"
        )


def _plaintext(
    tls: TlsSection, listen: ListenSection | None, cluster: ClusterSection | None
) -> Iterator[Problem]:
    if tls.enabled or tls.insecure:
        return
    addresses: list[tuple[Path, Address]] = []
    if listen:
        addresses += [(("listen", key), getattr(listen, key)) for key in ("peer", "client", "http")]
    if cluster:
        addresses += [
            (("cluster", "peers", index, "address"), peer.address)
            for index, peer in enumerate(cluster.peers)
        ]
        addresses += [(("cluster", "join", i), address) for i, address in enumerate(cluster.join)]
    for path, address in addresses:
        if not address.is_loopback:
            yield Problem(
                path,
                f"traffic of {address} would leave this machine in plaintext: give [tls] "
                "certificates (`cluster certs init` makes them) or set insecure = true",
            )


def _listen(listen: ListenSection) -> Iterator[Problem]:
    seen: dict[Address, str] = {}
    for key in ("peer", "client", "http"):
        address = cast(Address, getattr(listen, key))
        if (first := seen.setdefault(address, key)) != key:
            yield Problem(("listen", key), f"{address} is already the address of listen.{first}")


def _cluster(
    cluster: ClusterSection, node: NodeSection | None, listen: ListenSection | None
) -> Iterator[Problem]:
    if cluster.peers and cluster.join:
        yield Problem(
            ("cluster", "join"),
            "a node either starts a new cluster with its peers or joins one that runs: "
            "take peers or join out",
        )
    names: dict[str, int] = {}
    addresses: dict[Address, int] = {}
    for index, peer in enumerate(cluster.peers):
        path = ("cluster", "peers", index)
        if names.setdefault(peer.name, index) != index:
            yield Problem((*path, "name"), f'"{peer.name}" stands here twice')
        if addresses.setdefault(peer.address, index) != index:
            yield Problem((*path, "address"), f"{peer.address} stands here twice")
        if peer.address.is_unspecified:
            yield Problem((*path, "address"), f"{peer.address} is no address that others can dial")
    if node and cluster.peers and node.name not in names:
        yield Problem(
            ("cluster", "peers"),
            f'this node, "{node.name}", is not among them ({", ".join(names)})',
        )
    if not cluster.peers and not cluster.join and listen and listen.peer.is_unspecified:
        yield Problem(
            ("listen", "peer"),
            f"others cannot dial {listen.peer}: name this node and its address in cluster.peers",
        )


def _raft(raft: RaftSection) -> Iterator[Problem]:
    shortest = HEARTBEATS_IN_TIMEOUT_MIN * raft.heartbeat_ms
    if raft.election_timeout_min_ms < shortest:
        yield Problem(
            ("raft", "election_timeout_min_ms"),
            f"must be at least {HEARTBEATS_IN_TIMEOUT_MIN} heartbeats, {shortest} ms, "
            f"got {raft.election_timeout_min_ms}",
        )
    if raft.election_timeout_max_ms <= raft.election_timeout_min_ms:
        yield Problem(
            ("raft", "election_timeout_max_ms"),
            f"must be above election_timeout_min_ms ({raft.election_timeout_min_ms}): "
            f"candidates that wait equally long split the vote; got {raft.election_timeout_max_ms}",
        )
