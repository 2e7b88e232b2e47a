"""One run of either level: made from what its replay line says, run to its end, and reported."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from simulation.core.world import World as CoreWorld
from simulation.faults import Strike
from simulation.history import History
from simulation.node.world import World as NodeWorld
from simulation.options import Options
from simulation.timeline import page
from simulation.trace import Trace, columns

LEVELS: dict[str, type[CoreWorld] | type[NodeWorld]] = {"core": CoreWorld, "node": NodeWorld}


class World(Protocol):
    """A run of either level."""

    options: Options
    strikes: list[Strike]
    trace: Trace

    @property
    def history(self) -> History: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def virtual_s(self) -> float: ...
    @property
    def acknowledged(self) -> int: ...
    @property
    def reads(self) -> int: ...
    def run(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides a run: the same recipe is the same run."""

    level: str
    seed: int
    nodes: int
    strikes: tuple[int, ...] | None = None  # of its schedule only these; None: all

    @property
    def line(self) -> str:
        """The command that runs it again."""
        only = f" --strikes {','.join(map(str, self.strikes))}" if self.strikes is not None else ""
        return (
            f"python -m simulation --level {self.level} --seed {self.seed} "
            f"--nodes {self.nodes}{only}"
        )

    def only(self, strikes: Collection[int]) -> Recipe:
        """The same with fewer faults."""
        return replace(self, strikes=tuple(sorted(strikes)))

    def world(self, *, looks: bool = False) -> World:
        """A fresh one; with `looks` it keeps every moment and message, for a timeline."""
        trace = Trace(None if looks else 400)
        trace.keeps_messages = looks
        kept = None if self.strikes is None else frozenset(self.strikes)
        return LEVELS[self.level](self.seed, self.nodes, kept=kept, trace=trace)


class Outcome(NamedTuple):
    """How a run ended. `problem` is empty, or what broke; `report` tells it all."""

    recipe: Recipe
    virtual_s: float
    acknowledged: int
    reads: int
    fingerprint: str
    problem: str
    report: str


def run(recipe: Recipe, events: int) -> Outcome:
    """Run it to its end; a report shows so many of the last events."""
    world = recipe.world()
    problem = play(world)
    report = "\n".join(story(recipe, world, problem, events)) if problem else ""
    return Outcome(
        recipe, world.virtual_s, world.acknowledged, world.reads, world.trace.fingerprint,
        problem, report,
    )  # fmt: skip


def play(world: World) -> str:
    """Run a world; what broke, in one line, or nothing."""
    try:
        world.run()
    except (Exception, BaseExceptionGroup) as raised:
        # a broken promise, or whatever the product raised: it failed
        problem: Any = raised
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
        return f"{type(problem).__name__}: {problem}"
    return ""


def story(recipe: Recipe, world: World, problem: str, events: int) -> list[str]:
    """What was drawn, the last events, what broke, and the line that replays it."""
    lines = [f"{recipe.level} level, seed {recipe.seed}, {recipe.nodes} nodes"]
    lines += world.options.lines()
    lines += [f"  {'schedule':<16}{', '.join(_strikes(recipe, world)) or 'no faults'}"]
    if events:
        lines += columns(list(world.trace.moments)[-events:], world.names)
    if problem:
        lines += [f"at {world.virtual_s:.4f} s  {problem}", f"replay: {recipe.line}"]
    return lines


def timeline(recipe: Recipe) -> tuple[str, str]:
    """Run it, keeping everything: the problem, and the page that shows it all."""
    world = recipe.world(looks=True)
    problem = play(world)
    html = page(
        title=f"{recipe.level} level, seed {recipe.seed}, {recipe.nodes} nodes",
        drawn=[*world.options.lines(), *_strikes(recipe, world)],
        nodes=world.names,
        moments=list(world.trace.moments),
        failure=problem or None,
        replay=recipe.line,
        ended_s=world.virtual_s,
    )
    return problem, html


def _strikes(recipe: Recipe, world: World) -> list[str]:
    """Those that are played, with their numbers."""
    return [
        f"{number}: {strike}"
        for number, strike in enumerate(world.strikes)
        if recipe.strikes is None or number in recipe.strikes
    ]
