"""Writing records into a cluster: in atomic batches, several in flight, each exactly once.

A batch is one request with one (client_id, request_seq), so the client may repeat it. Batches that
share a key are never in flight together: the later record of a key wins, as in the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import trio

from cluster.transfer.progress import Progress, ProgressMismatch, RecordsDigest
from cluster.transfer.records import BadRecord, Record

BATCH_BYTES_MAX: Final = 1 << 20  # a quarter of a request; larger ones only add latency
RESERVE_BATCHES: Final = 32  # sent beyond the saved state before it is saved again


class Target(Protocol):
    """What an import needs from a cluster."""

    async def write(self, records: Sequence[Record]) -> None:
        """Write all or nothing."""

    async def read(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values now."""


class Batch(NamedTuple):
    """Records number `first` and on, counted from the start of the file."""

    first: int
    records: list[Record]
    digest: str = ""  # of all records up to its end

    @property
    def end(self) -> int:
        return self.first + len(self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did."""

    records: int  # in the file, so far
    written: int  # by this run
    unchanged: int  # found in the cluster already, by this run


def batches(records: Iterable[Record], kept: Progress, records_max: int) -> Iterator[Batch]:
    """Cut records into batches, leaving out those that `kept` says are written.

    Raises ProgressMismatch when they are not those of the file. What stands before a bad line
    comes out before the line's BadRecord does.
    """
    digest = RecordsDigest()
    batch = Batch(kept.written, [])
    size = number = 0
    try:
        for record in records:
            if number == kept.written:
                _same_records(kept, digest)
            full = len(batch.records) >= records_max or size + record.size_bytes > BATCH_BYTES_MAX
            if batch.records and full:
                yield batch._replace(digest=digest.text())
                batch, size = Batch(number, []), 0
            digest.add(record)
            number += 1
            if number > kept.written:
                batch.records.append(record)
                size += record.size_bytes
        if number <= kept.written:
            _same_records(kept, digest)
    except BadRecord:
        if batch.records:
            yield batch._replace(digest=digest.text())
        raise
    if batch.records:
        yield batch._replace(digest=digest.text())


def _same_records(kept: Progress, digest: RecordsDigest) -> None:
    if kept.written and kept.digest != digest.text():
        raise ProgressMismatch(f"the first {kept.written} records are not those imported before")


class Importer:
    """One run of an import."""

    def __init__(
        self,
        target: Target,
        progress: Progress,
        *,
        save: Callable[[Progress], None],
        records_max: int,
        in_flight_max: int,
        changed_only: bool = False,
        notify: Callable[[int], None] = lambda records: None,
    ) -> None:
        self.progress = progress
        self.written = 0
        self.unchanged = 0
        self._target = target
        self._save = save
        self._records_max = records_max
        self._slots = trio.Semaphore(in_flight_max)
        self._doubtful_below = progress.sent
        self._changed_only = changed_only
        self._notify = notify
        self._keys_in_flight: set[str] = set()
        self._landed = trio.lowlevel.ParkingLot()
        # first -> (end, digest) of batches that are written and wait for an earlier one
        self._done: dict[int, tuple[int, str]] = {}

    async def run(self, records: Iterable[Record]) -> Imported:
        """Write everything; the state is saved whatever ends this."""
        bad: BadRecord | ProgressMismatch | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    for batch in batches(records, self.progress, self._records_max):
                        await self._start(batch, nursery)
                except (BadRecord, ProgressMismatch) as error:
                    bad = error  # what was started before it is finished first
            if bad is not None:
                raise bad
            self.progress = replace(self.progress, complete=True)
        finally:
            self._save(self.progress)
        return Imported(
            records=self.progress.written, written=self.written, unchanged=self.unchanged
        )

    async def _start(self, batch: Batch, nursery: trio.Nursery) -> None:
        await self._slots.acquire()
        keys = {record.key for record in batch.records}
        while not self._keys_in_flight.isdisjoint(keys):
            await self._landed.park()
        self._reserve(batch)
        self._keys_in_flight |= keys
        nursery.start_soon(self._write, batch)

    def _reserve(self, batch: Batch) -> None:
        """Before anything is sent, the saved state must say that it may have been."""
        if batch.end > self.progress.sent:
            beyond = batch.end + RESERVE_BATCHES * self._records_max
            self.progress = replace(self.progress, sent=beyond)
            self._save(self.progress)

    async def _write(self, batch: Batch) -> None:
        records = batch.records
        if self._changed_only or batch.first < self._doubtful_below:
            records = await self._changed(records)
        if records:
            await self._target.write(records)
        self.written += len(records)
        self.unchanged += len(batch.records) - len(records)
        self._keys_in_flight.difference_update(record.key for record in batch.records)
        self._done[batch.first] = batch.end, batch.digest
        while (reached := self._done.pop(self.progress.written, None)) is not None:
            self.progress = replace(self.progress, written=reached[0], digest=reached[1])
        self._notify(len(batch.records))
        self._slots.release()
        self._landed.unpark_all()

    async def _changed(self, records: list[Record]) -> list[Record]:
        """Those whose value in the cluster is another one, or that are not there."""
        values = await self._target.read([record.key for record in records])
        return [r for r, value in zip(records, values, strict=True) if r.value != value]
