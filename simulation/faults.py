"""The faults of a run, in one language for both levels: a schedule drawn from the seed, and what
each kind does to the stage.

A schedule is a list of strikes, each with a time, a kind and a seed of its own, so that a strike
can be left out and the others stay what they were: that is how a failing run is made smaller. Each
kind is a method that does it and arranges its own healing; those that need several steps in the
right order are in aimed.py, those that wait for their moment in ambush.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from random import Random
from typing import NamedTuple

from simulation import aimed
from simulation.aimed import Script
from simulation.ambush import Ambush
from simulation.options import Options
from simulation.stage import Stage

SCRIPT_STEP_S = 0.01
CONDITION_S = 3.0
"""A script waits no longer for a condition, and an ambush no longer for its moment."""


class Strike(NamedTuple):
    """One fault of a schedule."""

    at_s: float
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s {self.kind}"


def draw_strikes(random: Random, options: Options) -> list[Strike]:
    """Strikes at random times of the safety phase, of the kinds that the options name."""
    strikes: list[Strike] = []
    kinds = list(options.faults)
    at_s = random.expovariate(options.fault_rate)
    while kinds and at_s < options.safety_s:
        kind = random.choices(kinds, [options.faults[name] for name in kinds])[0]
        strikes.append(Strike(at_s, kind, random.getrandbits(32)))
        at_s += random.expovariate(options.fault_rate)
    return strikes


class Faults:
    """Plays a schedule on a stage, and takes every fault back in the end."""

    KINDS: tuple[str, ...] = (
        "crash",
        "power",
        "majority",
        "storm",
        "hunt",
        "disconnect",
        "isolate",
        "split",
        "bridge",
        "one_way",
        "flap",
        "swizzle",
        "slow_link",
        "slow_disk",
        "freeze",
        "clock",
        "transfer",
        "ambush",
        "late_answers",
        "rivals",
        "hurried_requests",
        "deaf_leader",
        "stale_reader",
    )

    def __init__(
        self, stage: Stage, strikes: Iterable[Strike], kept: Collection[int] | None = None
    ) -> None:
        """Of the strikes only those are played whose numbers are in `kept`, if it is given."""
        self.stage = stage
        self.over = False
        self._strikes = list(strikes)
        self._kept = kept
        self._ambushes: list[tuple[Ambush, Random]] = []
        self._scripts = 0  # in progress

    def begin(self) -> None:
        for number, strike in enumerate(self._strikes):
            if self._kept is None or number in self._kept:
                self.later(strike.at_s, partial(self._strike, strike))

    def heal_all(self) -> None:
        """From here on nothing breaks: everybody is up, every path is open."""
        self.over = True
        self._ambushes = []
        stage = self.stage
        stage.favour(None)
        for name in stage.names:
            stage.crash_soon(name, None)
            stage.slow_disk(name, (0.0001, 0.001))
            stage.freeze(name, 0.0)
        pairs = [(one, other) for one in stage.names for other in stage.names if one < other]
        self.mend(pairs)
        for one, other in pairs:
            stage.delay(one, other, 0.0)
            stage.delay(other, one, 0.0)
        for name in stage.names:
            stage.start(name)

    # --- ambushes ---

    @property
    def lies_in_wait(self) -> bool:
        return bool(self._ambushes)

    def happens(self, name: str, what: str, to: str | None) -> None:
        """A node does something that an ambush may wait for; may raise, as `Stage.crash_now`."""
        for waiting in [w for w in self._ambushes if w[0].waits_for(name, what)]:
            self._ambushes.remove(waiting)
            ambush, random = waiting
            self.stage.note(f"ambush: {ambush.action} at {what} of {name}")
            self._spring(ambush, random, name, to)

    def lay(self, ambush: Ambush, random: Random) -> None:
        """Let an ambush wait, for a while."""
        waiting = (ambush, random)
        self._ambushes.append(waiting)

        def give_up() -> None:
            if waiting in self._ambushes:
                self._ambushes.remove(waiting)

        self.later(CONDITION_S, give_up)

    def _spring(self, ambush: Ambush, random: Random, sender: str, to: str | None) -> None:
        """Do it. What happens to others happens when the message has left."""
        stage = self.stage
        action, _, whom = ambush.action.partition("_")
        name = to if whom == "receiver" and to is not None and to in stage.names else sender
        power = action == "power"
        if whom == "majority":
            stage.when_sent(sender, partial(self._majority_off, random, sender))
        elif action in ("kill", "power"):
            restart = partial(self.restart_later, random, name, ambush.restart_s)
            stage.when_sent(sender, restart)
            if name == sender:
                stage.crash_now(name, power=power)
            else:
                stage.when_sent(sender, partial(stage.crash, name, power=power))
        elif action == "isolate":
            self.separate([name], random.random() < 0.5, ambush.seconds)
        elif action == "freeze":
            stage.freeze(name, ambush.seconds)
        elif to is not None and to in stage.names:
            stage.when_sent(sender, partial(stage.disconnect, sender, to))

    # --- what kinds are made of ---

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do it after so long, unless all faults are over by then."""
        self.stage.after(delay_s, lambda: None if self.over else action())

    def play(self, script: Script) -> None:
        """Run a script step by step, unless all faults end before. All need three nodes."""
        stage = self.stage
        if len(stage.names) < 3:
            return
        self._scripts += 1

        def go_on() -> None:
            step = next(script, None)
            if callable(step):
                wait(step, stage.now + CONDITION_S)
            elif step is not None:
                self.later(step, go_on)
            else:
                self._scripts -= 1

        def wait(condition: Callable[[], bool], until: float) -> None:
            if condition() or stage.now >= until:
                go_on()
            else:
                self.later(SCRIPT_STEP_S, lambda: wait(condition, until))

        go_on()

    def restart_later(
        self, random: Random, name: str, choices: tuple[float, ...] = (0.05, 0.5, 2.0)
    ) -> None:
        """A dead node comes back, unless it did already."""
        self.later(random.choice(choices), lambda: self.stage.start(name))

    def separate(self, side: list[str], breaks: bool, seconds: float) -> None:
        """Nothing passes between `side` and the others; their sessions break or they stand."""
        others = [name for name in self.stage.names if name not in side]
        self.part([(a, b) for a in side for b in others], breaks, seconds)

    def part(self, pairs: list[tuple[str, str]], breaks: bool, seconds: float) -> None:
        """Nothing passes within each of these pairs, for so long."""
        stage = self.stage
        left, right = (" ".join(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
        stage.note(f"nothing passes between {left} and {right}", seconds)
        for a, b in pairs:
            stage.cut(a, b)
            stage.cut(b, a)
            if breaks:
                stage.disconnect(a, b)
        self.later(seconds, lambda: self.mend(pairs))

    def mend(self, pairs: Iterable[tuple[str, str]]) -> None:
        for a, b in pairs:
            self.stage.heal(a, b)
            self.stage.heal(b, a)

    def _strike(self, strike: Strike) -> None:
        random = Random(strike.seed)
        if self._scripts and random.random() < 0.9:
            return  # a script is mostly left alone
        victim = self._victim(random)
        self.stage.note(f"{strike.kind} {victim}")
        if strike.kind in aimed.SCRIPTS:
            self.play(aimed.SCRIPTS[strike.kind](self, random))
        else:
            getattr(self, f"_{strike.kind}")(random, victim)

    def _victim(self, random: Random) -> str:
        """Half of the time a leader: that is where it hurts."""
        leader = self.stage.leader()
        if leader is not None and random.random() < 0.5:
            return leader
        return random.choice(list(self.stage.names))

    # --- processes ---

    def _crash(self, random: Random, victim: str) -> None:
        """kill -9 at some port call in the next moments."""
        stage = self.stage
        stage.crash_soon(victim, random.randrange(12))

        def make_sure() -> None:
            stage.crash_soon(victim, None)
            stage.crash(victim)
            self.restart_later(random, victim)

        self.later(0.05, make_sure)

    def _power(self, random: Random, victim: str) -> None:
        """Some nodes, perhaps all, lose power at once."""
        names = list(self.stage.names)
        self._power_off(random, random.sample(names, random.randint(1, len(names))))

    def _majority(self, random: Random, victim: str) -> None:
        self._majority_off(random, self.stage.leader() or victim)

    def _majority_off(self, random: Random, leader: str) -> None:
        """A majority loses power at once, the leader among them; the others go on alone."""
        others = [name for name in self.stage.names if name != leader]
        self._power_off(random, [leader, *random.sample(others, len(others) // 2)])

    def _power_off(self, random: Random, names: list[str]) -> None:
        for name in names:
            self.stage.crash(name, power=True)
            self.restart_later(random, name)

    def _storm(self, random: Random, victim: str) -> None:
        """One crash after the other, whoever it hits, and quick restarts."""
        for turn in range(random.randint(3, 8)):
            name = random.choice(list(self.stage.names))
            self.later(turn * 0.15, partial(self.stage.crash, name))
            back_s = turn * 0.15 + random.choice((0.02, 0.3))
            self.later(back_s, partial(self.stage.start, name))

    def _freeze(self, random: Random, victim: str) -> None:
        """SIGSTOP, and later SIGCONT: the sessions stand."""
        self.stage.freeze(victim, random.choice([0.1, 1.0, 3.0]))

    # --- links ---

    def _disconnect(self, random: Random, victim: str) -> None:
        others = [name for name in self.stage.names if name != victim]
        if others:
            self.stage.disconnect(victim, random.choice(others))

    def _isolate(self, random: Random, victim: str) -> None:
        self._separate(random, [victim])

    def _split(self, random: Random, victim: str) -> None:
        names = list(self.stage.names)
        self._separate(random, random.sample(names, len(names) // 2))

    def _separate(self, random: Random, side: list[str]) -> None:
        self.separate(side, random.random() < 0.5, random.choice([0.2, 1.0, 3.0]))

    def _bridge(self, random: Random, victim: str) -> None:
        """One node sees both sides, which do not see each other."""
        others = [name for name in self.stage.names if name != victim]
        random.shuffle(others)
        left, right = others[: len(others) // 2], others[len(others) // 2 :]
        pairs = [(a, b) for a in left for b in right]
        self.part(pairs, random.random() < 0.5, random.choice([0.5, 2.0]))

    def _one_way(self, random: Random, victim: str) -> None:
        others = [name for name in self.stage.names if name != victim]
        pairs = [(victim, name) for name in others if random.random() < 0.7]
        if random.random() < 0.5:
            pairs = [(b, a) for a, b in pairs]
        for a, b in pairs:
            self.stage.cut(a, b)
        self.later(random.choice([0.2, 1.0]), lambda: self.mend(pairs))

    def _flap(self, random: Random, victim: str) -> None:
        for turn in range(6):
            self.later(turn * 0.2, lambda: self._disconnect(random, victim))

    def _swizzle(self, random: Random, victim: str) -> None:
        """Nodes are cut off one after the other, and come back in another order."""
        names = random.sample(list(self.stage.names), random.randint(1, len(self.stage.names)))
        back = random.sample(names, len(names))
        for turn, (gone, returned) in enumerate(zip(names, back, strict=True)):
            others = [name for name in self.stage.names if name != gone]
            apart = partial(self.part, [(gone, other) for other in others], False, CONDITION_S)
            self.later(turn * 0.3, apart)
            others = [name for name in self.stage.names if name != returned]
            again = partial(self.mend, [(returned, other) for other in others])
            self.later((len(names) + turn) * 0.3, again)

    def _slow_link(self, random: Random, victim: str) -> None:
        others = [name for name in self.stage.names if name != victim]
        if others:
            one, other = random.sample([victim, random.choice(others)], 2)
            self.stage.delay(one, other, random.choice([0.05, 0.2]))
            self.later(2.0, partial(self.stage.delay, one, other, 0.0))

    # --- disks and clocks ---

    def _slow_disk(self, random: Random, victim: str) -> None:
        self.stage.slow_disk(victim, (0.25, 0.1))
        self.later(2.0, partial(self.stage.slow_disk, victim, None))

    def _clock(self, random: Random, victim: str) -> None:
        """The one wrong clock jumps."""
        self.stage.wrong_clock(random.choice([0, 5_000, 3_600_000, -3_600_000]))

    # --- others ---

    def _transfer(self, random: Random, victim: str) -> None:
        self.stage.transfer(random.choice([None, victim]))

    def _ambush(self, random: Random, victim: str) -> None:
        self.lay(Ambush.draw(random, victim), random)
