"""Makes a golden data directory: `python -m tests.golden.make FOLDER`, once per landed format.

A single node with keys that were put, overwritten and deleted, one that expires far away, a
published event and a client session with remembered results; from format 2 on with groups of both
modes, a dead letter, a delayed event and a rule of retention; from format 3 on with a handler that
was triggered, and is disabled and paused as well. Never made again: what stands beside
this file was written when its format landed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import trio

from cluster.client import Client
from cluster.datadir import LOCK
from tests.real.processes import RealCluster

HANDLER = """
[[hooks.handlers]]
name = "trials"
pattern = "orders.*"
type = "shell"
command = ["true"]
partitions = 1
"""


async def make(target: Path) -> None:
    """Run a node for a moment, stop it cleanly and keep its directory."""
    with tempfile.TemporaryDirectory() as folder:
        async with RealCluster(Path(folder), names=("a",), settings=HANDLER) as cluster:
            async with cluster.client("a") as client:
                for number in range(20):
                    await client.put(f"key/{number:02}", b"first")
                for number in range(10):
                    await client.put(f"key/{number:02}", b"second")
                for number in range(5):
                    await client.delete(f"key/{number:02}")
                await client.put("with/ttl", b"for long", ttl_ms=10 * 365 * 86_400_000)
                await client.publish("orders.created", b"{}", key="order-1")
                await make_groups(client)
                await make_switches(client)
            node = cluster.nodes["a"]
            await cluster.stop("a")
            shutil.copytree(node.data_dir, target)
    (target / LOCK).unlink()


async def make_groups(client: Client) -> None:
    """What format 2 brought."""
    for number in range(3):
        await client.publish("jobs.new", b"%d" % number, key="job", message_id=f"job-{number}")
    await client.publish_later("jobs.later", b"{}", delay_ms=10 * 365 * 86_400_000)
    await client.request("retention.set", ["jobs.>", 10 * 365 * 86_400_000, None, None])
    options = {"mode": "competing", "ordered": True}
    for name, more in (("workers", options), ("readers", {"cooldown_ms": 100})):
        await client.request("group.define", [name, "jobs.*", 1, "earliest", 1, more])
        await client.request("group.join", [name, "m", 3_600_000])
    for verdict, argument in (("ack", None), ("dead", "too heavy")):
        token, _, items, _ = await client.request("group.fetch", ["workers", "m", 1, 1_000, 0])
        revision = items[0][1][0]
        await client.request(
            "group.settle", ["workers", "m", [[revision, token, verdict, argument]], []]
        )
    await client.request("group.fetch", ["workers", "m", 1, 1_000, 0])


async def make_switches(client: Client) -> None:
    """What format 3 brought."""
    triggered = await client.hooks.trigger("orders.tried", b"\xff", content_type="image/png")
    await client.hooks.wait("trials", triggered["revision"])
    await client.request("group.pause", ["hook.trials"])
    await client.hooks.disable("trials", reason="for now")


if __name__ == "__main__":
    trio.run(make, Path(sys.argv[1]))
