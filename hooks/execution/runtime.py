"""The hooks of one node as a whole: what its configuration says, running.

    runtime = HookRuntime(port, config, boot_id=..., environment=os.environ)
    await nursery.start(runtime.run)      # refuses here what is wrong with modules and handlers
    await runtime.serve()                 # only this needs the cluster
    ...
    await runtime.reload(config)          # refuses what is wrong, and goes on as before
    ...
    await runtime.stop()

A reload builds everything anew beside what runs, with a handler host of its own, and only what has
come up takes the place of the old (`succession`).
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from hooks.configuration.config import HooksConfig, LoadProblem
from hooks.execution.generation import Generation, HooksRefused, Surroundings
from hooks.execution.service import HookService
from hooks.execution.succession import take_over
from hooks.handlers.host import Host, HostNotStarted
from hooks.handlers.rendered import Aside
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClientFactory, Clients, ClusterPort, Spawn
from hooks.registry import Registry

__all__ = ["HookRuntime", "HooksRefused"]


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
        client: ClientFactory | None = None,
        clients: Callable[[trio.Nursery], Clients] | None = None,
        aside: Aside = trio.to_thread.run_sync,
    ) -> None:
        """With `registry`, Python handlers are called in this process (simulation, embedding), and
        `config.modules` must already be collected in it; without, they run in a handler host.

        Their `context.client` comes from `client` in a handler host, and from `clients` here.
        `aside` is where files are written.
        """
        self.port = port
        self._surroundings = Surroundings(
            port=port,
            environment=environment,
            module_paths=module_paths,
            limits=limits,
            spawn=spawn,
            client=client,
            clients=clients,
            aside=aside,
        )
        self._boot_id = boot_id
        self._boots = 0
        self._registry = registry
        self._current = self._make(config, registry, None)
        self._generations = [self._current]  # that run; the newest is the current one
        self._turn = trio.Lock()
        self._reloading: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._stopped = trio.Event()

    @property
    def config(self) -> HooksConfig:
        """The configuration that runs."""
        return self._current.config

    @property
    def service(self) -> HookService | None:
        """The service that speaks for this node; there once it serves."""
        return self._current.service

    @property
    def host(self) -> Host | None:
        return self._current.host

    @property
    def problems(self) -> tuple[LoadProblem, ...]:
        """What this node could not load and runs without."""
        return self._current.problems

    @property
    def is_inline(self) -> bool:
        """Whether Python handlers run in this very process, from no files."""
        return self._registry is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and report that; serve from `serve` on, until `stop` or until cancelled. Raises
        HostNotStarted or HooksRefused, instead of the report, when the configuration cannot be run
        as it is."""
        refusal: HostNotStarted | HooksRefused | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await nursery.start(self._current.run)
            except (HostNotStarted, HooksRefused) as error:
                refusal = error  # raised below, where no nursery wraps it
            else:
                task_status.started()
                await self._stopped.wait()
            nursery.cancel_scope.cancel()
        if refusal is not None:
            raise refusal

    async def serve(self) -> None:
        """Take part in the cluster with what `run` has loaded; returns once it does."""
        await self._current.serve()

    async def reload(self, config: HooksConfig, registry: Registry | None = None) -> None:
        """Run `config` in the place of what runs; returns when the old one has ended, which takes
        as long as its longest attempt. Raises HostNotStarted or HooksRefused when it cannot be
        loaded, and then nothing has changed."""
        with trio.CancelScope() as scope:
            async with self._turn:
                if self._stopped.is_set() or self._nursery is None:
                    return
                self._reloading = scope
                old = self._current
                new = self._make(config, registry or self._registry, old)
                await self._nursery.start(new.run)
                await new.serve()
                self._generations.append(new)
                self._current = new
                assert new.service is not None, "it has started"
                assert old.service is not None, "it runs"
                await take_over(new.service, old.service)
                self._generations.remove(old)
                self._registry = registry or self._registry

    async def stop(self, drain_ms: int | None = None) -> None:
        """Stop so that nothing runs again (see `HookService.stop`)."""
        if self._reloading is not None:
            self._reloading.cancel()
        async with trio.open_nursery() as nursery:
            for generation in self._generations:
                nursery.start_soon(generation.stop, drain_ms)
        self._stopped.set()

    def _make(
        self, config: HooksConfig, registry: Registry | None, old: Generation | None
    ) -> Generation:
        self._boots += 1
        boot_id = self._boot_id if old is None else f"{self._boot_id}.{self._boots}"
        return Generation(
            self._surroundings, config, boot_id=boot_id, registry=registry, predecessor=old
        )
