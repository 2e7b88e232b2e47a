"""One simulated node: the production Core and Driver on a disk with crash semantics.

A process dies at any call to one of its ports: between two messages, before or after the fsync,
between two entries that it applies. What it sent before that has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from cluster.raft.core import Core
from cluster.raft.driver import Driver
from cluster.raft.membership import Membership
from cluster.raft.peers import Hello
from cluster.raft.snapshot import SnapshotSink
from cluster.raft.stock import Message
from simulation.core.disk import Platter
from simulation.core.toy import ToyState

if TYPE_CHECKING:
    from simulation.core.world import World

EPOCH_MS = 1_700_000_000_000


class Crashed(Exception):
    """A node died in the middle of a call to one of its ports."""


class Process:
    """One node: what survives (platter, state on disk) and the process that runs on it."""

    def __init__(self, world: World, name: str, uid: str, founders: Membership) -> None:
        self.world = world
        self.name = name
        self.founders = founders
        self.skew_ms = 0
        self.core: Core | None = None
        self.driver: Driver | None = None
        self.inbox: deque[tuple[str, Message]] = deque()
        self.busy_until = 0.0
        self.frozen_until = 0.0
        self.scheduled = float("inf")
        self.incarnation = 0
        self.crash_in: int | None = None
        self.fsync_s = world.options.fsync_s
        self.step_cost = 0.0
        self._deadline = 0.0  # what the last step said it must be followed by
        self._dying = False
        self.stepping = False
        self.loses_power = False  # with the crash in the step that is in progress
        self.wipe(uid)

    def wipe(self, uid: str) -> None:
        """An empty data directory: it gets a uid of its own and remembers nothing."""
        self.uid = uid
        self.platter = self.world.platters.setdefault(uid, Platter())
        self.state = ToyState(self.founders)

    @property
    def alive(self) -> bool:
        return self.core is not None

    @property
    def leads(self) -> bool:
        return self.core is not None and self.core.is_leader

    def start(self) -> None:
        """A new process: it knows only what was durable, and finishes an interrupted snapshot."""
        world = self.world
        self.bury()
        self.state.finish_installation(self.platter.notes.get("installing") is not None)
        self.platter.notes["installing"] = None
        core = self.core = world.core_class(
            name=self.name,
            uid=self.uid,
            log=world.make_log(self),
            applied_index=self.state.rows.index,
            members=self.state.rows.members,
            clock=world.make_clock(self),
            random=Random(world.random.random()),
            timing=world.timing,
            now=world.now,
        )
        self.driver = world.driver_class(core, Watched(self), self.send, self.monotonic)
        self.incarnation += 1
        self.inbox.clear()
        self._deadline = world.now
        self.wake(0.0)

    def hello(self) -> Hello:
        """What it says of itself when it greets a peer."""
        core = self.core
        assert core is not None, "only living nodes greet"
        members = core.members.encode()
        return Hello(self.name, self.uid, "", "simulated", [], members, core.members_index)

    # --- its ports ---

    def monotonic(self) -> float:
        return self.world.now + self.step_cost

    def wall_ms(self) -> int:
        return EPOCH_MS + self.skew_ms + int(self.world.now * 1000)

    def on_commit(self) -> bool:
        """The fsync: it takes time, and a crash strikes before or after it."""
        self.port()
        self.world.faults.happens(self.name, "commit", None)
        low, spread = self.fsync_s
        self.step_cost += low + self.world.random.random() * spread
        return self.world.fsync_honest()

    def port(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crashed

    def send(self, to: str, message: Message) -> None:
        """The message leaves when the step has come so far, if the node still lives then."""
        self.port()
        world = self.world
        world.invariants.sends(self, to, message)
        if self.step_cost:
            incarnation = self.incarnation
            world.after(self.step_cost, lambda: self._leave(to, message, incarnation))
        else:
            world.network.send(self.name, to, message)
        world.faults.happens(self.name, message["type"], to)

    def _leave(self, to: str, message: Message, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.world.network.send(self.name, to, message)

    # --- its steps ---

    def wake(self, delay: float) -> None:
        """Run a step no later than `delay` from now, when the node is free."""
        due = max(self.world.now + delay, self.busy_until, self.frozen_until)
        if due < self.scheduled:
            self.scheduled = due
            incarnation = self.incarnation
            self.world.at(due, lambda: self._run(due, incarnation))

    def _run(self, due: float, incarnation: int) -> None:
        if incarnation != self.incarnation or due != self.scheduled:
            return
        self.scheduled = float("inf")
        if self.world.now < self.frozen_until:
            self.wake(0.0)
        else:
            self.step()

    def step(self) -> None:
        """What the engine does in one turn of its loop."""
        core, driver = self.core, self.driver
        if core is None or driver is None:
            return
        world = self.world
        waiting_since = max(self._deadline, self.busy_until)
        on_time = world.now <= waiting_since
        stalled = self.step_cost + max(world.now - waiting_since, 0.0)
        self.step_cost = 0.0
        self.stepping = True
        try:
            while self.inbox and on_time and driver.take_note(world.now, *self.inbox[0]):
                self.inbox.popleft()
            arrived = list(self.inbox)
            self.inbox.clear()
            more = driver.step(world.now, arrived, stalled)
            world.after_step(self)
        except Crashed:
            self._die()
            return
        finally:
            self.stepping = False
        self.busy_until = world.now + self.step_cost
        self._deadline = self.busy_until if more else core.deadline()
        if more or self.inbox:
            self.wake(0.0001)
        else:
            self.wake(max(self._deadline - world.now, 0.0) + 0.00001)

    def _die(self) -> None:
        """Nothing runs any more; the others are told when the step would have come to this."""
        self.core = self.driver = None
        self._dying = True
        incarnation = self.incarnation
        self.world.note(self.name, "dies")

        def noticed() -> None:
            if incarnation == self.incarnation:
                self.bury()

        self.world.after(self.step_cost, noticed)

    def bury(self) -> None:
        if self._dying:
            self._dying = False
            self.stop(power=self.loses_power)
            self.world.hang_up(self.name)

    def stop(self, power: bool) -> None:
        self.core = self.driver = None
        self._dying = self.loses_power = False
        self.incarnation += 1
        self.scheduled = float("inf")
        self.crash_in = None
        self.step_cost = self.busy_until = self.frozen_until = 0.0
        if power:
            self.state.lose_power()


class Watched:
    """The toy state as the driver sees it, with the checker looking on and crashes inside."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._state = process.state

    @property
    def wall_ms(self) -> int:
        return self._state.wall_ms

    @property
    def elapsed_ms(self) -> int:
        return self._state.elapsed_ms

    @property
    def entry_version(self) -> int:
        return self._state.entry_version

    def apply(self, index: int, term: int, command: bytes) -> list[object]:
        process = self._process
        process.port()
        assert process.core is not None, "a dead node applies nothing"
        entry = process.core.log.get(index)
        assert entry is not None, "what is applied is in the log"
        process.world.checker.applied(process.name, entry)
        process.world.invariants.applies(process, entry)
        process.world.note(process.name, f"apply {index} term {term}")
        return self._state.apply(index, term, command)

    def copy(self, ready: Callable[[Any], None]) -> None:
        self._state.copy(ready)

    def receive(self) -> SnapshotSink:
        self._process.port()
        return _WatchedSink(self._process, self._state.receive())


class _WatchedSink:
    """Where a copy goes, with a crash before each thing that changes the disk."""

    def __init__(self, process: Process, sink: SnapshotSink) -> None:
        self._process = process
        self._sink = sink
        self.write = sink.write
        self.discard = sink.discard

    def seal(self) -> None:
        self._port()
        self._sink.seal()
        self._port()

    def adopt(self) -> None:
        self._port()
        self._sink.adopt()
        self._process.world.note(self._process.name, "installs a snapshot")
        self._port()

    def _port(self) -> None:
        self._process.port()
        self._process.world.faults.happens(self._process.name, "install", None)
