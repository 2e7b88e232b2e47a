"""What a scenario is given: a cluster whose nodes it breaks by name, and what became of its events.

All seconds are virtual: they take as long as the computer needs for what happens in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import combinations
from typing import TypeVar

import trio

from cluster.client import Client
from pubsub.events import Event
from pubsub.topics import Pattern, closest, validate_pattern
from simulation.node.machine import Machine
from simulation.testing import expectations
from simulation.testing.expectations import By
from simulation.testing.handlers import Attempt
from simulation.testing.outside import Trap, When
from simulation.testing.run import CHAOS, LOOK_S, Run

T = TypeVar("T")

PATIENCE_S = 30.0


class Cluster:
    """Every fault stays until `heal`, `restart` or the end of its seconds takes it back."""

    def __init__(self, run: Run) -> None:
        self._run = run

    # --- looking ---

    @property
    def names(self) -> list[str]:
        """Of all nodes: "a", "b", "c" ... unless the test has named them."""
        return list(self._run.names)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return trio.current_time()

    @property
    def leader(self) -> str:
        """The node that leads. Right after its death there is none: see `wait_leader`."""
        leader = self._run.leader()
        if leader is None:
            raise ValueError("no node leads at the moment: await cluster.wait_leader() gives one")
        return leader.name

    def is_running(self, node: str) -> bool:
        """Whether its process lives."""
        return self._machine(node).is_connected

    def events(self, topic: str = ">") -> list[Event]:
        """The committed events whose topic matches the pattern, in the order of the log."""
        problem = validate_pattern(topic)
        if problem:
            raise ValueError(problem)
        self._run.read_log()
        matches = Pattern(topic).matches
        return [event for event in self._run.log if matches(event.topic)]

    def attempts(self, handler: str | None = None) -> list[Attempt]:
        """Every attempt so far, of one handler or of all, in the order in which they began."""
        if handler is not None:
            self._known("handler", handler, [h.name for h in self._run.modules.definitions])
        return [a for a in self._run.attempts.all if handler in (None, a.handler)]

    def dead_letters(self, handler: str) -> dict[int, str]:
        """The events that a handler has given up after its last retry: revision -> error."""
        definitions = {h.name: h for h in self._run.modules.definitions}
        self._known("handler", handler, list(definitions))
        return self._run.dead_letters(definitions[handler])

    # --- waiting ---

    async def sleep(self, seconds: float) -> None:
        """Let the cluster run for so long."""
        await trio.sleep(seconds)

    async def wait_leader(self, within_s: float = PATIENCE_S) -> str:
        """Wait until a node leads; its name."""
        await self.eventually(lambda: self._run.leader() is not None, within_s, "a node leads")
        return self.leader

    async def eventually(
        self, condition: Callable[[], T], within_s: float = PATIENCE_S, what: str = ""
    ) -> T:
        """Wait until `condition()` is true; what it returned. While it raises AssertionError, it is
        not true yet, and the last of them is raised in the end."""
        __tracebackhide__ = True
        last: AssertionError | None = None
        with trio.move_on_after(within_s):
            while True:
                try:
                    result = condition()
                except AssertionError as problem:
                    last = problem
                else:
                    last = None
                    if result:
                        return result
                await trio.sleep(LOOK_S)
        if last is not None:
            raise last
        raise AssertionError(f"not within {within_s:g} virtual s: {what or 'the condition'}")

    async def settle(self, within_s: float = PATIENCE_S) -> None:
        """Heal everything, start every node that is down, and wait until every handler has done
        with every event: what has not happened by then never will."""
        __tracebackhide__ = True
        self._run.note("test", "settle")
        self._run.heal()
        missing = ["the nodes agree"]
        with trio.move_on_after(within_s):
            while missing:
                await trio.sleep(LOOK_S)
                for machine in self._run.machines.values():
                    machine.start()
                missing = self._run.unhandled() if self._run.is_whole() else ["the nodes agree"]
            return
        running = [f"  {attempt}" for attempt in self._run.attempts.all if attempt.is_running]
        said = [f"not settled within {within_s:g} virtual s:", *(f"  {m}" for m in missing)]
        raise AssertionError("\n".join([*said, *running]))

    # --- clients ---

    def client(self) -> AbstractAsyncContextManager[Client]:
        """`async with cluster.client() as client`: a client that reaches every living node."""
        return self._run.open_client()

    # --- breaking ---

    def crash(self, *nodes: str) -> None:
        """kill -9: what was written survives, the handlers' memory does not."""
        for machine in self._machines(nodes):
            self._run.crash(machine.name)

    def power_loss(self, *nodes: str) -> None:
        """The same at once for all of them, and what was not synced may be lost or torn."""
        for machine in self._machines(nodes):
            self._run.crash(machine.name, power=True)

    def stop(self, node: str) -> None:
        """SIGTERM: it finishes its attempts and hands over."""
        self._run.stage.stop(self._machine(node).name)

    def restart(self, *nodes: str) -> None:
        """Start them again on their disks, as soon as their last process is gone."""
        for machine in self._machines(nodes):
            machine.start()

    def freeze(self, node: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long: it sleeps, and does not know it."""
        self._run.stage.freeze(self._machine(node).name, seconds)

    def partition(self, *sides: str | Sequence[str]) -> None:
        """Nothing passes between the sides; a node that is in none of them sees them all."""
        groups = [[side] if isinstance(side, str) else list(side) for side in sides]
        if len(groups) < 2:
            raise ValueError('partition: two sides or more, as in partition("a", ["b", "c"])')
        for node in (node for group in groups for node in group):
            self._machine(node)
        self._run.note("fault", "partition " + " | ".join(" ".join(group) for group in groups))
        for near, far in combinations(groups, 2):
            for one in near:
                for other in far:
                    self._cut(one, other)
                    self._cut(other, one)

    def cut(self, sender: str, receiver: str) -> None:
        """Nothing gets from one node to another; the other way is open."""
        for node in (sender, receiver):
            self._machine(node)
        self._run.note("fault", f"cut {sender} → {receiver}")
        self._cut(sender, receiver)

    def slow_link(self, sender: str, receiver: str, seconds: float) -> None:
        """Whatever one node sends to another takes so much longer."""
        for node in (sender, receiver):
            self._machine(node)
        self._run.note("fault", f"{sender} → {receiver} takes {seconds:g} s more")
        self._run.stage.delay(sender, receiver, seconds)

    def slow_disk(self, node: str, seconds: float) -> None:
        """Each sync of its disk takes so long."""
        self._machine(node)
        self._run.note(node, f"a sync takes {seconds:g} s")
        self._run.stage.slow_disk(node, (seconds, 0.0))

    def set_clock(self, node: str, off_ms: int) -> None:
        """Let its wall clock be wrong by so much."""
        machine = self._machine(node)
        self._run.note(node, f"its clock is {off_ms} ms off")
        machine.clock_off_ms = off_ms

    def heal(self) -> None:
        """Take back every fault; the dead nodes start."""
        self._run.note("fault", "all healed")
        self._run.heal()

    def crash_at(
        self,
        name: str,
        *,
        when: When = "after",
        power: bool = False,
        restart_s: float | None = None,
    ) -> None:
        """Kill the node that makes the next call of `name`, one of the things `outside`: before the
        call takes effect, or after it and before the handler knows."""
        things = list(self._run.outside.things)
        self._known("thing outside", name.partition(".")[0], things)
        if when not in ("before", "after"):
            raise ValueError(f'when={when!r}: "before" or "after" is expected')
        self._run.outside.traps.append(Trap(name, when, power, restart_s))

    @asynccontextmanager
    async def chaos(
        self,
        seconds: float = 5.0,
        *,
        kinds: Sequence[str] | None = None,
        rate: float | None = None,
    ) -> AsyncIterator[None]:
        """Faults that the seed draws strike the cluster, during the block and at least for so long;
        then all is healed. `kinds` are names of faults, `rate` is how many there are a second."""
        if seconds <= 0 or (rate is not None and rate <= 0):
            raise ValueError("chaos: seconds and rate are more than 0")
        for kind in kinds or ():
            self._known("kind of fault", kind, CHAOS)
        until = self.now + seconds
        self._run.begin_chaos(seconds, kinds, rate)
        try:
            yield
            await trio.sleep(max(0.0, until - self.now))
        finally:
            self.heal()

    # --- judging ---

    def assert_exactly_once(self, topic: str, found: Iterable[Hashable], *, by: By = "key") -> None:
        """Every committed event of the topic is in `found` once, and nothing else is.

        `by` says what an event is there: its "key", "revision" or "event_id", or what a function
        makes of it. Call it after `settle`.
        """
        __tracebackhide__ = True
        wrong = expectations.once(topic, *self._subject(topic, found, by), self._run.about)
        if wrong is not None:
            raise AssertionError(wrong)

    def assert_in_order(
        self,
        topic: str,
        found: Iterable[Hashable],
        *,
        by: By = "revision",
        per_key: bool = True,
    ) -> None:
        """What is in `found` came in the order of the log: for each key, which is what is promised,
        or over all keys. What came again counts where it came first."""
        __tracebackhide__ = True
        wrong = expectations.order(topic, *self._subject(topic, found, by), per_key=per_key)
        if wrong is not None:
            raise AssertionError(wrong)

    def _subject(
        self, topic: str, found: Iterable[Hashable], by: By
    ) -> tuple[list[Event], list[Hashable], Callable[[Event], Hashable]]:
        __tracebackhide__ = True
        events = self.events(topic)
        if not events:
            raise AssertionError(expectations.nothing_there(topic, self._run.log))
        return events, list(found), expectations.identify(by, self._run.cluster_id)

    # --- names ---

    def _machine(self, node: str) -> Machine:
        self._known("node", node, self._run.names)
        return self._run.machines[node]

    def _machines(self, nodes: Sequence[str]) -> list[Machine]:
        if not nodes:
            raise ValueError(f"which node? There are {', '.join(self._run.names)}")
        return [self._machine(node) for node in nodes]

    @staticmethod
    def _known(kind: str, name: str, names: Sequence[str]) -> None:
        if name not in names:
            nearest = closest(str(name).lower(), names)
            meant = f' (did you mean "{nearest}"?)' if nearest else ""
            known = ", ".join(names) or "none"
            raise ValueError(f'no {kind} has the name "{name}"{meant}; there are: {known}')

    def _cut(self, sender: str, receiver: str) -> None:
        self._run.stage.cut(sender, receiver)
