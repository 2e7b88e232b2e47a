"""Whom a node has heard from, by name: who is meant when a name is to be added as a member.

A name may have stood for several data directories. Added may only be one that is there: whoever
holds a session now, or was turned away a moment ago for being another directory than the member's.
Otherwise `member add` could bring back the uid of a directory that has been wiped since.

May not: touch a socket or a clock. Decisions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cluster.raft.peers import Hello

TURNED_AWAY_S = 5.0  # whoever is turned away dials again every second or two
NAMES_MAX = 1024

T = TypeVar("T")


class Acquaintances:
    """What others said of themselves when they last contacted this node."""

    def __init__(self) -> None:
        self._met: dict[str, Hello] = {}
        self._turned_away: dict[str, tuple[Hello, float]] = {}

    def met(self, other: Hello) -> None:
        """A session with `other` began."""
        _keep(self._met, other.name, other)

    def turned_away(self, other: Hello, now: float) -> None:
        """`other` is not the member of its name; once that one is removed it may be added."""
        _keep(self._turned_away, other.name, (other, now))

    def everybody(self) -> Iterable[Hello]:
        return self._met.values()

    def candidate(self, name: str, uid_in_touch: str | None, now: float) -> Hello | None:
        """Who would be added under `name`; `uid_in_touch` is whose session there is, if any.

        Nobody as long as there are two: after a power cut the session of the old directory stands
        for a while, and the new one supersedes it as soon as it dials again."""
        met = self._met.get(name)
        in_touch = met if met is not None and met.uid == uid_in_touch else None
        other, at = self._turned_away.get(name, (None, 0.0))
        if other is None or now - at > TURNED_AWAY_S:
            return in_touch
        return other if in_touch is None or in_touch.uid == other.uid else None


def _keep(known: dict[str, T], name: str, value: T) -> None:
    if name not in known and len(known) >= NAMES_MAX:
        known.pop(next(iter(known)))
    known[name] = value
