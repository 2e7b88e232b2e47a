"""Handlers for the tests of hooks on real nodes: some write down that they ran, some misbehave.

What runs is written as a line `nanoseconds revision key` into a file per process, in the folder
that RUNS_FOLDER names (see proof.verify.read_runs).
"""

import os
import signal
import time
from functools import lru_cache
from pathlib import Path

import trio

from hooks.registry import HookContext, hook

TIMEOUT_MS = 2_000  # longer than the elections of the tests: whoever blocked Raft would be noticed


@lru_cache
def _file(handler: str) -> int:
    path = Path(os.environ["RUNS_FOLDER"]) / f"{handler}-{os.getpid()}.log"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _note(context: HookContext) -> None:
    line = f"{time.monotonic_ns()} {context.revision} {context.key}\n"
    os.write(_file(context.handler), line.encode())


@hook("work.>", start="earliest")
async def worker(context: HookContext) -> None:
    """Takes a moment for each event, so that work is under way when something happens."""
    await trio.sleep(0.04)
    _note(context)


@hook("temper.good", start="earliest")
def good(context: HookContext) -> None:
    """Must not suffer from the others."""
    _note(context)


@hook("temper.loops", start="earliest", timeout_ms=TIMEOUT_MS, retry_count=0)
def loops(context: HookContext) -> None:
    """Never gives the processor back."""
    while True:
        pass


@hook("temper.blocks", start="earliest", timeout_ms=TIMEOUT_MS, retry_count=0)
async def blocks(context: HookContext) -> None:
    """Blocks the loop of its process, which then answers nothing at all."""
    time.sleep(600)  # noqa: ASYNC251 - that is the point


@hook("temper.kills", start="earliest", timeout_ms=TIMEOUT_MS, retry_count=0)
def kills(context: HookContext) -> None:
    """Takes its own process down."""
    os.kill(os.getpid(), signal.SIGKILL)
