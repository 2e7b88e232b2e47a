"""Hooks that use their client, for test_hook_client."""

from hooks.registry import HookContext, hook


@hook("orders.placed", start="earliest")
async def reserve(context: HookContext) -> None:
    """Writes through the client of its node."""
    await context.client.put(f"reserved/{context.key}", b"yes")


@hook("orders.placed", start="earliest", retry_count=0)
def cannot_wait(context: HookContext) -> None:
    """Sync, so that it has no client here."""
    context.client.put("never", b"")
