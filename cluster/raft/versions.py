"""Which entry version a leader writes: the newest that every member is known to apply.

A member that met an entry newer than it knows would have to stop, and one that did not know an
operation would answer differently. So nodes tell each other what they know when a session begins,
and an applied entry of a version is a promise for ever: every later leader may write it at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.operations import VERSION


class EntryVersions:
    """What this node knows of the others; `agreed` is what stands in the applied state."""

    __slots__ = ("_known", "agreed")

    def __init__(self, agreed: int = 1) -> None:
        self.agreed = agreed
        self._known: dict[str, int] = {}

    def told(self, peer: str, version: int) -> None:
        """`peer` applies entries up to `version`. Its next session may be an older release's."""
        self._known[peer] = version

    def forget(self, peer: str) -> None:
        """The session with `peer` is over: whoever comes back says what it knows."""
        self._known.pop(peer, None)

    def newest(self, peers: Iterable[str]) -> int:
        """The version to write while `peers` are the other members. HOT once agreed."""
        if self.agreed >= VERSION:
            return VERSION
        known = min((self._known.get(peer, 1) for peer in peers), default=VERSION)
        return max(self.agreed, min(known, VERSION))
