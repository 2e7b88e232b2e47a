"""A consumer of the proof, a program of its own: `python -m tests.real.proof_groups.consumer`.

It handles an event by writing it down, one line in a file of this process, and goes on to the next,
which acks it. The clock is the machine's monotonic one, which all processes share. SIGTERM: it
leaves the group. `Handling.read` is the other end of the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import trio

from tests.real.proof_groups.reach import reach


class Handling(NamedTuple):
    """An event was handled; sorts by time."""

    moment: int  # nanoseconds
    revision: int
    token: int
    partition: int
    attempt: int
    key: str
    pid: int

    @staticmethod
    def read(file: Path) -> Iterator[Handling]:
        """What one process wrote down, in the order of time."""
        pid = int(file.stem.rpartition("-")[2])
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                moment, revision, token, partition, attempt, key = line[:-1].split(" ", 5)
                yield Handling(
                    int(moment), int(revision), int(token), int(partition), int(attempt), key, pid
                )


async def consume(settings: dict[str, Any]) -> None:
    """Handle events until cancelled. Each line is one write, so that a kill leaves no half."""
    file = Path(settings["folder"]) / f"{settings['member']}-{os.getpid()}.log"
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    ttl_ms = settings["ttl_ms"]
    async with reach(settings) as client:
        group = client.group(settings["group"])
        async with group.consume(settings["member"], ttl_ms=ttl_ms) as deliveries:
            async for delivery in deliveries:
                now = time.monotonic_ns()
                line = (
                    f"{now} {delivery.revision} {delivery.token} {delivery.partition}"
                    f" {delivery.attempt} {delivery.event.key}\n"
                )
                os.write(out, line.encode())


async def main(settings: dict[str, Any]) -> None:
    """Consume until SIGTERM."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, settings)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
