"""Publishing the events of a file again: NDJSON, one CloudEvent in its JSON form on each line.

Only user events are published; those of the cluster itself are facts about what it was, and are
counted and left out. Events are published in order, one atomic batch after the other, each under
the message id that its CloudEvent id and source make: what an interrupted import may have sent
already is no new event if the import goes on within MESSAGE_ID_WINDOW_MS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from cluster.transfer.progress import Progress, ProgressMismatch
from cluster.transfer.records import LINE_BYTES_MAX, BadRecord
from pubsub.cloudevents import InvalidCloudEvent, from_structured, to_publish
from pubsub.topics import is_reserved

BATCH_BYTES_MAX: Final = 1 << 20  # a quarter of a request; larger ones only add latency

Trace = tuple[str | None, str | None, str | None]  # correlation, causation, traceparent
NO_TRACE: Final[Trace] = (None, None, None)


class EventRecord(NamedTuple):
    """One line of the file."""

    line: int
    raw: bytes
    item: list[Any] | None  # of a batch; None: not a user's event
    trace: Trace | None  # None: any will do


class Imported(NamedTuple):
    """What an import did, in this run and in those that it went on from."""

    lines: int
    published: int  # by this run
    known: int  # published within the last minutes already, says the cluster
    skipped: int  # the cluster's own events, seen by this run


class EventTarget(Protocol):
    """What an import needs from a cluster."""

    async def publish(self, items: list[list[Any]], trace: Trace) -> int:
        """All or nothing; how many of them are new."""


def read_events(file: BinaryIO) -> Iterator[EventRecord]:
    """The lines of a stream; empty ones are passed over. Raises BadRecord."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise BadRecord(number, f"is longer than {LINE_BYTES_MAX} bytes")
        if line.strip():
            yield _record(number, line.strip())


class EventImporter:
    """One run of an import."""

    def __init__(
        self,
        target: EventTarget,
        progress: Progress,
        *,
        save: Callable[[Progress], None],
        records_max: int,
        notify: Callable[[int], None] = lambda records: None,
    ) -> None:
        self.progress = progress
        self._target = target
        self._save = save
        self._records_max = records_max
        self._notify = notify
        self._digest = blake2b(digest_size=16)
        self._published = self._known = self._skipped = 0

    async def run(self, records: Iterable[EventRecord]) -> Imported:
        """Publish everything; how far it came is saved whatever ends this."""
        try:
            batch: list[EventRecord] = []
            trace = NO_TRACE  # one request has one
            size = number = 0
            kept = self.progress.written
            try:
                for record in records:
                    if number == kept:
                        self._same_lines(kept)
                    number += 1
                    if number <= kept:
                        self._digest.update(record.raw)
                        continue
                    is_full = len(batch) >= self._records_max or size >= BATCH_BYTES_MAX
                    if batch and (is_full or record.trace not in (trace, None)):
                        await self._publish(batch, trace)
                        batch, size = [], 0
                    trace = record.trace or trace
                    batch.append(record)
                    size += len(record.raw)
            except BadRecord:
                await self._publish(batch, trace)  # what stands before the bad line is published
                raise
            if number <= kept:
                self._same_lines(kept if number == kept else -1)
            await self._publish(batch, trace)
            self.progress = replace(self.progress, complete=True)
        finally:
            self._save(self.progress)
        return Imported(self.progress.written, self._published, self._known, self._skipped)

    async def _publish(self, batch: list[EventRecord], trace: Trace) -> None:
        if not batch:
            return
        end = self.progress.written + len(batch)
        items = [record.item for record in batch if record.item is not None]
        if items:
            self.progress = replace(self.progress, sent=end)
            self._save(self.progress)  # before anything is sent
            fresh = await self._target.publish(items, trace)
            self._published += fresh
            self._known += len(items) - fresh
        self._skipped += len(batch) - len(items)
        for record in batch:
            self._digest.update(record.raw)
        digest = self._digest.hexdigest()
        self.progress = replace(self.progress, written=end, digest=digest)
        self._notify(len(batch))

    def _same_lines(self, kept: int) -> None:
        """What was imported before must stand at the beginning of the file still."""
        if self.progress.written and (kept < 0 or self._digest.hexdigest() != self.progress.digest):
            raise ProgressMismatch(
                f"the first {self.progress.written} lines are not those imported before"
            )


def _record(number: int, line: bytes) -> EventRecord:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(number, f"is not JSON: {error}") from None
    try:
        event = from_structured(value)
        topic = str(event.attributes["type"])
        if is_reserved(topic):
            return EventRecord(number, line, None, None)
        found = to_publish(event)
    except InvalidCloudEvent as error:
        raise BadRecord(number, f"is no CloudEvent that can be published: {error}") from None
    options = {"message_id": found.message_id}
    if found.schema_version is not None:
        options["schema_version"] = found.schema_version
    item = [found.topic, found.key, found.payload, found.content_type, found.headers, options]
    return EventRecord(
        number, line, item, (found.correlation_id, found.causation_id, found.traceparent)
    )
