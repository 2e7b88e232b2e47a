"""One handler-host process: started, watched, killed when it hangs, started again when it died.

`host` decides what becomes of attempts that were interrupted; here it is only noticed which
ones were. A flight is an attempt that is in the process now, also one whose caller has given up.
"""

import os
import signal
import sys
from collections.abc import Mapping
from math import inf
from subprocess import PIPE
from typing import Any, Final, NamedTuple

import trio

from hooks.configuration.config import LoadProblem, RegisteredFunction
from hooks.effects import Effect
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.handlers import frames
from hooks.limits import HookLimits
from hooks.ports import Log, Spawn

_READ_BYTES: Final = 64 * 1024
_WORDLESS: Final = "it ended without a word"
_LAST_WORDS_SECONDS: Final = 0.5  # to read what a dead process had printed


class Interrupted(NamedTuple):
    """The process ended under the attempt."""

    suspect: bool  # it may have been this attempt's doing


class _Flight:
    __slots__ = ("abandoned", "overdue_at", "result", "task")

    def __init__(self, overdue_at: float) -> None:
        self.overdue_at = overdue_at
        self.abandoned = False  # its caller was cancelled
        self.result: Outcome | Interrupted | None = None
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    async def landed(self) -> Outcome | Interrupted:
        """Wait for the result; an Event would cost as much again. HOT."""
        if self.result is None:
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        assert self.result is not None
        return self.result

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def land(self, result: Outcome | Interrupted) -> None:
        self.result = result
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None


class HostProcess:
    """A process that makes attempts, one life after the other."""

    def __init__(
        self,
        name: str,
        settings: Mapping[str, object],
        environment: Mapping[str, str],
        log: Log,
        limits: HookLimits,
        spawn: Spawn,
    ) -> None:
        self.functions: list[RegisteredFunction] = []
        self.problems: list[LoadProblem] = []
        self.files: list[str] = []
        self.restarts = 0
        self.pid: int | None = None
        self._name = name
        self._settings = settings
        # The child finds the modules that this interpreter finds, none by its working directory.
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._log = log
        self._limits = limits
        self._spawn = spawn
        self._verdict = trio.Event()  # on the first start
        self._problem: str | None = None
        self._loading = ""  # what it imports at the moment
        self._ready = trio.Event()
        self._flights: dict[int, _Flight] = {}
        self._identifier = 0
        self._blamed: int | None = None  # the flight that the process was killed for
        self._overdue = False
        self._outbox: list[bytes] = []
        self._wake_writer = trio.Event()
        self._wake_watcher = trio.Event()
        self._watched_until = inf

    async def wait_first_start(self) -> str | None:
        """Wait until the process is ready for the first time; returns why it will not be."""
        await self._verdict.wait()
        return self._problem

    async def run(self) -> None:
        """Keep a process alive until cancelled."""
        pause_ms = self._limits.host_restart_ms_first
        while True:
            try:
                await self._live()
            except OSError as error:
                self._problem = f"cannot start {sys.executable}: {error}"
            if self._problem is None:
                pause_ms = self._limits.host_restart_ms_first
            else:
                self._verdict.set()
                self._log.error("handler host not started", host=self._name, reason=self._problem)
                pause_ms = min(2 * pause_ms, self._limits.host_restart_ms_max)
            self.restarts += 1
            await trio.sleep(pause_ms / 1000)

    async def execute(self, attempt: Attempt) -> Outcome | Interrupted:
        """Make one attempt, as soon as the process is ready. HOT."""
        while not self._ready.is_set():
            await self._ready.wait()
        self._identifier = identifier = self._identifier + 1
        grace = self._limits.host_grace_ms / 1000
        flight = _Flight(trio.current_time() + attempt.timeout_seconds + grace)
        self._flights[identifier] = flight
        if flight.overdue_at < self._watched_until:
            self._wake_watcher.set()
        self._send(
            frames.RUN,
            identifier,
            attempt.handler.handler_id,
            attempt.handler.name,
            [delivery.to_wire() for delivery in attempt.deliveries],
            attempt.number,
            attempt.token,
            attempt.cluster_id,
            attempt.handler.timeout_ms,
            attempt.coalesced,
        )
        try:
            return await flight.landed()
        finally:
            if flight.result is None:
                # Cancelled: somebody else may be about to run it, so a sync handler, which cannot
                # be cancelled, is killed if it does not end by itself within the grace.
                flight.abandoned = True
                flight.overdue_at = trio.current_time()
                self._send(frames.CANCEL, identifier)
                self._wake_watcher.set()

    async def _live(self) -> None:
        """One life of the process, from its start to its burial."""
        self._problem = _WORDLESS
        self._loading = ""
        self._blamed, self._overdue = None, False
        self._outbox = []
        process = await self._spawn(
            [sys.executable, "-P", "-m", "hooks.handlers.host_main"],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            env=self._environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self._send(frames.START, frames.VERSION, self._settings)
        ended_by_itself = False
        try:
            async with trio.open_nursery() as nursery:
                printed_all = trio.Event()
                nursery.start_soon(self._log_output, process.stderr, printed_all)
                nursery.start_soon(self._watch, process)
                nursery.start_soon(self._write, process.stdin)
                await self._read(process.stdout)
                _kill(process)
                with trio.move_on_after(_LAST_WORDS_SECONDS):
                    await printed_all.wait()
                ended_by_itself = True
                nursery.cancel_scope.cancel()
        finally:
            self._ready = trio.Event()  # no new flights into a dead process
            _kill(process)
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    await stream.aclose()
            self.pid = None
            self._land_all(process.returncode, ended_by_itself)

    def _land_all(self, status: int | None, ended_by_itself: bool) -> None:
        """Tell every flight what the end of the process means for it."""
        flights, self._flights = self._flights, {}
        alone = len(flights) == 1 and ended_by_itself
        for identifier, flight in flights.items():
            if identifier == self._blamed or (alone and self._overdue):
                text = "killed at its timeout: it did not return"
                flight.land(Failed(FailureKind.TIMEOUT, text))
            elif alone and self._blamed is None:
                text = f"the handler host died: {describe_status(status)}"
                flight.land(Failed(FailureKind.CRASH, text))
            else:
                flight.land(Interrupted(suspect=self._blamed is None and ended_by_itself))
        if ended_by_itself and self._problem is None:
            self._log.warning(
                "handler host died",
                host=self._name,
                status=describe_status(status),
                attempts=len(flights),
                killed=self._overdue or self._blamed is not None,
            )

    async def _read(self, stream: trio.abc.ReceiveStream) -> None:
        reader = frames.FrameReader(self._limits.host_frame_bytes_max)
        try:
            while data := await stream.receive_some(_READ_BYTES):
                for message in reader.feed(bytes(data)):
                    self._on_message(message)
                if self._blamed is not None:
                    return
        except (ValueError, IndexError, TypeError, KeyError) as error:
            self._log.error("handler host sent rubbish", host=self._name, reason=str(error))

    def _on_message(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == frames.DONE:
            if flight := self._flights.pop(message[1], None):
                effects = tuple(Effect(name, tuple(args)) for name, args in message[2])
                flight.land(Succeeded(effects))
        elif kind == frames.FAILED:
            if flight := self._flights.pop(message[1], None):
                flight.land(Failed(FailureKind(message[2]), message[3], final=bool(message[4])))
        elif kind == frames.STUCK:
            if message[1] in self._flights:
                self._blamed = message[1]
        elif kind == frames.LOG:
            write = {"debug": self._log.debug, "info": self._log.info}.get(
                message[1], self._log.error if message[1] == "error" else self._log.warning
            )
            write(message[2], **{str(name): value for name, value in message[3].items()})
        elif kind == frames.LOADING:
            self._loading = f": it was at {message[1]}"
            self._problem = _WORDLESS + self._loading
        elif kind == frames.READY:
            self.functions = [
                RegisteredFunction(
                    handler_id=found[0], where=found[1], pattern=found[2], options=found[3]
                )
                for found in message[1]
            ]
            self.problems = [
                LoadProblem(name=name, text=text, suggestion=suggestion)
                for name, text, suggestion in message[2]
            ]
            self.files = list(message[3])
            self._problem = None
            self._ready.set()
            self._verdict.set()
        elif kind == frames.REFUSED:
            self._problem = message[1]

    async def _watch(self, process: trio.Process) -> None:
        """Kill a process that does not start, or in which an attempt does not end when it must."""
        with trio.move_on_after(self._limits.host_start_ms_max / 1000):
            await self._ready.wait()
        if not self._ready.is_set():
            self._problem = (
                f"its modules did not load in {self._limits.host_start_ms_max} ms{self._loading}"
            )
            _kill(process)
            return
        while True:
            overdue_at = min((f.overdue_at for f in self._flights.values()), default=inf)
            # Flights mostly end before this, and a later one is due later: then nobody is woken.
            self._watched_until = overdue_at
            self._wake_watcher = trio.Event()
            with trio.move_on_at(overdue_at):
                await self._wake_watcher.wait()
                continue
            # This node itself may have been stopped: an answer that is in the pipe is read now.
            await trio.sleep(self._limits.host_grace_ms / 1000)
            overdue = {
                identifier: flight
                for identifier, flight in self._flights.items()
                if flight.overdue_at <= overdue_at
            }
            if overdue:
                if all(flight.abandoned for flight in overdue.values()):
                    self._blamed = next(iter(overdue))
                else:
                    self._overdue = True
                _kill(process)
                return

    def _send(self, *message: object) -> None:
        self._outbox.append(frames.pack(*message))
        self._wake_writer.set()

    async def _write(self, stream: trio.abc.SendStream) -> None:
        try:
            while True:
                if not self._outbox:
                    self._wake_writer = trio.Event()
                    await self._wake_writer.wait()
                data, self._outbox = b"".join(self._outbox), []
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return  # it is dead, or as good as dead: the reader notices

    async def _log_output(self, stream: trio.abc.ReceiveStream, ended: trio.Event) -> None:
        """Log what handlers print, line by line; of a longer line the beginning."""
        longest = self._limits.host_log_line_bytes_max
        line = b""
        while data := await stream.receive_some(_READ_BYTES):
            first, *others = bytes(data).split(b"\n")
            line = (line + first)[:longest]
            for next_line in others:
                self._log_line(line)
                line = next_line[:longest]
        self._log_line(line)
        ended.set()

    def _log_line(self, line: bytes) -> None:
        if line.strip():
            text = bounded(line.decode(errors="replace"), self._limits.host_log_line_bytes_max)
            self._log.info("handler printed", host=self._name, line=text)


def _kill(process: trio.Process) -> None:
    """Kill the process and what its handlers started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def describe_status(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "still running"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
