"""Every event of the cluster as one line of a file on each node, in order and without repetition.

A handler gets an event at least once. The file itself says how far it is, so that what comes again
after a crash is not written again.
"""

import json
import os
from pathlib import Path

from hooks.registry import HookContext, hook

FILE = Path(os.environ.get("TREMULA_EXAMPLES", "."), "audit.jsonl")
TAIL_BYTES = 64 * 1024  # more than one line has


@hook("hooks.>", scope="node", order_by="handler", batch_max=100, batch_wait_ms=50)
def audit(context: HookContext) -> None:
    """One write for each batch."""
    newest = _newest()
    lines = [
        json.dumps(
            {
                "revision": event.revision,
                "topic": event.topic,
                "key": event.key,
                "actor": event.actor,
                "time_ms": event.wall_ms,
            }
        )
        for event in context.events
        if event.revision > newest
    ]
    with FILE.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _newest() -> int:
    """The revision in the last whole line; what a crash left of another one is cut off."""
    if not FILE.exists():
        return 0
    with FILE.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        end = file.tell()
        file.seek(max(0, end - TAIL_BYTES))
        whole, mark, rest = file.read().rpartition(b"\n")
        file.truncate(end - len(rest))
    return int(json.loads(whole.split(b"\n")[-1])["revision"]) if mark else 0
