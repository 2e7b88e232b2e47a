"""Hooks of tests/simulation/test_plugin.py: each life of a node has a memory of its own."""

from hooks.registry import HookContext, hook

seen: list[str] = []


def deliver(parcel: str, seen_before: int) -> None:
    """What a test puts something in the place of."""
    raise NotImplementedError


async def call(parcel: str) -> str:
    """The same, async."""
    raise NotImplementedError


@hook("parcels.sent", start="earliest")
def deliver_parcel(context: HookContext) -> None:
    seen.append(context.key or "")
    deliver(context.key or "", len(seen))


@hook("parcels.announced", start="earliest", retry_count=1)
async def announce(context: HookContext) -> None:
    await call(context.key or "")
