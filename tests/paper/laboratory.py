"""A cluster on the bench: nodes, links and clocks, all of them moved by hand.

A schedule (`schedules.py`) is written against `Laboratory` and knows nothing of the class under
test; a subclass puts that class on the bench. Links are FIFO sessions: a message waits until it is
delivered, and a cut loses what is under way. Each node has its own clock, which moves only when
the schedule says so (or by the stated cost of reading it). No threads, sockets or real time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import permutations
from typing import Any

MESSAGES_MAX = 20_000
"""More than this in one exchange is a node that never falls silent."""
CAMPAIGN_TRIES = 4
"""Elections held by hand have no rivals, so that one is enough; pre-vote may cost another."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry as a schedule sees it, with the labels of the clients' writes in it."""

    index: int
    term: int
    labels: tuple[str, ...]


class Outcome(Enum):
    """What the one who asked was told."""

    NOTHING = "nothing"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Request:
    """A write or a membership change, and its answer."""

    label: str
    node: str
    outcome: Outcome = Outcome.NOTHING


class Crashed(Exception):
    """The class under test raised: in production its process would be gone."""

    def __init__(self, node: str, error: Exception) -> None:
        super().__init__(f"node {node} raised {type(error).__name__}: {error}")
        self.node = node
        self.error = error


class Laboratory(ABC):
    """The bench. Subclasses say how a node is built, driven and read."""

    heartbeat_s: float
    election_min_s: float
    election_max_s: float

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.requests: list[Request] = []
        self.changes: list[Request] = []
        self.sent = 0
        self._clocks = dict.fromkeys(self.names, 1000.0)
        self._links: dict[tuple[str, str], deque[Any]] = {
            pair: deque() for pair in permutations(self.names, 2)
        }
        self._joined: set[tuple[str, str]] = set()
        self._apart: set[tuple[str, str]] = set()  # pairs that the schedule has cut
        self._running: set[str] = set()

    def power_on(self) -> None:
        """Start every node and join every pair."""
        for name in self.names:
            self.restart(name)

    # what a subclass supplies

    @abstractmethod
    def start(self, name: str) -> None:
        """Build the node from what its disk holds."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """The process dies; only what is durable stays."""

    @abstractmethod
    def drive(self, name: str) -> None:
        """One tick of the node at its present clock, messages out and entries applied."""

    @abstractmethod
    def receive(self, source: str, target: str, message: Any) -> None:
        """Hand a message to the target; what it answers goes on its links."""

    @abstractmethod
    def link_changed(self, name: str, peer: str, up: bool) -> None:
        """Tell a node that a session to a peer began or ended."""

    @abstractmethod
    def submit(self, request: Request, size: int) -> None:
        """Hand the node a client's write of about `size` bytes (0: only the label)."""

    @abstractmethod
    def submit_removal(self, request: Request, member: str) -> None:
        """Ask the node to remove a member."""

    @abstractmethod
    def compact(self, name: str) -> None:
        """Cut the node's log at what it has applied, leaving a snapshot instead."""

    @abstractmethod
    def begin_compaction(self, name: str) -> None:
        """Begin to compact; the snapshot is still being made when the node ticks next."""

    @abstractmethod
    def leads(self, name: str) -> bool: ...

    @abstractmethod
    def log(self, name: str) -> list[Entry]: ...

    @abstractmethod
    def commit_index(self, name: str) -> int: ...

    @abstractmethod
    def voters(self, name: str) -> list[str]:
        """The configuration that the node goes by, itself included if it is a voter."""

    @abstractmethod
    def applied(self, name: str) -> list[str]:
        """The labels in the node's state machine, in order."""

    # clocks and ticks

    def clock(self, name: str) -> float:
        return self._clocks[name]

    def pass_time(self, seconds: float, *names: str) -> None:
        """Move the clocks of these nodes, and of no other."""
        for name in names:
            self._clocks[name] += seconds

    def tick(self, *names: str) -> None:
        """One heartbeat period passes on these nodes, one after the other, and each ticks."""
        for name in names:
            self.pass_time(self.heartbeat_s * 1.01, name)  # deadlines are compared strictly
            self.drive(name)

    # links

    def post(self, source: str, target: str, message: Any) -> None:
        """A node sends. Without a session the message is gone."""
        self.sent += 1
        if (source, target) in self._joined:
            self._links[source, target].append(message)

    def joined(self, source: str, target: str) -> bool:
        return (source, target) in self._joined

    def waiting(self, source: str, target: str) -> int:
        return len(self._links[source, target])

    def deliver(self, source: str, target: str, count: int | None = None) -> int:
        """Deliver the oldest `count` messages (default: those that wait now); how many it were."""
        link = self._links[source, target]
        count = len(link) if count is None else min(count, len(link))
        for _ in range(count):
            self.receive(source, target, link.popleft())
        return count

    def exchange(self, *names: str) -> None:
        """Deliver between these nodes until nothing waits."""
        delivered = 0
        while moved := sum(self.deliver(*pair) for pair in permutations(names, 2)):
            delivered += moved
            if delivered > MESSAGES_MAX:
                raise AssertionError(f"no silence after {delivered} messages")

    def join(self, one: str, other: str) -> None:
        for source, target in ((one, other), (other, one)):
            self._apart.discard((source, target))
            if not self.joined(source, target) and {one, other} <= self._running:
                self._joined.add((source, target))
                self.link_changed(source, target, True)

    def cut(self, one: str, other: str) -> None:
        """End the session between two nodes until `join`: what is under way is lost."""
        self._apart |= {(one, other), (other, one)}
        self._end_session(one, other)

    def isolate(self, name: str) -> None:
        for peer in self._peers(name):
            self.cut(name, peer)

    def reunite(self, name: str) -> None:
        for peer in self._peers(name):
            self.join(name, peer)

    def _end_session(self, one: str, other: str) -> None:
        for source, target in ((one, other), (other, one)):
            self._links[source, target].clear()
            if self.joined(source, target):
                self._joined.discard((source, target))
                if source in self._running:
                    self.link_changed(source, target, False)

    def _peers(self, name: str) -> list[str]:
        return [peer for peer in self.names if peer != name]

    # processes

    def crash(self, name: str) -> None:
        """The node dies: its sessions end, and what its disk did not have is gone."""
        self._running.discard(name)
        for peer in self._peers(name):
            self._end_session(name, peer)
        self.stop(name)

    def restart(self, name: str) -> None:
        """Start the node from its disk, and join it to those that the schedule has not cut off."""
        self.start(name)
        self._running.add(name)
        for peer in self._peers(name):
            if (name, peer) not in self._apart:
                self.join(name, peer)

    # clients

    def write(self, node: str, *labels: str, size: int = 0) -> list[Request]:
        """Hand the node one write per label, each an entry of its own."""
        requests = [Request(label, node) for label in labels]
        self.requests += requests
        for request in requests:
            self.submit(request, size)
        return requests

    def remove(self, node: str, member: str) -> Request:
        request = Request(f"remove {member}", node)
        self.changes.append(request)
        self.submit_removal(request, member)
        return request

    # larger moves

    def run(self, *names: str, rounds: int = 8) -> None:
        """Heartbeat periods in which these nodes tick and talk to each other at once."""
        for _ in range(rounds):
            for name in names:
                self.tick(name)
                self.exchange(*names)

    def elect(self, name: str, *voters: str) -> None:
        """Make `name` the leader with these votes. What it sends as a leader waits on its links."""
        for _ in range(CAMPAIGN_TRIES):
            # a voter may be loyal to a leader that it heard from within the shortest timeout
            self.pass_time(self.election_min_s * 1.01, *voters)
            self.pass_time(self.election_max_s * 1.01, name)
            self.drive(name)
            for _ in range(2):  # pre-vote and vote
                for voter in voters:
                    self.deliver(name, voter)
                    self.deliver(voter, name)
                    if self.leads(name):
                        return
        raise AssertionError(f"{name} was not elected by {voters}")

    # judgement

    def acknowledged(self) -> list[str]:
        return [item.label for item in self.requests if item.outcome is Outcome.ACKNOWLEDGED]

    def lost(self, *names: str) -> list[str]:
        """Acknowledged writes that are in no state machine of these nodes."""
        kept = {label for name in names for label in self.applied(name)}
        return [label for label in self.acknowledged() if label not in kept]

    def holders(self, label: str) -> list[str]:
        """The nodes whose log holds the write."""
        return [
            name
            for name in self.names
            if name in self._running and any(label in entry.labels for entry in self.log(name))
        ]
