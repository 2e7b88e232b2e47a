"""Each workload of whole nodes alone: sound runs are clean, and its checks find planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import cluster.entry
import cluster.kv
import cluster.transactions
from cluster.registry import OPERATIONS
from pubsub.rejection import Rejection
from simulation.history import Outcome
from simulation.node import world as node_world
from simulation.node.workloads.publishers import Publishers
from simulation.node.workloads.ring import Ring
from simulation.node.workloads.transactions import Transactions
from simulation.node.workloads.ttl import Ttl
from simulation.node.world import World
from simulation.violation import Violation

SEEDS_MAX = 20
HOUR_MS = 3_600_000
"""A clock that is behind while a new leader has not heard all others makes keys expire early."""

Patch = pytest.MonkeyPatch
WORKLOADS: dict[str, type[Transactions | Ring | Ttl | Publishers]] = {
    "transactions": Transactions,
    "ring": Ring,
    "ttl": Ttl,
    "publishers": Publishers,
}


def run(patch: Patch, name: str, seed: int) -> World:
    """A run with this workload only, beside the registers, and with one clock an hour ahead."""
    patch.setitem(node_world.WORKLOADS, name, WORKLOADS[name])
    drawn = World(seed, 3).options
    faults = {kind: weight for kind, weight in drawn.faults.items() if kind != "clock"}
    options = replace(drawn, workloads=(name,), faults=faults, clock_skew_ms=HOUR_MS)
    world = World(seed, 3, options=options)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_is_clean(name: str, seed: int, monkeypatch: Patch) -> None:
    """What is asked is answered, and it was so."""
    world = run(monkeypatch, name, seed)
    (workload,) = (w for w in world.workloads if isinstance(w, WORKLOADS[name]))
    outcomes = [submission.outcome for submission in workload.submissions.by_name.values()]
    assert outcomes.count(Outcome.OK) > 5


def refused_transactions_leave_traces(patch: Patch) -> None:
    """What was written before an item is refused stays."""
    patch.setattr(cluster.entry.Entry, "atomically", lambda self, steps: steps())


def values_are_not_compared(patch: Patch) -> None:
    """Any value is as good as the one that was expected."""
    holds = cluster.transactions._holds

    def careless(apply: cluster.entry.Entry, compare: list[Any]) -> bool:
        return compare[1] == "value" or holds(apply, compare)

    patch.setattr(cluster.transactions, "_holds", careless)


def keys_expire_early(patch: Patch) -> None:
    """The deadline of a key that is written again stays what it was."""
    store = cluster.kv.store

    def keep(apply: cluster.entry.Entry, key: str, *rest: Any) -> int | Rejection:
        before = cluster.kv.get_remembered(apply, key)
        result = store(apply, key, *rest)
        if before is not None and before.expires_ms is not None:
            apply.execute("UPDATE kv SET expires_ms = ? WHERE key = ?", (before.expires_ms, key))
            apply.rows.pop(key, None)
        return result

    patch.setattr(cluster.kv, "store", keep)


def batches_are_told_elsewhere(patch: Patch) -> None:
    """A publisher is told the revision behind its first event."""
    operation = OPERATIONS["publish_batch"]

    def tell(apply: cluster.entry.Entry, items: Any) -> list[int] | Rejection:
        result = operation.function(apply, items)
        return result if isinstance(result, Rejection) else [result[0] + 1, result[1]]

    patch.setitem(OPERATIONS, "publish_batch", operation._replace(function=tell))


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("transactions", refused_transactions_leave_traces),
        ("transactions", values_are_not_compared),
        ("ring", values_are_not_compared),
        ("ttl", keys_expire_early),
        ("publishers", refused_transactions_leave_traces),
        ("publishers", batches_are_told_elsewhere),
    ],
)
def test_a_planted_bug_is_caught(
    name: str, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """By the checks of the workload, within a bounded number of seeds."""
    plant(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            run(monkeypatch, name, seed)
        except BaseExceptionGroup as group:
            if group.subgroup(Violation) is None:
                raise
            return
        except Violation:
            return
    pytest.fail(f"not caught in {SEEDS_MAX} seeds")
