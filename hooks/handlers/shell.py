"""Shell handlers: one command per attempt.

The command gets each event as a CloudEvent in JSON on a line of stdin and small facts in the
environment, which is otherwise built from an allow list. It runs in a session of its own. Exit code
0 is success; at its timeout its process group gets TERM, and KILL after a grace. Nothing that it
started in its group outlives the attempt, and what left the group is found by `strays`. What it
prints is read to the end and kept up to a bound, for the log, the history and the error. A command
has no effects: those need code that returns them.
"""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from subprocess import PIPE
from typing import Final

import trio

from hooks.configuration.definition import HandlerDefinition, HandlerType
from hooks.configuration.sections import ShellRules
from hooks.delivery import event_id
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.handlers.host_process import describe_status
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import Log, Spawn

BASE_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
ATTEMPT_VARIABLE: Final = "TREMULA_HOOK_ATTEMPT"  # in the environment of every command
HANDLER_VARIABLE: Final = "TREMULA_HOOK_HANDLER"
_READ_BYTES: Final = 64 * 1024
_LEFTOVER_SECONDS: Final = 0.1  # for output that is still in the pipes when the command has ended


class ShellRunner:
    """Makes the attempts of shell handlers; a `Runner`."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Log,
        *,
        rules: ShellRules | None = None,
        limits: HookLimits = DEFAULT_LIMITS,
        spawn: Spawn = trio.lowlevel.open_process,
    ) -> None:
        """`environment` is the node's: what a handler's allow list takes its values from."""
        self._environment = environment
        self._log = log
        self._rules = rules or ShellRules()
        self._limits = limits
        self._spawn = spawn

    async def execute(self, attempt: Attempt) -> Outcome:
        handler = attempt.handler
        if refusal := self._rules.refusal(handler):
            return Failed(FailureKind.ERROR, refusal, final=True)
        started_at = trio.current_time()
        try:
            process = await self._spawn(
                [*limiting(handler), *command_line(handler)],
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
            stopped = await self._attend(process, documents(attempt), printed, errors, attempt)
        finally:
            if stopped is None:  # cancelled: somebody else may be about to run it
                _signal(process, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    assert stream is not None
                    await stream.aclose()
            self._audit(attempt, process, started_at, stopped, printed, errors)
        return self._outcome(attempt, process.returncode, stopped, printed, errors)

    def _outcome(
        self,
        attempt: Attempt,
        status: int | None,
        stopped: bool,
        printed: "_Output",
        errors: "_Output",
    ) -> Outcome:
        handler = attempt.handler
        output = bounded(_joined(printed, errors), self._limits.output_shown_bytes_max)
        if stopped:
            how = f"stopped at its timeout of {handler.timeout_ms} ms ({describe_status(status)})"
            return self._failed(FailureKind.TIMEOUT, how, errors, output)
        if status != 0:
            final = status in handler.final_exit_codes
            return self._failed(FailureKind.ERROR, describe_status(status), errors, output, final)
        return Succeeded(output=output)

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

    def _audit(
        self,
        attempt: Attempt,
        process: trio.Process,
        started_at: float,
        stopped: bool | None,
        printed: "_Output",
        errors: "_Output",
    ) -> None:
        """Say what was run and how it ended; what it printed only at the debug level."""
        facts: dict[str, object] = {
            "handler": attempt.handler.name,
            "revision": attempt.delivery.revision,
            "attempt": attempt.number,
            "pid": process.pid,
        }
        self._log.info(
            "command ended",
            **facts,
            command=command_line(attempt.handler),
            events=len(attempt.deliveries),
            status=describe_status(process.returncode),
            stopped="cancelled" if stopped is None else "timeout" if stopped else None,
            duration_ms=round((trio.current_time() - started_at) * 1000),
            stdout_bytes=printed.total,
            stderr_bytes=errors.total,
        )
        if printed.total or errors.total:
            self._log.debug("command printed", **facts, stdout=printed.text(), stderr=errors.text())

    def _failed(
        self,
        kind: FailureKind,
        what: str,
        errors: "_Output | None" = None,
        output: str = "",
        final: bool = False,
    ) -> Failed:
        said = errors.text().strip() if errors else ""
        text = f"{what}: {said}" if said else what
        return Failed(kind, bounded(text, self._limits.error_bytes_max), final, output)


def command_line(handler: HandlerDefinition) -> list[str]:
    """The argument vector: the command's own, or that of the shell it is given to."""
    return ["/bin/sh", "-c", handler.command[0]] if handler.shell else list(handler.command)


def missing(handler: HandlerDefinition, available: Mapping[str, str]) -> str | None:
    """What a shell handler needs and this machine does not have, as far as one can see; `available`
    is the node's environment."""
    if handler.type is not HandlerType.SHELL:
        return None
    folder = handler.working_dir
    if folder is not None and not os.path.isdir(folder):
        return f"working_dir {folder} is not a folder"
    program = command_line(handler)[0]
    path = available.get("PATH") if "PATH" in handler.env else BASE_ENVIRONMENT["PATH"]
    if shutil.which(os.path.join(folder or "", program) if "/" in program else program, path=path):
        return None
    return f"command {program} is not there or not executable"


def limiting(handler: HandlerDefinition) -> list[str]:
    """What stands before the command so that the system limits it: a shell that sets the limits on
    itself and then becomes the command. Its text holds numbers only, nothing of the event. (A
    limit that is set between fork and exec would run Python code in a copy of a process with
    threads, which can hang.)"""
    limits: list[str] = []
    if (seconds := handler.cpu_seconds_max) is not None:
        # first the signal that can be told from a kill, and a second later the kill
        limits += [f"ulimit -S -t {seconds:d}", f"ulimit -H -t {seconds + 1:d}"]
    if (size := handler.memory_bytes_max) is not None:
        limits.append(f"ulimit -v {max(1, size // 1024):d}")  # in KiB
    if (count := handler.open_files_max) is not None:
        limits.append(f"ulimit -n {count:d}")
    if (size := handler.file_bytes_max) is not None:
        limits.append(f"ulimit -f {max(1, size // 512):d}")  # in blocks of 512 bytes
    if not limits:
        return []
    return ["/bin/sh", "-c", "; ".join(["set -e", *limits, 'exec "$@"']), "sh"]


def documents(attempt: Attempt) -> bytes:
    """What the command reads: a CloudEvent per line, one for each event of the batch."""
    lines = [json.dumps(each.cloud_event(attempt.cluster_id)) for each in attempt.deliveries]
    return "".join(f"{line}\n" for line in lines).encode()


def environment(attempt: Attempt, available: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: a fixed base, what the handler lists, and the event's facts; of a
    batch those of the newest event."""
    event = attempt.delivery.event
    facts = {
        HANDLER_VARIABLE: attempt.handler.name,
        "TREMULA_HOOK_TOPIC": attempt.delivery.topic,
        "TREMULA_HOOK_EVENT_ID": event_id(attempt.cluster_id, event.revision),
        "TREMULA_HOOK_REVISION": str(event.revision),
        ATTEMPT_VARIABLE: str(attempt.number),
        "TREMULA_HOOK_FENCING_TOKEN": str(attempt.token),
    }
    if event.key is not None and "\0" not in event.key:  # no variable can hold a NUL; stdin can
        facts["TREMULA_HOOK_KEY"] = event.key
    if attempt.delivery.triggered:
        facts["TREMULA_HOOK_TRIGGERED"] = "1"
    if attempt.handler.batch_max > 1:
        facts["TREMULA_HOOK_EVENTS"] = str(len(attempt.deliveries))
    if attempt.coalesced:
        facts["TREMULA_HOOK_COALESCED"] = str(attempt.coalesced)
    listed = {name: available[name] for name in attempt.handler.env if name in available}
    return {**BASE_ENVIRONMENT, **listed, **facts}


class _Output:
    """The end of what a command printed; the rest was read and let go."""

    def __init__(self, bytes_max: int) -> None:
        self.total = 0
        self._bytes_max = bytes_max
        self._kept = b""

    async def drain(self, stream: trio.abc.ReceiveStream, ended: trio.Event) -> None:
        while data := await stream.receive_some(_READ_BYTES):
            self.total += len(data)
            self._kept = (self._kept + bytes(data))[-self._bytes_max :] if self._bytes_max else b""
        ended.set()

    def text(self) -> str:
        text = self._kept.decode(errors="replace")
        cut = self.total - len(self._kept)
        return f"({cut} bytes cut) {text}" if cut else text


def _joined(printed: _Output, errors: _Output) -> str:
    """Both outputs as one text, each with a heading where there are two."""
    texts = [("stdout", printed.text().rstrip()), ("stderr", errors.text().rstrip())]
    said = [(name, text) for name, text in texts if text]
    if len(said) == 1:
        return said[0][1]
    return "\n".join(f"--- {name}\n{text}" for name, text in said)


async def _feed(stream: trio.abc.SendStream, document: bytes) -> None:
    """Write the events; a command need not read them."""
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
