"""Schedules of several steps that random faults hardly ever find, each with its random details.

A script yields how long to wait, or what to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from simulation.ambush import QUICKLY, Ambush

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World

Script = Iterator[float | Callable[[], bool]]


def late_answers(world: World) -> Script:
    """One follower's acknowledgements are on their way while two elections pass: what they
    confirm was overwritten meanwhile, and the same node leads again (defect G of tests/paper)."""
    random, network = world.random, world.network
    leader = world.leader()
    if leader is None:
        return
    names = list(world.processes)
    keeper, *rest = random.sample([n for n in names if n != leader.name], len(names) - 1)
    network.cut(keeper, leader.name)
    for name in rest:
        for known in (leader.name, keeper):
            network.cut(known, name)
            network.cut(name, known)
    yield random.uniform(0.1, 0.6)  # the leader and the keeper alone have what is written now

    def others_lead() -> bool:
        newest = world.leader()
        return newest is not None and newest.name in rest

    yield others_lead
    network.cut(leader.name, keeper)
    for name in rest:
        network.heal(leader.name, name)
        network.heal(name, leader.name)
    yield random.uniform(0.3, 1.0)  # the old leader follows, the keeper hears nothing
    newest = world.leader()
    if newest is not None and newest.core is not None and newest.name != leader.name:
        newest.core.transfer_leadership(world.now, leader.name, lambda result: None)
        newest.wake(0.0)
    yield lambda: leader.leads
    for name in rest[1:]:
        network.cut(leader.name, name)
    network.heal(keeper, leader.name)
    yield random.uniform(0.1, 0.5)
    yield from _heal(world, names)


def hasty_changes(world: World) -> Script:
    """Two leaders, one of them cut off, change the members one after the other, in a hurry
    (defect D of tests/paper)."""
    random, network = world.random, world.network
    leader = world.leader()
    if leader is None:
        return
    names = list(world.processes)
    others = random.sample([n for n in names if n != leader.name], len(names) - 1)
    with_leader = [leader.name, *others[: random.randrange(2) if len(names) > 3 else 0]]
    for a in with_leader:
        for b in names:
            if b not in with_leader:
                network.cut(a, b)
                network.cut(b, a)
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
    random, network = world.random, world.network
    leader = world.leader()
    if leader is None:
        return
    others = [name for name in world.processes if name != leader.name]
    for name in others:
        network.cut(leader.name, name)
        network.cut(name, leader.name)
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


def _heal(world: World, names: list[str]) -> Script:
    for one in names:
        for other in names:
            world.network.heal(one, other)
            if one < other:
                world.connect(one, other)
    yield 0.0
