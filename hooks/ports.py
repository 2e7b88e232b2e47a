"""What the hook service needs from the node above it; the node implements this.

One port per node, no module state: many nodes live in one process.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import apsw
import trio

from pubsub.events import Event

Spawn = Callable[..., Awaitable[trio.Process]]  # the signature of trio.lowlevel.open_process


class Unavailable(Exception):
    """No definite answer from the cluster: the operation may have been applied, or may be later."""


class Log(Protocol):
    """A structured log: a fixed sentence and its facts."""

    def debug(self, message: str, /, **fields: object) -> None: ...
    def info(self, message: str, /, **fields: object) -> None: ...
    def warning(self, message: str, /, **fields: object) -> None: ...
    def error(self, message: str, /, **fields: object) -> None: ...


class ClusterPort(Protocol):
    """The cluster as its node sees it."""

    @property
    def node(self) -> str:
        """The node's name."""

    @property
    def cluster_id(self) -> str:
        """The cluster's id: the first half of every event's id."""

    @property
    def connection(self) -> apsw.Connection:
        """The node's applied state, only for reading, through `pubsub.groups` and `pubsub.log`."""

    @property
    def revision(self) -> int:
        """The revision of the newest event that this node has applied."""

    @property
    def log(self) -> Log: ...

    async def submit(self, name: str, arguments: Sequence[object]) -> Any:
        """Apply a replicated operation once; returns its result or a Rejection, after this node
        has applied it.

        It repeats the request under one (client_id, request_seq) until the answer is definite, and
        raises Unavailable when it gives up. Whoever repeats it after that may apply it twice.
        """

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """Committed events from the node's own log, in order; empty at its end. Never waits. What
        retention took is passed over."""

    def watch_applied(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each tick that applied something; returns what ends that."""

    def monotonic_ms(self) -> int:
        """A clock that never runs backwards, and that runs on while the process is stopped."""

    def random(self) -> float:
        """A number in [0, 1)."""
