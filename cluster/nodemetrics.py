"""Where a node's sampled metrics come from: its parts, asked at each scrape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster import __version__
from cluster.groupmetrics import publish_group_metrics
from cluster.handlermetrics import publish_handler_metrics
from cluster.metrics import NodeMetrics
from cluster.net import Listener, ListenerStatistics
from cluster.server.server import ServerStatistics
from hooks.execution.runtime import HookRuntime
from pubsub import log, retention

if TYPE_CHECKING:
    from cluster.node import Node

Values = dict[tuple[str, ...], float]


def publish_strangers(metrics: NodeMetrics, listeners: Mapping[str, Listener]) -> None:
    """Count whom the ports themselves turned away: above their bound, or in the TLS handshake."""
    for port, listener in listeners.items():
        metrics.strangers_from(port, lambda one=listener: _refused(one.statistics()))  # type: ignore[misc]


def publish_metrics(node: Node, hooks: HookRuntime) -> None:
    """Name a source for each metric that this node can tell."""
    core, server = node.core, node.server
    assert core is not None, "a node publishes what it is composed of"
    assert server is not None, "a node publishes what it is composed of"
    index = node.index
    assert index is not None, "a node publishes what it is composed of"
    sample = node.metrics.sample
    sample("tremula_build_info", lambda: {(__version__,): 1})
    sample("tremula_raft_term", lambda: {(): core.term})
    sample("tremula_raft_is_leader", lambda: {(): core.is_leader})
    sample("tremula_raft_is_voter", lambda: {(): node.name in core.members.voters})
    sample("tremula_raft_commit_index", lambda: {(): core.commit_index})
    sample("tremula_raft_applied_index", lambda: {(): core.applied_index})
    sample("tremula_raft_log_entries", lambda: {(): len(core.log)})
    sample("tremula_raft_log_bytes", lambda: {(): core.log.kept_bytes})
    sample("tremula_raft_leader_changes_total", lambda: {(): max(node.leader_changes - 1, 0)})
    sample("tremula_raft_peer_connected", lambda: _peers_connected(node))
    sample(
        "tremula_raft_peer_lag_entries",
        lambda: {(n,): core.log.last.index - p.match for n, p in core.progress().items()},
    )
    sample("tremula_operations_total", lambda: _operations(node))
    sample("tremula_duplicates_total", lambda: {(): node.machine.duplicates})
    sample("tremula_sessions", lambda: {(): node.machine.sessions_count})
    sample("tremula_revision", lambda: {(): node.machine.revision})
    sample("tremula_state_bytes", lambda: {(): node.directory.state_path.stat().st_size})
    sample("tremula_log_first_revision", lambda: {(): log.first_revision(node.machine.connection)})
    sample(
        "tremula_log_lost_groups",
        lambda: {(): len(retention.told_losers(node.machine.connection))},
    )
    sample("tremula_log_subscriptions", lambda: {(): server.statistics().subscriptions})
    sample("tremula_log_events_delivered_total", lambda: {(): server.statistics().events_delivered})
    sample("tremula_event_index_lag_events", lambda: {(): index.lag})
    sample("tremula_event_index_rebuilds_total", lambda: {(): index.rebuilds})
    sample("tremula_connections", lambda: {("client",): server.statistics().connections})

    def counts() -> Mapping[str, int]:
        return server.statistics().counts

    sample("tremula_kv_reads_total", lambda: _counted(counts(), "reads_"))
    sample(
        "tremula_client_port_total",
        lambda: {
            (event,): counts().get(event, 0) for event in ("timeouts", "violations", "stalls")
        },
    )
    node.metrics.strangers_from("client", lambda: _strangers(server.statistics()))
    sample("tremula_raft_snapshots_total", lambda: _snapshots(node))
    sample("tremula_digest_mismatches_total", lambda: {(): node.divergence.mismatches})
    publish_handler_metrics(node, hooks)
    publish_group_metrics(node)


def _counted(counts: Mapping[str, int], prefix: str) -> Values:
    """The counters of one family, by what follows the prefix of their names."""
    return {
        (name.removeprefix(prefix),): count
        for name, count in counts.items()
        if name.startswith(prefix)
    }


def _refused(listener: ListenerStatistics) -> dict[str, int]:
    return {"handshake": listener.refused_handshake, "connections_max": listener.refused_full}


def _strangers(statistics: ServerStatistics) -> dict[str, int]:
    counts = {
        name.removeprefix("stranger_"): count
        for name, count in statistics.counts.items()
        if name.startswith("stranger_")
    }
    return counts if statistics.listener is None else counts | _refused(statistics.listener)


def _snapshots(node: Node) -> Values:
    assert node.engine is not None, "metrics are published once the node is composed"
    snapshots = node.engine.snapshots
    return {("sent",): snapshots.sent, ("installed",): snapshots.installed}


def _peers_connected(node: Node) -> Values:
    names = [row[0] for row in node.machine.members if row[0] != node.name]
    return {(name,): node.transport.is_up(name) for name in names}


def _operations(node: Node) -> Values:
    return {
        (name, outcome): count
        for name, counts in node.machine.operations.items()
        for outcome, count in zip(("done", "rejected"), counts, strict=True)
    }
