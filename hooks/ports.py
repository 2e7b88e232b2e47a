"""What the hook service needs from the node above it; the node implements this.

One port per node, no module state: many nodes live in one process.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import apsw
import trio

from pubsub.events import Event

Spawn = Callable[..., Awaitable[trio.Process]]  # the signature of trio.lowlevel.open_process


class Unavailable(Exception):
    """No definite answer from the cluster: the operation may have been applied, or may be later."""


class Origin(NamedTuple):
    """Why a handler requests something: what the events that it causes say about it."""

    handler: str
    correlation_id: int | str
    causation_id: int  # revision of the event that is handled
    hops: int  # effects and requests in a row that led here
    traceparent: str | None


class Clients(Protocol):
    """Clients of the own node for handlers. What they are is a matter of the package above."""

    def of_async(self, origin: Origin) -> Any:
        """One whose methods are awaited in the loop that this is called in."""

    def of_sync(self, origin: Origin) -> Any:
        """One whose methods wait, for a thread."""


class ClientFactory(NamedTuple):
    """How a handler host, another process, comes to its clients: what to import and what to call.

    The function is `open_clients(nursery, arguments) -> Clients`; its tasks run in the nursery.
    """

    name: str  # like "cluster.hookclient:open_clients"
    arguments: dict[str, object]  # plain values, as msgpack carries them


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
    def entry_version(self) -> int:
        """Of what versions of entries added, every member of the cluster knows that up to this
        one, for good."""

    @property
    def log(self) -> Log: ...

    async def submit(
        self, name: str, arguments: Sequence[object], *, actor: str | None = None
    ) -> Any:
        """Apply a replicated operation once; returns its result or a Rejection, after this node
        has applied it. `actor` is whoever wants it; None: the hooks of this node themselves.

        It repeats the request under one (client_id, request_seq) until the answer is definite, and
        raises Unavailable when it gives up. Whoever repeats it after that may apply it twice.
        """

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """Committed events from the node's own log, in order; empty at its end. Never waits. What
        retention took is passed over."""

    @property
    def leads(self) -> bool:
        """Whether this node leads the cluster, as far as it knows."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What the node's file says of it, for handlers that choose their nodes."""

    def members(self) -> list[tuple[str, str]]:
        """The members of the cluster as applied: name and peer address, HOST:PORT, by name."""

    async def read_prefix(
        self, prefix: str, keys_max: int, bytes_max: int
    ) -> list[tuple[str, bytes]] | None:
        """The keys that begin with `prefix` and their values, from the applied state as it is now,
        by key; None when they are more. It lets others run in between."""

    def watch_applied(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each tick that applied something, and when the leader changed;
        returns what ends that."""

    def monotonic_ms(self) -> int:
        """A clock that never runs backwards, and that runs on while the process is stopped."""

    def wall_ms(self) -> int:
        """The time of day, for people who read it."""

    def random(self) -> float:
        """A number in [0, 1)."""
