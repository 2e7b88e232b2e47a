"""The hook service's place on a node: its port to the cluster.

The service is a client like any other, with a session of its own, but without a socket: what it
submits is repeated under one (client_id, request_seq) until the answer is definite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import trio

from cluster import hookclient, kv, operations
from cluster.errors import OutcomeUnknown, Timeout, TremulaError
from cluster.hookreload import HookReload
from cluster.hookrequests import PATIENCE_S, HookRequests
from cluster.logs import NodeLog
from hooks.configuration.config import HooksConfig
from hooks.execution.runtime import HookRuntime
from hooks.ports import Clients, Unavailable
from pubsub.events import Event
from pubsub.rejection import Rejection

if TYPE_CHECKING:
    from cluster.node import Node

ATTEMPT_S = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.02, 0.5
READS_MAX = 3
PAGE_ROWS = 256  # read between two chances for Raft to run


class HookPort:
    """Implements hooks.ports.ClusterPort for one node and owns its HookRuntime."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client_id = 0
        self._seq = 0
        self._opening = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self.is_loaded = False
        config = node.config
        self.runtime = HookRuntime(
            self,
            config.hooks,
            boot_id=f"{node.random.getrandbits(48):012x}",
            environment=node.environment,
            module_paths=(str(config.folder),),  # modules lie beside the file that names them
            registry=node.registry,
            limits=config.limits.hooks,
            spawn=node.spawn,
            client=hookclient.factory(config),
            clients=self._inline_clients,
            aside=node.blocking,
        )
        self.reload = HookReload(node, self.runtime)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and report that, or raise what is wrong with the handlers; serve from `serve` on,
        until `stop`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.runtime.run)
                self.is_loaded = True
                task_status.started()
        finally:
            self._nursery = None

    async def serve(self) -> None:
        """Run handlers and answer requests about them, now that the node has a state."""
        node, nursery = self._node, self._nursery
        assert node.server is not None, "its requests are answered there"
        assert nursery is not None, "the handlers are loaded first"
        await self.runtime.serve()
        nursery.start_soon(self.reload.run)
        node.server.extra |= HookRequests(node, self.runtime, nursery).table()

    @property
    def is_running(self) -> bool:
        """Whether it serves and has not ended."""
        return self.runtime.service is not None and self._nursery is not None

    def reload_soon(self, config: HooksConfig) -> None:
        """Let `config` take the place of what runs, for programs whose hooks come from no file."""
        assert self._nursery is not None, "it must run"
        self._nursery.start_soon(self.runtime.reload, config)

    def _inline_clients(self, nursery: trio.Nursery) -> Clients:
        node = self._node
        return hookclient.InlineClients(nursery, node.config, node.network, node.random)

    async def stop(self) -> None:
        """Finish what runs, write it down and leave the groups; nothing of it runs again."""
        await self.runtime.stop()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # --- hooks.ports.ClusterPort ---

    @property
    def node(self) -> str:
        return self._node.name

    @property
    def cluster_id(self) -> str:
        return self._node.cluster_id or ""

    @property
    def connection(self) -> apsw.Connection:
        return self._node.machine.connection

    @property
    def revision(self) -> int:
        return self._node.machine.revision

    @property
    def entry_version(self) -> int:
        return self._node.machine.entry_version

    @property
    def log(self) -> NodeLog:
        return self._node.log

    async def submit(
        self, name: str, arguments: Sequence[object], *, actor: str | None = None
    ) -> Any:
        """See ClusterPort.submit."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                client_id = await self._session()
                self._seq += 1
                operation = operations.pack(
                    client_id, self._seq, name, list(arguments), actor or f"hooks@{self.node}", None
                )
                result, certain = await self._repeat(operation)
                if not (isinstance(result, Rejection) and result.code == "session_expired"):
                    return result
                self._client_id = 0
                if not certain:
                    raise Unavailable(f"{name}: the session ended while it was under way")
        raise Unavailable(f"{name}: no answer within {PATIENCE_S:.0f} s")

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        return self._node.read_events(from_revision, events_max, bytes_max)

    def members(self) -> list[tuple[str, str]]:
        return sorted((row[0], row[2]) for row in self._node.machine.members)

    async def read_prefix(
        self, prefix: str, keys_max: int, bytes_max: int
    ) -> list[tuple[str, bytes]] | None:
        """See ClusterPort.read_prefix. Begins again when a page was read of another state, unless
        the state never stands still: whatever changed last has an event that is still to come."""
        start, end = kv.prefix(prefix)
        found: list[tuple[str, bytes]] = []
        for _ in range(READS_MAX):
            revision, size, after, more = self.revision, 0, None, True
            found = []
            while more:
                rows, more = kv.range_(self.connection, start, end, PAGE_ROWS, after)
                found += [(row.key, row.value or b"") for row in rows]
                size += sum(len(row.value or b"") for row in rows)
                if len(found) > keys_max or size > bytes_max:
                    return None
                after = rows[-1].key if rows else None
                await trio.lowlevel.checkpoint()
            if revision == self.revision or len(found) <= PAGE_ROWS:
                break
        return found

    @property
    def leads(self) -> bool:
        core = self._node.core
        return core is not None and core.is_leader and core.ready_to_lead

    @property
    def labels(self) -> Mapping[str, str]:
        return self._node.config.node.labels

    def watch_applied(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._node.on_applied.append(callback)
        self._node.on_leader.append(callback)

        def unwatch() -> None:
            self._node.on_applied.remove(callback)
            self._node.on_leader.remove(callback)

        return unwatch

    def monotonic_ms(self) -> int:
        return int(trio.current_time() * 1000)

    def wall_ms(self) -> int:
        return self._node.wall_ms()

    def random(self) -> float:
        return self._node.random.random()

    # --- its client session ---

    async def _session(self) -> int:
        async with self._opening:
            if not self._client_id:
                # opening twice leaves an idle session behind, which expires: no harm
                opening = operations.pack(0, 0, "session.open", [], f"hooks@{self.node}", None)
                result, _ = await self._repeat(opening)
                if not isinstance(result, int):
                    raise Unavailable(f"no session: {result}")
                self._client_id, self._seq = result, 0
        return self._client_id

    async def _repeat(self, operation: bytes) -> tuple[Any, bool]:
        """The definite answer, and whether no earlier attempt can have been applied."""
        pause, certain = PAUSE_MIN_S, True
        while True:
            result = await self._once(operation)
            if not isinstance(result, TremulaError):
                return result, certain
            certain = certain and not isinstance(result, OutcomeUnknown)
            await trio.sleep(pause * (0.5 + self._node.random.random()))
            pause = min(pause * 2, PAUSE_MAX_S)

    async def _once(self, operation: bytes) -> object:
        answered = trio.Event()
        answer: list[object] = []

        def done(result: object) -> None:
            answer.append(result)
            answered.set()

        self._node.propose(operation, done)
        with trio.move_on_after(ATTEMPT_S):
            await answered.wait()
        # what does not answer for so long is asked again under the same number: it applies once
        return answer[0] if answer else Timeout(int(ATTEMPT_S * 1000))
