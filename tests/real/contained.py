"""Handlers that do every kind of harm, for the tests of containment on real nodes."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import trio.lowlevel

from hooks import effects
from hooks.effects import Effect
from hooks.registry import HookContext, hook

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_MS = 3_000
GIANT_BYTES = 100 * 1024 * 1024


def once(topic: str) -> Callable[[F], F]:
    """A handler that has one attempt, and not long."""
    return hook(topic, start="earliest", timeout_ms=TIMEOUT_MS, retry_count=0)


@hook("harm.good", start="earliest")
async def good(context: HookContext) -> list[Effect]:
    """Must not suffer from the others."""
    await trio.lowlevel.checkpoint()
    return [effects.put(f"good/{context.key}", b"done")]


@hook("harm.client", start="earliest")
async def writes(context: HookContext) -> None:
    """Writes and reads through its client."""
    revision = await context.client.put(f"client/{context.key}", b"async")
    entry = await context.client.get(f"client/{context.key}")
    assert entry.mod_revision == revision


@hook("harm.client", start="earliest")
def writes_sync(context: HookContext) -> None:
    """The same in a thread."""
    context.client.put(f"client-sync/{context.key}", b"sync")


@hook("harm.feeds", start="earliest", retry_count=0)
async def feeds_itself(context: HookContext) -> None:
    """Publishes what it handles, through its client."""
    await context.client.publish("harm.feeds", b"", key=context.key)


@once("harm.prints")
def prints(context: HookContext) -> None:
    """Prints 100 MB, in one line and in many."""
    print("x" * (GIANT_BYTES // 2))
    for _ in range(GIANT_BYTES // 2 // 1024):
        sys.stderr.write("y" * 1023 + "\n")


@once("harm.aborts")
def aborts(context: HookContext) -> None:
    """Ends its interpreter."""
    os.abort()


@once("harm.segfaults")
async def segfaults(context: HookContext) -> None:
    """Reads where nothing is."""
    ctypes.string_at(0)


@once("harm.exits")
def exits(context: HookContext) -> None:
    """Leaves without a word."""
    os._exit(0)


@once("harm.blocks")
async def blocks(context: HookContext) -> None:
    """Blocks its loop, and TERM would not help."""
    time.sleep(600)  # noqa: ASYNC251 - that is the point


@once("harm.object")
def returns_an_object(context: HookContext) -> object:
    """Not effects."""
    return object()


@once("harm.huge")
def returns_huge_effects(context: HookContext) -> list[Effect]:
    """More than may be committed."""
    return [effects.put("huge", bytes(64 * 1024 * 1024))]


@once("harm.types")
def returns_wrong_types(context: HookContext) -> list[object]:
    """Something that only looks like an effect."""
    return [effects.Effect("put", (object(), lambda: 0))]


@once("harm.daemon")
def starts_a_daemon(context: HookContext) -> None:
    """Lets a process loose that outlives its parents, in a session of its own."""
    folder = Path(os.environ["RUNS_FOLDER"])
    subprocess.run([sys.executable, str(Path(__file__).with_name("daemon.py")), folder / "python"])
