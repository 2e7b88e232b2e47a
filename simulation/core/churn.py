"""An operator who changes the members all the time: adds, promotes, removes, replaces.

One change at a time, as the leader allows. A node whose directory was wiped is removed and added
again; the number of voters drifts down to one and up again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.raft.membership import Change, Membership

if TYPE_CHECKING:
    from simulation.core.process import Process
    from simulation.core.world import World

NEW_NODES_MAX = 3


class Churn:
    """Acts during the safety phase, at the rate that the seed drew."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._over = False
        self._joined = 0
        self._wiped = 0
        self._shrinking = False

    def begin(self) -> None:
        if self._world.options.membership_rate:
            self._later()

    def stop(self) -> None:
        self._over = True

    def _later(self) -> None:
        world = self._world
        world.after(world.random.expovariate(world.options.membership_rate), self._act)

    def _act(self) -> None:
        if self._over:
            return
        self._later()
        world = self._world
        leader = world.leader()
        if leader is None or leader.core is None:
            return
        roll = world.random.random
        if roll() < 0.15:
            self._shrinking = not self._shrinking
        members = leader.core.members
        strangers = [m.name for m in members.members if world.processes[m.name].uid != m.uid]
        removable = [v for v in members.voters if v != leader.name]
        absent = [n for n in world.processes if members.get(n) is None]
        if strangers:  # repaired first: who loses a disk and removes another may lose the quorum
            self._change(leader, "removed", world.random.choice(strangers))
        elif members.learners and roll() < (0.1 if self._shrinking else 0.5):
            self._change(leader, "promoted", world.random.choice(members.learners))
        elif removable and roll() < (0.6 if self._shrinking else 0.1):
            self._change(leader, "removed", world.random.choice(removable))
        elif absent and roll() < 0.7:
            self._change(leader, "added_learner", world.random.choice(absent))
        elif leader.core.members_index <= leader.core.applied_index and roll() < 0.2:
            self._wipe(leader, members, absent)
        elif self._joined < NEW_NODES_MAX:
            self._join(leader)

    def _change(self, leader: Process, change: Change, name: str) -> None:
        world = self._world
        assert leader.core is not None, "the caller found a living leader"
        uid = world.processes[name].uid if change == "added_learner" else ""

        def done(result: object) -> None:
            world.note("members", f"{change} {name}: {result}")

        leader.core.change_members(change, name, uid, f"{name}:1", done)
        leader.wake(0.0)

    def _join(self, leader: Process) -> None:
        from simulation.core.process import Process

        self._joined += 1
        name = f"j{self._joined}"
        world = self._world
        world.processes[name] = Process(world, name, f"uid-{name}", world.founders)
        world.start(name)
        self._change(leader, "added_learner", name)

    def _wipe(self, leader: Process, members: Membership, absent: list[str]) -> None:
        """Somebody loses its directory: one who is no member, or one voter that three can miss."""
        world = self._world
        missed = [v for v in members.voters if v != leader.name]
        if len(members.voters) < 3 or "hasty_changes" in world.options.faults:
            missed = []  # a voter lost and another removed at the same moment are one too many
        if absent or missed:
            name = world.random.choice([*absent, *missed])
            self._wiped += 1
            world.crash(name, power=True)
            world.note(name, "is wiped")
            world.processes[name].wipe(f"uid-{name}-{self._wiped}")
            world.start(name)
