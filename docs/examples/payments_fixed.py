"""Charge the customer of each order, once. What must not happen twice is refused by the bank."""

from hooks.effects import Effect, publish
from hooks.registry import HookContext, hook


async def charge(order: str, idempotency_key: str) -> None:
    """Ask the bank. The real one sends a request; a test puts its own in the place of this."""
    raise NotImplementedError


@hook("orders.placed", start="earliest")
async def charge_order(context: HookContext) -> list[Effect]:
    order = context.key or ""
    # The same for every attempt on every node: the bank carries out the first one only.
    await charge(order, idempotency_key=context.event_id)
    return [publish("orders.charged", b"", key=order)]
