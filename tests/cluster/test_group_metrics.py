"""Metrics of consumer groups, of the applied state."""

from __future__ import annotations

import pytest

from cluster import groupmetrics
from cluster.groupmetrics import OTHERS, collect
from tests.cluster.client_cluster import client_of, cluster_of


async def test_a_group_is_measured_in_both_modes() -> None:
    """Where it is, what it holds, how old the oldest is."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        machine = cluster.node.machine
        await client.group("p").create("t.>", start="earliest", partitions=2)
        await client.group("c").create("t.>", start="earliest", mode="competing")
        await client.publish_batch([["t.a", None, b"", None, None]] * 5)
        cluster.node.clock_ms += 7_000
        await client.group("p").pause()
        async with client.group("c").consume(auto_ack=False) as consumer:
            await (await anext(consumer)).ack()
            found = collect(machine.connection, machine, "a")
        assert {metric: values[("p",)] for metric, values in found.items()} == {
            "tremula_group_members": 0,
            "tremula_group_partitions_owned": 0,
            "tremula_group_lag_events": 5,
            "tremula_group_dead_letters": 0,
            "tremula_group_in_flight": 0,
            "tremula_group_waiting": 0,
            "tremula_group_oldest_seconds": pytest.approx(7, abs=0.5),
            "tremula_group_completed_total": 0,
            "tremula_group_paused": 1,
        }
        assert found["tremula_group_in_flight"][("c",)] == 4
        assert found["tremula_group_completed_total"][("c",)] == 1
        assert found["tremula_group_members"][("c",)] == 1


async def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, groups are one series: sums of counts, the largest of lags."""
    monkeypatch.setattr(groupmetrics, "GROUPS_SHOWN_MAX", 1)
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        machine = cluster.node.machine
        await client.publish("t.a", b"")
        for name in "xyz":
            await client.group(name).create("t.>", start="earliest", partitions=1)
            await client.request("group.join", [name, f"member-{name}", 10_000])
        found = collect(machine.connection, machine, "a")
        assert found["tremula_group_members"] == {("x",): 1, (OTHERS,): 2}
        assert found["tremula_group_lag_events"] == {("x",): 1, (OTHERS,): 1}
