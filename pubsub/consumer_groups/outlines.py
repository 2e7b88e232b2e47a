"""What a competing group must know of an event to hand it out: topic, key, whom it names, size.

An outline is read from the stored bytes without decoding what readers alone need, and the newest
ones stay in memory, because one batch is looked at by many fetches. They are a copy of the log and
no state: with and without them the results are the same. A batch from which retention took an event
has become shorter, so its old outline is not found any more.
"""

from typing import Final

import apsw
import msgpack

from pubsub.events import GROUP_EVENT_REDRIVEN, GROUP_EVENT_REPLAYED, SYSTEM_TOPICS
from pubsub.limits import OUTLINES_MAX

Outline = tuple[str, str | None, str | None, int]
"""`(topic, key, the one group that it is for, stored bytes)`."""

# The first item of their data names the group that they are for (`addressing`).
_FOR_ONE_GROUP: Final = (GROUP_EVENT_REPLAYED, GROUP_EVENT_REDRIVEN)
_NIL: Final = 0xC0


class Outlines:
    """The outlines of batches looked at lately."""

    __slots__ = ("_batches", "_held")

    def __init__(self) -> None:
        self._batches: dict[tuple[int, int], list[Outline | None]] = {}
        self._held = 0

    def of_batch(
        self,
        connection: apsw.Connection,
        first_revision: int,
        size_bytes: int,
        blob: bytes | None = None,
    ) -> list[Outline | None]:
        """The outlines of the batch of that size at `first_revision`; None for an event that is
        gone. `blob` spares the question for the batch itself. HOT."""
        found = self._batches.get((first_revision, size_bytes))
        if found is None:
            if blob is None:
                blob = connection.execute(
                    "SELECT events FROM event_batches WHERE first_revision = ?", (first_revision,)
                ).get
            found = outline(blob)
            self._held += len(found)
            while self._held > OUTLINES_MAX and self._batches:
                self._held -= len(self._batches.pop(next(iter(self._batches))))
            self._batches[first_revision, size_bytes] = found
        return found


def outline(blob: bytes) -> list[Outline | None]:
    """The outlines of the events of one batch, in order."""
    unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False, max_buffer_size=len(blob))
    unpacker.feed(blob)
    unpack, skip, tell = unpacker.unpack, unpacker.skip, unpacker.tell
    outlines: list[Outline | None] = []
    count = unpacker.read_array_header()
    start = tell()
    for _ in range(count):
        if blob[start] == _NIL:
            skip()
            start += 1
            outlines.append(None)
            continue
        fields = unpacker.read_array_header() - 2
        topic, key, named = unpack(), unpack(), None
        if topic.__class__ is int:
            if topic in _FOR_ONE_GROUP:
                named = unpack()[0]
                fields -= 1
            topic = SYSTEM_TOPICS.get(topic) or f"hooks.unknown.{topic}"
        for _ in range(fields):
            skip()
        end = tell()
        outlines.append((topic, key, named, end - start))
        start = end
    return outlines
