"""Handlers of every temper, for the handler host to load."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import trio
import trio.lowlevel

from hooks import effects
from hooks.effects import Effect
from hooks.registry import HookContext, hook


@hook("hooks.kv.*", priority=10)
def returns_effects(context: HookContext) -> list[Effect]:
    return [effects.put(f"seen/{context.key}", str(context.attempt))]


@hook()
async def is_async(context: HookContext) -> list[Effect]:
    await trio.lowlevel.checkpoint()
    return [effects.publish("seen", context.payload()["value"])]


@hook()
async def sleeps(context: HookContext) -> None:
    await trio.sleep(float(context.payload()["value"]))


@hook()
def blocks(context: HookContext) -> None:
    time.sleep(600)


@hook()
async def blocks_its_loop(context: HookContext) -> None:
    time.sleep(600)  # noqa: ASYNC251 - that is its temper


@hook()
async def ignores_cancellation(context: HookContext) -> None:
    while True:
        try:
            await trio.sleep(600)
        except trio.Cancelled:
            pass


@hook()
def holds_the_interpreter(context: HookContext) -> None:
    ctypes.PyDLL(None).sleep(600)


@hook()
def kills_its_process(context: HookContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@hook()
def crashes_until_the_third_attempt(context: HookContext) -> None:
    if context.attempt < 3:
        os.abort()


@hook()
def leaves(context: HookContext) -> None:
    sys.exit("enough")


@hook()
def raises(context: HookContext) -> None:
    raise ValueError("no such customer")


@hook()
def returns_rubbish(context: HookContext) -> int:
    return 17


@hook()
def returns_a_list_with_rubbish(context: HookContext) -> list[object]:
    return [effects.put("a", b"1"), "put"]


@hook()
def returns_too_much(context: HookContext) -> list[Effect]:
    return [effects.put("a", bytes(2 * 1024 * 1024))]


@hook()
def prints_a_megabyte(context: HookContext) -> None:
    print("x" * 1024 * 1024)
    for number in range(1000):
        print(f"line {number}", file=sys.stderr)


@hook()
def logs(context: HookContext) -> None:
    context.log.warning("seen", revision=context.revision)


@hook()
def reads_stdin(context: HookContext) -> list[Effect]:
    return [effects.put("stdin", sys.stdin.read())]


@hook()
def starts_a_child_and_blocks(context: HookContext) -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(context.payload()["value"]).write_text(str(child.pid))
    time.sleep(600)


@hook()
def tells_its_process(context: HookContext) -> list[Effect]:
    return [effects.put("pid", str(os.getpid()))]
