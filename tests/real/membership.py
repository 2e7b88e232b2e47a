"""Waiting for what becomes of a member: turned out, added, caught up, promoted."""

from __future__ import annotations

from cluster.client import Client
from cluster.errors import Rejected
from tests.real.ports import HOST
from tests.real.processes import RealCluster, eventually

# What passes by itself while a node starts, catches up or is elected.
FOR_NOW = ("member_unreachable", "member_lags", "membership_change_pending")


async def outsider(cluster: RealCluster, label: str) -> None:
    """Wait until a node knows that it is not a member."""

    async def ask() -> bool:
        status = await cluster.status(label)
        return status is not None and str(status["problem"]).startswith("not a member")

    await eventually(ask, f"{label} knows that it is no member")


async def add_learner(cluster: RealCluster, client: Client, label: str) -> None:
    """Add a node that runs, as soon as it is in contact, and wait until it is ready."""
    address = f"{HOST}:{cluster.nodes[label].ports.peer}"
    await _change(client, "member.add", [cluster.nodes[label].name, address])
    await cluster.ready(label)


async def promote(client: Client, name: str) -> None:
    """Make a learner a voter, as soon as it has caught up."""
    await _change(client, "member.promote", [name])


async def remove(client: Client, name: str) -> None:
    """Remove a member, as soon as the leader can."""
    await _change(client, "member.remove", [name])


async def roles(client: Client) -> dict[str, str]:
    """The configuration: name -> voter or learner."""
    return {row[0]: row[3] for row in await client.members()}


async def _change(client: Client, request: str, args: list[str]) -> None:
    async def ask() -> bool:
        try:
            await client.request(request, args)
        except Rejected as refusal:
            if refusal.code in FOR_NOW:
                return False
            raise
        return True

    await eventually(ask, f"{request} {args[0]}")
