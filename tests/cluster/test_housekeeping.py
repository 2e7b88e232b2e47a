"""Cutting the log: never beyond what is durable, half of the bound kept, and what peers need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from trio.testing import MockClock

from cluster.housekeeping import CHECKPOINT_EVERY_S, NEEDED_TIMES_MAX, Housekeeping
from cluster.raft.log import Entry
from cluster.raft.sqlite_log import SqliteLog

ENTRIES_MAX = 1000


class _Machine:
    applied_index = 1


class CheckpointedStorage:
    """A state of which everything up to `durable` is durable at the next checkpoint."""

    def __init__(self) -> None:
        self.machine = _Machine()
        self.durable: int | None = None

    async def checkpoint(self) -> int | None:
        await trio.lowlevel.checkpoint()
        return self.durable


class House:
    """A real log that grows, and its housekeeping."""

    def __init__(self, path: Path, needed_index: Callable[[], int]) -> None:
        SqliteLog.create(path)
        self.log = SqliteLog.open(path)
        self.storage = CheckpointedStorage()
        self.housekeeping = Housekeeping(
            self.storage,  # type: ignore[arg-type]
            self.log,
            lambda: None,
            needed_index=needed_index,
            log_entries_max=ENTRIES_MAX,
            log_bytes_max=1 << 30,
        )

    async def grow(self, last: int, durable: int | None) -> None:
        """Append up to index `last`, all of it applied; then let housekeeping look."""
        for index in range(self.log.last.index + 1, last + 1):
            self.log.append(Entry(b"\x00put", index, 1))
        self.log.commit()
        self.storage.machine.applied_index, self.storage.durable = last, durable
        with trio.move_on_after(CHECKPOINT_EVERY_S * 1.5):
            await self.housekeeping.run()
        self.log.commit()


async def test_a_log_within_its_bound_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing is cut before it is worth it."""
    house = House(tmp_path / "raft.db", lambda: 1 << 60)
    await house.grow(ENTRIES_MAX, ENTRIES_MAX)
    assert house.log.first.index == 1


async def test_half_of_the_bound_stays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A peer that was away for a moment needs no snapshot, and the cut rows are deleted."""
    house = House(tmp_path / "raft.db", lambda: 1 << 60)
    await house.grow(2000, 2000)
    assert house.log.first.index == 2000 - ENTRIES_MAX // 2
    assert not house.log.sweep(1)


async def test_nothing_is_cut_that_is_not_durable(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A state that a power cut takes back is made again from the log."""
    house = House(tmp_path / "raft.db", lambda: 1 << 60)
    await house.grow(2000, None)
    assert house.log.first.index == 1
    await house.grow(2001, 300)
    assert house.log.first.index == 300


async def test_what_a_connected_peer_needs_is_kept_for_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It catches up without a second snapshot; one that is too slow must not fill the disk."""
    house = House(tmp_path / "raft.db", lambda: 700)
    await house.grow(2000, 2000)
    assert house.log.first.index == 700
    last = 700 + NEEDED_TIMES_MAX * ENTRIES_MAX + 1
    await house.grow(last, last)
    assert house.log.first.index == last - ENTRIES_MAX // 2
