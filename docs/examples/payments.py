"""Charge the customer of each order. It has a bug that no test without a crash finds."""

from hooks.effects import Effect, publish
from hooks.registry import HookContext, hook

_charged: set[str] = set()


async def charge(order: str) -> None:
    """Ask the bank. The real one sends a request; a test puts its own in the place of this."""
    raise NotImplementedError


@hook("orders.placed", start="earliest")
async def charge_order(context: HookContext) -> list[Effect]:
    order = context.key or ""
    if order not in _charged:  # an event may come again
        await charge(order)
        _charged.add(order)
    return [publish("orders.charged", b"", key=order)]
