"""The proof's in-process handler: it writes down which events it was called for, and when.

One file per handler-host process, in the folder that PROOF_FOLDER names. A line is
`nanoseconds revision key`; the clock is the machine's monotonic one, which all processes share.
"""

import os
import time
from functools import lru_cache
from pathlib import Path

from hooks.registry import HookContext, hook

NAME = "recorder"


@lru_cache
def _file() -> int:
    path = Path(os.environ["PROOF_FOLDER"]) / f"{NAME}-{os.getpid()}.log"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


@hook("hooks.kv.*", name=NAME, start="earliest")
async def recorder(context: HookContext) -> None:
    """Append one line; a single write, so that a kill leaves no half of it."""
    line = f"{time.monotonic_ns()} {context.revision} {context.key}\n"
    os.write(_file(), line.encode())
