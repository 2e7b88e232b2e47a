"""Metrics of the consumer groups, as the applied state of this node has them.

One look at all groups serves all metrics of a scrape. Labels are bounded: beyond `GROUPS_SHOWN_MAX`
groups, by name, the others are one series called `(others)`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import apsw

from pubsub import groups

if TYPE_CHECKING:
    from cluster.node import Node

GROUPS_SHOWN_MAX: Final = 200
OTHERS: Final = "(others)"
NAMES: Final = (
    "tremula_group_members",
    "tremula_group_partitions_owned",
    "tremula_group_lag_events",
    "tremula_group_dead_letters",
    "tremula_group_in_flight",
    "tremula_group_waiting",
    "tremula_group_oldest_seconds",
    "tremula_group_completed_total",
    "tremula_group_paused",
)
# Of these, groups that are shown together show the largest; of all others the sum.
_LARGEST: Final = (
    "tremula_group_lag_events",
    "tremula_group_oldest_seconds",
    "tremula_group_paused",
)

Values = dict[tuple[str, ...], float]


def publish_group_metrics(node: Node) -> None:
    """Name the source of each metric of groups."""
    seen: list[tuple[int, dict[str, Values]]] = []

    def values(metric: str) -> Values:
        applied = node.machine.applied_index
        if not seen or seen[0][0] != applied or metric == NAMES[0]:
            seen[:] = [(applied, collect(node.machine.connection, node.machine, node.name))]
        return seen[0][1][metric]

    for metric in NAMES:
        node.metrics.sample(metric, partial(values, metric))


def collect(connection: apsw.Connection, machine: Any, node_name: str) -> dict[str, Values]:
    """Every metric of every group. `machine` knows the newest revision and the wall clock."""
    found: dict[str, Values] = {metric: {} for metric in NAMES}
    for position, name in enumerate(groups.names(connection)):
        described = groups.describe(connection, name)
        if described is None:
            continue
        label = (name if position < GROUPS_SHOWN_MAX else OTHERS,)
        for metric, value in _measured(connection, described, machine, node_name).items():
            known = found[metric].get(label, 0)
            found[metric][label] = max(known, value) if metric in _LARGEST else known + value
    return found


def _measured(
    connection: apsw.Connection, described: dict[str, Any], machine: Any, node_name: str
) -> dict[str, float]:
    partitions = described["partitions"]
    floor = min((partition["floor"] for partition in partitions), default=machine.revision)
    competing = described.get("competing") or {}
    owners = [partition["owner"] or "" for partition in partitions]
    return {
        "tremula_group_members": len(described["members"]),
        "tremula_group_partitions_owned": sum(
            owner.startswith(f"{node_name}/") for owner in owners
        ),
        "tremula_group_lag_events": machine.revision - floor,
        "tremula_group_dead_letters": described["dead_held"],
        "tremula_group_in_flight": competing.get("in_flight", 0),
        "tremula_group_waiting": competing.get("waiting", 0),
        "tremula_group_oldest_seconds": _age_s(connection, floor + 1, machine),
        "tremula_group_completed_total": described["completed"],
        "tremula_group_paused": int(described["paused"] or described["held"]),
    }


def _age_s(connection: apsw.Connection, revision: int, machine: Any) -> float:
    """How long ago the event of a revision was applied, by the cluster's clock."""
    if revision > machine.revision:
        return 0.0
    wall_ms = connection.execute(
        "SELECT wall_ms FROM event_batches WHERE first_revision <= ?"
        " ORDER BY first_revision DESC LIMIT 1",
        (revision,),
    ).get
    return 0.0 if wall_ms is None else max(0, machine.wall_ms - int(wall_ms)) / 1000
