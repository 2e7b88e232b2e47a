"""Keeping the runs of the event index few: merges of neighbours, and deleting what was merged.

Everything goes in steps of about a millisecond, each a transaction of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import apsw

from pubsub.store import event_index
from pubsub.store.event_index import (
    DEAD,
    GROWING,
    LIVE,
    RUN,
    Run,
    Stretch,
    append,
    block_of,
    bury,
    new_run,
    read_block,
)
from pubsub.store.event_terms import LOW

# Sixteen runs make one of the next level, twice: of 1,024 events, of 16,384, of 262,144.
FAN_IN: Final = 16
LEVEL_MAX: Final = 2
MERGE_POSTINGS: Final = 8 * event_index.BLOCK_POSTINGS  # of one step, or some more
STRETCHES_MAX: Final = 64  # of one run; each costs a query as much as a posting does
DROP_BLOCKS: Final = 128  # deleted by one step


class Merger:
    """Keeps the runs few and rids the file of what is no longer needed, a bounded step at a time.

    A merge that a crash interrupts goes on behind the last posting that it wrote.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._merges: dict[int, _Merge] = {}
        for row in connection.execute(f"{RUN} WHERE state = ?", (GROWING,)).fetchall():
            run = Run.of(row)
            self._merges[run.level] = _Merge(connection, run)
        self._dead = [
            row[0]
            for row in connection.execute(
                "SELECT id FROM runs WHERE state = ? ORDER BY id", (DEAD,)
            )
        ]
        self._look = True  # something changed since the last look for merges

    @property
    def has_work(self) -> bool:
        """Whether a step may do something."""
        return bool(self._look or self._merges or self._dead)

    def flushed(self) -> None:
        """There is a run more."""
        self._look = True

    def trimmed(self, first_revision: int) -> None:
        """The log begins there now: runs that end before it are dropped."""
        gone = [
            run.id
            for run in event_index.runs(self._connection, last=first_revision - 1)
            if run.last_revision < first_revision and not self._is_taken(run)
        ]
        if gone:
            with self._connection:
                bury(self._connection, gone)
            self._dead += gone

    def step(self, first_revision: int) -> int:
        """Merge a few thousand postings, or delete a few blocks; how many postings were written.

        Postings below `first_revision` are left out: their events are gone.
        """
        if self._look:
            self._start_merges()
            self._look = False
        if not self._merges:
            if self._dead:
                self._delete()
            return 0
        level = min(self._merges)
        merge = self._merges[level]
        with self._connection:
            written, inputs = merge.step(first_revision)
            if inputs:
                bury(self._connection, inputs)
        if inputs:
            del self._merges[level]
            self._dead += inputs
            self._look = True
        return written

    def _start_merges(self) -> None:
        """A merge for each level that has enough neighbours, if it has none under way."""
        every = event_index.runs(self._connection)
        for level in range(LEVEL_MAX):
            if level + 1 in self._merges:
                continue
            neighbours: list[Run] = []
            for run in every:
                alike = run.level == level and not self._is_taken(run)
                if neighbours and run.first_revision >> 32 != neighbours[0].first_revision >> 32:
                    neighbours = []
                neighbours = [*neighbours, run] if alike else []
                if len(neighbours) == FAN_IN:
                    self._merges[level + 1] = self._begin(neighbours)
                    break

    def _begin(self, inputs: list[Run]) -> _Merge:
        listed: set[str] | None = set()
        for run in inputs:
            known = event_index.topics(self._connection, run)
            listed = None if listed is None or known is None else listed.union(known)
        first, last = inputs[0].first_revision, inputs[-1].last_revision
        topics = None if listed is None else event_index.listed_topics(listed)
        stretches, level = _joined(inputs)[:STRETCHES_MAX], inputs[0].level + 1
        with self._connection:
            run = new_run(self._connection, GROWING, level, first, last, topics, sorted(stretches))
        return _Merge(self._connection, run)

    def _is_taken(self, run: Run) -> bool:
        return any(merge.covers(run) for merge in self._merges.values())

    def _delete(self) -> None:
        execute = self._connection.execute
        dead = self._dead[0]
        with self._connection:
            rows = execute(
                "DELETE FROM blocks WHERE id IN (SELECT id FROM blocks WHERE id >= ? AND id < ?"
                " LIMIT ?) RETURNING id",
                (dead << 32, dead + 1 << 32, DROP_BLOCKS),
            ).fetchall()
            if len(rows) < DROP_BLOCKS:
                execute("DELETE FROM fences WHERE run = ?", (dead,))
                execute("DELETE FROM runs WHERE id = ?", (dead,))
                del self._dead[0]


class _Merge:
    """Neighbouring runs on their way into one."""

    def __init__(self, connection: apsw.Connection, target: Run) -> None:
        self._connection = connection
        self._target = target
        self._inputs = [
            run
            for run in event_index.runs(connection, target.first_revision, target.last_revision)
            if run.id != target.id and self.covers(run)
        ]
        written = -1
        if target.blocks:
            written = read_block(connection, target.id, target.blocks - 1)[-1]
        self._readers: list[_Reader | _Posted] = [
            _Reader(connection, run, written) for run in self._inputs
        ]
        left = set(_joined(self._inputs)).difference(target.stretches)
        self._readers += [_Posted(stretch, written) for stretch in left]

    def covers(self, run: Run) -> bool:
        first, last = self._target.first_revision, self._target.last_revision
        return first <= run.first_revision and run.last_revision <= last

    def step(self, first_revision: int) -> tuple[int, list[int]]:
        """How many postings were written; and the inputs, once all of them are."""
        found: list[int] = []
        readers = self._readers
        looked = 0
        while looked < MERGE_POSTINGS:
            readers = self._readers = [reader for reader in readers if reader.fill()]
            if not readers:
                break
            # up to here every reader has all that it will ever have
            bound = min(reader.last for reader in readers)
            parts = [part for reader in readers if (part := reader.take(bound))]
            merged = parts[0] if len(parts) == 1 else [p for part in parts for p in part]
            if len(parts) > 1:
                merged.sort()  # of a few sorted pieces: one pass
            found += merged
            looked += len(merged)
        target = self._target
        if first_revision > target.first_revision:
            base = target.first_revision & ~LOW
            found = [p for p in found if base | p & LOW >= first_revision]
        if found:
            self._target = append(self._connection, target, found)
        if readers:
            return len(found), []
        self._connection.execute("UPDATE runs SET state = ? WHERE id = ?", (LIVE, target.id))
        return len(found), [run.id for run in self._inputs]


class _Reader:
    """One input of a merge, a block at a time."""

    __slots__ = ("_at", "_connection", "_next", "_postings", "_run", "last")

    def __init__(self, connection: apsw.Connection, run: Run, written: int) -> None:
        self._connection = connection
        self._run = run
        self._next = block_of(connection, run, written + 1)
        self._postings: list[int] = []
        self._at = 0
        self.last = -1
        if written >= 0 and self.fill():
            self.take(written)

    def fill(self) -> bool:
        """Have something to take, if there is anything left."""
        while self._at == len(self._postings):
            if self._next >= self._run.blocks:
                return False
            self._postings = read_block(self._connection, self._run.id, self._next).tolist()
            self._next += 1
            self._at = 0
            self.last = self._postings[-1]
        return True

    def take(self, bound: int) -> list[int]:
        """What is there up to `bound`."""
        postings, at = self._postings, self._at
        self._at = len(postings) if bound >= self.last else bisect_right(postings, bound, at)
        return postings[at : self._at]


def _joined(runs: Sequence[Run]) -> list[Stretch]:
    """The stretches of neighbours, those that go on in the next one joined; the longest first."""
    joined: list[Stretch] = []
    for number, first, last in sorted(stretch for run in runs for stretch in run.stretches):
        if joined and (joined[-1].hash, joined[-1].last_revision) == (number, first - 1):
            joined[-1] = joined[-1]._replace(last_revision=last)
        else:
            joined.append(Stretch(number, first, last))
    return sorted(joined, key=lambda each: (each.first_revision - each.last_revision, each))


class _Posted:
    """A stretch that is one too many for the new run: its revisions get postings."""

    __slots__ = ("_end", "_next", "last")

    def __init__(self, stretch: Stretch, written: int) -> None:
        prefix = stretch.hash << 32
        self._next = max(prefix | stretch.first_revision & LOW, written + 1)
        self._end = prefix | stretch.last_revision & LOW
        self.last = -1

    def fill(self) -> bool:
        """As `_Reader.fill`."""
        self.last = min(self._next + event_index.BLOCK_POSTINGS - 1, self._end)
        return self._next <= self._end

    def take(self, bound: int) -> list[int]:
        """As `_Reader.take`."""
        begin, self._next = self._next, max(self._next, min(bound, self.last) + 1)
        return list(range(begin, self._next))
