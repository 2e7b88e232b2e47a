"""A toy replicated state: registers that remember the log index that wrote them.

Durable like `state.db`: every entry is one transaction, but only a checkpoint is synced, so that a
power loss returns to the last checkpoint and a killed process loses nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgpack

from cluster.raft.membership import Membership
from cluster.raft.snapshot import SnapshotSink, SnapshotSource


class Registers:
    """The rows of the toy state."""

    def __init__(self, members: Membership) -> None:
        self.index = 1
        self.term = 0
        self.wall_ms = 0
        self.elapsed_ms = 0
        self.entry_version = 1
        self.members = members
        self.values: dict[str, tuple[int, str]] = {}

    def apply(self, index: int, term: int, command: bytes) -> list[object]:
        """Returns one result per operation: `[log index, position]`."""
        if index != self.index + 1:
            raise AssertionError(f"applied {index} on a state of {self.index}")
        results: list[object] = []
        body: list[Any] = msgpack.unpackb(command[1:]) if len(command) > 1 else [1, 0, 0]
        if command[0] == 0:
            for position, payload in enumerate(body[3]):
                key, value = msgpack.unpackb(payload)[3]
                self.values[key] = (index, value)
                results.append((index, position))
        elif command[0] == 2:
            self.members = Membership.decode(body[6])
            results.append(index)
        if len(command) > 1 and (body[1] < self.wall_ms or body[2] < self.elapsed_ms):
            raise AssertionError(f"a clock went back at entry {index}")
        self.wall_ms, self.elapsed_ms = max(self.wall_ms, body[1]), max(self.elapsed_ms, body[2])
        self.entry_version = max(self.entry_version, body[0])
        self.index, self.term = index, term
        return results


class ToyState:
    """One node's state: what a process sees now, and what would survive a power loss."""

    def __init__(self, members: Membership) -> None:
        self.rows = Registers(members)
        self.synced = copy.deepcopy(self.rows)
        self.incoming: Registers | None = None

    @property
    def wall_ms(self) -> int:
        return self.rows.wall_ms

    @property
    def elapsed_ms(self) -> int:
        return self.rows.elapsed_ms

    @property
    def entry_version(self) -> int:
        return self.rows.entry_version

    def apply(self, index: int, term: int, command: bytes) -> list[object]:
        return self.rows.apply(index, term, command)

    def checkpoint(self) -> int:
        """Everything applied so far is durable now; returns its index."""
        self.synced = _copy(self.rows)
        return self.rows.index

    def lose_power(self) -> None:
        self.rows = _copy(self.synced)

    def finish_installation(self, installing: bool) -> None:
        """What a new process does with a copy that was complete and not yet the state."""
        if installing and self.incoming is not None:
            self.rows, self.synced = self.incoming, _copy(self.incoming)
        self.incoming = None

    def copy(self, ready: Callable[[SnapshotSource | None], None]) -> None:
        ready(_Source(self.rows))

    def receive(self) -> SnapshotSink:
        return _Sink(self)


class _Source:
    def __init__(self, rows: Registers) -> None:
        self.index, self.term, self.members = rows.index, rows.term, rows.members
        clocks = [rows.wall_ms, rows.elapsed_ms, rows.entry_version]
        self._data: bytes = msgpack.packb(
            [rows.index, rows.term, clocks, rows.members.encode(), rows.values]
        )
        self.size = len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + min(size, 200)]

    def close(self) -> None:
        """Nothing to close."""


class _Sink:
    def __init__(self, state: ToyState) -> None:
        self._state = state
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data

    def seal(self) -> None:
        index, term, clocks, members, values = msgpack.unpackb(self._data)
        rows = Registers(Membership.decode(members))
        rows.index, rows.term = index, term
        rows.wall_ms, rows.elapsed_ms, rows.entry_version = clocks
        rows.values = {key: (value[0], value[1]) for key, value in values.items()}
        self._state.incoming = rows

    def adopt(self) -> None:
        incoming = self._state.incoming
        assert incoming is not None, "adopt follows seal"
        self._state.rows, self._state.synced = incoming, _copy(incoming)
        self._state.incoming = None

    def discard(self) -> None:
        self._data = b""


def _copy(rows: Registers) -> Registers:
    twin = copy.copy(rows)
    twin.values = dict(rows.values)
    return twin
