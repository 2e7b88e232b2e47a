"""Noticing that a node's state differs from the others': digests, compared while the node runs.

Every node tells its peers the digest of its state at round log indexes. A node that finds a quorum
of voters agreeing on another digest than its own stops: it would answer wrongly. One that merely
disagrees with a minority goes on and counts it.

May not: wait, send, or know how messages travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EVERY_ENTRIES = 64
"""Digests are told at multiples of this index."""
REPORTS_MAX = 64
"""Indexes for which peers' digests are remembered."""


class Diverged(Exception):
    """This node's state is not what the majority has. It must not answer anybody any more."""

    def __init__(self, index: int, peers: Sequence[str]) -> None:
        super().__init__(
            f"the state of this node differs from that of {', '.join(peers)} at log index {index}: "
            "stop it, move its data directory away, remove the node and add it again; please "
            "report it, with the directory"
        )
        self.index = index
        self.peers = tuple(peers)


class Divergence:
    """One node's view of the others' digests."""

    def __init__(self) -> None:
        self._reports: dict[int, dict[str, bytes]] = {}
        self._told = 0
        self.mismatches = 0

    def due(self, applied_index: int, digests: Mapping[int, bytes]) -> tuple[int, bytes] | None:
        """`(index, digest)` to tell the peers, when a new round index was passed."""
        index = applied_index - applied_index % EVERY_ENTRIES
        if index <= self._told or index not in digests:
            return None
        self._told = index
        return index, digests[index]

    def report(self, peer: str, index: int, digest: bytes) -> None:
        self._reports.setdefault(index, {})[peer] = digest
        while len(self._reports) > REPORTS_MAX:
            del self._reports[min(self._reports)]

    def check(self, digests: Mapping[int, bytes], voters: Sequence[str], quorum: int) -> None:
        """Compare what can be compared; raises Diverged once a quorum agrees against us."""
        for index in [index for index in sorted(self._reports) if index in digests]:
            reports = self._reports[index]
            against: dict[bytes, list[str]] = {}
            for peer in voters:
                if peer in reports and reports[peer] != digests[index]:
                    against.setdefault(reports[peer], []).append(peer)
            for peers in against.values():
                if len(peers) >= quorum:
                    raise Diverged(index, peers)
            if len(reports) >= len(voters) - 1:  # everybody has spoken
                self.mismatches += sum(len(peers) for peers in against.values())
                del self._reports[index]
