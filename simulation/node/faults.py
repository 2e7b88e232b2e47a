"""The stage of the node level, and the faults that only whole nodes know: orderly stops, and disks
that are full or do not sync."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Protocol

import trio

from simulation.aimed import Script
from simulation.ambush import MOMENTS
from simulation.faults import CONDITION_S, Faults
from simulation.node.machine import Machine, Site
from simulation.options import Options
from simulation.trace import Trace

_ON_THE_WIRE = [(what, b"\xa4type" + _packed) for whats in MOMENTS.values() for what in whats
                for _packed in [bytes([0xA0 | len(what)]) + what.encode()]]  # fmt: skip
"""Types of messages as msgpack writes them."""


class NodeFaults(Faults):
    KINDS = (
        *Faults.KINDS,
        "stop",
        "rolling",
        "full_disk",
        "failing_sync",
        "rot",
        "drift",
        "absence",
        "reload",
    )

    stage: NodeStage

    def heal_all(self) -> None:
        for name in self.stage.names:
            self.stage.full_disk(name, False)
            self.stage.failing_sync(name, False)
        super().heal_all()

    def _stop(self, random: Random, victim: str) -> None:
        """SIGTERM, and a new process after a while."""
        self.stage.stop(victim)
        self.restart_later(random, victim)

    def _rolling(self, random: Random, victim: str) -> None:
        """One node after the other is stopped in order and started again, as for an upgrade."""
        names = random.sample(list(self.stage.names), len(self.stage.names))
        for turn, name in enumerate(names):
            self.later(turn * 1.5, partial(self.stage.stop, name))
            self.later(turn * 1.5 + 0.5, partial(self.stage.start, name))

    def _reload(self, random: Random, victim: str) -> None:
        """A node reads its hooks again, as after SIGHUP."""
        self.stage.reload(victim)

    def _full_disk(self, random: Random, victim: str) -> None:
        """The node ends, and each new one as well, until there is room again."""
        self.stage.full_disk(victim, True)
        until = random.choice([0.3, 2.0])
        self.later(until, partial(self.stage.full_disk, victim, False))
        self.later(until + 0.1, partial(self.stage.start, victim))

    def _failing_sync(self, random: Random, victim: str) -> None:
        """A sync fails: nothing that was to be synced may be believed in (fsyncgate)."""
        self.stage.failing_sync(victim, True)
        self.later(2.0, partial(self.stage.start, victim))

    def _rot(self, random: Random, victim: str) -> None:
        """A byte on a disk changes while its node is down. One disk at a time: with two of three
        gone a cluster could not be helped."""
        if self.stage.can_miss(victim):
            self.stage.rot(victim, random)
            self.restart_later(random, victim)

    def _drift(self, random: Random, victim: str) -> None:
        """The one wrong clock runs fast or slow from now on."""
        self.stage.drift(random.choice([-500.0, -1.0, 1.0, 500.0]))

    def _absence(self, random: Random, victim: str) -> None:
        self.play(self._stay_away(random, victim))

    def _stay_away(self, random: Random, name: str) -> Script:
        """A node is stopped, or not heard, until its handlers' groups have given it up. It is back
        at once, with what it had in hand, while others have only begun with that."""
        stage = self.stage
        others = [other for other in stage.names if other != name]
        way = random.choice(["stopped", "alone", "mute"])
        if way == "stopped":
            stage.freeze(name, 2 * CONDITION_S)
        elif way == "alone":
            self.separate([name], random.random() < 0.3, 2 * CONDITION_S)
        else:  # it hears what happens, and goes on as long as it may
            for other in others:
                stage.cut(name, other)
        yield lambda: not stage.is_member(name)
        yield random.choice([0.0, 0.02, 0.2])
        if way == "stopped":
            stage.freeze(name, 0.0)
        self.mend([(name, other) for other in others])
        yield random.choice([0.0, 1.0])


class Hosts(Protocol):
    """What the stage needs of the world that it is part of."""

    site: Site
    machines: dict[str, Machine]
    options: Options
    founders: list[str]
    favourite: str | None  # the node that most clients ask
    trace: Trace
    is_operated: bool  # its members are being changed

    @property
    def faults(self) -> Faults: ...

    def note(self, who: str, what: str) -> None: ...

    def guard(self, action: Callable[[], None]) -> None:
        """Do what belongs to no task; what it raises ends the run."""

    def leader(self) -> Machine | None:
        """The living leader of the newest term."""


class NodeStage:
    """Implements `simulation.stage.Stage`."""

    def __init__(self, world: Hosts) -> None:
        self._world = world

    @property
    def now(self) -> float:
        return trio.current_time()

    @property
    def names(self) -> Sequence[str]:
        return list(self._world.machines)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._world.site.scheduler.after(delay_s, partial(self._world.guard, action))

    def note(self, what: str, seconds: float | None = None) -> None:
        until_s = None if seconds is None else self.now + seconds
        self._world.trace.add(self.now, "fault", "fault", what, until_s=until_s)

    def leader(self) -> str | None:
        machine = self._world.leader()
        return machine.name if machine is not None else None

    def leads(self, name: str) -> bool:
        return self._world.machines[name].is_leader

    # --- processes ---

    def start(self, name: str) -> None:
        self._world.machines[name].start()

    def crash(self, name: str, *, power: bool = False) -> None:
        machine = self._world.machines[name]
        if machine.is_connected:
            self._world.note(name, "power loss" if power else "kill -9")
        machine.crash(power=power)

    def crash_soon(self, name: str, calls: int | None) -> None:
        self._world.machines[name].crash_at_call(calls)

    def crash_now(self, name: str, *, power: bool) -> None:
        self.crash(name, power=power)

    def stop(self, name: str) -> None:
        self._world.note(name, "SIGTERM")
        self._world.machines[name].stop()

    def reload(self, name: str) -> None:
        self._world.note(name, "SIGHUP")
        self._world.machines[name].reload()

    def freeze(self, name: str, seconds: float) -> None:
        self._world.site.scheduler.go_on(name)
        if seconds:
            self.note(f"{name} is frozen", seconds)
            self._world.site.scheduler.stall(name, seconds)
        self._world.machines[name].frozen_until_s = self.now + seconds

    def when_sent(self, name: str, action: Callable[[], None]) -> None:
        self.after(0.0, action)

    def is_member(self, name: str) -> bool:
        """Whether the cluster counts on the node as a member of its handlers' groups."""
        leader = self._world.leader()
        if leader is None or leader.node is None or leader.name == name:
            return True
        found = leader.node.machine.connection.execute(
            "SELECT count(*) FROM group_sessions WHERE member GLOB ?", (f"{name}/*",)
        )
        return bool(found.get)

    # --- links ---

    def cut(self, one: str, other: str) -> None:
        links = self._world.site.links
        links.set_cut(links.cut | {(one, other)})

    def heal(self, one: str, other: str) -> None:
        links = self._world.site.links
        links.set_cut(links.cut - {(one, other)})

    def disconnect(self, one: str, other: str) -> None:
        self._world.site.links.disconnect(one, other)

    def delay(self, one: str, other: str, seconds: float) -> None:
        self._world.site.links.delay_s[one, other] = seconds

    # --- disks and clocks ---

    def slow_disk(self, name: str, sync_s: tuple[float, float] | None) -> None:
        self._world.machines[name].disk.sync_s = sync_s or self._world.options.fsync_s

    def full_disk(self, name: str, is_full: bool) -> None:
        """Writes that make a file longer are refused, or not any more."""
        machine = self._world.machines[name]
        machine.disk.full = is_full
        machine.may_fail = machine.may_fail or is_full

    def failing_sync(self, name: str, fails: bool) -> None:
        """Its next sync fails, or does not."""
        machine = self._world.machines[name]
        machine.disk.sync_fails = "once" if fails else "never"
        machine.may_fail = machine.may_fail or fails

    def can_miss(self, name: str) -> bool:
        """Whether the disk of a voter can be lost now."""
        machines, leader = self._world.machines, self._world.leader()
        if leader is None or any(machine.is_rotten for machine in machines.values()):
            return False
        voters = leader.core.members.voters
        return name in voters and len(voters) >= 3 and not self._world.is_operated

    def rot(self, name: str, random: Random) -> None:
        """It dies, and one byte on its disk changes."""
        self._world.note(name, "kill -9, and a byte on its disk rots")
        self._world.machines[name].rot(random)

    def drift(self, ms_per_s: float) -> None:
        """How fast the one wrong clock moves away from the time."""
        self._world.machines[self._world.founders[0]].clock_drift_ms_per_s = ms_per_s

    def wrong_clock(self, off_ms: int) -> None:
        self._world.machines[self._world.founders[0]].clock_off_ms = off_ms

    # --- requests ---

    def transfer(self, target: str | None) -> None:
        leader = self._world.leader()
        if leader is not None:
            leader.core.transfer_leadership(self.now, target, lambda result: None)

    def favour(self, name: str | None) -> None:
        self._world.favourite = name

    # --- what nodes do ---

    def sends(self, host: str, peer: str, data: bytes, arrival_s: float) -> None:
        """Bytes leave a host: a moment that an ambush may wait for. HOT."""
        world = self._world
        if world.trace.keeps_messages:
            what = _read(data) or f"bytes {len(data)}"
            world.trace.add(self.now, host, "message", what, peer, arrival_s)
        if not world.faults.lies_in_wait or host not in world.machines:
            return
        moment = _read(data) if peer in world.machines else "answer"
        if moment is not None:
            world.faults.happens(host, moment, peer)


def _read(data: bytes) -> str | None:
    """The type of the first message in what one node sends another."""
    return next((what for what, mark in _ON_THE_WIRE if mark in data), None)
