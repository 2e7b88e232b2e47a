"""The hooks of one node as a whole: what its configuration says, running.

    runtime = HookRuntime(port, config, boot_id=..., environment=os.environ)
    await nursery.start(runtime.run)      # refuses here what is wrong with modules and handlers
    ...
    await runtime.stop()

Composes the handler host, the shell runner and the service; decides nothing itself.
"""

import os
import shutil
from collections.abc import Mapping, Sequence

import trio

from hooks.configuration.config import HooksConfig, with_registered
from hooks.configuration.definition import HandlerDefinition, HandlerType, Problem
from hooks.execution.attempt import Runner
from hooks.execution.service import HookService
from hooks.handlers.host import Host, HostNotStarted
from hooks.handlers.inprocess import InlineRunner
from hooks.handlers.shell import BASE_ENVIRONMENT, ShellRunner, command_line
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClusterPort, Spawn
from hooks.registry import Registry


class HooksRefused(Exception):
    """The configuration and the modules that it names do not fit together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


class HookRuntime:
    """Everything about hooks that runs on one node."""

    def __init__(
        self,
        port: ClusterPort,
        config: HooksConfig,
        *,
        boot_id: str,
        environment: Mapping[str, str],
        module_paths: Sequence[str] = (),
        registry: Registry | None = None,
        limits: HookLimits = DEFAULT_LIMITS,
        spawn: Spawn = trio.lowlevel.open_process,
    ) -> None:
        """With `registry`, Python handlers are called in this process (simulation, embedding), and
        `config.modules` must already be collected in it; without, they run in a handler host."""
        self.port = port
        self.config = config
        self.service: HookService | None = None  # there once `run` has reported that it started
        self.host: Host | None = None
        self._boot_id = boot_id
        self._environment = environment
        self._registry = registry
        self._limits = limits
        self._shell = ShellRunner(environment, port.log, limits=limits, spawn=spawn)
        if registry is None and config.enabled and _needs_host(config):
            self.host = Host(
                config.modules,
                port.log,
                environment=environment,
                paths=module_paths,
                limits=limits,
                spawn=spawn,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or until cancelled. Raises HostNotStarted or HooksRefused, before it
        reports that it started, when the configuration cannot be run as it is."""
        refusal: HostNotStarted | HooksRefused | None = None
        async with trio.open_nursery() as nursery:
            try:
                if self.host is not None:
                    await nursery.start(self.host.run)
                self.service = self._make_service()
            except (HostNotStarted, HooksRefused) as error:
                refusal = error  # raised below, where no nursery wraps it
            else:
                await self.service.run(task_status=task_status)
            nursery.cancel_scope.cancel()
        if refusal is not None:
            raise refusal

    async def stop(self, drain_ms: int | None = None) -> None:
        """Stop so that nothing runs again (see `HookService.stop`)."""
        if self.service is not None:
            await self.service.stop(drain_ms)

    def _make_service(self) -> HookService:
        handlers: list[HandlerDefinition] = []
        if self.config.enabled:
            source = self._registry.found if self._registry else []
            found = self.host.functions if self.host else source
            handlers, problems = with_registered(self.config, found, self._limits)
            if problems:
                raise HooksRefused(problems)
        for handler in handlers:
            if missing := self._missing(handler):
                self.port.log.warning("handler will fail", handler=handler.name, reason=missing)
        return HookService(
            self.port,
            handlers,
            self._runners(),
            boot_id=self._boot_id,
            routes=self.config.routes,
            limits=self._limits,
        )

    def _runners(self) -> dict[HandlerType, Runner]:
        runners: dict[HandlerType, Runner] = {HandlerType.SHELL: self._shell}
        if self.host is not None:
            runners[HandlerType.IN_PROCESS] = self.host
        elif self._registry is not None:
            inline = InlineRunner(self._registry, self.port.log, self._limits)
            runners[HandlerType.IN_PROCESS] = inline
        return runners

    def _missing(self, handler: HandlerDefinition) -> str | None:
        """What a shell handler needs and this machine does not have, as far as one can see."""
        if handler.type is not HandlerType.SHELL or not handler.enabled:
            return None
        folder = handler.working_dir
        if folder is not None and not os.path.isdir(folder):
            return f"working_dir {folder} is not a folder"
        program = command_line(handler)[0]
        path = self._environment.get("PATH") if "PATH" in handler.env else BASE_ENVIRONMENT["PATH"]
        if shutil.which(
            os.path.join(folder or "", program) if "/" in program else program, path=path
        ):
            return None
        return f"command {program} is not there or not executable"


def _needs_host(config: HooksConfig) -> bool:
    in_process = any(handler.type is HandlerType.IN_PROCESS for handler in config.handlers)
    return bool(config.modules) or in_process
