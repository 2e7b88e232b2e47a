"""Simulated clients: each does one operation at a time, with values that are unique.

An outcome that is unknown stays unknown; a late answer still counts, because it is an answer. Each
operation is answered exactly once, unless the node that it was given to died.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cluster.errors import DefiniteError, TremulaError
from simulation.history import Kind
from simulation.violation import Violation

if TYPE_CHECKING:
    from simulation.core.process import Process
    from simulation.core.world import World

PATIENCE_S = 3.0


class _Asked(NamedTuple):
    """An operation in progress: what, and which life of which node was asked."""

    what: str
    process: Process
    incarnation: int


class Client:
    """Writes and reads registers at a node of its choice, which may not be the leader."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._operation = 0
        self._asked: dict[int, _Asked] = {}
        self.completed = 0
        self.stopped = False

    def begin(self) -> None:
        if not self.stopped:
            world = self._world
            world.after(world.random.random() * world.options.think_s, self._operate)

    def unanswered(self) -> list[str]:
        """Operations whose node lives and still has not answered."""
        return [
            f"{asked.what} at {asked.process.name}"
            for asked in self._asked.values()
            if asked.process.alive and asked.process.incarnation == asked.incarnation
        ]

    def lost(self, process: Process) -> None:
        """A node died: who waited for it sees the connection break."""
        asked = self._asked.get(self._operation)
        if asked is not None and asked.process is process:
            self._next(self._operation)

    def _operate(self) -> None:
        world = self._world
        self._operation += 1
        alive = [p for p in world.processes.values() if p.alive]
        if not alive or self.stopped:
            world.after(0.05, self.begin)
            return
        operation = self._operation
        process = world.random.choice(alive)
        if world.favourite is not None and world.random.random() < 0.6:
            process = next((p for p in alive if p.name == world.favourite), process)
        key = f"k{world.random.randrange(world.options.keys)}"
        world.after(PATIENCE_S, lambda: self._next(operation))
        if world.random.random() < world.options.write_share:
            self._write(operation, process, key)
        else:
            self._read(operation, process, key)
        process.wake(0.0)

    def _write(self, operation: int, process: Process, key: str) -> None:
        world = self._world
        floor = world.checker.begins(key)
        value = f"v-{self._number}-{operation}"
        asked = world.history.invoke(self._number, Kind.WRITE, key, value, world.now)

        def wrote(result: object) -> None:
            if isinstance(result, tuple):
                world.history.ok(asked, None, world.now)
                world.checker.wrote(key, value, floor, result[0])
                self.completed += 1
                world.note(process.name, f"ack {key}={value} at {result[0]}")
            elif isinstance(result, DefiniteError):
                world.history.fail(asked, result.kind, world.now)
                world.checker.refused(value, type(result).__name__)
            self._next(operation)

        assert process.core is not None, "only living nodes are asked"
        done = self._once(operation, process, f"write of {value}", wrote)
        process.core.propose(world.seal_operation(key, value), done)

    def _read(self, operation: int, process: Process, key: str) -> None:
        world = self._world
        floor = world.checker.begins(key)
        asked = world.history.invoke(self._number, Kind.READ, key, None, world.now)

        def read(error: object) -> None:
            if not isinstance(error, TremulaError):
                index, value = process.state.rows.values.get(key, (0, None))
                world.history.ok(asked, value, world.now)
                world.checker.read(key, floor, index)
                self.completed += 1
                world.note(process.name, f"read {key} version {index}")
            self._next(operation)

        assert process.core is not None, "only living nodes are asked"
        process.core.read(self._once(operation, process, f"read of {key}", read))
        world.faults.happens(process.name, "read", None)

    def _once(
        self, operation: int, process: Process, what: str, done: Callable[[object], None]
    ) -> Callable[[object], None]:
        self._asked[operation] = _Asked(what, process, process.incarnation)

        def answered(result: object) -> None:
            if self._asked.pop(operation, None) is None:
                raise Violation(f"{what} at {process.name} was answered twice")
            done(result)

        return answered

    def _next(self, operation: int) -> None:
        if operation == self._operation:
            self._operation += 1
            self.begin()
