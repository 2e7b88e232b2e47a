"""The two log stores behind one interface, with power losses, for tests of both."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from cluster.raft.log import Entry
from cluster.raft.sqlite_log import SqliteLog
from simulation.core.disk import Platter, SimulatedLog

Log = SqliteLog | SimulatedLog
Content = tuple[int, str | None, list[Entry]]


class LogDisk(ABC):
    """A disk with one log on it, which starts empty."""

    log: Log

    @abstractmethod
    def lose_power(self) -> Log:
        """What a new process finds: what was committed, whatever else was going on."""

    def close(self) -> None:
        self.log.close()


class SqliteDisk(LogDisk):
    """`raft.db` in a folder. A power loss continues on a copy of the files as they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self.path = folder / "0" / "raft.db"
        self.path.parent.mkdir()
        SqliteLog.create(self.path)
        self.log: SqliteLog = SqliteLog.open(self.path)

    def lose_power(self) -> SqliteLog:
        self._lives += 1
        copy = self._folder / str(self._lives)
        shutil.copytree(self.path.parent, copy)
        self.log.close()
        self.path = copy / "raft.db"
        self.log = SqliteLog.open(self.path)
        return self.log


class SimulatedDisk(LogDisk):
    """The simulator's."""

    def __init__(self) -> None:
        self._platter = Platter()
        self.log: SimulatedLog = SimulatedLog(self._platter)

    def lose_power(self) -> SimulatedLog:
        self.log = SimulatedLog(self._platter)
        return self.log


def content(log: Log) -> Content:
    """All that consensus can see of a log."""
    return log.term, log.voted_for, log.slice(log.first.index, len(log), 1 << 62)


def fill(log: Log, first: int, last: int, term: int = 1) -> None:
    """Append entries, each with a command of its own."""
    for index in range(first, last + 1):
        log.append(Entry(b"\x00command %d of term %d" % (index, term), index, term))
