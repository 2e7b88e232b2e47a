"""Shell handlers: one command per attempt.

The command gets the event as one CloudEvent in JSON on stdin and small facts in the environment,
which is otherwise built from an allow list. It runs in a session of its own. Exit code 0 is
success; at its timeout its process group gets TERM, and KILL after a grace. Nothing that it started
in its group outlives the attempt. What it prints is read to the end and kept up to a bound, for the
log and for the error. A command has no effects: those need code that returns them.
"""

import json
import os
import signal
from collections.abc import Mapping
from subprocess import PIPE
from typing import Final

import trio

from hooks.configuration.definition import HandlerDefinition
from hooks.delivery import event_id
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.handlers.host_process import describe_status
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import Log, Spawn

BASE_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_READ_BYTES: Final = 64 * 1024
_LEFTOVER_SECONDS: Final = 0.1  # for output that is still in the pipes when the command has ended


class ShellRunner:
    """Makes the attempts of shell handlers; a `Runner`."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Log,
        *,
        limits: HookLimits = DEFAULT_LIMITS,
        spawn: Spawn = trio.lowlevel.open_process,
    ) -> None:
        """`environment` is the node's: what a handler's allow list takes its values from."""
        self._environment = environment
        self._log = log
        self._limits = limits
        self._spawn = spawn

    async def execute(self, attempt: Attempt) -> Outcome:
        handler = attempt.handler
        document = json.dumps(attempt.delivery.cloud_event(attempt.cluster_id)).encode() + b"\n"
        try:
            process = await self._spawn(
                command_line(handler),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                cwd=handler.working_dir,
                env=environment(attempt, self._environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return self._failed(FailureKind.ERROR, f"cannot be started: {error}")
        printed = _Output(handler.output_bytes_max)
        errors = _Output(handler.output_bytes_max)
        stopped: bool | None = None
        try:
            stopped = await self._attend(process, document, printed, errors, attempt)
        finally:
            if stopped is None:  # cancelled: somebody else may be about to run it
                _signal(process, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    assert stream is not None
                    await stream.aclose()
        status = process.returncode
        self._log.debug(
            "command ended",
            handler=handler.name,
            revision=attempt.delivery.event.revision,
            attempt=attempt.number,
            status=describe_status(status),
            stdout=printed.text(),
            stderr=errors.text(),
        )
        if stopped:
            how = f"stopped at its timeout of {handler.timeout_ms} ms ({describe_status(status)})"
            return self._failed(FailureKind.TIMEOUT, how, errors)
        if status != 0:
            return self._failed(FailureKind.ERROR, describe_status(status), errors)
        return Succeeded()

    async def _attend(
        self,
        process: trio.Process,
        document: bytes,
        printed: "_Output",
        errors: "_Output",
        attempt: Attempt,
    ) -> bool:
        """Feed and drain the command until it ends; returns whether it had to be stopped."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stopped = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, process.stdin, document)
            drained = [trio.Event(), trio.Event()]
            nursery.start_soon(printed.drain, process.stdout, drained[0])
            nursery.start_soon(errors.drain, process.stderr, drained[1])
            with trio.move_on_after(attempt.timeout_seconds):
                await process.wait()
            if process.returncode is None:
                stopped = True
                _signal(process, signal.SIGTERM)
                with trio.move_on_after(self._limits.shell_grace_ms / 1000):
                    await process.wait()
            _signal(process, signal.SIGKILL)  # what it left behind in its group
            await process.wait()
            with trio.move_on_after(_LEFTOVER_SECONDS):
                for event in drained:
                    await event.wait()
            nursery.cancel_scope.cancel()
        return stopped

    def _failed(self, kind: FailureKind, what: str, errors: "_Output | None" = None) -> Failed:
        said = errors.text().strip() if errors else ""
        text = f"{what}: {said}" if said else what
        return Failed(kind, bounded(text, self._limits.error_bytes_max))


def command_line(handler: HandlerDefinition) -> list[str]:
    """The argument vector: the command's own, or that of the shell it is given to."""
    return ["/bin/sh", "-c", handler.command[0]] if handler.shell else list(handler.command)


def environment(attempt: Attempt, available: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: a fixed base, what the handler lists, and the event's facts."""
    event = attempt.delivery.event
    facts = {
        "TREMULA_HOOK_HANDLER": attempt.handler.name,
        "TREMULA_HOOK_TOPIC": attempt.delivery.topic,
        "TREMULA_HOOK_EVENT_ID": event_id(attempt.cluster_id, event.revision),
        "TREMULA_HOOK_REVISION": str(event.revision),
        "TREMULA_HOOK_ATTEMPT": str(attempt.number),
        "TREMULA_HOOK_FENCING_TOKEN": str(attempt.token),
    }
    if event.key is not None and "\0" not in event.key:  # no variable can hold a NUL; stdin can
        facts["TREMULA_HOOK_KEY"] = event.key
    if attempt.delivery.triggered:
        facts["TREMULA_HOOK_TRIGGERED"] = "1"
    listed = {name: available[name] for name in attempt.handler.env if name in available}
    return {**BASE_ENVIRONMENT, **listed, **facts}


class _Output:
    """The end of what a command printed; the rest was read and let go."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept = b""
        self._total = 0

    async def drain(self, stream: trio.abc.ReceiveStream, ended: trio.Event) -> None:
        while data := await stream.receive_some(_READ_BYTES):
            self._total += len(data)
            self._kept = (self._kept + bytes(data))[-self._bytes_max :] if self._bytes_max else b""
        ended.set()

    def text(self) -> str:
        text = self._kept.decode(errors="replace")
        cut = self._total - len(self._kept)
        return f"({cut} bytes cut) {text}" if cut else text


async def _feed(stream: trio.abc.SendStream, document: bytes) -> None:
    """Write the event; a command need not read it."""
    try:
        await stream.send_all(document)
        await stream.aclose()
    except trio.BrokenResourceError:
        pass


def _signal(process: trio.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
