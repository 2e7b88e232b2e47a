"""Processes that a command left behind outside of its group, found and ended. Linux.

A command that ends takes its process group along (`shell`). A daemon left the group before that: it
made a session of its own, and whoever had started it ended. Such a process is handed to the nearest
"child subreaper" above it. `adopt` makes this process one, so that each of them becomes its child;
and a child that nobody here started is a stray. A stray is killed once every command has ended that
ran when it was first seen: until then it may be a helper that a command still needs.

Only the process of a real node adopts. The property is not inherited: handler hosts, and nodes that
another process starts, are as they were. What a Python handler lets loose is found as well.
"""

import ctypes
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

import trio

from hooks.handlers.shell import ATTEMPT_VARIABLE, HANDLER_VARIABLE
from hooks.ports import Log

_SET_CHILD_SUBREAPER: Final = 36  # of prctl
_LOOK_SECONDS: Final = 5.0  # between two looks when nothing happens
_BUSY_SECONDS: Final = 0.5  # while a command runs or a stray is known
_PAUSE_SECONDS: Final = 0.1  # at the least
_ENVIRONMENT_BYTES_MAX: Final = 64 * 1024


def adopt() -> bool:
    """Let what our descendants leave behind become children of this process; False where the
    system has no such thing."""
    try:
        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


@dataclass(slots=True)
class _Started:
    """A process that was started here."""

    serial: int
    is_command: bool
    process: trio.Process | None = None  # None while it is being started

    @property
    def is_underway(self) -> bool:
        """Whether what is seen now may still belong to it."""
        if self.process is None:
            return True
        return self.is_command and self.process.returncode is None


class Strays:
    """Starts processes, knows them, and ends the children that it does not know."""

    def __init__(self, log: Log, proc: Path = Path("/proc")) -> None:
        self.killed = 0
        self._log = log
        self._proc = proc
        self._started: dict[int, _Started] = {}  # by serial
        self._serial = 0
        self._first_seen: dict[tuple[int, str], int] = {}  # pid and start time -> serial
        self._told: set[tuple[int, str]] = set()
        self._wanted = trio.Event()

    @property
    def known(self) -> int:
        """Strays that were seen and are not buried yet."""
        return len(self._first_seen)

    async def spawn(self, command: Any, **options: Any) -> trio.Process:
        """As trio.lowlevel.open_process."""
        self._serial += 1
        is_command = ATTEMPT_VARIABLE in (options.get("env") or {})
        started = self._started[self._serial] = _Started(self._serial, is_command)
        try:
            started.process = await trio.lowlevel.open_process(command, **options)
        except BaseException:
            del self._started[started.serial]
            raise
        self._wanted.set()
        return started.process

    async def run(self) -> None:
        """Look for strays while commands run and after, until cancelled."""
        try:
            while True:
                with trio.move_on_after(_BUSY_SECONDS if self._is_busy else _LOOK_SECONDS):
                    await self._wanted.wait()
                self._wanted = trio.Event()
                children = await trio.to_thread.run_sync(self._children)
                self._end_strays(children)
                await trio.sleep(_PAUSE_SECONDS)
        finally:
            self._started = {}  # the hooks have stopped: whatever is there now is a stray
            self._end_strays(self._children())

    @property
    def _is_busy(self) -> bool:
        """Whether a command runs or a stray is known: then something may be due soon."""
        return bool(self._first_seen) or any(each.is_underway for each in self._started.values())

    def _children(self) -> dict[int, str]:
        """The children of this process: pid -> start time, which tells it from a later one."""
        own = str(os.getpid())
        found: dict[int, str] = {}
        for name in os.listdir(self._proc):
            if name.isdigit() and (facts := self._facts(int(name))) and facts[1] == own:
                found[int(name)] = facts[19]
        return found

    def _facts(self, pid: int) -> list[str] | None:
        """The fields of /proc/PID/stat behind the name: state, parent, ... start time at 19."""
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None

    def _end_strays(self, children: Mapping[int, str]) -> None:
        """Kill and bury those whose time has come; `children` may have changed since."""
        running = {n: s for n, s in self._started.items() if not _is_over(s.process)}
        ended, self._started = self._started, running
        known = {each.process.pid for each in ended.values() if each.process is not None}
        unknown = {(pid, born) for pid, born in children.items() if pid not in known}
        seen = {stray: self._first_seen.get(stray, self._serial) for stray in unknown}
        self._first_seen = seen
        self._told &= unknown
        underway = min((n for n, s in running.items() if s.is_underway), default=inf)
        for (pid, born), serial in sorted(seen.items()):
            facts = self._facts(pid)
            # what was started or has begun after it was seen cannot have brought it here
            if underway <= serial or facts is None:
                continue
            if facts[1] == str(os.getpid()) and facts[19] == born:
                self._end(pid, born, facts)

    def _end(self, pid: int, born: str, facts: list[str]) -> None:
        is_dead = facts[0] == "Z"
        if (pid, born) not in self._told and not is_dead:
            self._told.add((pid, born))
            self.killed += 1
            self._log.warning(
                "a process that a handler left behind is killed",
                pid=pid,
                command=self._command(pid),
                handler=self._handler(pid),
            )
        try:
            if not is_dead and os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            elif not is_dead:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)  # what has not ended yet is buried by the next look
        except (ProcessLookupError, PermissionError, ChildProcessError):
            pass

    def _command(self, pid: int) -> str:
        try:
            words = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return ""
        return b" ".join(words).decode(errors="replace").strip()

    def _handler(self, pid: int) -> str | None:
        """The handler that it came from, as far as its environment still says so."""
        try:
            with (self._proc / str(pid) / "environ").open("rb") as file:
                variables = file.read(_ENVIRONMENT_BYTES_MAX).split(b"\0")
        except OSError:
            return None
        mark = f"{HANDLER_VARIABLE}=".encode()
        found = [each.removeprefix(mark) for each in variables if each.startswith(mark)]
        return found[0].decode(errors="replace") if found else None


def _is_over(process: trio.Process | None) -> bool:
    """Whether it has ended and was buried, so that its pid may be another's."""
    return process is not None and process.returncode is not None
