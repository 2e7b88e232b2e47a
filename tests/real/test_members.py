"""Who belongs to a running cluster, and who is turned away, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.real.load import open_load
from tests.real.membership import add_learner, outsider, promote, roles
from tests.real.ports import HOST
from tests.real.processes import RealCluster, RealNode, make_authority, make_certificate


async def test_a_node_joins_and_another_leaves_under_load(tmp_path: Path) -> None:
    """A fourth node learns, votes and leads, a founder is removed and learns again: no write is
    lost meanwhile."""
    async with RealCluster(tmp_path, tls=True) as cluster, cluster.client() as client:
        async with open_load(client) as load:
            joining = cluster.add("d", joins=True)
            await joining.start()
            await add_learner(cluster, client, "d")
            assert (await roles(client))["d"] == "learner"
            await promote(client, "d")
            assert (await roles(client))["d"] == "voter"
            await cli(cluster, "leader", "transfer", "d")
            assert await cluster.leader() == "d"
            await cli(cluster, "member", "remove", "a")  # the first endpoint, which is passed over
            assert sorted(await roles(client)) == ["b", "c", "d"]
            await outsider(cluster, "a")
            await add_learner(cluster, client, "a")
            await load.more(100)
        await load.verify()
        await cluster.same_state()
        assert await refusal(cluster, "member", "remove", "d") == "member_leads"


async def test_a_wiped_node_must_be_added_again(tmp_path: Path) -> None:
    """A node that lost its data directory is no member until it was removed and added again."""
    async with RealCluster(tmp_path) as cluster, cluster.client("a", "b") as client:
        await client.put("before", b"1")
        await cluster.kill("c")
        wiped = cluster.nodes["c"]
        shutil.rmtree(wiped.data_dir)
        await wiped.start()
        await outsider(cluster, "c")
        await client.put("meanwhile", b"2")
        assert (await client.get("meanwhile")) is not None
        address = f"{HOST}:{wiped.ports.peer}"
        assert await refusal(cluster, "member", "add", "c", address) == "member_exists"
        await cli(cluster, "member", "remove", "c")
        await cli(cluster, "member", "add", "c", address)
        await cluster.ready("c")
        await promote(client, "c")
        assert set((await roles(client)).values()) == {"voter"}
        await cluster.same_state()


async def test_nodes_that_are_turned_away(tmp_path: Path) -> None:
    """A second node of one name and one with certificates of another authority get no further
    than the greeting; the member keeps its sessions, and the cluster its leader."""
    async with RealCluster(tmp_path, tls=True) as cluster, cluster.client() as client:
        before = await cluster.status(await cluster.leader())
        twin = cluster.add("twin", name="a", joins=True)
        forger = cluster.add("f", joins=True)
        forger.certificates = tmp_path / "forged"
        make_authority(forger.certificates)
        make_certificate(forger.certificates, "f")
        disconnections = cluster.nodes["b"].log().count("peer disconnected peer=a")
        for node in (twin, forger):
            await node.start()
        await cluster.logged("twin", "code=duplicate_name")
        await cluster.logged("f", "code=tls")
        for node in (twin, forger):
            assert not await is_member(cluster, node)
        assert await client.put("x", b"1") > 0
        assert cluster.nodes["b"].log().count("peer disconnected peer=a") == disconnections
        assert sorted(await roles(client)) == ["a", "b", "c"]
        after = await cluster.status(await cluster.leader())
        assert before is not None
        assert after is not None
        assert after["term"] == before["term"]


async def test_a_node_of_another_cluster_is_turned_away(tmp_path: Path) -> None:
    """Nodes that find each other under an old address, and belong to two clusters, both say so."""
    async with RealCluster(tmp_path / "other", ["e", "g"]) as other:
        await other.stop("g")
        async with RealCluster(tmp_path / "ours", ["a"]) as ours, ours.client("a") as client:
            joining = ours.add("d", joins=True)
            joining.ports = joining.ports._replace(peer=other.nodes["g"].ports.peer)
            await joining.start()
            await add_learner(ours, client, "d")
            await other.logged("e", "code=wrong_cluster")
            await ours.logged("d", "code=wrong_cluster")


async def test_nodes_that_refuse_to_start(tmp_path: Path) -> None:
    """Another node's directory, one that is in use, a taken port: one sentence, exit code 1."""
    async with RealCluster(tmp_path) as cluster:
        await cluster.kill("c")
        cases = {
            "name": "belongs to node 'c', this node is 'd'",
            "lock": "is in use by another process",
            "port": "address already in use",
        }
        nodes = {case: cluster.add(case, name="d", joins=True) for case in cases}
        nodes["name"].data_dir = cluster.nodes["c"].data_dir
        nodes["lock"].data_dir = cluster.nodes["a"].data_dir
        taken = cluster.nodes["a"].ports
        nodes["port"].ports = nodes["port"].ports._replace(peer=taken.peer)
        for node in nodes.values():
            await node.start()
        for case, words in cases.items():
            assert await nodes[case].ended() == 1, nodes[case].tail()
            assert words in nodes[case].log().lower().replace("\n", " "), nodes[case].tail()


async def cli(cluster: RealCluster, *arguments: str, via: str = "") -> None:
    """A command that must succeed."""
    done = await cluster.cli(*arguments, via=via)
    assert done.returncode == 0, done.stderr


async def refusal(cluster: RealCluster, *arguments: str) -> str:
    """The code with which a command is refused."""
    done = await cluster.cli(*arguments, "--json")
    assert done.returncode == 1, done.stdout
    return str(json.loads(done.stderr)["code"])


async def is_member(cluster: RealCluster, node: RealNode) -> bool:
    status = await cluster.status(node.label)
    return status is not None and status["problem"] is None
