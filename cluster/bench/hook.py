"""The handler that `cluster bench hooks` measures. Nodes load it by a line in their file:

    [hooks]
    modules = ["cluster.bench.hook"]

It does nothing with an event, unless the event is marked: then it publishes when it was started, by
the monotonic clock of this machine, which the measuring side shares. A `[[hooks.handlers]]` table
with `handler_id = "bench"` gives it another definition (batches, more at a time).
"""

import json
from time import monotonic
from typing import Final

from cluster.bench.workload import HANDLED
from hooks import effects
from hooks.effects import Effect
from hooks.registry import HookContext, hook

HANDLER: Final = "bench"
TOPIC: Final = HANDLED
SEEN: Final = "bench.hooks.seen"
MARKED: Final = "application/x-tremula-mark"
"""The content type of an event whose payload is a mark that comes back."""


@hook(TOPIC, name=HANDLER, concurrency=128)
async def bench(context: HookContext) -> list[Effect]:
    """Tell of each marked event when its handler was started. HOT."""
    started = monotonic()
    return [
        effects.publish(SEEN, json.dumps([event.data[0].decode(), started]))
        for event in context.events
        if event.data[1] == MARKED
    ]
