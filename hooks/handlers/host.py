"""The handler host as its node sees it: a supervised process, and a second one for suspects.

Python handlers run in a process of their own, so that none can delay Raft. When an attempt hangs or
takes the process down, the process is killed and started again; whose fault it was decides what the
attempts in it come to:

    what happened                                   its own attempt   the others in the process
    a sync handler is past its timeout (reported)   failed, timeout   made again
    a cancelled attempt does not end                nobody waits      made again
    the process died or answers nothing, one in it  failed            -
    the same, several in it                         suspects: made again, one at a time, in the
                                                    isolation process, where blame is exact

A handler that was found guilty stays in isolation until an attempt of it ends by itself, so that it
cannot go on interrupting the others. An interrupted attempt never counts as a failure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import trio

from hooks.configuration.config import LoadProblem, RegisteredFunction
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome
from hooks.handlers.host_process import HostProcess, Interrupted
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClientFactory, Log, Spawn

_GUILTY: Final = (FailureKind.TIMEOUT, FailureKind.CRASH)


class HostNotStarted(Exception):
    """The modules of the configuration do not load, or the interpreter does not start."""


class Host:
    """Runs Python handlers in supervised processes; a `Runner`."""

    def __init__(
        self,
        modules: Sequence[str],
        log: Log,
        *,
        environment: Mapping[str, str],
        files: Sequence[str] = (),
        entry_points: bool | Sequence[str] = False,
        paths: Sequence[str] = (),
        limits: HookLimits = DEFAULT_LIMITS,
        spawn: Spawn = trio.lowlevel.open_process,
        client: ClientFactory | None = None,
    ) -> None:
        """`paths` is where modules are looked for after the interpreter's own places; `client` is
        how the host comes to the `context.client` of its handlers."""
        settings = {
            "sources": [list(modules), list(files), entry_points],
            "paths": list(paths),
            "limits": asdict(limits),
            "client": None if client is None else list(client),
        }
        self._main = HostProcess("main", settings, environment, log, limits, spawn)
        self._isolation = HostProcess("isolation", settings, environment, log, limits, spawn)
        self._isolation_wanted = trio.Event()
        self._isolation_turn = trio.StrictFIFOLock()
        self._isolated: dict[str, None] = {}  # handler ids

    @property
    def functions(self) -> list[RegisteredFunction]:
        """What the modules register; known once `run` has reported that it started."""
        return self._main.functions

    @property
    def problems(self) -> list[LoadProblem]:
        """What did not load, known at the same time; the rest serves without it."""
        return self._main.problems

    @property
    def files(self) -> list[str]:
        """The Python files whose change may change what is found, known at the same time."""
        return self._main.files

    @property
    def restarts(self) -> int:
        """How often a host was started again after it died or was killed."""
        return self._main.restarts + self._isolation.restarts

    @property
    def pid(self) -> int | None:
        """The process id of the main host, for those who watch it."""
        return self._main.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the processes alive until cancelled; raises HostNotStarted if the first start fails,
        since then it is the configuration that is wrong."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._main.run)
            problem = await self._main.wait_first_start()
            if problem is None:
                nursery.start_soon(self._run_isolation)
                task_status.started()
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        raise HostNotStarted(problem)

    async def _run_isolation(self) -> None:
        await self._isolation_wanted.wait()
        await self._isolation.run()

    async def execute(self, attempt: Attempt) -> Outcome:
        """Make one attempt; what other attempts do to the process is made good here."""
        handler_id = str(attempt.handler.handler_id)
        while handler_id not in self._isolated:
            outcome = await self._main.execute(attempt)
            if isinstance(outcome, Interrupted):
                if outcome.suspect:
                    break
                continue
            if isinstance(outcome, Failed) and outcome.kind in _GUILTY:
                self._isolated[handler_id] = None
            return outcome
        return await self._execute_alone(handler_id, attempt)

    async def _execute_alone(self, handler_id: str, attempt: Attempt) -> Outcome:
        self._isolation_wanted.set()
        async with self._isolation_turn:
            while isinstance(outcome := await self._isolation.execute(attempt), Interrupted):
                pass  # killed from outside before it began
        if isinstance(outcome, Failed) and outcome.kind in _GUILTY:
            self._isolated[handler_id] = None
        else:
            self._isolated.pop(handler_id, None)
        return outcome
