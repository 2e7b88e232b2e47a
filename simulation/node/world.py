"""One run of whole nodes: a safety phase under faults, then a phase in which all must come right.

The seed decides everything: latencies, faults and their times, what clients do, the order of tasks.
The trace is what clients, faults and nodes' logs say, with virtual times; its hash is the run's
fingerprint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import trio

from cluster.client import open_client
from pubsub.events import Event
from simulation.history import History, Kind, Outcome
from simulation.linearizability import Linearizable, check
from simulation.node import determinism
from simulation.node.clients import RegisterClient
from simulation.node.faults import Faults
from simulation.node.handlers import HandlerCheck
from simulation.node.links import Links
from simulation.node.machine import CLIENT_PORT, Machine
from simulation.node.readers import Subscriber
from simulation.violation import Violation

CLIENTS = 4
SUBSCRIBERS = 2
FAULTY_S = 12.0
RECOVERY_S = 30.0
"""Virtual time in which everything must come right once the faults are over."""


class World:
    """A cluster of production nodes, its clients and its faults. `run` is its whole life."""

    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.seed = seed
        self.random = Random(f"{seed}/{nodes}")
        self.links = Links(Random(self.random.getrandbits(64)))
        self.names = [chr(ord("a") + number) for number in range(nodes)]
        self.machines: dict[str, Machine] = {}
        self.history = History()
        self.handled = HandlerCheck(Random(self.random.getrandbits(64)))
        self.trace: list[str] = []
        self.virtual_s = 0.0
        self.nursery: trio.Nursery
        self._marks = sha256()

    @property
    def fingerprint(self) -> str:
        """Equal for equal runs, in any process."""
        return self._marks.hexdigest()

    @property
    def acknowledged(self) -> int:
        return self._count(Kind.WRITE)

    @property
    def reads(self) -> int:
        return self._count(Kind.READ)

    def _count(self, kind: Kind) -> int:
        """Operations of a kind that were answered."""
        return sum(o.kind is kind and o.outcome is Outcome.OK for o in self.history.operations)

    def story(self, events: int) -> list[str]:
        """The last events, and what each node logged last."""
        lines = [f"seed {self.seed}, {len(self.names)} whole nodes"]
        if events:
            lines += self.trace[-events:]
            for machine in self.machines.values():
                lines += machine.log.getvalue().splitlines()[-events // len(self.names) :]
        return lines

    def note(self, who: str, what: str) -> None:
        line = f"{trio.current_time():10.6f} {who:8} {what}"
        self.trace.append(line)
        self.virtual_s = trio.current_time()
        self._marks.update(line.encode())

    def run(self) -> None:
        """The whole run; raises Violation, or what a node or client raised."""
        with tempfile.TemporaryDirectory(prefix="tremula-") as folder:
            determinism.run(self.seed, lambda: self._run(Path(folder)))

    async def _run(self, folder: Path) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for name in self.names:
                random = Random(self.random.getrandbits(64))
                machine = Machine(name, folder, self.names, self.links, random)
                machine.registry = self.handled.registry(machine)
                machine.start(nursery)
                self.machines[name] = machine
            clients = [RegisterClient(self, number, self.history) for number in range(CLIENTS)]
            readers = [Subscriber(self, CLIENTS + number) for number in range(SUBSCRIBERS)]
            for client in clients:
                nursery.start_soon(client.run)
            for reader in readers:
                nursery.start_soon(reader.run)
            await Faults(self, Random(self.random.getrandbits(64))).run(FAULTY_S)
            self._alive()
            self.note("world", "the faults are over")
            for client in clients:
                client.stopping = True
            await self._until(lambda: all(client.stopped for client in clients), "clients end")
            await self._until(self._handled, "handlers catch up")
            await self._until(
                lambda: all(reader.newest == self._revision() for reader in readers),
                "subscribers catch up",
            )
            await self._until(self._agree, "all nodes are at one applied index under a leader")
            self._check()
            self.virtual_s = trio.current_time()
            for machine in self.machines.values():
                await machine.crash()
            nursery.cancel_scope.cancel()

    # --- what must hold ---

    def _alive(self) -> None:
        for machine in self.machines.values():
            if machine.problem is not None:
                raise Violation(f"{machine.name} ended by itself: {machine.problem!r}")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(RECOVERY_S):
            while not condition():
                self._alive()
                await trio.sleep(0.05)
            return
        raise Violation(f"not within {RECOVERY_S:.0f} s after the faults: {what}")

    def _handled(self) -> bool:
        machine = next(iter(self.machines.values()))
        return machine.node is not None and self.handled.has_caught_up(machine)

    def _revision(self) -> int:
        return max(m.node.machine.revision for m in self.machines.values() if m.node is not None)

    def _agree(self) -> bool:
        cores = []
        for machine in self.machines.values():
            if machine.node is None or machine.node.core is None:
                return False
            cores.append(machine.node.core)
        return (
            len({core.leader for core in cores}) == 1
            and cores[0].leader is not None
            and len({core.applied_index for core in cores}) == 1
            and all(core.commit_index == core.applied_index for core in cores)
        )

    def _check(self) -> None:
        digests = {}
        logs: dict[str, list[Event]] = {}
        for name, machine in self.machines.items():
            assert machine.node is not None, "checked when all agree"
            digests[name] = machine.node.machine.digest.hex()
            found = machine.node.read_events(1, 1 << 30, 1 << 40)
            if not isinstance(found, list):
                raise Violation(f"the log of {name} does not begin at revision 1")
            logs[name] = found
        if len(set(digests.values())) != 1:
            raise Violation(f"the states differ: {digests}")
        for name, events in logs.items():
            self._check_log(name, events)
        self.handled.check(logs[self.names[0]])
        result = check(self.history)
        if not isinstance(result, Linearizable):
            raise Violation(str(result))

    def _check_log(self, name: str, events: list[Event]) -> None:
        """Each acknowledged write is one event, each event one write that somebody asked for."""
        revisions = [event.revision for event in events]
        if revisions != list(range(1, len(revisions) + 1)):
            raise Violation(f"the log of {name} has a gap or a repetition")
        written = [e.data[0].decode() for e in events if e.topic == "hooks.kv.write_committed"]
        if len(set(written)) != len(written):
            raise Violation(f"the log of {name} has a write twice")
        for operation in self.history.operations:
            if operation.kind is not Kind.WRITE:
                continue
            is_there = operation.value in written
            if operation.outcome is Outcome.OK and not is_there:
                raise Violation(f"{operation.value} was acknowledged and is not in {name}'s log")
            if operation.outcome is Outcome.FAIL and is_there:
                raise Violation(f"{operation.value} was refused and is in {name}'s log")

    # --- for clients ---

    def open_client(self, number: int, random: Random):  # type: ignore[no-untyped-def]
        """A production client on a host of its own; it tries the nodes in an order of its own."""
        names = random.sample(self.names, len(self.names))
        return open_client(
            [(name, CLIENT_PORT) for name in names],
            network=self.links.at(f"client-{number}"),
            random=random,
        )
