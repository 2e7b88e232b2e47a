"""Metrics of the handlers of one node, as its hook service counts them.

Labels are bounded: the handlers that a node has code for (`handlers_max`), and outcomes that stand
here. What the cluster counts of a handler stands with its consumer group (groupmetrics).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cluster.metrics import Counts
from hooks.control.metrics import DURATION_BUCKETS_MS, HandlerMetrics
from hooks.execution.runtime import HookRuntime
from hooks.execution.work import HandlerWork

if TYPE_CHECKING:
    from cluster.node import Node

Values = dict[tuple[str, ...], float]
Number = Callable[[HandlerMetrics], float]

BOUNDS_S: Final = tuple(bound / 1000 for bound in DURATION_BUCKETS_MS)

# Each metric that is a counter of `HandlerMetrics`, with the label values that it is split by.
COUNTERS: Final[Mapping[str, Mapping[str, Number]]] = {
    "tremula_handler_attempts_total": {
        "done": lambda m: m.succeeded,
        "failed": lambda m: m.failures,
        "timed_out": lambda m: m.timeouts,
        "crashed": lambda m: m.crashes,
        "cancelled": lambda m: m.cancelled,
    },
    "tremula_handler_retries_total": {"": lambda m: m.retries},
    "tremula_handler_events_total": {
        "completed": lambda m: m.completed,
        "skipped": lambda m: m.skipped,
        "dead_letter": lambda m: m.dead_letters,
        "filtered": lambda m: m.filtered,
        "coalesced": lambda m: m.coalesced,
    },
    "tremula_handler_checkpoints_total": {
        "accepted": lambda m: m.checkpoints,
        "fenced": lambda m: m.checkpoints_fenced,
        "refused": lambda m: m.checkpoints_refused,
    },
    "tremula_handler_effects_refused_total": {"": lambda m: m.effects_refused},
    "tremula_handler_parked_total": {"": lambda m: m.partitions_parked},
    "tremula_handler_lost_events_total": {"": lambda m: m.compacted},
    "tremula_handler_filter_failures_total": {"": lambda m: m.filter_failures},
    "tremula_handler_held_total": {
        "throttle": lambda m: m.throttled,
        "rate_limit": lambda m: m.rate_limited,
        "after": lambda m: m.held_by_after,
    },
    "tremula_handler_batches_total": {
        "whole": lambda m: m.batches - m.batches_split,
        "split": lambda m: m.batches_split,
    },
    "tremula_handler_batched_events_total": {"": lambda m: m.batched},
    "tremula_handler_breaker_opened_total": {"": lambda m: m.breaker_opened},
}


def publish_handler_metrics(node: Node, hooks: HookRuntime) -> None:
    """Name the source of each metric of handlers."""
    sample = node.metrics.sample

    def works() -> list[HandlerWork]:
        return hooks.service.works if hooks.service is not None else []

    def counted(split: Mapping[str, Number]) -> Callable[[], Values]:
        return lambda: {
            (work.definition.name, *([label] if label else [])): number(work.metrics)
            for work in works()
            for label, number in split.items()
        }

    def gauge(value: Callable[[HandlerWork], float]) -> Callable[[], Values]:
        return lambda: {(work.definition.name,): value(work) for work in works()}

    for metric, split in COUNTERS.items():
        sample(metric, counted(split))
    sample("tremula_handler_in_flight", gauge(lambda work: work.running))
    sample("tremula_handler_in_hand", gauge(_in_hand))
    sample("tremula_handler_lag_events", gauge(lambda work: _lag(work, node.machine.revision)))
    sample("tremula_handler_partitions", gauge(lambda work: len(work.partitions)))
    sample("tremula_handler_problem", lambda: _problems(hooks))
    sample(
        "tremula_handler_host_restarts_total",
        lambda: {(): hooks.host.restarts if hooks.host is not None else 0},
    )
    node.metrics.handler_attempt_seconds.source = lambda: {
        work.definition.name: Counts(
            BOUNDS_S, work.metrics.durations, work.metrics.duration_ms_total / 1000
        )
        for work in works()
    }


def _in_hand(work: HandlerWork) -> int:
    return sum(partition.unfinished for partition in work.partitions.values())


def _lag(work: HandlerWork, revision: int) -> int:
    floors = [partition.floor for partition in work.partitions.values()]
    return revision - min(floors) if floors else 0


def _problems(hooks: HookRuntime) -> Values:
    if hooks.service is None:
        return {}
    problems = hooks.service.problems
    return {
        (lane.name,): int(lane.problem is not None or lane.name in problems)
        for lane in hooks.service.lanes
    }
