"""What the client port needs from the node that it serves: the consumer states its own interface.

All calls are synchronous and made from the node's trio thread. A `done` is called exactly once, by
the engine or on the spot, with a result, a `Rejection` or a `TremulaError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import apsw

from cluster.blocking import Blocking
from cluster.errors import TremulaError
from cluster.indexing import Parts
from cluster.kv import Row
from pubsub.events import Event
from pubsub.log import Compacted

Done = Callable[[object], None]


class Read(NamedTuple):
    """A read of applied state that waits for its turn."""

    request_id: int
    run: Callable[[ServedNode], object]
    is_long: bool  # may take longer than a few microseconds: one at a time, the loop free between
    aside: Callable[[apsw.Connection], object] | None = None  # proportional to what is stored: in
    # place of `run`, in a thread and on a connection of its own


class AppliedState(Protocol):
    """The state machine, as far as readers look into it."""

    @property
    def connection(self) -> apsw.Connection:
        """The state database, with every applied entry and nothing else."""

    def get(self, key: str) -> Row | None:
        """What a key holds, or None."""

    def topics(self, after: str, limit: int) -> tuple[list[tuple[str, int]], bool]:
        """Topics of users after one, each with its newest revision, and whether there are more."""

    def commit(self) -> None:
        """Let other connections see every applied entry; from the trio thread only."""

    @property
    def revision(self) -> int:
        """The revision of the newest event."""

    @property
    def is_published(self) -> Callable[[str], bool] | None:
        """Whether events of a topic reach subscribers; None: all of them do."""

    @property
    def entry_version(self) -> int:
        """The newest version of an entry so far: what the cluster understands."""

    @property
    def elapsed_ms(self) -> int:
        """The elapsed clock at the newest entry."""

    @property
    def operations(self) -> dict[str, list[int]]:
        """[done, rejected] of each operation since the node started."""

    @property
    def members(self) -> list[Any]:
        """The configuration: a list of [name, uid, address, role]."""


class ServedNode(Protocol):
    """A node of the cluster, as its client port sees it."""

    name: str
    blocking: Blocking
    on_applied: list[Callable[[], None]]  # called once per tick that applied something
    on_flush: list[Callable[[], None]]  # called once per tick, after the waiting were answered

    @property
    def cluster_id(self) -> str | None:
        """None until the node knows to which cluster it belongs."""

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows."""

    @property
    def machine(self) -> AppliedState:
        """The applied state; another object after a snapshot was installed."""

    def open_reader(self) -> apsw.Connection:
        """Another connection to the applied state, for one read in a thread; the caller closes."""

    def open_index(self) -> Parts:
        """The event index as it is now, for one query in a thread; the caller closes."""

    def submit(self, operation: bytes, done: Done) -> None:
        """Replicate a packed operation and answer once it is applied here."""

    def read_index(self, done: Callable[[TremulaError | None], None]) -> None:
        """Answer None once the applied state is as fresh as the cluster was at this call."""

    def hasten(self, is_alone: bool) -> None:
        """Start now on what was submitted and asked, if nobody else is to share it: `is_alone` says
        that no other request is under way here."""

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """The log from a revision on."""

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        """Whether retention took events that match, from a revision on."""

    def status(self) -> dict[str, Any]:
        """Facts for people."""

    def add_member(self, name: str, address: str, done: Done) -> None:
        """Add a learner."""

    def promote(self, name: str, done: Done) -> None:
        """Make a learner a voter."""

    def remove_member(self, name: str, done: Done) -> None:
        """Remove a member."""

    def transfer_leadership(self, name: str | None, done: Done) -> None:
        """Hand leadership to a member, or to whoever is best."""
