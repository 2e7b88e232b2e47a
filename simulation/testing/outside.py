"""The world outside of the cluster, as a test models it: what handlers call and no crash undoes.

A call crosses a border: a dead node's reaches nobody; one that has left is carried out whatever
becomes of its node; the answer reaches only a node that still lives. The two moments at the border
are where hooks break, so that a node can be made to die exactly there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal, Protocol

import outcome
import trio

from simulation.node.determinism import Scheduler
from simulation.node.machine import Died, Machine

When = Literal["before", "after"]

LATENCY_S = (0.001, 0.02)
"""Of an async call, each way: from, to."""
RESTARTS_S = (0.05, 0.5, 2.0)
"""After a death that was drawn at random, one of these."""


class Surroundings(Protocol):
    """What this module needs of a run."""

    scheduler: Scheduler
    nursery: trio.Nursery

    def note(self, who: str, what: str) -> None: ...
    def crash(self, name: str, *, power: bool = False) -> None: ...
    def fail(self, problem: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class Trap:
    """The next call of this name is its node's death."""

    name: str
    when: When
    power: bool
    restart_s: float | None


class Outside:
    """All that is outside, by the names that the hook modules have for it."""

    def __init__(self, things: Mapping[str, object], random: Random, run: Surroundings) -> None:
        self.things = dict(things)
        self.traps: list[Trap] = []
        self.deaths = 0.0  # the chance that a call is its node's death
        self._random = random
        self._run = run

    def as_seen_from(self, machine: Machine) -> dict[str, object]:
        """What one life of a node has in the place of each thing."""
        return {name: _Thing(self, machine, name, thing) for name, thing in self.things.items()}

    def call(
        self,
        machine: Machine,
        name: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """A handler calls: the result, or for an async function what to await."""
        if not machine.is_connected:
            raise Died
        call = partial(function, *arguments, **named)
        self._run.note(machine.name, f"→ {name}{_shown(arguments, named)}")
        trap = self._trap(name)
        if trap is not None and trap.when == "before":
            self._spring(trap, machine)
            raise Died
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        ):
            return self._answer(machine, call, trap)
        result = self._guarded(call)
        if inspect.isawaitable(result):
            return self._answer(machine, partial(_itself, result), trap)
        if trap is not None:
            self._spring(trap, machine)
            raise Died
        return result

    async def _answer(
        self, machine: Machine, call: Callable[[], Awaitable[Any]], trap: Trap | None
    ) -> Any:
        """Carry out an async call out there, where no crash and no freeze of the node reaches."""
        answered = trio.Event()
        answers: list[outcome.Outcome[Any]] = []

        async def carry_out() -> None:
            await trio.sleep(self._random.uniform(*LATENCY_S))
            answer = await outcome.acapture(call)
            if isinstance(answer, outcome.Error):
                problem = answer.error
                if not isinstance(problem, Exception):
                    raise problem
                if isinstance(problem, AssertionError):
                    self._run.fail(problem)
            if trap is not None:
                self._spring(trap, machine)
                return
            await trio.sleep(self._random.uniform(*LATENCY_S))
            answers.append(answer)
            answered.set()

        with self._run.scheduler.on(""):
            self._run.nursery.start_soon(carry_out)
        await answered.wait()
        if not machine.is_connected:
            raise Died
        return answers[0].unwrap()

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What a fake asserts is the test's affair, and no failure for the handler to handle."""
        try:
            return call()
        except AssertionError as problem:
            self._run.fail(problem)
            raise

    def _trap(self, name: str) -> Trap | None:
        for trap in self.traps:
            if trap.name in (name, name.partition(".")[0]):
                self.traps.remove(trap)
                return trap
        if self.deaths and self._random.random() < self.deaths:
            when: When = "after" if self._random.random() < 0.75 else "before"
            power = self._random.random() < 0.25
            return Trap(name, when, power, self._random.choice(RESTARTS_S))
        return None

    def _spring(self, trap: Trap, machine: Machine) -> None:
        if not machine.is_connected:
            return
        self._run.note("fault", f"{machine.name} dies {trap.when} {trap.name}")
        self._run.crash(machine.name, power=trap.power)
        if trap.restart_s is not None:
            self._run.scheduler.after(trap.restart_s, machine.start)


class _Thing:
    """One thing outside, and what hangs on it, for one life of a node."""

    def __init__(self, outside: Outside, machine: Machine, name: str, thing: object) -> None:
        self._outside = outside
        self._machine = machine
        self._name = name
        self._thing = thing

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not callable(self._thing):
            raise TypeError(f"{self._name} is a {type(self._thing).__name__} and no function")
        return self._outside.call(self._machine, self._name, self._thing, arguments, named)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if not callable(value):
            return value
        return _Thing(self._outside, self._machine, f"{self._name}.{name}", value)


async def _itself(result: Awaitable[Any]) -> Any:
    return await result


def _shown(arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    parts = [repr(value) for value in arguments] + [f"{k}={v!r}" for k, v in named.items()]
    return f"({', '.join(parts)})"
