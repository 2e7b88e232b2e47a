"""Schedules of several steps that random faults hardly ever find, each with its random details.

A script yields how long to wait, or what to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from simulation.ambush import QUICKLY, Ambush

if TYPE_CHECKING:
    from simulation.faults import Faults
    from simulation.stage import Stage

Script = Iterator[float | Callable[[], bool]]
"""Yields seconds to wait, or a condition to wait for (a few seconds at most)."""


def late_answers(faults: Faults, random: Random) -> Script:
    """One follower's acknowledgements are on their way while two elections pass, and the same node
    leads again when they arrive (RAFT.md, defect G)."""
    stage = faults.stage
    leader = stage.leader()
    if leader is None:
        return
    names = list(stage.names)
    others = random.sample([n for n in names if n != leader], len(names) - 1)
    if len(names) > 3 and random.random() < 0.5:
        yield from _answers_for_lost_entries(stage, random, leader, *others)
    else:
        yield from _answers_for_old_rounds(stage, random, leader, *others)
    stage.favour(None)
    yield from _heal(stage, names)


def _answers_for_lost_entries(
    stage: Stage, random: Random, leader: str, keeper: str, *rest: str
) -> Script:
    """What they confirm was overwritten meanwhile."""
    stage.cut(keeper, leader)
    _cut(stage, [leader, keeper], rest)
    yield random.uniform(0.1, 0.6)  # the leader and the keeper alone have what is written now
    yield lambda: stage.leader() in rest
    stage.cut(leader, keeper)
    _mend(stage, [leader], rest)
    yield random.uniform(0.3, 1.0)  # the old leader follows, the keeper hears nothing
    yield from _transfer(stage, leader)
    for name in rest[1:]:
        stage.cut(leader, name)
    stage.heal(keeper, leader)
    yield random.uniform(0.1, 0.5)


def _answers_for_old_rounds(
    stage: Stage, random: Random, leader: str, keeper: str, *rest: str
) -> Script:
    """The rounds of reads that they echo are another leadership's."""
    stage.cut(keeper, leader)
    yield random.uniform(0.1, 0.3)
    _cut(stage, [leader], rest)
    yield lambda: stage.leader() not in (None, leader)
    _mend(stage, [leader], rest)
    yield from _transfer(stage, rest[0])
    yield from _transfer(stage, leader)
    yield random.uniform(0.0, 0.2)
    _cut(stage, [leader], (keeper, *rest))
    stage.freeze(leader, 1.0)
    thaws_at = stage.now + 1.0
    yield lambda: stage.leader() not in (None, leader)
    stage.favour(leader)
    yield lambda: stage.now >= thaws_at
    yield random.uniform(0.1, 0.3)
    stage.heal(keeper, leader)
    yield random.uniform(0.1, 0.3)


def rivals(faults: Faults, random: Random) -> Script:
    """Several candidates in one term, because their disks are slow to keep it, and one that dies
    as soon as its vote has left: it must remember it when it is back (Fig. 2)."""
    stage = faults.stage
    leader = stage.leader()
    if leader is None:
        return
    names = list(stage.names)
    for name in names:
        stage.slow_disk(name, (0.2, 0.2))
    stage.crash(leader)
    faults.restart_later(random, leader, QUICKLY)
    for _ in range(random.choice([1, 2])):
        what = random.choice(["request_vote", "response_vote"])
        faults.lay(_kill_at((what,), None, random.randrange(3)), random)
    yield random.uniform(1.0, 3.0)
    for name in names:
        stage.slow_disk(name, None)


def hurried_requests(faults: Faults, random: Random) -> Script:
    """A follower dies with each request that it hands to a slow leader, and is back before the
    answer: it must not take that for the answer to its next request."""
    stage = faults.stage
    leader = stage.leader()
    if leader is None:
        return
    stage.slow_disk(leader, (0.25, 0.1))
    follower = random.choice([n for n in stage.names if n != leader])
    stage.favour(follower)
    for _ in range(4):
        faults.lay(_kill_at((random.choice(["forward", "read_index"]),), follower, 0), random)
        yield random.uniform(0.5, 1.0)  # the next request is under way when the answer comes
    stage.favour(None)
    stage.slow_disk(leader, None)


def deaf_leader(faults: Faults, random: Random) -> Script:
    """The leader is stopped and cut off, the others elect and go on; when it runs again it still
    believes in itself and hears nobody who knows better."""
    stage = faults.stage
    leader = stage.leader()
    if leader is None:
        return
    _cut(stage, [leader], [name for name in stage.names if name != leader])
    frozen_s = random.choice([0.0, 1.0, 2.0])
    stage.freeze(leader, frozen_s)
    thaws_at = stage.now + frozen_s
    yield lambda: stage.leader() not in (None, leader)
    yield random.choice([0.0, 0.3])
    stage.favour(leader)  # who comes to it now is answered when it runs again
    yield lambda: stage.now >= thaws_at
    yield random.uniform(0.2, 1.0)
    stage.favour(None)
    yield from _heal(stage, list(stage.names))


def stale_reader(faults: Faults, random: Random) -> Script:
    """A follower that hears nothing is asked by most while the others go on without it."""
    stage = faults.stage
    leader = stage.leader()
    if leader is None:
        return
    follower = random.choice([n for n in stage.names if n != leader])
    stage.favour(follower)
    for _ in range(random.choice([1, 3])):
        for name in stage.names:
            if name != follower:
                stage.cut(name, follower)
        yield random.uniform(0.2, 1.0)
        yield from _heal(stage, list(stage.names))
        yield random.uniform(0.0, 0.2)
    stage.favour(None)


def hunt(faults: Faults, random: Random) -> Script:
    """Whoever comes to lead is struck down at once, several times in a row."""
    stage = faults.stage
    for _ in range(random.choice([2, 4, 6])):
        yield lambda: stage.leader() is not None
        yield random.choice([0.0, 0.02, 0.2])
        leader = stage.leader()
        if leader is None:
            continue
        way = random.choice(["crash", "power", "isolate", "freeze"])
        if way == "isolate":
            faults.separate([leader], random.random() < 0.5, 1.5)
        elif way == "freeze":
            stage.freeze(leader, 1.5)
        else:
            stage.crash(leader, power=way == "power")
            faults.restart_later(random, leader, (0.1, 1.0))
        yield lambda struck=leader: stage.leader() != struck  # type: ignore[misc]


SCRIPTS: dict[str, Callable[[Faults, Random], Script]] = {
    "late_answers": late_answers,
    "rivals": rivals,
    "hurried_requests": hurried_requests,
    "deaf_leader": deaf_leader,
    "stale_reader": stale_reader,
    "hunt": hunt,
}


def _kill_at(whats: tuple[str, ...], name: str | None, skip: int) -> Ambush:
    return Ambush(
        whats=whats, action="kill_sender", name=name, skip=skip, restart_s=QUICKLY, seconds=0.0
    )


def _transfer(stage: Stage, target: str) -> Script:
    """Ask whoever leads to hand over to `target`, and wait until it leads."""
    if stage.leader() not in (None, target):
        stage.transfer(target)
    yield lambda: stage.leads(target)


def _cut(stage: Stage, side: Sequence[str], others: Sequence[str]) -> None:
    for one in side:
        for other in others:
            stage.cut(one, other)
            stage.cut(other, one)


def _mend(stage: Stage, side: Sequence[str], others: Sequence[str]) -> None:
    for one in side:
        for other in others:
            stage.heal(one, other)
            stage.heal(other, one)


def _heal(stage: Stage, names: list[str]) -> Script:
    for number, one in enumerate(names):
        _mend(stage, [one], names[number + 1 :])
    yield 0.0
