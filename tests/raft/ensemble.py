"""A few nodes driven by hand: production `Core` and `Driver`, simulated disks, no time of its own.

Links are FIFO sessions. A message leaves when its node steps and arrives when the test settles or
delivers; every one makes the round trip through msgpack and `messages.check`. Time passes only
when the test says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import msgpack

from cluster import operations
from cluster.raft import messages
from cluster.raft.clock import ClusterClock
from cluster.raft.consensus import Timing
from cluster.raft.core import Bounds, Core
from cluster.raft.driver import Driver
from cluster.raft.membership import Member, Membership
from cluster.raft.peers import GROUP
from cluster.raft.stock import Message
from simulation.core.disk import Platter, SimulatedLog
from simulation.core.toy import ToyState

EPOCH_MS = 1_700_000_000_000
STEP_S = 0.01
TIMING = Timing()
PATIENCE_S = 5.0
"""Far more than an election takes."""


class Sent(NamedTuple):
    """One message on a link."""

    source: str
    target: str
    message: Message


class Timeouts(Random):
    """Election timeouts by hand: shortest for who shall stand first, longest for the others."""

    eager = False

    def uniform(self, a: float, b: float) -> float:
        return a if self.eager else b


class Ensemble:
    """`voters`, `learners` and `outsiders` are names of one letter each; all are connected."""

    def __init__(
        self,
        voters: str = "abc",
        learners: str = "",
        outsiders: str = "",
        *,
        bounds: Bounds | None = None,
    ) -> None:
        self.now = 1000.0
        self.names = voters + learners + outsiders
        self.founders = Membership(
            [
                *(member(name) for name in voters),
                *(member(name, "learner") for name in learners),
            ]
        )
        self.bounds = bounds
        self.platters = {name: Platter() for name in self.names}
        self.states = {name: ToyState(self.founders) for name in self.names}
        self.drivers: dict[str, Driver] = {}
        self.traffic: list[Sent] = []
        self.held: set[tuple[str, str]] = set()
        self.alter: Callable[[Sent], Message | None] = lambda sent: sent.message
        self._links: dict[tuple[str, str], deque[bytes]] = {}
        self._random: dict[str, Timeouts] = {}
        self._eager = voters[0]
        self._processes = 0
        for name in self.names:
            self.start(name)
        for name in self.names:
            for other in self.names:
                if name < other:
                    self.join(name, other)

    # --- nodes ---

    def start(self, name: str) -> None:
        """A new process on what the disk has."""
        self._processes += 1
        self._random[name] = Timeouts(self._processes)
        self._random[name].eager = name == self._eager
        core = Core(
            bounds=self.bounds,
            name=name,
            uid=f"uid-{name}",
            log=SimulatedLog(self.platters[name]),
            applied_index=self.states[name].rows.index,
            members=self.states[name].rows.members,
            clock=ClusterClock(name, lambda: EPOCH_MS + int(self.now * 1000)),
            random=self._random[name],
            timing=TIMING,
            now=self.now,
        )
        self.drivers[name] = Driver(
            core,
            self.states[name],
            lambda peer, message: self._post(name, peer, message),
            lambda: self.now,
        )

    def crash(self, name: str) -> None:
        """The process is gone, with everything that was under way from and to it."""
        del self.drivers[name]
        for other in self.names:
            if (name, other) in self._links:
                self.cut(name, other)

    def core(self, name: str) -> Core:
        return self.drivers[name].core

    def values(self, name: str) -> dict[str, tuple[int, str]]:
        """What the node's state holds: the log index and the value of each key."""
        return self.states[name].rows.values

    # --- links ---

    def join(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            self._links[name, peer] = deque()
            self.core(name).peer_connected(self.now, peer)
        for name in (one, other):
            self.step(name)

    def cut(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            del self._links[name, peer]
            if name in self.drivers:
                self.core(name).peer_disconnected(self.now, peer)

    def isolate(self, name: str) -> None:
        for other in self.names:
            if (name, other) in self._links:
                self.cut(name, other)

    def _post(self, source: str, target: str, message: Message) -> None:
        sent = Sent(source, target, message)
        self.traffic.append(sent)
        altered = self.alter(sent)
        if altered is not None and (source, target) in self._links:
            self._links[source, target].append(msgpack.packb([GROUP, altered]))

    # --- steps ---

    def step(self, name: str, *arrived: tuple[str, Message]) -> None:
        """One turn of the node's loop, and what it can do without waiting."""
        more = self.drivers[name].step(self.now, arrived)
        while more:
            more = self.drivers[name].step(self.now, ())

    def deliver(self, count: int) -> int:
        """Let up to `count` messages arrive at this moment; returns how many did."""
        delivered = 0
        while delivered < count:
            ready = [link for link, queue in self._links.items() if queue and link not in self.held]
            if not ready:
                break
            for source, target in ready[: count - delivered]:
                queue = self._links[source, target]
                message = messages.check(msgpack.unpackb(queue.popleft()))
                assert message is not None, "a node's own messages pass the check"
                self.step(target, (source, message))
                delivered += 1
        return delivered

    def settle(self) -> None:
        """Let everything under way arrive at this moment, and what it leads to."""
        assert self.deliver(10_000) < 10_000, "the nodes never fall silent"

    def advance(self, seconds: float) -> None:
        """Let time pass at once: every living node has a turn, then everything arrives."""
        self.now += seconds
        for name in list(self.drivers):
            self.step(name)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.advance(STEP_S)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until `condition()` holds."""
        end = self.now + PATIENCE_S
        while not condition():
            assert self.now < end, "it does not come true"
            self.advance(STEP_S)

    def elect(self, name: str) -> Core:
        """Let time pass until `name` leads and may serve."""
        self._make_eager(name)
        self.until(lambda: self.core(name).ready_to_lead)
        return self.core(name)

    def favour(self, name: str) -> None:
        """Should the leader fall silent from now on, `name` will be the first to stand."""
        self._make_eager(name)
        self.pass_time(3 * TIMING.heartbeat)  # timeouts are drawn when a heartbeat arrives

    def _make_eager(self, name: str) -> None:
        self._eager = name
        for other, random in self._random.items():
            random.eager = other == name

    # --- requests ---

    def propose(self, name: str, key: str, value: str = "v") -> list[object]:
        """Hand an operation to a node; every answer that it gets is in the returned list."""
        answers: list[object] = []
        self.core(name).propose(operations.pack(0, 0, "set", [key, value]), answers.append)
        self.step(name)
        return answers

    def read(self, name: str) -> list[object]:
        """Ask a node for a linearizable read."""
        answers: list[object] = []
        self.core(name).read(answers.append)
        self.step(name)
        return answers

    def change(self, leader: str, change: Any, name: str) -> list[object]:
        """Ask a node for a change of the members."""
        answers: list[object] = []
        self.core(leader).change_members(change, name, f"uid-{name}", f"{name}:1", answers.append)
        self.step(leader)
        return answers

    def sent(self, source: str, kind: str) -> list[Sent]:
        """What `source` sent of one type, since the traffic was last cleared."""
        return [s for s in self.traffic if s.source == source and s.message["type"] == kind]


def member(name: str, role: Any = "voter") -> Member:
    return Member(name, f"uid-{name}", f"{name}:1", role)


def hold(nodes: Ensemble, kind: str) -> Callable[[Sent], Message]:
    """Stops a link behind which a message of one type waits, until the test lets it go."""

    def held(sent: Sent) -> Message:
        if sent.message["type"] == kind:
            nodes.held.add((sent.source, sent.target))
        return sent.message

    return held


def led(voters: str = "abc", learners: str = "", bounds: Bounds | None = None) -> Ensemble:
    """Nodes that `a` leads, with everything told and nothing under way."""
    nodes = Ensemble(voters, learners, bounds=bounds)
    nodes.elect("a")
    nodes.advance(TIMING.heartbeat)
    nodes.traffic.clear()
    return nodes
