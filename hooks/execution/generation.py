"""One reading of the configuration, running: the handler host, the runners and the service.

A node has one at a time, and during a reload the new one beside the old (`runtime`). Composes;
decides nothing itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from hooks.configuration.config import HooksConfig, LoadProblem, as_problem, assemble
from hooks.configuration.definition import HandlerDefinition, HandlerType, Problem
from hooks.configuration.discovery import Directory, read_directory
from hooks.execution.attempt import Runner, bounded
from hooks.execution.service import HookService
from hooks.handlers.host import Host, HostNotStarted
from hooks.handlers.inprocess import InlineRunner
from hooks.handlers.rendered import Aside, FileRunner
from hooks.handlers.shell import ShellRunner, missing
from hooks.limits import DEFAULT_LIMITS, PROBLEM_BYTES_MAX, HookLimits
from hooks.ports import ClientFactory, Clients, ClusterPort, Spawn
from hooks.registry import Registry


class HooksRefused(Exception):
    """The configuration and the modules that it names do not fit together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every generation of a node's hooks stands on."""

    port: ClusterPort
    environment: Mapping[str, str]
    module_paths: Sequence[str] = ()
    limits: HookLimits = DEFAULT_LIMITS
    spawn: Spawn = trio.lowlevel.open_process
    client: ClientFactory | None = None  # for handlers in a handler host
    clients: Callable[[trio.Nursery], Clients] | None = None  # for handlers in this process
    aside: Aside = trio.to_thread.run_sync


class Generation:
    """What one reading of the configuration became."""

    def __init__(
        self,
        on: Surroundings,
        config: HooksConfig,
        *,
        boot_id: str,
        registry: Registry | None = None,
        predecessor: "Generation | None" = None,
    ) -> None:
        """With `registry`, Python handlers are called in this process; without, in a handler host.
        With a `predecessor`, what that one could load must load again."""
        self.config = config
        self.service: HookService | None = None  # there once it serves
        self.host: Host | None = None
        self.problems: tuple[LoadProblem, ...] = ()  # what this node runs without
        self._may_serve, self._serves = trio.Event(), trio.Event()
        self._on = on
        self._boot_id = boot_id
        self._registry = registry
        self._predecessor = predecessor
        port, limits = on.port, on.limits
        self._shell = ShellRunner(
            on.environment, port.log, rules=config.shell, limits=limits, spawn=on.spawn
        )
        self._files = FileRunner(port, limits=limits, aside=on.aside)
        self._directory = Directory()
        if config.enabled:
            self._directory = read_directory(config.directory, limits)
        if registry is None and config.enabled and self._needs_host():
            self.host = Host(
                config.modules,
                port.log,
                files=self._directory.modules,
                entry_points=config.entry_points,
                environment=on.environment,
                paths=on.module_paths,
                limits=limits,
                spawn=on.spawn,
                client=on.client,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and report that; serve from `serve` on, until `stop` or until cancelled. Raises
        HostNotStarted or HooksRefused, instead of the report, when the configuration cannot be run
        as it is. Loading asks nothing of the cluster."""
        refusal: HostNotStarted | HooksRefused | None = None
        async with trio.open_nursery() as nursery:
            try:
                if self.host is not None:
                    await nursery.start(self.host.run)
                handlers = self._load()
            except (HostNotStarted, HooksRefused) as error:
                refusal = error  # raised below, where no nursery wraps it
            else:
                task_status.started()
                await self._may_serve.wait()
                await self._serve(handlers, nursery)
            nursery.cancel_scope.cancel()
        if refusal is not None:
            raise refusal

    async def serve(self) -> None:
        """Take part in the cluster with what was loaded; returns once it does."""
        self._may_serve.set()
        await self._serves.wait()

    async def stop(self, drain_ms: int | None = None) -> None:
        """Stop so that nothing runs again (see `HookService.stop`)."""
        if self.service is not None:
            await self.service.stop(drain_ms)

    def _load(self) -> tuple[HandlerDefinition, ...]:
        """The handlers that this node can run."""
        handlers: tuple[HandlerDefinition, ...] = ()
        if self.config.enabled:
            source = self._registry.found if self._registry else []
            found = self.host.functions if self.host else source
            unread = [*self._directory.problems, *(self.host.problems if self.host else ())]
            tables, limits = self._directory.tables, self._on.limits
            assembly = assemble(self.config, found, tables, unread, limits)
            if fatal := assembly.fatal or self._news(assembly.problems):
                raise HooksRefused([as_problem(problem) for problem in fatal])
            handlers, self.problems = assembly.handlers, assembly.problems
        self._tell(handlers)
        return handlers

    async def _serve(self, handlers: tuple[HandlerDefinition, ...], nursery: trio.Nursery) -> None:
        before = self._predecessor.service if self._predecessor is not None else None
        self.service = service = self._make_service(handlers, before, nursery)
        if before is not None:
            before.retire()
        files = [handler for handler in service.handlers if handler.enabled]
        nursery.start_soon(self._files.start, files, service.note_problem)
        async with trio.open_nursery() as serving:
            await serving.start(service.run)
            self._serves.set()

    def _make_service(
        self,
        handlers: tuple[HandlerDefinition, ...],
        before: HookService | None,
        nursery: trio.Nursery,
    ) -> HookService:
        return HookService(
            self._on.port,
            (*handlers, *(problem.handler for problem in self.problems if problem.handler)),
            self._runners(nursery),
            boot_id=self._boot_id,
            publish_topics=self.config.publish_topics,
            load_problems=by_name(self.problems, [handler.name for handler in handlers]),
            predecessor=before,
            limits=self._on.limits,
        )

    def _news(self, problems: Iterable[LoadProblem]) -> list[LoadProblem]:
        """Of a reload: what did load before. Such a file or module is a mistake that was just made,
        and must not take away what runs."""
        if self._predecessor is None:
            return []
        known = {(problem.name, problem.text) for problem in self._predecessor.problems}
        return [problem for problem in problems if (problem.name, problem.text) not in known]

    def _tell(self, handlers: Iterable[HandlerDefinition]) -> None:
        log = self._on.port.log
        for problem in self.problems:
            log.error("not loaded", handler=problem.name, reason=str(problem))
        for handler in handlers:
            if handler.enabled and (reason := missing(handler, self._on.environment)):
                log.warning("handler will fail", handler=handler.name, reason=reason)

    def _needs_host(self) -> bool:
        handlers = [
            candidate.handler for file in self._directory.tables for candidate in file.handlers
        ]
        return bool(
            self.config.modules or self._directory.modules or self.config.entry_points
        ) or any(
            handler.type is HandlerType.IN_PROCESS for handler in (*self.config.handlers, *handlers)
        )

    def _runners(self, nursery: trio.Nursery) -> dict[HandlerType, Runner]:
        runners: dict[HandlerType, Runner] = {
            HandlerType.SHELL: self._shell,
            HandlerType.FILE: self._files,
        }
        if self.host is not None:
            runners[HandlerType.IN_PROCESS] = self.host
        elif self._registry is not None:
            clients = None if self._on.clients is None else self._on.clients(nursery)
            inline = InlineRunner(self._registry, self._on.port.log, self._on.limits, clients)
            runners[HandlerType.IN_PROCESS] = inline
        return runners


def by_name(problems: Iterable[LoadProblem], loaded: Sequence[str]) -> dict[str, str]:
    """Why something could not be loaded, by the name of the handler if that is known. A problem
    beside a handler of that name that did load is no reason not to run it."""
    found: dict[str, str] = {}
    for problem in problems:
        is_other = problem.handler is None and problem.name in loaded
        key = problem.place or problem.text if is_other else problem.name
        text = f"{found[key]}; {problem}" if key in found else str(problem)
        found[key] = bounded(text, PROBLEM_BYTES_MAX)
    return found
