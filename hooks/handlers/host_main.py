"""The handler host: the process in which Python handlers run. `python -m hooks.handlers.host_main`.

It is started by `host`, talks msgpack over the pipes that were its stdin and stdout, and may
be killed at any time. Handlers find /dev/null as stdin, and what they print goes to stderr, which
the node logs. The host leaves with its node: a thread of its own waits for the end of the pipe, so
that not even a handler that blocks the loop keeps the process alive.
"""

import importlib
import os
import signal
import sys
import threading
import traceback
from functools import partial
from typing import Any

import trio

from hooks.delivery import Delivery
from hooks.execution.attempt import Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.handlers import frames
from hooks.handlers.inprocess import call_async, call_sync, failed, is_async
from hooks.limits import HookLimits
from hooks.registry import HookContext, Registry

_READ_BYTES = 64 * 1024


class _Pipes:
    """The private ends of the pipes to the node."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
        self._lock = threading.Lock()  # handlers log from their threads

    def read(self) -> bytes:
        return os.read(self._in, _READ_BYTES)

    def send(self, *message: object) -> None:
        """Write one message; blocks while the node does not read."""
        data = memoryview(frames.pack(*message))
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._out, data) :]
                except BrokenPipeError:
                    _leave()


class _PipeLog:
    """The log of a handler's context: its lines become lines of the node's log."""

    def __init__(self, pipes: _Pipes, handler: str) -> None:
        self._pipes = pipes
        self._handler = handler

    def debug(self, message: str, /, **fields: object) -> None:
        self._send("debug", message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        self._send("info", message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        self._send("warning", message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        self._send("error", message, fields)

    def _send(self, level: str, message: str, fields: dict[str, object]) -> None:
        plain = {name: bounded(str(value), _READ_BYTES) for name, value in fields.items()}
        named = {**plain, "handler": self._handler}
        self._pipes.send(frames.LOG, level, bounded(str(message), _READ_BYTES), named)


class _Server:
    """Makes the attempts that the node asks for."""

    def __init__(self, pipes: _Pipes, registry: Registry, limits: HookLimits) -> None:
        self._pipes = pipes
        self._functions = registry.functions
        self._limits = limits
        self._scopes: dict[int, trio.CancelScope] = {}  # of async attempts
        # Never the bound: the node does not send more attempts than it wants to have running.
        self._threads = trio.CapacityLimiter(1_000_000)

    async def serve(self, reader: frames.FrameReader) -> None:
        async with trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            on_message = partial(self._on_message, nursery)
            threading.Thread(
                target=_read_forever, args=(self._pipes, reader, token, on_message), daemon=True
            ).start()
            await trio.sleep_forever()

    def _on_message(self, nursery: trio.Nursery, message: tuple[Any, ...]) -> None:
        if message[0] == frames.RUN:
            nursery.start_soon(self._run, *message[1:])
        elif message[0] == frames.CANCEL and message[1] in self._scopes:
            # Only async: a sync handler cannot be stopped, it ends or is reported as stuck.
            self._scopes[message[1]].cancel()

    async def _run(
        self,
        identifier: int,
        handler_id: str,
        name: str,
        delivery: tuple[Any, ...],
        attempt: int,
        token: int,
        cluster_id: str,
        timeout_ms: int,
    ) -> None:
        function = self._functions.get(handler_id)
        if function is None:  # the modules changed on disk since the node read them
            error = f'no function "{handler_id}" in the modules as they are now'
            self._answer(identifier, Failed(FailureKind.ERROR, error))
            return
        context = HookContext(
            delivery=Delivery.from_wire(delivery),
            handler=name,
            attempt=attempt,
            fencing_token=token,
            cluster_id=cluster_id,
            log=_PipeLog(self._pipes, name),
        )
        outcome: Outcome | None = None
        if is_async(function):
            with trio.CancelScope() as scope:
                self._scopes[identifier] = scope
                outcome = await call_async(function, context, timeout_ms, self._limits)
            del self._scopes[identifier]
            outcome = outcome or Failed(FailureKind.ERROR, "cancelled")
        else:
            with trio.move_on_after(timeout_ms / 1000):
                outcome = await trio.to_thread.run_sync(
                    call_sync, function, context, self._limits,
                    abandon_on_cancel=True, limiter=self._threads,
                )  # fmt: skip
            if outcome is None:
                self._pipes.send(frames.STUCK, identifier)
                return
        self._answer(identifier, outcome)

    def _answer(self, identifier: int, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            try:
                effects = [effect.to_wire() for effect in outcome.effects]
                self._pipes.send(frames.DONE, identifier, effects)
                return
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                outcome = failed(error, self._limits)
        self._pipes.send(frames.FAILED, identifier, outcome.kind.value, outcome.error)


def main() -> None:
    """Load the modules that the first message names, then make attempts until the node is gone."""
    pipes = _Pipes()
    reader = frames.FrameReader(64 * 1024 * 1024)
    start: tuple[Any, ...] = ()
    while not start:
        data = pipes.read()
        if not data:
            return
        for message in reader.feed(data):
            start = message
    _, version, modules, paths, limits = start
    if version != frames.VERSION:
        pipes.send(frames.REFUSED, f"host speaks version {frames.VERSION}, node {version}")
        return
    sys.path += paths
    registry = Registry()
    try:
        for name in modules:
            registry.collect([importlib.import_module(name)])
        found = [[f.handler_id, f.where, f.pattern, dict(f.options)] for f in registry.found]
        pipes.send(frames.READY, found)
    except BaseException:  # also what a module raises to leave: the node must hear of it
        pipes.send(frames.REFUSED, bounded(traceback.format_exc(), _READ_BYTES))
        return
    trio.run(_Server(pipes, registry, HookLimits(**limits)).serve, reader)


def _read_forever(
    pipes: _Pipes, reader: frames.FrameReader, token: trio.lowlevel.TrioToken, on_message: Any
) -> None:
    while data := pipes.read():
        for message in reader.feed(data):
            token.run_sync_soon(on_message, message)
    _leave()


def _leave() -> None:
    """End this process and everything that its handlers started, without asking anybody."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # started by hand, in the group of a shell


if __name__ == "__main__":
    main()
