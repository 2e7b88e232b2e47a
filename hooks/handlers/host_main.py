"""The handler host: the process in which Python handlers run. `python -m hooks.handlers.host_main`.

It is started by `host`, talks msgpack over the pipes that were its stdin and stdout, and may
be killed at any time. Handlers find /dev/null as stdin, and what they print goes to stderr, which
the node logs. The host leaves with its node: a thread of its own waits for the end of the pipe, so
that not even a handler that blocks the loop keeps the process alive. The same thread hands sync
handlers to their threads, so that neither waits for the loop.
"""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trio

from hooks.configuration.discovery import load_code
from hooks.configuration.sections import CodeSources
from hooks.delivery import Delivery
from hooks.execution.attempt import Function, Outcome, Succeeded, bounded
from hooks.handlers import frames
from hooks.handlers.inprocess import call_async, call_sync, failed, is_async, no_function
from hooks.handlers.threads import Threads
from hooks.limits import HookLimits
from hooks.ports import Clients, Origin
from hooks.registry import HookContext, Registry

_READ_BYTES = 64 * 1024
_LATE_SECONDS = 0.1


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
        self._lock = threading.Lock()  # handlers answer and log from their threads

    def read(self) -> bytes:
        return os.read(self._in, _READ_BYTES)

    def send(self, *message: object) -> None:
        """Write one message; blocks while the node does not read."""
        self.write(frames.pack(*message))

    def write(self, packed: bytes) -> None:
        """Write packed messages, in one piece."""
        with self._lock:
            try:
                sent = os.write(self._out, packed)
                while sent < len(packed):
                    sent += os.write(self._out, memoryview(packed)[sent:])
            except BrokenPipeError:
                _leave()


class _Answers:
    """Answers of the loop's attempts on their way: what ends in one round of the loop leaves in one
    piece, which halves what an attempt costs the node."""

    def __init__(self, pipes: _Pipes) -> None:
        self._pipes = pipes
        self._lock = threading.Lock()
        self._collected: list[bytes] = []
        self._is_any = trio.Event()
        self._wait_begins = threading.Event()

    def add(self, packed: bytes) -> None:
        """Only from the loop. HOT."""
        with self._lock:
            is_first = not self._collected
            self._collected.append(packed)
        if is_first:
            self._is_any.set()
            self._wait_begins.set()

    async def send_all(self) -> None:
        """Send until cancelled."""
        threading.Thread(target=self._send_late, daemon=True).start()
        while True:
            await self._is_any.wait()
            self._is_any = trio.Event()
            self._send()

    def _send_late(self) -> None:
        """A handler that blocks the loop holds back nobody's answer: who answered has ended, and
        would otherwise be run again when this process is killed for it."""
        while True:
            self._wait_begins.wait()
            self._wait_begins.clear()
            time.sleep(_LATE_SECONDS)  # what the loop itself needs to come round, amply
            self._send()

    def _send(self) -> None:
        with self._lock:
            answers, self._collected = self._collected, []
        if answers:
            self._pipes.write(b"".join(answers))


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


class _HostClients:
    """The clients of the node's package, imported when the first handler wants one."""

    def __init__(self, factory: str, arguments: dict[str, object], nursery: trio.Nursery) -> None:
        self._factory = factory
        self._arguments = arguments
        self._nursery = nursery
        self._lock = threading.Lock()
        self._clients: Clients | None = None

    def of_async(self, origin: Origin) -> Any:
        return self._opened().of_async(origin)

    def of_sync(self, origin: Origin) -> Any:
        return self._opened().of_sync(origin)

    def _opened(self) -> Clients:
        with self._lock:  # several handlers may be the first
            if self._clients is None:
                module, _, name = self._factory.partition(":")
                make = getattr(importlib.import_module(module), name)
                self._clients = make(self._nursery, self._arguments)
            return self._clients


class _Server:
    """Makes the attempts that the node asks for."""

    def __init__(self, pipes: _Pipes, registry: Registry, limits: HookLimits, client: Any) -> None:
        self._pipes = pipes
        self._limits = limits
        self._client = client
        self._clients: Clients | None = None
        self._functions = {
            handler_id: (function, is_async(function))
            for handler_id, function in registry.functions.items()
        }
        self._answers = _Answers(pipes)
        self._logs: dict[str, _PipeLog] = {}  # by handler
        self._starting: deque[tuple[Function, tuple[Any, ...]]] = deque()  # of async attempts
        self._scopes: dict[int, trio.CancelScope] = {}  # of those
        self._threads = Threads(partial(pipes.send, frames.STUCK))

    async def serve(self, reader: frames.FrameReader) -> None:
        async with trio.open_nursery() as nursery:
            if self._client is not None:
                factory, arguments = self._client
                self._clients = _HostClients(factory, arguments, nursery)
            token = trio.lowlevel.current_trio_token()
            nursery.start_soon(self._answers.send_all)
            on_loop = partial(self._on_messages, nursery)

            def on_messages(messages: list[tuple[Any, ...]]) -> None:
                if rest := [message for message in messages if not self._is_for_thread(message)]:
                    token.run_sync_soon(on_loop, rest)

            threading.Thread(
                target=_read_forever, args=(self._pipes, reader, on_messages), daemon=True
            ).start()
            await trio.sleep_forever()

    def _is_for_thread(self, message: tuple[Any, ...]) -> bool:
        """Start the attempt of a sync handler; whether it was one. HOT."""
        if message[0] != frames.RUN:
            return False
        function, awaited = self._functions.get(message[2], (None, True))
        if function is None or awaited:
            return False
        job = partial(self._run_sync, function, *message[1:])
        self._threads.submit(message[1], message[8] / 1000, job)
        return True

    def _on_messages(self, nursery: trio.Nursery, messages: list[tuple[Any, ...]]) -> None:
        for message in messages:
            if message[0] == frames.RUN:
                function, _ = self._functions.get(message[2], (None, True))
                if function is None:
                    self._answers.add(self._packed(message[1], no_function(message[2])))
                else:
                    self._starting.append((function, message))
                    nursery.start_soon(self._run_next)
            elif message[0] == frames.CANCEL and message[1] in self._scopes:
                # Only async: a sync handler cannot be stopped, it ends or is reported as stuck.
                self._scopes[message[1]].cancel()

    async def _run_next(self) -> None:
        """Make the async attempt whose turn it is: trio starts tasks in no order, but those who
        asked have one. HOT."""
        function, (_, identifier, _, name, *facts) = self._starting.popleft()
        scope = trio.CancelScope()
        self._scopes[identifier] = scope
        context = self._context(name, scope, facts)
        outcome = await call_async(function, context, facts[4], self._limits)
        del self._scopes[identifier]
        self._answers.add(self._packed(identifier, outcome))

    def _run_sync(
        self, function: Function, identifier: int, handler_id: str, name: str, *facts: Any
    ) -> None:
        outcome = call_sync(function, self._context(name, None, facts), self._limits)
        if self._threads.end(identifier):
            self._pipes.write(self._packed(identifier, outcome))

    def _context(
        self, name: str, scope: trio.CancelScope | None, facts: Sequence[Any]
    ) -> HookContext:
        deliveries, attempt, token, cluster_id, _, coalesced = facts
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = _PipeLog(self._pipes, name)
        return HookContext(
            deliveries=tuple(map(Delivery.from_wire, deliveries)),
            handler=name,
            attempt=attempt,
            fencing_token=token,
            cluster_id=cluster_id,
            log=log,
            coalesced=coalesced,
            scope=scope,
            clients=self._clients,
        )

    def _packed(self, identifier: int, outcome: Outcome) -> bytes:
        if isinstance(outcome, Succeeded):
            try:
                effects = [effect.to_wire() for effect in outcome.effects]
                return frames.pack(frames.DONE, identifier, effects)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                outcome = failed(error, self._limits)
        kind = outcome.kind.value
        return frames.pack(frames.FAILED, identifier, kind, outcome.error, outcome.final)


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
    _, version, *more = start
    if version != frames.VERSION:
        pipes.send(frames.REFUSED, f"host speaks version {frames.VERSION}, node {version}")
        return
    settings = more[0]
    sys.path += settings["paths"]
    try:
        on_load = partial(pipes.send, frames.LOADING)
        code = load_code(CodeSources(*settings["sources"]), on_load=on_load)
        registry = code.registry
        found = [[f.handler_id, f.where, f.pattern, _plain(f.options)] for f in registry.found]
        problems = [[each.name, each.text, each.suggestion] for each in code.problems]
        pipes.send(frames.READY, found, problems, code.files)
    except BaseException:  # also what a module raises to leave: the node must hear of it
        pipes.send(frames.REFUSED, bounded(traceback.format_exc(), _READ_BYTES))
        return
    limits = HookLimits(**settings["limits"])
    trio.run(_Server(pipes, registry, limits, settings["client"]).serve, reader)


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """The options of a decorator without what no message can carry, and no key takes: None stands
    in its place, and is refused where the options are checked."""
    plain: dict[str, object] = {}
    for key, value in options.items():
        try:
            frames.pack(value)
            plain[key] = value
        except (TypeError, ValueError, OverflowError, RecursionError):
            plain[key] = None
    return plain


def _read_forever(pipes: _Pipes, reader: frames.FrameReader, on_messages: Any) -> None:
    """Hand on what arrives, all that one read completes together."""
    try:
        while data := pipes.read():
            if messages := list(reader.feed(data)):
                on_messages(messages)
    finally:
        _leave()


def _leave() -> None:
    """End this process and everything that its handlers started, without asking anybody."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # started by hand, in the group of a shell


if __name__ == "__main__":
    main()
