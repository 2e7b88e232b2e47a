"""When the leader says that a member cannot be reached any more, or can be again.

Not every lost connection is news: a node that restarts, or a link that breaks for a moment, is
back before anybody could do something about it. Deciding code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from hooks.replicated.reports import HEALTHY, UNREACHABLE

UNREACHABLE_AFTER_S: Final = 3.0
"""A connection that is gone for so long: several elections, and more than a restart takes."""
HEALTHY_AFTER_S: Final = 1.0
"""Back for so long, so that a link that comes and goes is not an entry each time."""


class Change(NamedTuple):
    """What the leader should report."""

    node: str
    state: str
    reason: str


class Reachability:
    """How long each member has been connected to this leader, or not."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[bool, float]] = {}

    def due(
        self,
        now: float,
        leader: str,
        connected: Mapping[str, bool],
        unhealthy: Collection[str],
    ) -> list[Change]:
        """What is not yet known. `connected` has every other member, `unhealthy` those of which
        the log says so. Call often: what comes and goes between two calls is not seen."""
        changes: list[Change] = []
        if leader in unhealthy:
            changes.append(Change(leader, HEALTHY, "it leads"))
        for gone in [node for node in self._since if node not in connected]:
            del self._since[gone]
        for node in sorted(connected):
            is_connected, since = self._since.get(node, (None, now))
            if is_connected is not connected[node]:
                since = now
                self._since[node] = (connected[node], now)
            if connected[node]:
                if node in unhealthy and now - since >= HEALTHY_AFTER_S:
                    changes.append(Change(node, HEALTHY, f"{leader} is connected to it again"))
            elif node not in unhealthy and now - since >= UNREACHABLE_AFTER_S:
                changes.append(Change(node, UNREACHABLE, f"{leader} has no connection to it"))
        return changes

    def forget(self) -> None:
        """This node does not lead: what it saw is old when it leads again."""
        self._since.clear()
