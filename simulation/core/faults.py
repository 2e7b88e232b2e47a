"""Fault schedules drawn from the seed, and the end of all faults.

Each fault is a method that does it and arranges its own healing. Those that need several steps in
the right order are in aimed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from simulation.core import aimed
from simulation.core.ambush import Ambush

if TYPE_CHECKING:
    from simulation.core.process import Process
    from simulation.core.world import World

SCRIPT_STEP_S = 0.01
Script = Iterator[float | Callable[[], bool]]
"""Yields seconds to wait, or a condition to wait for (a few seconds at most)."""
CONDITION_S = 3.0


class Faults:
    """Strikes at random times during the safety phase."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ambushes: list[Ambush] = []
        self._scripts = 0  # in progress
        self.over = False

    def begin(self) -> None:
        world = self._world
        world.after(world.random.expovariate(world.options.fault_rate), self._strike)

    def heal_all(self) -> None:
        """From here on nothing breaks: everybody is up, every path is open."""
        self.over = True
        self._ambushes = []
        world = self._world
        world.favourite = None
        names = list(world.processes)
        for process in world.processes.values():
            process.crash_in = None
            process.fsync_s = (0.0001, 0.001)
            process.frozen_until = world.now
        for one in names:
            for other in names:
                world.network.heal(one, other)
        for name in names:
            if not world.processes[name].alive:
                world.start(name)
        for one in names:
            for other in names:
                if one < other:
                    world.connect(one, other)

    def strikes(self, process: Process, what: str, to: str | None) -> None:
        """Something happens that an ambush may wait for; it may raise Crashed."""
        for ambush in [a for a in self._ambushes if a.waits_for(process, what)]:
            self._ambushes.remove(ambush)
            self._world.note("ambush", f"{ambush.action} at {what} of {process.name}")
            ambush.spring(self, process, to)

    def lay(self, ambush: Ambush) -> None:
        """Let an ambush wait, for a while."""
        self._ambushes.append(ambush)

        def give_up() -> None:
            if ambush in self._ambushes:
                self._ambushes.remove(ambush)

        self._world.after(CONDITION_S, give_up)

    def play(self, script: Script) -> None:
        """Run a script step by step, unless all faults end before. All need three nodes."""
        world = self._world
        if len(world.processes) < 3:
            return
        self._scripts += 1

        def go_on() -> None:
            if self.over:
                return
            step = next(script, None)
            if callable(step):
                wait(step, world.now + CONDITION_S)
            elif step is not None:
                world.after(step, go_on)
            else:
                self._scripts -= 1

        def wait(condition: Callable[[], bool], until: float) -> None:
            if condition() or world.now >= until or self.over:
                go_on()
            else:
                world.after(SCRIPT_STEP_S, lambda: wait(condition, until))

        go_on()

    def restart_later(self, name: str, choices: tuple[float, ...] = (0.05, 0.5, 2.0)) -> None:
        """A dead node comes back, unless it did already."""
        world = self._world

        def restart() -> None:
            if not world.processes[name].alive:
                world.start(name)

        world.after(world.random.choice(choices), restart)

    def separate(self, side: list[str], breaks: bool, seconds: float) -> None:
        """Nothing passes between `side` and the others; their sessions break or they stand."""
        world = self._world
        pairs = [(a, b) for a in side for b in world.processes if b not in side]
        for a, b in pairs:
            world.network.cut(a, b)
            world.network.cut(b, a)
            if breaks:
                world.network.disconnect(a, b)
        world.after(seconds, lambda: self.mend(pairs))

    def mend(self, pairs: list[tuple[str, str]]) -> None:
        world = self._world
        for a, b in pairs:
            world.network.heal(a, b)
            world.network.heal(b, a)
            world.connect(a, b)

    # --- the strikes ---

    def _strike(self) -> None:
        if self.over:
            return
        world = self._world
        if self._scripts and world.random.random() < 0.9:
            self.begin()  # a script is mostly left alone
            return
        options = world.options
        kinds = list(options.faults)
        kind = world.random.choices(kinds, [options.faults[k] for k in kinds])[0]
        world.note("fault", kind)
        getattr(self, f"_{kind}")(self._victim())
        self.begin()

    def _victim(self) -> Process:
        """Half of the time a leader: that is where it hurts."""
        world = self._world
        leaders = [p for p in world.processes.values() if p.leads]
        if leaders and world.random.random() < 0.5:
            return world.random.choice(leaders)
        return world.random.choice(list(world.processes.values()))

    def _crash(self, victim: Process) -> None:
        """kill -9 at some port call in the next moments."""
        world = self._world
        victim.crash_in = world.random.randrange(12)
        name = victim.name

        def make_sure() -> None:
            victim.crash_in = None
            world.crash(name, power=False)
            self.restart_later(name)

        world.after(0.05, make_sure)

    def _power(self, victim: Process) -> None:
        """Some nodes, perhaps all, lose power at once."""
        names = list(self._world.processes)
        count = self._world.random.randint(1, len(names))
        self._power_off(self._world.random.sample(names, count))

    def _majority(self, victim: Process) -> None:
        """A majority loses power at once, the leader among them; the others go on alone."""
        world = self._world
        leader = world.leader() or victim
        others = [name for name in world.processes if name != leader.name]
        self._power_off([leader.name, *world.random.sample(others, len(others) // 2)])

    def _power_off(self, names: list[str]) -> None:
        for name in names:
            self._world.crash(name, power=True)
            self.restart_later(name)

    def _disconnect(self, victim: Process) -> None:
        world = self._world
        others = [n for n in world.processes if n != victim.name]
        if others:
            world.network.disconnect(victim.name, world.random.choice(others))

    def _isolate(self, victim: Process) -> None:
        self._separate([victim.name])

    def _split(self, victim: Process) -> None:
        names = list(self._world.processes)
        self._separate(self._world.random.sample(names, len(names) // 2))

    def _separate(self, side: list[str]) -> None:
        random = self._world.random
        self.separate(side, random.random() < 0.5, random.choice([0.2, 1.0, 3.0]))

    def _one_way(self, victim: Process) -> None:
        world = self._world
        others = [n for n in world.processes if n != victim.name]
        pairs = [(victim.name, n) for n in others if world.random.random() < 0.7]
        if world.random.random() < 0.5:
            pairs = [(b, a) for a, b in pairs]
        for a, b in pairs:
            world.network.cut(a, b)
        world.after(world.random.choice([0.2, 1.0]), lambda: self.mend(pairs))

    def _flap(self, victim: Process) -> None:
        for turn in range(6):
            self._world.after(turn * 0.2, lambda: self._disconnect(victim))

    def _slow_disk(self, victim: Process) -> None:
        before = victim.fsync_s
        victim.fsync_s = (0.25, 0.1)

        def quicken() -> None:
            victim.fsync_s = before

        self._world.after(2.0, quicken)

    def _freeze(self, victim: Process) -> None:
        """SIGSTOP, and later SIGCONT: the sessions stand."""
        victim.frozen_until = self._world.now + self._world.random.choice([0.1, 1.0, 3.0])

    def _clock(self, victim: Process) -> None:
        """The one wrong clock jumps."""
        skewed = self._world.processes["n1"]
        skewed.skew_ms = self._world.random.choice([0, 5_000, 3_600_000, -3_600_000])

    def _transfer(self, victim: Process) -> None:
        leader = self._world.leader()
        if leader is not None and leader.core is not None:
            target = self._world.random.choice([None, victim.name])
            leader.core.transfer_leadership(self._world.now, target, lambda result: None)
            leader.wake(0.0)

    def _ambush(self, victim: Process) -> None:
        self.lay(Ambush.draw(self._world.random, victim.name))

    def _late_answers(self, victim: Process) -> None:
        self.play(aimed.late_answers(self._world))

    def _hasty_changes(self, victim: Process) -> None:
        self.play(aimed.hasty_changes(self._world))

    def _rivals(self, victim: Process) -> None:
        self.play(aimed.rivals(self._world))

    def _hurried_requests(self, victim: Process) -> None:
        self.play(aimed.hurried_requests(self._world))

    def _deaf_leader(self, victim: Process) -> None:
        self.play(aimed.deaf_leader(self._world))
