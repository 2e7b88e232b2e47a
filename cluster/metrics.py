"""The metrics of one node, in a registry of its own: /metrics shows these and docs/metrics.md
describes them (a test compares the two).

There are two ways in. What happens rarely is counted here (`metrics.strangers.labels(...).inc()`).
What happens on a hot path is counted by its owner as a plain integer, and asked for when somebody
scrapes: `metrics.sample("tremula_raft_term", lambda: {(): engine.term})`. Labels are bounded by
configuration (peers, handlers, groups) or by code (operations, reasons): never a key or a topic.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Values = Mapping[tuple[str, ...], float]


class Counts(NamedTuple):
    """What a histogram has counted: one more count than bounds."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


# 50 us is an fsync on a disk with a write cache, 10 s is a handler's patience.
SECONDS_BUCKETS = (
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sampled:
    """A metric whose value its owner keeps: `kind`, help text and label names."""

    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


SAMPLED: Mapping[str, Sampled] = {
    "tremula_build_info": Sampled("gauge", "Always 1; the version is in the label.", ("version",)),
    # Raft
    "tremula_raft_term": Sampled("gauge", "Current term."),
    "tremula_raft_is_leader": Sampled("gauge", "1 while this node leads, else 0."),
    "tremula_raft_is_voter": Sampled("gauge", "1 when this node votes, 0 when it is a learner."),
    "tremula_raft_commit_index": Sampled("gauge", "Highest log index known to be committed."),
    "tremula_raft_applied_index": Sampled("gauge", "Highest log index applied to the state."),
    "tremula_raft_log_entries": Sampled("gauge", "Entries kept in the Raft log."),
    "tremula_raft_log_bytes": Sampled("gauge", "Bytes of the entries kept in the Raft log."),
    "tremula_raft_leader_changes_total": Sampled("counter", "Leaders seen after the first."),
    "tremula_raft_snapshots_total": Sampled(
        "counter", "Snapshots by direction: sent or installed.", ("direction",)
    ),
    "tremula_raft_peer_connected": Sampled(
        "gauge", "1 while a session with the peer is open.", ("peer",)
    ),
    "tremula_raft_peer_lag_entries": Sampled(
        "gauge", "On the leader: entries the peer has not confirmed.", ("peer",)
    ),
    # State machine and key-value store
    "tremula_operations_total": Sampled(
        "counter",
        "Operations applied, by name and outcome: done or rejected.",
        ("operation", "outcome"),
    ),
    "tremula_duplicates_total": Sampled(
        "counter", "Retried operations answered from the retry window instead of applied again."
    ),
    "tremula_sessions": Sampled("gauge", "Client sessions in the retry window."),
    "tremula_revision": Sampled("gauge", "Revision of the newest event."),
    "tremula_state_bytes": Sampled("gauge", "Size of state.db without its write-ahead file."),
    "tremula_kv_reads_total": Sampled(
        "counter", "Reads served by this node: linearizable or local.", ("level",)
    ),
    # Event log
    "tremula_log_first_revision": Sampled("gauge", "Oldest revision that retention has left."),
    "tremula_log_lost_groups": Sampled(
        "gauge", "Protected groups that lost unread events to the cap and have not caught up."
    ),
    "tremula_log_subscriptions": Sampled("gauge", "Open subscriptions on this node."),
    "tremula_log_events_delivered_total": Sampled("counter", "Events sent to subscribers."),
    "tremula_event_index_lag_events": Sampled(
        "gauge", "Events that are not in the event index yet."
    ),
    "tremula_event_index_rebuilds_total": Sampled(
        "counter", "Times the event index was thrown away and built anew."
    ),
    # Consumer groups
    "tremula_group_members": Sampled("gauge", "Members of the group.", ("group",)),
    "tremula_group_partitions_owned": Sampled(
        "gauge", "Partitions of the group that this node owns.", ("group",)
    ),
    "tremula_group_lag_events": Sampled(
        "gauge", "Events between the slowest partition's floor and the newest event.", ("group",)
    ),
    "tremula_group_dead_letters": Sampled("gauge", "Dead letters kept for the group.", ("group",)),
    "tremula_group_in_flight": Sampled(
        "gauge", "Of a competing group: events leased to members.", ("group",)
    ),
    "tremula_group_waiting": Sampled(
        "gauge", "Of a competing group: events that wait to be delivered again.", ("group",)
    ),
    "tremula_group_oldest_seconds": Sampled(
        "gauge", "Age of the event after the slowest floor; 0: nothing is left.", ("group",)
    ),
    "tremula_group_completed_total": Sampled(
        "counter", "Events dealt with since the group was defined.", ("group",)
    ),
    "tremula_group_paused": Sampled("gauge", "1 while the group is paused, or held.", ("group",)),
    # Handlers
    "tremula_handler_attempts_total": Sampled(
        "counter",
        "Attempts ended on this node, by outcome: done, failed, timed_out, crashed or cancelled.",
        ("handler", "outcome"),
    ),
    "tremula_handler_retries_total": Sampled(
        "counter", "Attempts that followed a failed one.", ("handler",)
    ),
    "tremula_handler_events_total": Sampled(
        "counter",
        "Events that this node is done with, by outcome: completed (skipped and coalesced ones "
        "among them), skipped, dead_letter, filtered (the condition is false) or coalesced (a "
        "newer one stood for it).",
        ("handler", "outcome"),
    ),
    "tremula_handler_in_flight": Sampled("gauge", "Attempts running now.", ("handler",)),
    "tremula_handler_in_hand": Sampled(
        "gauge", "Events that were read and are not finished: they run or wait.", ("handler",)
    ),
    "tremula_handler_lag_events": Sampled(
        "gauge",
        "Events between the slowest partition that this node works on and the newest event.",
        ("handler",),
    ),
    "tremula_handler_partitions": Sampled(
        "gauge", "Partitions of the handler that this node works on.", ("handler",)
    ),
    "tremula_handler_checkpoints_total": Sampled(
        "counter",
        "Checkpoints sent, by outcome: accepted, fenced or refused.",
        ("handler", "outcome"),
    ),
    "tremula_handler_effects_refused_total": Sampled(
        "counter", "Events whose effects the state refused.", ("handler",)
    ),
    "tremula_handler_parked_total": Sampled(
        "counter",
        "Times that a partition had so much unfinished that reading it stopped.",
        ("handler",),
    ),
    "tremula_handler_lost_events_total": Sampled(
        "counter",
        "Events that retention took before the handler had read them. Must stay 0.",
        ("handler",),
    ),
    "tremula_handler_filter_failures_total": Sampled(
        "counter", "Times that the handler's condition could not be evaluated.", ("handler",)
    ),
    "tremula_handler_held_total": Sampled(
        "counter",
        "Starts that were held, by reason: throttle, rate_limit or after.",
        ("handler", "reason"),
    ),
    "tremula_handler_batches_total": Sampled(
        "counter",
        "Attempts at several events, by outcome: whole, or split into single ones after a failure.",
        ("handler", "outcome"),
    ),
    "tremula_handler_batched_events_total": Sampled(
        "counter", "Events that were in such attempts.", ("handler",)
    ),
    "tremula_handler_breaker_opened_total": Sampled(
        "counter", "Times that the handler's breaker opened on this node.", ("handler",)
    ),
    "tremula_handler_problem": Sampled(
        "gauge", "1 while this node has a handler that does not run as it should.", ("handler",)
    ),
    "tremula_handler_host_restarts_total": Sampled(
        "counter", "Times the handler host was started again after it died or was killed."
    ),
    "tremula_handler_strays_total": Sampled(
        "counter", "Processes that handlers left behind outside of their group, and were killed."
    ),
    "tremula_digest_mismatches_total": Sampled(
        "counter", "Times this node's state differed from that of a peer. Must stay 0."
    ),
    # Ports
    "tremula_connections": Sampled("gauge", "Open connections, by port.", ("port",)),
    "tremula_client_port_total": Sampled(
        "counter",
        "On the client port: timeouts, violations of the protocol, and stalls, which are clients "
        "that were not read from for a while because too much of theirs was under way.",
        ("event",),
    ),
}


class NodeMetrics:
    """The registry of one node and its metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._sampler = _Sampler()
        self.registry.register(self._sampler)
        # Bound once, here: `labels(...)` is a lock and a dictionary, too slow for once per tick.
        self.raft_fsync_seconds = self._histogram(
            "tremula_raft_fsync_seconds", "One commit of the Raft log, with its fsync."
        )
        self.raft_tick_seconds = self._histogram(
            "tremula_raft_tick_seconds", "One pass of the engine, from receiving to answering."
        )
        self.apply_seconds = self._histogram(
            "tremula_apply_seconds",
            "Applying one entry to state.db, without the commit that many share.",
        )
        self.entry_operations = self._histogram(
            "tremula_raft_entry_operations",
            "Operations that one Raft entry carried.",
            (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )
        self.handler_attempt_seconds = SampledDistributions(
            "tremula_handler_attempt_seconds",
            "Attempts that ended, by how long they took.",
            "handler",
        )
        self.registry.register(self.handler_attempt_seconds)
        self.strangers = Counter(
            "tremula_strangers_total",
            "Connections closed because of who called or how it spoke, by port and reason.",
            ("port", "reason"),
            registry=self.registry,
        )
        self._stranger_sources: list[
            tuple[str, Callable[[], Mapping[str, int]], dict[str, int]]
        ] = []

    def strangers_from(self, port: str, counts: Callable[[], Mapping[str, int]]) -> None:
        """Also count as strangers what the owner of a port counted, by reason, when scraped."""
        self._stranger_sources.append((port, counts, {}))

    def sample(self, name: str, values: Callable[[], Values]) -> None:
        """Ask `values` for the metric `name` at each scrape: label values -> number."""
        if name not in SAMPLED:
            raise KeyError(f"{name} is not in the table of cluster/metrics.py")
        self._sampler.sources[name] = values

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        for port, counts, seen in self._stranger_sources:
            for reason, count in counts().items():
                self.strangers.labels(port, reason).inc(count - seen.get(reason, 0))
                seen[reason] = count
        return generate_latest(self.registry)

    def _histogram(
        self, name: str, text: str, bounds: tuple[float, ...] = SECONDS_BUCKETS
    ) -> Distribution:
        distribution = Distribution(name, text, bounds)
        self.registry.register(distribution)
        return distribution


class Distribution(Collector):
    """A histogram for one thread: the library's own takes a lock for each bucket and sum, which
    at three observations a tick was a twentieth of a node's time."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value. HOT."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text)
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == math.inf else str(float(bound)), total))
        family.add_metric([], buckets, self._sum)
        yield family


class SampledDistributions(Collector):
    """A histogram for each value of one label, whose owners keep the counts."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self.source: Callable[[], Mapping[str, Counts]] = dict
        self._name = name
        self._text = text
        self._label = label

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        for label, counts in self.source().items():
            buckets: list[tuple[str, float]] = []
            total = 0
            for bound, count in zip((*counts.bounds, math.inf), counts.counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound == math.inf else str(float(bound)), total))
            family.add_metric((label,), buckets, counts.sum)
        yield family


class _Sampler(Collector):
    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], Values]] = {}

    def collect(self) -> Iterator[Metric]:
        for name, values in self.sources.items():
            sampled = SAMPLED[name]
            family: GaugeMetricFamily | CounterMetricFamily
            if sampled.kind == "gauge":
                family = GaugeMetricFamily(name, sampled.help, labels=sampled.labels)
            else:
                family = CounterMetricFamily(name, sampled.help, labels=sampled.labels)
            for labels, value in values().items():
                family.add_metric(labels, value)
            yield family
