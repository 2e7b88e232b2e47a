"""One run: production nodes with the user's hooks on virtual time, under one scenario.

The seed decides everything: latencies, how long a sync takes, faults that are drawn, the order of
tasks. Cluster (cluster.py) is what a scenario sees of it.
"""

from __future__ import annotations

import random as global_random
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import apsw
import trio

from cluster.client import Client, open_client
from hooks.configuration.definition import HandlerDefinition, group_name
from hooks.delivery import deliver
from pubsub import groups
from pubsub.events import Event
from simulation.faults import Strike, draw_strikes
from simulation.node.determinism import Scheduler
from simulation.node.faults import NodeFaults, NodeStage
from simulation.node.links import Links
from simulation.node.machine import CLIENT_PORT, Machine, Site
from simulation.node.observer import Observer
from simulation.node.sqlite_disk import SimulatedDisks
from simulation.options import Options
from simulation.testing.handlers import Attempts, HookModules
from simulation.testing.outside import Outside
from simulation.testing.story import Story

if TYPE_CHECKING:
    from simulation.testing.cluster import Cluster

T = TypeVar("T")

READY_S = 30.0
"""Virtual seconds in which the cluster must form and its handlers must have their partitions."""
CHAOS = tuple(kind for kind in NodeFaults.KINDS if kind != "rot")
"""What may happen to a user's cluster: a rotten disk has to be replaced, and nobody is there to."""
LOOK_S = 0.02
"""Virtual seconds between two looks at the nodes."""


class Run:
    """Implements `simulation.testing.outside.Surroundings`, and what NodeStage asks of a World."""

    def __init__(
        self, seed: str, names: Sequence[str], modules: HookModules, outside: Mapping[str, object]
    ) -> None:
        self.random = Random(seed)
        self.names = list(names)
        self.modules = modules
        self.machines: dict[str, Machine] = {}
        self.options = Options.draw_node(self._draw(), len(names), CHAOS, ["hooks"])
        self.founders = self.names
        self.story = Story(self.names)
        self.trace = self.story.trace
        self.attempts = Attempts(self.note)
        self.outside = Outside(outside, self._draw(), self)
        self.stage = NodeStage(self)
        self.observer = Observer(note=self.note)  # our own promises, held all along
        self.faults = NodeFaults(self.stage, [])
        self.favourite: str | None = None
        self.is_operated = False
        self.log: list[Event] = []  # as far as any node has applied it
        self.deaths: list[tuple[str, float]] = []  # of nodes, without their orderly ends
        self.problem: BaseException | None = None
        self.cluster_id = ""
        self.is_over = False
        self.site: Site
        self.scheduler = Scheduler()
        self.nursery: trio.Nursery
        self._scope = trio.CancelScope()
        self._clients = 0

    def _draw(self) -> Random:
        """A part of the run has its own: what it draws changes nothing for the others."""
        return Random(self.random.getrandbits(64))

    # --- its life ---

    def play(
        self, cluster: Cluster, scenario: Callable[[Cluster], Awaitable[T]], limit_s: float
    ) -> T:
        """The whole run; raises what the scenario raised, or what went wrong beside it."""
        __tracebackhide__ = True
        state = global_random.getstate()
        global_random.seed(self.random.getrandbits(64))  # handlers may use it
        results: list[T] = []

        async def main() -> None:
            __tracebackhide__ = True
            async with trio.open_nursery() as self.nursery:
                self._build(Path(folder), disks)
                try:
                    with self._scope:
                        await self._begin()
                        results.append(await self._within(limit_s, scenario(cluster)))
                except BaseException as problem:
                    if _is_cancelled(problem):
                        raise
                    self.fail(problem)
                await self._end()

        try:
            with (
                tempfile.TemporaryDirectory(prefix="tremula-") as folder,
                SimulatedDisks.installed() as disks,
            ):
                disks.seed(self._draw())
                self.scheduler.run(self.random.getrandbits(64), main)
        finally:
            global_random.setstate(state)
        if self.problem is not None:
            raise self.problem
        return results[0]

    def fail(self, problem: BaseException) -> None:
        """The run ends with this, unless something has ended it before."""
        self.problem = self.problem or _alone(problem)
        self._scope.cancel()

    def guard(self, action: Callable[[], None]) -> None:
        """Do what belongs to no task; what it raises ends the run."""
        try:
            action()
        except Exception as problem:
            self.fail(problem)

    def _build(self, folder: Path, disks: SimulatedDisks) -> None:
        low_s, spread_s = self.options.latency_s
        sync_s, sync_spread_s = self.options.fsync_s
        self.story.drawn.append(
            f"nodes {', '.join(self.names)}; latency {low_s:g} to {low_s + spread_s:g} s; "
            f"a sync takes {sync_s:g} to {sync_s + sync_spread_s:g} s"
        )
        links = Links(self._draw(), self.scheduler, self.options.latency_s)
        links.on_send = self.stage.sends
        self.site = Site(
            scheduler=self.scheduler,
            links=links,
            disks=disks,
            observer=self.observer,
            trace=self.trace,
            folder=folder,
            nursery=self.nursery,
        )
        for name in self.names:
            machine = self.machines[name] = _HookMachine(name, self)
            machine.disk.sync_s = self.options.fsync_s
            machine.on_sync = partial(self._synced, name)
            machine.start()
        self.nursery.start_soon(self._look)

    def _synced(self, name: str) -> None:
        self.faults.happens(name, "commit", None)

    async def _begin(self) -> None:
        """The scenario finds a leader, and every handler with its share on every node."""
        with trio.move_on_after(READY_S):
            while not self.handlers_are_ready():  # noqa: ASYNC110 - on virtual time
                await trio.sleep(LOOK_S)
            return
        raise AssertionError(f"the cluster was not ready within {READY_S:.0f} virtual s")

    async def _within(self, limit_s: float, scenario: Awaitable[T]) -> T:
        __tracebackhide__ = True
        with trio.move_on_after(limit_s):
            return await scenario
        raise AssertionError(f"the scenario was not over within {limit_s:.0f} virtual s")

    async def _end(self) -> None:
        self.read_log()
        self._look_for_our_own_bugs()
        self.story.ended_s = trio.current_time()
        self.is_over = True
        for machine in self.machines.values():
            machine.crash()
            await machine.gone()
        self.nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        """Keep up with the log, and with nodes that end by themselves."""
        while True:
            self.read_log()
            self._look_for_our_own_bugs()
            for machine in self.machines.values():
                problem, machine.problem = machine.problem, None
                if problem is None:
                    continue
                self.note(machine.name, f"ended: {type(problem).__name__}")
                if not machine.may_fail:
                    self.fail(problem)
            await trio.sleep(LOOK_S)

    def _look_for_our_own_bugs(self) -> None:
        if self.observer.broken is not None:
            self.fail(self.observer.broken)

    # --- what is known of it ---

    def note(self, who: str, what: str, *_: object) -> None:
        self.story.note(who, what)

    def leader(self) -> Machine | None:
        """The living leader of the newest term."""
        leaders = [machine for machine in self.machines.values() if machine.is_leader]
        return max(leaders, key=lambda machine: machine.core.term, default=None)

    def read_log(self) -> None:
        """Up to what any living node has applied, which is committed for good."""
        serving = [machine.node for machine in self.machines.values() if machine.is_connected]
        nodes = [node for node in serving if node is not None and node.storage is not None]
        newest = max(nodes, key=lambda node: node.machine.revision, default=None)
        if newest is None or newest.machine.revision <= len(self.log):
            return
        self.cluster_id = newest.cluster_id or ""
        found = newest.read_events(len(self.log) + 1, 1 << 30, 1 << 40)
        assert isinstance(found, list), "nothing removes events"
        for event in found:
            self.log.append(event)
            self.note("log", f"{event.revision} {event.topic} {event.key or ''}".rstrip())

    def is_whole(self) -> bool:
        """Every node is up, and all are at one applied index under one leader."""
        machines = list(self.machines.values())
        if not all(machine.is_connected and machine.has_core for machine in machines):
            return False
        cores = [machine.core for machine in machines]
        return (
            cores[0].leader is not None
            and len({core.leader for core in cores}) == 1
            and len({core.applied_index for core in cores}) == 1
            and all(core.commit_index == core.applied_index for core in cores)
        )

    def handlers_are_ready(self) -> bool:
        """Every handler has a member on each node, and an owner for each partition."""
        return self.is_whole() and all(
            group is not None
            and len(group["members"]) == len(self.names)
            and all(
                partition["owner"] and not partition["next_owner"]
                for partition in group["partitions"]
            )
            for group in map(self._group, self.modules.definitions)
        )

    def unhandled(self) -> list[str]:
        """What handlers still have to do, in words; asked when all nodes agree."""
        self.read_log()
        found: list[str] = []
        for handler in self.modules.definitions:
            matching = [e.revision for e in self.log if handler.pattern.matches(deliver(e).topic)]
            group = self._group(handler)
            floor = min((int(p["floor"]) for p in group["partitions"]), default=0) if group else 0
            if matching and floor < matching[-1]:
                found.append(
                    f"{handler.name}: done with every event up to revision {floor}, "
                    f"not up to {matching[-1]}"
                )
        return found

    def dead_letters(self, handler: HandlerDefinition) -> dict[int, str]:
        """The events that the handler has given up: revision -> error."""
        group = group_name(handler.name)
        found: dict[int, str] = {}
        while page := groups.dead_letters(self._connection(), group, max(found, default=0)):
            found |= {int(letter["revision"]): str(letter["error"]) for letter in page}
        return found

    def _group(self, handler: HandlerDefinition) -> dict[str, Any] | None:
        return groups.describe(self._connection(), group_name(handler.name))

    def _connection(self) -> apsw.Connection:
        """Of a node that serves."""
        for machine in self.machines.values():
            if machine.is_connected and machine.has_core and machine.node is not None:
                return machine.node.machine.connection
        raise AssertionError("no node runs: restart one first")

    def about(self, event: Event) -> list[str]:
        """Every attempt at it, and what became of the node that made it."""
        lines: list[str] = []
        for attempt in self.attempts.all:
            if attempt.revision != event.revision:
                continue
            died_s = min(
                (at for name, at in self.deaths if name == attempt.node and at > attempt.began_s),
                default=None,
            )
            ended_s = attempt.ended_s
            if died_s is not None and ended_s is not None and died_s > ended_s:
                lines.append(f"{attempt}; {attempt.node} died {died_s - ended_s:.3f} s later")
            else:
                lines.append(str(attempt))
        return lines

    # --- what happens to it ---

    def crash(self, name: str, *, power: bool = False) -> None:
        self.stage.crash(name, power=power)

    def heal(self) -> None:
        """Take every fault back: all paths are open, all disks work, all nodes run."""
        self.outside.deaths = 0.0
        self.outside.traps.clear()
        self.faults.heal_all()
        self.stage.wrong_clock(0)

    def begin_chaos(self, seconds: float, kinds: Sequence[str] | None, rate: float | None) -> None:
        """Faults at random times of the next `seconds`."""
        random = self._draw()
        options = Options.draw_node(random, len(self.names), CHAOS, ["hooks"])
        options = replace(options, safety_s=seconds, fault_rate=rate or options.fault_rate)
        if kinds is not None:
            options = replace(options, faults={kind: random.uniform(0.2, 1.0) for kind in kinds})
        strikes: list[Strike] = draw_strikes(random, options)
        self.outside.deaths = random.choice((0.0, 0.1, 0.3))
        weights = ", ".join(f"{kind} {weight:.2f}" for kind, weight in options.faults.items())
        self.story.drawn += [
            f"chaos at {trio.current_time():.3f} s for {seconds:g} s, "
            f"{options.fault_rate:g} faults a second of: {weights}",
            f"  a call outside is its node's death with a chance of {self.outside.deaths:g}",
            *(f"  {strike}" for strike in strikes),
        ]
        self.faults = NodeFaults(self.stage, strikes)
        self.faults.begin()

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """A production client on a host of its own, whose ways to the nodes are always open."""
        self._clients += 1
        random = self._draw()
        return open_client(
            [(name, CLIENT_PORT) for name in random.sample(self.names, len(self.names))],
            network=self.site.links.at(f"client-{self._clients}"),
            random=random,
        )


class _HookMachine(Machine):
    """Each life of its node has hook modules of its own."""

    def __init__(self, name: str, run: Run) -> None:
        super().__init__(name, run.site, run.names, run._draw())
        self._run = run

    def start(self) -> None:
        run = self._run
        if run.is_over:
            return
        if not self.is_alive:
            registry = run.modules.load(run.outside.as_seen_from(self))
            self.registry = run.attempts.watch(registry, self)
        super().start()

    def crash(self, *, power: bool = False) -> None:
        if self.is_connected and not self._run.is_over:
            self._run.deaths.append((self.name, trio.current_time()))
        super().crash(power=power)


def _is_cancelled(problem: BaseException) -> bool:
    if isinstance(problem, BaseExceptionGroup):
        return problem.subgroup(trio.Cancelled) is not None
    return isinstance(problem, trio.Cancelled)


def _alone(problem: BaseException) -> BaseException:
    """What a group of one holds: a scenario may have nurseries of its own."""
    while isinstance(problem, BaseExceptionGroup) and len(problem.exceptions) == 1:
        problem = problem.exceptions[0]
    return problem
