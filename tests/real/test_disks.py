"""Disks that lie, forget or fill up: the node stops or stands aside, and the cluster goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from cluster.client import Client
from cluster.errors import NoLeader, Timeout
from tests.real.load import open_load
from tests.real.membership import add_learner, outsider, promote, remove
from tests.real.processes import RealCluster, eventually
from tests.real.small_disk import small_disk

NEEDLE = b"N" * 300
RECOVERY = ("remove the node", "add it again")
SILENCE_S = 2.0  # more than three election timeouts


@pytest.mark.parametrize("file", ["raft.db", "state.db"])
async def test_corrupt_file_refuses_to_start_and_recovers_as_told(
    tmp_path: Path, file: str
) -> None:
    """A node with a flipped byte does not start, says how to recover, and recovers that way."""
    async with RealCluster(tmp_path) as cluster, cluster.client("a", "b") as client:
        await client.put("needle", NEEDLE)
        await caught_up(cluster, client, "c")
        await cluster.stop("c")
        node = cluster.nodes["c"]
        corrupt(node.data_dir / file, NEEDLE if file == "raft.db" else b"SQLite format 3")
        await node.start()
        assert await node.ended() == 1
        words = " ".join(node.log().split())
        assert f"{file} is corrupt" in words, node.tail()
        assert all(text in words for text in RECOVERY), node.tail()
        # what the words say:
        shutil.move(node.data_dir, tmp_path / "moved-away")
        await remove(client, "c")
        await node.start()
        await add_learner(cluster, client, "c")
        await promote(client, "c")
        async with cluster.client("c") as at_c:
            entry = await at_c.get("needle", level="local")
        assert entry is not None
        assert entry.value == NEEDLE


async def test_flipped_byte_in_a_page_is_never_served(tmp_path: Path) -> None:
    """A page of state.db that rotted is noticed when it is read: the node stops, nobody sees it."""
    async with RealCluster(tmp_path) as cluster, cluster.client("a", "b") as client:
        await client.put("needle", NEEDLE)
        await caught_up(cluster, client, "c")
        await cluster.stop("c")
        node = cluster.nodes["c"]
        corrupt(node.data_dir / "state.db", NEEDLE)
        await node.start()

        async def ask() -> bool:
            if not node.running:
                return True
            try:
                async with cluster.client("c", timeout_ms=500) as at_c:
                    entry = await at_c.get("needle", level="local")
            except Exception:  # whatever it says, it is not a value
                return False
            raise AssertionError(f"served {entry}")

        await eventually(ask, "c notices and stops")
        assert await node.ended() == 1
        assert "state.db is corrupt" in " ".join(node.log().split()), node.tail()
        assert await client.put("x", b"1") > 0


@pytest.mark.parametrize("fault", ["older copy", "truncated", "deleted"])
async def test_a_node_that_forgot_does_not_vote(tmp_path: Path, fault: str) -> None:
    """Without what it acknowledged a node is no voter: with one other of three it elects nobody."""
    async with RealCluster(tmp_path) as cluster, cluster.client() as client:
        await caught_up(cluster, client, "c")
        node = cluster.nodes["c"]
        log = node.data_dir / "raft.db"
        await cluster.stop("c")
        shutil.copy(log, tmp_path / "older")
        await cluster.start("c")
        for number in range(20):
            await client.put(f"later/{number}", b"x")
        await caught_up(cluster, client, "c")
        await marked(cluster, "c")
        await cluster.kill("c")
        match fault:
            case "older copy":
                shutil.copy(tmp_path / "older", log)
                log.with_name("raft.db-wal").unlink(missing_ok=True)
            case "truncated":
                log.with_name("raft.db-wal").write_bytes(b"")
            case "deleted":
                log.unlink()
        await node.start()
        await cluster.logged("c", "forgot what it may have acknowledged")
        await outsider(cluster, "c")
        other = "b" if await cluster.leader() == "a" else "a"
        await cluster.kill(other)
        with trio.move_on_after(SILENCE_S):
            with pytest.raises((NoLeader, Timeout)):
                await client.put("must not", b"x", timeout_ms=int(SILENCE_S * 2000))
            raise AssertionError("answered sooner than it could be known that nobody votes")
        await cluster.start(other)
        await remove(client, "c")
        await add_learner(cluster, client, "c")
        await promote(client, "c")
        assert await client.count("later/", "later0") == 20


async def test_a_whole_older_directory_is_refused_by_the_leader(tmp_path: Path) -> None:
    """An older copy of everything, marker and all, looks whole: the leader that remembers what the
    node had acknowledged stops it, with words."""
    async with RealCluster(tmp_path) as cluster, cluster.client() as client:
        leader = await cluster.leader()
        label = "c" if leader != "c" else "a"
        node = cluster.nodes[label]
        await caught_up(cluster, client, label)
        await cluster.stop(label)
        shutil.copytree(node.data_dir, tmp_path / "older")
        await cluster.start(label)
        for number in range(20):
            await client.put(f"later/{number}", b"x")
        await caught_up(cluster, client, label)
        await cluster.kill(label)
        shutil.rmtree(node.data_dir)
        shutil.copytree(tmp_path / "older", node.data_dir)
        await node.start()
        assert await node.ended() == 1
        words = " ".join(node.log().split())
        assert "an older copy was restored" in words, node.tail()
        assert all(text in words for text in RECOVERY), node.tail()


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_full_disk_stops_one_node_and_loses_nothing(tmp_path: Path, role: str) -> None:
    """The node whose disk is full stops and says so, the others go on, and with room again it
    comes back and has everything."""
    with small_disk(tmp_path / "disk") as disk:
        cluster = RealCluster(tmp_path)
        cluster.nodes["a"].data_dir = disk.path
        async with cluster, cluster.client() as client:
            target = "a" if role == "leader" else "b"
            if await cluster.leader() != target:
                await client.request("leader.transfer", [target])
            async with open_load(client) as load:
                node = cluster.nodes["a"]
                before = await cluster.status("b")
                disk.fill(node)
                assert await node.ended() == 1
                assert "cannot write" in " ".join(node.log().split()), node.tail()
                await load.more(200)
                after = await cluster.status(await cluster.leader(other_than="a"))
                assert before is not None
                assert after is not None
                assert (after["term"] == before["term"]) == (role == "follower")
                disk.clear()
                await cluster.start("a")
                await load.more(100)
            await load.verify()
            await cluster.same_state()


def corrupt(file: Path, needle: bytes) -> None:
    """Flip one bit in the first place where a file holds `needle`."""
    data = bytearray(file.read_bytes())
    place = data.find(needle)
    assert place >= 0, f"{file} does not hold {needle[:20]!r}"
    data[place + 1] ^= 0x10
    file.write_bytes(data)


async def caught_up(cluster: RealCluster, client: Client, label: str) -> None:
    """Wait until a node has applied everything that was written before."""
    revision = await client.put("mark", b"")

    async def ask() -> bool:
        status = await cluster.status(label)
        return status is not None and status["revision"] >= revision

    await eventually(ask, f"{label} has applied revision {revision}")


async def marked(cluster: RealCluster, label: str) -> None:
    """Wait until the marker of how far the log has been, which is written lazily, has followed."""
    status = await cluster.status(label)
    assert status is not None

    async def ask() -> bool:
        mark = (cluster.nodes[label].data_dir / "raft.mark").read_text()
        return any(word == str(status["applied_index"]) for word in mark.split())

    await eventually(ask, f"the mark of {label} has followed")
