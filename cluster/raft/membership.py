"""Who belongs to the cluster: an immutable configuration and its single-server changes.

A configuration takes effect when its entry is *appended* (Raft thesis §4.1), so the configuration
in force is the one of the newest membership entry in the log, committed or not. Only one server
changes at a time; a new one starts as a learner, receives entries, and neither votes nor counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Role = Literal["voter", "learner"]
Change = Literal["added_learner", "promoted", "removed"]


class Member(NamedTuple):
    """One node. `uid` is minted with the node's data directory, so that a directory that was
    wiped or restored is a different member although the name is the same."""

    name: str
    uid: str
    address: str
    role: Role


class Membership:
    """An immutable set of members, ordered by name (never iterate a set in a decision)."""

    __slots__ = ("_by_name", "learners", "members", "quorum", "voters")

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = tuple(sorted(members))
        self._by_name = {member.name: member for member in self.members}
        if len(self._by_name) != len(self.members):
            raise ValueError("two members of the same name")
        self.voters = tuple(m.name for m in self.members if m.role == "voter")
        self.learners = tuple(m.name for m in self.members if m.role == "learner")
        self.quorum = len(self.voters) // 2 + 1

    @classmethod
    def decode(cls, rows: Sequence[Sequence[str]]) -> Membership:
        """From the rows of a membership entry: `[name, uid, address, role]` each."""
        return cls(Member(row[0], row[1], row[2], _role(row[3])) for row in rows)

    def encode(self) -> list[list[str]]:
        return [list(member) for member in self.members]

    def get(self, name: str) -> Member | None:
        return self._by_name.get(name)

    def has(self, name: str, uid: str) -> bool:
        member = self._by_name.get(name)
        return member is not None and member.uid == uid

    def with_learner(self, name: str, uid: str, address: str) -> Membership:
        return Membership([*self.members, Member(name, uid, address, "learner")])

    def with_voter(self, name: str) -> Membership:
        return Membership(m._replace(role="voter") if m.name == name else m for m in self.members)

    def without(self, name: str) -> Membership:
        return Membership(m for m in self.members if m.name != name)

    def is_quorum(self, names: Iterable[str]) -> bool:
        """Whether the voters among `names` are a majority of all voters."""
        present = frozenset(names)
        return sum(voter in present for voter in self.voters) >= self.quorum

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Membership) and self.members == other.members

    def __hash__(self) -> int:
        return hash(self.members)

    def __repr__(self) -> str:
        return f"Membership(voters={self.voters}, learners={self.learners})"


def cluster_id(founders: Membership) -> str:
    """The cluster's id, 32 hexadecimal digits: a digest of the founding members' names and uids.

    Nobody has to mint it: every founder computes the same one once it has met the others.
    """
    text = "\n".join(f"{m.name}={m.uid}" for m in founders.members)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _role(text: str) -> Role:
    if text not in ("voter", "learner"):
        raise ValueError(f"unknown role {text!r}")
    return "voter" if text == "voter" else "learner"
