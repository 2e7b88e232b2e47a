"""Schedules of several steps that random faults hardly ever find, each with its random details.

A script yields how long to wait, or what to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from simulation.core.ambush import QUICKLY, Ambush

if TYPE_CHECKING:
    from simulation.core.process import Process
    from simulation.core.world import World

Script = Iterator[float | Callable[[], bool]]


def late_answers(world: World) -> Script:
    """One follower's acknowledgements are on their way while two elections pass, and the same node
    leads again when they arrive (RAFT.md, defect G)."""
    leader = world.leader()
    if leader is None:
        return
    names = list(world.processes)
    others = world.random.sample([n for n in names if n != leader.name], len(names) - 1)
    if len(names) > 3 and world.random.random() < 0.5:
        yield from _answers_for_lost_entries(world, leader, *others)
    else:
        yield from _answers_for_old_rounds(world, leader, *others)
    world.favourite = None
    yield from _heal(world, names)


def _answers_for_lost_entries(world: World, leader: Process, keeper: str, *rest: str) -> Script:
    """What they confirm was overwritten meanwhile."""
    world.network.cut(keeper, leader.name)
    _cut(world, [leader.name, keeper], rest)
    yield world.random.uniform(0.1, 0.6)  # the leader and the keeper alone have what is written now
    yield lambda: (world.leader() or leader).name in rest
    world.network.cut(leader.name, keeper)
    _mend(world, [leader.name], rest)
    yield world.random.uniform(0.3, 1.0)  # the old leader follows, the keeper hears nothing
    yield from _transfer(world, leader)
    for name in rest[1:]:
        world.network.cut(leader.name, name)
    world.network.heal(keeper, leader.name)
    yield world.random.uniform(0.1, 0.5)


def _answers_for_old_rounds(world: World, leader: Process, keeper: str, *rest: str) -> Script:
    """The rounds of reads that they echo are another leadership's."""
    world.network.cut(keeper, leader.name)
    yield world.random.uniform(0.1, 0.3)
    _cut(world, [leader.name], rest)
    yield lambda: (world.leader() or leader) is not leader
    _mend(world, [leader.name], rest)
    yield from _transfer(world, world.processes[rest[0]])
    yield from _transfer(world, leader)
    yield world.random.uniform(0.0, 0.2)
    _cut(world, [leader.name], (keeper, *rest))
    leader.frozen_until = world.now + 1.0
    yield lambda: (world.leader() or leader) is not leader
    yield lambda: world.now >= leader.frozen_until
    world.favourite = leader.name
    yield world.random.uniform(0.1, 0.3)
    world.network.heal(keeper, leader.name)
    yield world.random.uniform(0.1, 0.3)


def hasty_changes(world: World) -> Script:
    """Two leaders, one of them cut off, change the members one after the other, in a hurry
    (defect D of tests/paper)."""
    random = world.random
    leader = world.leader()
    if leader is None:
        return
    names = list(world.processes)
    others = random.sample([n for n in names if n != leader.name], len(names) - 1)
    with_leader = [leader.name, *others[: random.randrange(2) if len(names) > 3 else 0]]
    _cut(world, with_leader, [name for name in names if name not in with_leader])
    for name in others:
        yield random.choice([0.0, 0.02, 0.1])
        _remove(world, leader, name)
    yield lambda: (world.leader() or leader).name not in with_leader
    newest = world.leader()
    if newest is not None and newest.name != leader.name:
        for name in with_leader:
            yield random.choice([0.02, 0.2])
            _remove(world, newest, name)
    yield random.uniform(0.1, 1.0)
    yield from _heal(world, names)


def rivals(world: World) -> Script:
    """Several candidates in one term, because their disks are slow to keep it, and one that dies
    as soon as its vote has left: it must remember it when it is back (Fig. 2)."""
    random = world.random
    leader = world.leader()
    if leader is None:
        return
    before = {process: process.fsync_s for process in world.processes.values()}
    for process in before:
        process.fsync_s = (0.2, 0.2)
    world.crash(leader.name, power=False)
    world.faults.restart_later(leader.name, QUICKLY)
    for _ in range(random.choice([1, 2])):
        what = random.choice(["request_vote", "response_vote"])
        world.faults.lay(
            Ambush(
                whats=(what,),
                action="kill_sender",
                name=None,
                skip=random.randrange(3),
                restart_s=QUICKLY,
                seconds=0.0,
            )
        )
    yield random.uniform(1.0, 3.0)
    for process, fsync_s in before.items():
        process.fsync_s = fsync_s


def hurried_requests(world: World) -> Script:
    """A follower dies with each request that it hands to a slow leader, and is back before the
    answer: it must not take that for the answer to its next request."""
    random = world.random
    leader = world.leader()
    if leader is None:
        return
    before = leader.fsync_s
    leader.fsync_s = (0.25, 0.1)
    follower = random.choice([n for n in world.processes if n != leader.name])
    for _ in range(4):
        world.faults.lay(
            Ambush(
                whats=("forward", "read_index"),
                action="kill_sender",
                name=follower,
                skip=0,
                restart_s=QUICKLY,
                seconds=0.0,
            )
        )
        world.favourite = follower
        yield random.uniform(0.1, 0.5)
    world.favourite = None
    leader.fsync_s = before


def deaf_leader(world: World) -> Script:
    """The leader is stopped and cut off, the others elect and go on; when it runs again it still
    believes in itself and hears nobody who knows better."""
    random = world.random
    leader = world.leader()
    if leader is None:
        return
    _cut(world, [leader.name], [name for name in world.processes if name != leader.name])
    leader.frozen_until = world.now + random.choice([0.0, 1.0, 2.0])
    yield lambda: (world.leader() or leader) is not leader
    yield lambda: world.now >= leader.frozen_until
    world.favourite = leader.name
    yield random.uniform(0.2, 1.0)
    world.favourite = None
    yield from _heal(world, list(world.processes))


def _remove(world: World, leader: Process, name: str) -> None:
    if leader.core is not None and leader.core.members.get(name) is not None:
        leader.core.change_members("removed", name, "", "", lambda result: None)
        leader.wake(0.0)


def _transfer(world: World, target: Process) -> Script:
    """Ask whoever leads to hand over to `target`, and wait until it leads."""
    newest = world.leader()
    if newest is not None and newest.core is not None and newest is not target:
        newest.core.transfer_leadership(world.now, target.name, lambda result: None)
        newest.wake(0.0)
    yield lambda: target.leads


def _cut(world: World, side: Sequence[str], others: Sequence[str]) -> None:
    for one in side:
        for other in others:
            world.network.cut(one, other)
            world.network.cut(other, one)


def _mend(world: World, side: Sequence[str], others: Sequence[str]) -> None:
    for one in side:
        for other in others:
            world.network.heal(one, other)
            world.network.heal(other, one)


def _heal(world: World, names: list[str]) -> Script:
    for one in names:
        for other in names:
            world.network.heal(one, other)
            if one < other:
                world.connect(one, other)
    yield 0.0
