"""What clients may rely on in every run, whatever the faults. Who breaks it raises Violation."""

from __future__ import annotations

import msgpack

from cluster.raft.log import Entry
from simulation.violation import Violation


class Checker:
    """Watches the one log that is applied, and what clients were told."""

    def __init__(self) -> None:
        self.log: dict[int, tuple[int, bytes]] = {}
        self.acknowledged = 0
        self.reads = 0
        self._placed: dict[str, int] = {}  # value -> where it stands in the log
        self._refused: dict[str, str] = {}  # value -> the definite error that its writer got
        self._newest_write: dict[str, int] = {}  # key -> newest index that anybody was told of

    def applied(self, name: str, entry: Entry) -> None:
        """One log: whoever applies an index applies the same entry (Raft §5.4.3). Values are
        unique, so that none is there twice, and none whose writer was told that it is not."""
        known = self.log.get(entry.index)
        if known is None:
            self.log[entry.index] = (entry.term, entry.command)
            for value in _values(entry.command):
                self._place(value, entry.index)
        elif known != (entry.term, entry.command):
            raise Violation(f"{name} applied another entry {entry.index} (term {entry.term})")

    def _place(self, value: str, index: int) -> None:
        if self._placed.setdefault(value, index) != index:
            raise Violation(f"{value} is at {self._placed[value]} and at {index}")
        if value in self._refused:
            raise Violation(f"{value} is at {index}: its writer got {self._refused[value]}")

    def begins(self, key: str) -> int:
        """A read or write begins: what it must not fall behind (real-time order)."""
        return self._newest_write.get(key, 0)

    def wrote(self, key: str, value: str, floor: int, index: int) -> None:
        """A write was acknowledged: it is in the one log where the client was told it is, behind
        everything that was known when it began."""
        if index <= floor:
            raise Violation(f"{value} was placed at {index}, {floor} was known before it began")
        if self._placed.get(value) != index:
            raise Violation(f"{value} was acknowledged at {index} and is not there")
        self.acknowledged += 1
        self._newest_write[key] = max(self._newest_write.get(key, 0), index)

    def refused(self, value: str, error: str) -> None:
        """A definite error: it did not happen and never will."""
        self._refused[value] = error
        if value in self._placed:
            raise Violation(f"{value} is at {self._placed[value]}: its writer got {error}")

    def read(self, key: str, floor: int, index: int) -> None:
        """A linearizable read returns nothing older than what was known when it began; what it
        returned is known from now on."""
        self.reads += 1
        if index < floor:
            raise Violation(f"a read of {key} returned version {index}, {floor} was known before")
        self._newest_write[key] = max(self._newest_write.get(key, 0), index)


def _values(command: bytes) -> list[str]:
    if command[0] != 0:
        return []
    return [msgpack.unpackb(payload)[3][1] for payload in msgpack.unpackb(command[1:])[3]]
