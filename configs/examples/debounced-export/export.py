"""One export of all orders once it is quiet again, however many of them came.

cluster kv put orders/1 '{"item": "tea"}'
"""

import json
import os
from pathlib import Path

from hooks.registry import HookContext, hook

FILE = Path(os.environ.get("TREMULA_EXAMPLES", "."), "orders.json")


@hook(
    "hooks.kv.*",
    filter='event.key.startsWith("orders/")',
    order_by="handler",
    debounce_ms=500,
    debounce_ms_max=5_000,
    timeout_ms=20_000,
)
async def export_orders(context: HookContext) -> None:
    """The newest event stands for all that came before; what is exported is read afresh."""
    orders = {}
    page = await context.client.range("orders/", "orders0", limit=10_000)
    for row in page.entries:
        orders[row.key] = json.loads(row.value)
    part = FILE.with_suffix(".part")
    part.write_text(json.dumps(orders, indent=2, sort_keys=True))
    part.replace(FILE)
    context.log.info("orders exported", orders=len(orders), events=1 + context.coalesced)
