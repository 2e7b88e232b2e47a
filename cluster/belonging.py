"""How a node comes to belong to a cluster: it forms one with the peers of its file, or joins one.

The peer list of the file counts once, while no peer knows a cluster yet: when every one of them
has been met and none has a cluster, they are its founders, and the cluster's id is a digest of
their names and uids, so that all compute the same. A peer that has a cluster already tells which,
and with which founders: a node that is one of them (same uid) goes on as a founder, any other
waits to be added. So a node whose directory was wiped can never found a second cluster.

May not: touch a file or a socket. Decisions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cluster.raft.membership import Member, Membership, cluster_id
from cluster.raft.peers import Hello


class Belonging(NamedTuple):
    """The cluster that the node belongs to from now on."""

    cluster_id: str
    founders: list[list[str]]


class Gathering:
    """What a node without a cluster has learned from its peers so far."""

    def __init__(self, name: str, uid: str, address: str, peers: Mapping[str, str]) -> None:
        self._own = Member(name, uid, address, "voter")
        self._peers = {peer: at for peer, at in peers.items() if peer != name}
        self._met: dict[str, Hello] = {}

    @property
    def missing(self) -> list[str]:
        """Peers of the file that have not answered yet."""
        return [peer for peer in self._peers if peer not in self._met]

    def meet(self, other: Hello) -> None:
        self._met[other.name] = other

    def decide(self, joins: bool) -> Belonging | None:
        """The cluster, once it is certain. `joins`: this node may join, never form.

        With a peer list only its nodes are believed: another cluster's that happens to call does
        not take this one over.
        """
        for other in self._met.values():
            believed = not self._peers or other.name in self._peers
            if other.cluster_id is not None and believed:
                return Belonging(other.cluster_id, other.founders)
        if joins or self.missing:
            return None
        founders = Membership(
            [
                self._own,
                *(
                    Member(peer, self._met[peer].uid, address, "voter")
                    for peer, address in self._peers.items()
                ),
            ]
        )
        return Belonging(cluster_id(founders), founders.encode())
