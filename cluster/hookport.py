"""The hook service's place on a node: its port to the cluster, and its requests on the client port.

The service is a client like any other, with a session of its own, but without a socket: what it
submits is repeated under one (client_id, request_seq) until the answer is definite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import trio

from cluster import operations
from cluster.errors import Malformed, OutcomeUnknown, Timeout, TremulaError
from cluster.logs import NodeLog
from hooks.control import answers
from hooks.execution.runtime import HookRuntime
from hooks.execution.service import HookService
from hooks.ports import Unavailable
from pubsub.events import Event
from pubsub.rejection import Rejection

if TYPE_CHECKING:
    from cluster.node import Node

PATIENCE_S = 30.0
"""How long one operation is repeated; Raft elects within a second."""
ATTEMPT_S = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.02, 0.5

Done = Callable[[object], None]


class HookPort:
    """Implements hooks.ports.ClusterPort for one node and owns its HookRuntime."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client_id = 0
        self._seq = 0
        self._opening = trio.Lock()
        self._nursery: trio.Nursery | None = None
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
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`; raises what is wrong with the handlers before it has started."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            server = self._node.server
            assert server is not None, "the client port comes first"
            await nursery.start(self.runtime.run)
            server.extra |= {
                "hooks.list": self._answering(self._list, 0),
                "hooks.info": self._answering(self._info, 1),
                "hooks.metrics": self._answering(self._metrics, 1),
                "hooks.trigger": self._answering(self._trigger, 3),
            }
            task_status.started()

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
    def log(self) -> NodeLog:
        return self._node.log

    async def submit(self, name: str, arguments: Sequence[object]) -> Any:
        """See ClusterPort.submit."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                client_id = await self._session()
                self._seq += 1
                operation = operations.pack(
                    client_id, self._seq, name, list(arguments), f"hooks@{self.node}", None
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

    def watch_applied(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._node.on_applied.append(callback)
        return lambda: self._node.on_applied.remove(callback)

    def monotonic_ms(self) -> int:
        return int(trio.current_time() * 1000)

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

    # --- requests of the client port ---

    def _answering(
        self, function: Callable[..., Awaitable[object]], arguments_max: int
    ) -> Callable[[list[Any], str, Done], None]:
        """A handler of the server's `extra` table that answers from a task."""

        async def answer(arguments: list[Any], done: Done) -> None:
            try:
                done(await function(*arguments))
            except Unavailable as problem:
                self.log.warning("hook request without an answer", reason=str(problem))
                done(Timeout(int(PATIENCE_S * 1000)))

        def start(arguments: list[Any], actor: str, done: Done) -> None:
            if len(arguments) > arguments_max or self._nursery is None:
                done(Malformed(f"at most {arguments_max} arguments are expected"))
            else:
                self._nursery.start_soon(answer, arguments, done)

        return start

    @property
    def _service(self) -> HookService:
        assert self.runtime.service is not None, "requests come after the start"
        return self.runtime.service

    async def _list(self) -> object:
        return answers.list_handlers(self._service)

    async def _info(self, name: str = "") -> object:
        return answers.handler_info(self._service, name)

    async def _metrics(self, name: str | None = None) -> object:
        return answers.handler_metrics(self._service, name)

    async def _trigger(self, topic: str, payload: object = None, key: str | None = None) -> object:
        return await answers.trigger(self._service, topic, payload, key)
