"""What the event store costs at a million events: `python -m tests.cluster.measure_event_store`.

Not part of the test run. It writes a log as a node does, lets the index follow it with the slices
that a node's task takes, and asks. Two shapes: few keys, and a key of its own for each event.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import msgpack

from cluster import indexing, state
from pubsub import log
from pubsub.limits import QUERY_EXAMINED_MAX, TRACE_EXAMINED_MAX
from pubsub.store import event_index, event_query
from pubsub.store.event_merge import Merger
from pubsub.store.event_query import Filter
from pubsub.store.event_terms import Recent
from pubsub.topics import Pattern

PAGE_BYTES_MAX = 2 << 20
REPEATS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10, help="events of one log entry")
    parser.add_argument("--shape", choices=("few", "unique", "both"), default="both")
    given = parser.parse_args()
    for shape in ("few", "unique") if given.shape == "both" else (given.shape,):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), shape, given.events, given.batch)


def measure(folder: Path, shape: str, events: int, batch: int) -> None:
    """One log of `events` events."""
    connection = state.open_state(folder / "state.db")
    fill(connection, shape, events, batch)
    size = (folder / "state.db").stat().st_size
    print(f"{shape} keys: {events:,} events in entries of {batch}, state.db {size / 1e6:.0f} MB")
    recent = build(folder, connection, events)
    reader = state.connect(folder / "state.db")
    ask(folder, reader, recent, events)
    print(f"  highest memory of the process {memory():.0f} MB")


def fill(connection: Any, shape: str, events: int, batch: int) -> None:
    """User events of 200 topics, one of them rare, by 5 actors.

    Few keys: a thousand. Else each event has a key of its own, and chains of ten a correlation.
    """
    random = Random(1)
    payload = b"x" * 100
    connection.execute("BEGIN")
    for first in range(1, events + 1, batch):
        packed = []
        for revision in range(first, first + batch):
            topic = f"orders.kind-{random.randrange(200)}.changed"
            if revision % 100_000 == 77:
                topic = "audit.rare"
            key = f"key-{revision if shape == 'unique' else revision % 1000}"
            chain = revision // 10 * 10
            meta: list[Any] = [f"actor-{random.randrange(5)}"]
            if shape == "unique" and revision % 10:
                meta += [chain, revision - 1]
            packed.append(msgpack.packb([topic, key, [payload, None, None], meta]))
        log.append(connection, log.Batch.joined(first, first // batch + 2, first * 10, packed))
    connection.execute("COMMIT")
    state.checkpoint(connection)


def build(folder: Path, connection: Any, events: int) -> Recent:
    """The work of the task, slice by slice, and how long the longest slice took."""
    index = indexing._connect(folder / "index.db")
    index.reserve_bytes(reserve=8)
    index.pragma("page_size", indexing.PAGE_BYTES)
    index.pragma("journal_mode", "WAL")
    event_index.create(index, "measured")
    merger, recent = Merger(index), Recent(1)
    spent: dict[str, list[float]] = {"read": [], "add": [], "flush": [], "merge": []}
    before = memory()
    written = 0

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        spent[name].append(time.process_time() - began)
        return result

    while recent.last_revision < events or merger.has_work:
        if recent.last_revision < events:
            following, most = recent.last_revision + 1, indexing.STEP_EVENTS
            if not recent.takes(following):
                written += timed("flush", lambda: event_index.flush(index, recent))  # noqa: B023
                merger.flushed()
                recent = Recent(following)
                continue
            found = timed("read", lambda: log.columns(connection, following, most, 1 << 20))  # noqa: B023
            timed("add", lambda: recent.add(found))  # noqa: B023
        if merger.has_work:
            written += timed("merge", lambda: merger.step(1))
        if written > 500_000:
            written = 0
            indexing._checkpoint(folder / "index.db")
    total = sum(map(sum, spent.values()))
    parts = ", ".join(f"{name} {sum(times) / events * 1e6:.2f}" for name, times in spent.items())
    print(f"  indexing {total / events * 1e6:.2f} us of CPU per event ({parts}); {total:.1f} s")
    slices = sorted(each for times in spent.values() for each in times)
    middle = {name: median(times) * 1000 for name, times in spent.items()}
    print("  a slice:", ", ".join(f"{name} {ms:.2f} ms" for name, ms in middle.items()), end="; ")
    print(f"99.9 % below {slices[len(slices) * 999 // 1000] * 1000:.2f}", end=" ms, ")
    print(f"longest {slices[-1] * 1000:.2f} ms; memory grew by {memory() - before:.1f} MB")
    indexing._checkpoint(folder / "index.db")
    runs = event_index.runs(index)
    used = (index.pragma("page_count") - index.pragma("freelist_count")) * indexing.PAGE_BYTES
    file = (folder / "index.db").stat().st_size
    print(f"  index.db {used / 1e6:.1f} MB in use of {file / 1e6:.1f}, {len(runs)} runs")
    index.close()
    return recent


def ask(folder: Path, reader: Any, recent: Recent, events: int) -> None:
    """Pages of fifty events, the newest first, each with connections and sources of its own."""
    middle = events // 2
    chain = middle // 10 * 10
    questions = {
        "key": Filter(key=f"key-{middle if events > 1000 else 1}"),
        "key of few": Filter(key="key-7"),
        "nobody's key": Filter(key="nobody"),
        "rare topic": Filter(pattern=Pattern("audit.rare")),
        "rare topics (audit.*)": Filter(pattern=Pattern("audit.*")),
        "one of 200 topics": Filter(pattern=Pattern("orders.kind-7.changed")),
        "actor": Filter(actor="actor-3"),
        "actor and topic": Filter(actor="actor-3", pattern=Pattern("orders.kind-7.changed")),
        "correlation id": Filter(correlation_id=chain),
        "no filter": Filter(),
    }

    def page(wanted: Filter, low: int = 1, high: int = events) -> int:
        index = indexing._connect(folder / "index.db", readonly=True)
        found = event_query.query(
            reader, event_query.sources(index, recent), wanted, low, high,
            limit=50, bytes_max=PAGE_BYTES_MAX, examined_max=QUERY_EXAMINED_MAX, descending=True,
        )  # fmt: skip
        index.close()
        return len(found.events)

    for name, wanted in questions.items():
        show(name, lambda: page(wanted))  # noqa: B023

    def in_time() -> int:
        low = log.revision_at_or_after(reader, middle * 10)
        return page(Filter(), low, log.revision_at_or_after(reader, middle * 10 + 400) - 1)

    def traced() -> int:
        index = indexing._connect(folder / "index.db", readonly=True)
        sources = event_query.sources(index, recent)
        found, _ = event_query.trace(
            reader, sources, chain,
            limit=1000, bytes_max=PAGE_BYTES_MAX, examined_max=TRACE_EXAMINED_MAX,
        )  # fmt: skip
        index.close()
        return len(found)

    show("time range", in_time)
    show("trace", traced)
    show("get", lambda: int(event_query.get(reader, middle) is not None))


def show(name: str, work: Callable[[], int]) -> None:
    """The median of some calls, after a first one."""
    began = time.perf_counter()
    found = work()
    first = time.perf_counter() - began
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    print(
        f"  {name:<24} {found:>4} events  {median(times) * 1e3:>8.2f} ms (first {first * 1e3:.2f})"
    )


def memory() -> float:
    """The most that this process ever had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
