"""What the workloads share whose clients do one thing after the other: the clients' loop, and what
an answer means.

May not: judge. A workload derives from both classes and adds what is asked, and what must hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from cluster.errors import DefiniteError, TremulaError
from hooks.registry import Registry
from simulation.history import Outcome
from simulation.node.machine import Machine

if TYPE_CHECKING:
    from cluster.client import Client
    from simulation.node.world import World

OPEN_S = 4.0
"""About so long a client keeps its connection and its session."""
FAVOURS = 0.6
"""So many of the clients ask the node that the faults want to be asked."""
PACE_S = 0.02
"""Added to what clients think, because each operation here is dearer than one on a register."""
TIMEOUTS_MS = (1_000, 10_000)
"""What clients wait; after the shorter one more outcomes are unknown."""


class Answer(NamedTuple):
    """How a request ended: `result` where it is OK, else the code of the error."""

    outcome: Outcome
    result: Any
    error: str = ""


class LoopingClient(ABC):
    """One client; `operate` is one step of it."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.number = number
        self.world = world
        self.random = random
        self.stopping = False
        self.stopped = False
        self._until_s = 0.0  # this connection ends, unless the favourite changes before

    def hang_up(self) -> None:
        """This was the last step on this connection."""
        self._until_s = 0.0

    async def run(self) -> None:
        """Until it is told to stop: a connection, and one step after the other on it."""
        world, random = self.world, self.random
        while not self.stopping:
            self._until_s = trio.current_time() + random.uniform(0.5, 1.5) * OPEN_S
            favourite = world.favourite
            first = favourite if random.random() < FAVOURS else None
            async with world.open_client(self.number, random, first=first) as client:
                while not (
                    self.stopping
                    or trio.current_time() >= self._until_s
                    or world.favourite != favourite
                ):
                    await trio.sleep(random.random() * 2 * (world.options.think_s + PACE_S))
                    await self.operate(client)
        self.stopped = True

    @abstractmethod
    async def operate(self, client: Client) -> None:
        """Ask something and keep what came of it."""

    async def ask(self, what: str, request: Awaitable[Any]) -> Answer:
        """The answer to one request, with both ends of it in the trace."""
        self.world.note(f"client-{self.number}", what)
        try:
            answer = Answer(Outcome.OK, await request)
        except DefiniteError as error:
            answer = Answer(Outcome.FAIL, None, error.code)
        except TremulaError as error:
            answer = Answer(Outcome.INFO, None, error.code)
        ended = f"{what} {answer.outcome.value} {answer.error or answer.result}"
        self.world.note(f"client-{self.number}", ended)
        return answer

    def timeout_ms(self) -> int:
        return self.random.choice(TIMEOUTS_MS)


class ClientsWorkload:
    """Implements `Workload` but for `check`."""

    def __init__(self, clients: Sequence[LoopingClient]) -> None:
        self.clients = clients

    def register(self, machine: Machine, registry: Registry) -> None:
        """No handlers."""

    def begin(self, nursery: trio.Nursery) -> None:
        for client in self.clients:
            nursery.start_soon(client.run)

    def stop(self) -> None:
        for client in self.clients:
            client.stopping = True

    def is_done(self) -> bool:
        return all(client.stopped for client in self.clients)
