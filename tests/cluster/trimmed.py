"""Waiting until a rule of retention has done its work on a real node."""

from typing import Any

import trio

from cluster.client import open_client
from cluster.config import parse_address
from tests.cluster.waiting import BOUND_S


def wait_until_trimmed(endpoint: str, pattern: str, revision: int) -> dict[str, Any]:
    """The rule, once it has taken everything of its own up to a revision."""

    async def wait() -> dict[str, Any]:
        async with open_client([parse_address(endpoint)]) as client:
            with trio.fail_after(BOUND_S):
                while True:
                    rules = await client.request("retention.list")
                    rule = next(rule for rule in rules if rule["pattern"] == pattern)
                    if rule["trimmed_to"] >= revision:
                        return dict(rule)

    return trio.run(wait)
