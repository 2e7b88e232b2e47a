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
from hooks.registry import GiveUp, HookContext, hook


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


@hook()
def gives_up(context: HookContext) -> None:
    raise GiveUp("no such customer")


@hook()
async def gives_up_in_a_nursery(context: HookContext) -> None:
    async def fail() -> None:
        raise GiveUp("no such customer")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)


def _told_of(context: HookContext) -> list[Effect]:
    revisions = ",".join(str(event.revision) for event in context.events)
    values = ",".join(str(payload["value"]) for payload in context.payloads())
    newest = f"newest {context.revision} values {values} coalesced {context.coalesced}"
    return [effects.put("batch", f"{revisions} {newest}")]


@hook()
def counts_a_batch(context: HookContext) -> list[Effect]:
    return _told_of(context)


@hook()
async def counts_a_batch_async(context: HookContext) -> list[Effect]:
    return _told_of(context)


@hook()
async def tells_its_deadline(context: HookContext) -> list[Effect]:
    left = context.cancel_scope.deadline - trio.current_time()
    return [effects.put("left", str(left))]


@hook()
async def cancels_itself(context: HookContext) -> None:
    context.cancel_scope.cancel()
    await trio.sleep(600)


@hook()
async def moves_its_deadline(context: HookContext) -> None:
    context.cancel_scope.deadline += 600
    await trio.sleep(600)


@hook()
def asks_for_a_scope(context: HookContext) -> None:
    context.cancel_scope.cancel()


@hook()
def asks(context: HookContext) -> list[Effect]:
    return [effects.put("said", context.client)]


@hook()
async def asks_async(context: HookContext) -> list[Effect]:
    return [effects.put("said", context.client)]


@hook()
def returns_too_many(context: HookContext) -> list[Effect]:
    return [effects.put("a", b"1")] * 101


@hook()
def returns_an_object(context: HookContext) -> object:
    return object()


@hook()
def returns_a_generator(context: HookContext) -> object:
    return (effects.put("a", b"1") for _ in range(3))


_starts: list[int] = []


@hook()
async def counts_starts(context: HookContext) -> list[Effect]:
    number = int(context.payload()["value"])
    assert _starts == list(range(number)), f"{number} starts after {_starts}"
    _starts.append(number)
    return [effects.put("before", str(len(_starts) - 1))]


@hook()
async def leaves_a_note(context: HookContext) -> None:
    with Path(context.payload()["value"]).open("a") as file:  # noqa: ASYNC230 - it must not wait
        file.write(f"{context.revision}\n")
