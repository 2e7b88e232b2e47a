"""The stage of the core level, and the faults that only it knows: members changed in a hurry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from simulation.aimed import Script
from simulation.core.process import Crashed
from simulation.faults import Faults

if TYPE_CHECKING:
    from simulation.core.world import World


class CoreFaults(Faults):
    KINDS = (*Faults.KINDS, "hasty_changes")

    stage: CoreStage

    def _hasty_changes(self, random: Random, victim: str) -> None:
        self.play(self._change_hastily(random))

    def _change_hastily(self, random: Random) -> Script:
        """Two leaders, one of them cut off, change the members one after the other, in a hurry
        (defect D of tests/paper)."""
        stage = self.stage
        leader = stage.leader()
        if leader is None:
            return
        names = list(stage.names)
        others = random.sample([n for n in names if n != leader], len(names) - 1)
        with_leader = [leader, *others[: random.randrange(2) if len(names) > 3 else 0]]
        pairs = [(a, b) for a in with_leader for b in names if b not in with_leader]
        for a, b in pairs:
            stage.cut(a, b)
            stage.cut(b, a)
        for name in others:
            yield random.choice([0.0, 0.02, 0.1])
            stage.remove(leader, name)
        yield lambda: stage.leader() not in (None, *with_leader)
        newest = stage.leader()
        if newest is not None and newest != leader:
            for name in with_leader:
                yield random.choice([0.02, 0.2])
                stage.remove(newest, name)
        yield random.uniform(0.1, 1.0)
        self.mend(pairs)


class CoreStage:
    """Implements `simulation.stage.Stage`."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def now(self) -> float:
        return self._world.now

    @property
    def names(self) -> Sequence[str]:
        return list(self._world.processes)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._world.after(delay_s, action)

    def note(self, what: str, seconds: float | None = None) -> None:
        until_s = None if seconds is None else self.now + seconds
        self._world.trace.add(self.now, "fault", "fault", what, until_s=until_s)

    def leader(self) -> str | None:
        leader = self._world.leader()
        return leader.name if leader is not None else None

    def leads(self, name: str) -> bool:
        return self._world.processes[name].leads

    def start(self, name: str) -> None:
        if not self._world.processes[name].alive:
            self._world.start(name)

    def crash(self, name: str, *, power: bool = False) -> None:
        self._world.crash(name, power)

    def crash_soon(self, name: str, calls: int | None) -> None:
        self._world.processes[name].crash_in = calls

    def crash_now(self, name: str, *, power: bool) -> None:
        process = self._world.processes[name]
        if process.stepping:
            process.loses_power = power
            raise Crashed
        self.when_sent(name, lambda: self.crash(name, power=power))

    def stop(self, name: str) -> None:
        self._world.crash(name, power=False)

    def freeze(self, name: str, seconds: float) -> None:
        self._world.processes[name].frozen_until = self.now + seconds

    def when_sent(self, name: str, action: Callable[[], None]) -> None:
        self._world.after(self._world.processes[name].step_cost, action)

    def cut(self, one: str, other: str) -> None:
        self._world.network.cut(one, other)

    def heal(self, one: str, other: str) -> None:
        self._world.network.heal(one, other)
        self._world.connect(one, other)

    def disconnect(self, one: str, other: str) -> None:
        self._world.network.disconnect(one, other)

    def delay(self, one: str, other: str, seconds: float) -> None:
        self._world.network.delay_s[one, other] = seconds

    def slow_disk(self, name: str, sync_s: tuple[float, float] | None) -> None:
        self._world.processes[name].fsync_s = sync_s or self._world.options.fsync_s

    def wrong_clock(self, off_ms: int) -> None:
        self._world.processes["n1"].skew_ms = off_ms

    def transfer(self, target: str | None) -> None:
        leader = self._world.leader()
        if leader is not None and leader.core is not None:
            leader.core.transfer_leadership(self.now, target, lambda result: None)
            leader.wake(0.0)

    def favour(self, name: str | None) -> None:
        self._world.favourite = name

    def remove(self, leader: str, name: str) -> None:
        """Ask `leader` to remove a member."""
        core = self._world.processes[leader].core
        if core is not None and core.members.get(name) is not None:
            core.change_members("removed", name, "", "", lambda result: None)
            self._world.processes[leader].wake(0.0)
