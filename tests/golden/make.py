"""Makes a golden data directory: `python -m tests.golden.make FOLDER`, once per landed format.

A single node with keys that were put, overwritten and deleted, one that expires far away, a
published event and a client session with remembered results. Never made again: what stands beside
this file was written when its format landed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import trio

from cluster.datadir import LOCK
from tests.real.processes import RealCluster


async def make(target: Path) -> None:
    """Run a node for a moment, stop it cleanly and keep its directory."""
    with tempfile.TemporaryDirectory() as folder:
        async with RealCluster(Path(folder), names=("a",)) as cluster:
            async with cluster.client("a") as client:
                for number in range(20):
                    await client.put(f"key/{number:02}", b"first")
                for number in range(10):
                    await client.put(f"key/{number:02}", b"second")
                for number in range(5):
                    await client.delete(f"key/{number:02}")
                await client.put("with/ttl", b"for long", ttl_ms=10 * 365 * 86_400_000)
                await client.publish("orders.created", b"{}", key="order-1")
            node = cluster.nodes["a"]
            await cluster.stop("a")
            shutil.copytree(node.data_dir, target)
    (target / LOCK).unlink()


if __name__ == "__main__":
    trio.run(make, Path(sys.argv[1]))
