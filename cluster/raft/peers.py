"""What two nodes tell each other before anything else, and whether they go on.

The greeting carries identity: the node's name, the uid of its data directory, the cluster that it
belongs to. A node without a cluster is a founder-to-be or an applicant (see datadir.py).

May not: know sockets. Decisions only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.raft.membership import Membership
from cluster.security.tls import Subject

MAGIC = "tremula-peer"
VERSION = 1
GROUP = 0
"""The Raft group of a frame: one today, so that many can share a session one day."""


class Hello(NamedTuple):
    """The first value in each direction of a peer session."""

    name: str
    uid: str
    address: str
    cluster_id: str | None
    founders: list[list[str]]  # the configuration that the cluster began with
    members: list[list[str]]  # the configuration now, as far as the node knows
    members_index: int  # up to which log index it knows it; 0 without a log

    def encode(self) -> list[Any]:
        return [MAGIC, VERSION, list(self)]


class Refusal(NamedTuple):
    """Why a node does not talk to another: a stable word, and a sentence for people."""

    code: str
    detail: str

    def encode(self) -> list[Any]:
        return [MAGIC, VERSION, "refused", self.code, self.detail]


def decode(value: Any) -> Hello | Refusal | None:
    """What a greeting says; None if it is none."""
    match value:
        case [str(magic), int(), "refused", str(code), str(detail)] if magic == MAGIC:
            return Refusal(code, detail)
        case [
            str(magic), int(version),
            [name, uid, address, cluster_id, founders, members, int(members_index)],
        ]:  # fmt: skip
            texts = all(isinstance(text, str) for text in (name, uid, address))
            if magic != MAGIC or version != VERSION or not texts:
                return None
            if not (cluster_id is None or isinstance(cluster_id, str)):
                return None
            if not (_is_configuration(founders) and _is_configuration(members)):
                return None
            return Hello(name, uid, address, cluster_id, founders, members, members_index)
    return None


def objection(
    own: Hello, members: Membership, other: Hello, subject: Subject | None
) -> Refusal | None:
    """Why `own` refuses to talk to `other`, which `subject` is on its verified certificate."""
    if subject is not None and (subject.name != other.name or not subject.is_node):
        return Refusal(
            "wrong_certificate",
            f"{other.name!r} presents the {subject.kind} certificate of {subject.name!r}",
        )
    if other.name == own.name and other.uid != own.uid:
        return Refusal("duplicate_name", f"another node is called {own.name!r}, too")
    if own.cluster_id is not None and other.cluster_id not in (None, own.cluster_id):
        return Refusal(
            "wrong_cluster",
            f"{own.name!r} belongs to cluster {own.cluster_id}, {other.name!r} to "
            f"{other.cluster_id}",
        )
    known = members.get(other.name)
    is_other = known is not None and known.uid != other.uid
    # One that has no cluster yet is told about ours, so that it can wait to be added again.
    if is_other and other.cluster_id is not None and not _may_be_ahead(own, members, other):
        return Refusal(
            "forgotten_data",
            f"{other.name!r} is a member with another data directory: remove it and add it "
            "again (cluster member remove, then add)",
        )
    return None


def stands_in(members: Membership, other: Hello) -> bool:
    """Whether `other` is an applicant under the name of a member that it is not. It is told who
    we are, so that it can wait to be added; the member's sessions are not its to supersede."""
    known = members.get(other.name)
    return known is not None and known.uid != other.uid and other.cluster_id is None


def _may_be_ahead(own: Hello, members: Membership, other: Hello) -> bool:
    """Whether `other` may rightly be who we do not know it to be. An outsider's view may be old;
    so may a member's, and who was removed and added again shows a newer one: it may be the leader
    that brings us up to date."""
    if not members.has(own.name, own.uid):
        return True
    claims = [other.name, other.uid] in [row[:2] for row in other.members]
    return claims and other.members_index > own.members_index


def _is_configuration(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 4 and all(isinstance(text, str) for text in row)
        for row in rows
    )
