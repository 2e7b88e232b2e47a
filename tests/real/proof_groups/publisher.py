"""A publisher of the proof, a program of its own: `python -m tests.real.proof_groups.publisher`.

A batch that is not answered is sent again by the client under its number until it is: it becomes
part of the log once. A file's next batch waits for the answer to the one before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import trio

from cluster.client import Client
from tests.real.proof_groups.lines import TOPIC
from tests.real.proof_groups.reach import reach

TIMEOUT_MS: Final = 120_000  # an election and a node's restart are far within


class Publisher:
    """Publishes files, each in its order, and no faster than it is told."""

    def __init__(self, client: Client, batch: int, per_second: float | None) -> None:
        self.events = 0
        self.batches = 0
        self.longest_wait_s = 0.0
        self._client = client
        self._batch = batch
        self._per_second = per_second

    async def publish(self, file: Path) -> None:
        """One file, from its beginning to its end."""
        began = trio.current_time()
        sent = 0
        with file.open("rb") as stream:
            for events in batches(stream, self._batch):
                if self._per_second is not None:
                    await trio.sleep_until(began + sent / self._per_second)
                asked_at = trio.current_time()
                _, count = await self._client.publish_batch(events, timeout_ms=TIMEOUT_MS)
                self.longest_wait_s = max(self.longest_wait_s, trio.current_time() - asked_at)
                assert count == len(events), f"{count} of {len(events)} events were new"
                sent += count
                self.events += count
                self.batches += 1


def batches(lines: Iterator[bytes], size: int) -> Iterator[list[list[Any]]]:
    """The events of a file."""
    while rows := list(islice(lines, size)):
        split = (row.rstrip(b"\n").split(b"\t", 1) for row in rows)
        yield [[TOPIC, key.decode(), line, None, None] for key, line in split]


async def main(settings: dict[str, Any]) -> None:
    """Publish, and say on the last line what was done and when."""
    files = [Path(name) for name in settings["files"]]
    began = time.monotonic()
    async with reach(settings) as client:
        pace = settings["per_second"]
        publisher = Publisher(client, settings["batch"], pace and pace / len(files))
        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(publisher.publish, file)
    said = {
        "events": publisher.events,
        "batches": publisher.batches,
        "longest_wait_s": publisher.longest_wait_s,
        "began": began,
        "ended": time.monotonic(),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
