"""Questions about handlers, asked of three real nodes of which one knows the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.client import Client
from tests.real.processes import RealCluster, eventually

SETTINGS = """
[limits.hooks]
member_ttl_ms = 3000
keepalive_ms = 500
lease_margin_ms = 500

[[hooks.handlers]]
name = "stuck"
pattern = "slow.*"
type = "shell"
command = ["sleep", "25"]
timeout_ms = 30000

[[hooks.handlers]]
name = "quick"
pattern = "hooks.kv.*"
type = "shell"
command = ["true"]
"""


async def test_every_node_is_asked_and_a_wait_outlives_one(tmp_path: Path) -> None:
    """The owner of a partition says what it has in hand, the others whose matter it is; when it is
    killed, the next owner. A wait on one node is answered for work of another."""
    async with RealCluster(tmp_path, settings=SETTINGS) as cluster, cluster.client() as client:
        await until_members(client, "stuck", 3)
        revision = await client.publish("slow.a", b"", key="k")
        row = await explained(cluster, revision, "running")
        owner = row["owner"]
        others = [name for name in ("a", "b", "c") if name != owner]
        for name in others:
            async with cluster.client(name) as asked:
                (told,) = (await asked.hooks.explain(revision, handler="stuck"))["handlers"]
                assert (told["stage"], told["owner"]) == ("elsewhere", owner)
        await cluster.kill(owner)
        assert (await explained(cluster, revision, "running", *others))["owner"] != owner
        async with cluster.client(others[0]) as asked:
            for number in range(10):
                written = await asked.put(f"k{number}", b"")
                assert (await asked.wait_handled("quick", written, timeout_ms=20_000)).is_done


async def until_members(client: Client, handler: str, count: int) -> None:
    """So many nodes work for a handler."""

    async def ask() -> bool:
        rows = {row["handler"]: row for row in await client.hooks.list()}
        return handler in rows and bool(rows[handler]["members"] == count)

    await eventually(ask, f"{count} members of {handler}")


async def explained(
    cluster: RealCluster, revision: int, stage: str, *labels: str
) -> dict[str, Any]:
    """What `cluster hook explain` says once the event is there."""

    async def ask() -> dict[str, Any] | None:
        ran = await cluster.cli(
            "hook", "explain", str(revision), "--handler", "stuck", "--json", via=labels
        )
        if ran.returncode:
            return None
        row: dict[str, Any]
        (row,) = json.loads(ran.stdout)["handlers"]
        return row if row["stage"] == stage else None

    return await eventually(ask, f"event {revision} is {stage}")
