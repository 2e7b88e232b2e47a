"""A handler that writes down every event it gets, for the proofs with every type of event.

A deed is one line `revision topic mark node` in the file of its handler, in the folder that DEEDS
names: the mark is 1 for an event that was triggered by hand and - for every other. Each is appended
by one write, so the lines of all nodes stand whole and in the order of time. What commands write
down looks the same: see `story.py` for one event, `deed_command.py` for batches.
"""

import os

from hooks.registry import HookContext, hook


@hook()
def note(context: HookContext) -> None:
    """Writes down each event of the attempt."""
    path = os.path.join(os.environ["DEEDS"], context.handler)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for delivery in context.deliveries:
        mark = "1" if delivery.triggered else "-"
        line = f"{delivery.revision} {delivery.topic} {mark} {os.environ['NODE']}\n"
        os.write(file, line.encode())
    os.close(file)
