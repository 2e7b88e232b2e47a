"""The task that keeps a node's event index up, and the file that it keeps it in."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgpack
import pytest
import trio

from cluster import indexing
from cluster.blocking import in_thread
from cluster.indexing import LOOK_EVERY_S, RETRY_S, EventIndex
from cluster.logs import NodeLog
from pubsub import log
from pubsub.limits import INDEX_LAG_EVENTS_MAX
from pubsub.log import Columns
from pubsub.store import event_index, event_query
from pubsub.store.event_query import Filter, RecentSource, RunSource
from pubsub.store.event_terms import RUN_EVENTS, Recent
from pubsub.topics import Pattern
from tests.cluster.waiting import until


class FakeLog:
    """An event log in memory; one event for each entry."""

    def __init__(self, events: int = 0) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(log.SCHEMA)
        self.append(events)

    def append(self, events: int, first: int | None = None) -> None:
        """Events whose keys are their revisions."""
        following = first or self.revision + 1
        for revision in range(following, following + events):
            packed = msgpack.packb(["t", f"key-{revision}", [b"", None, None], None])
            batch = log.Batch.joined(revision, revision + 5, revision, [packed])
            log.append(self.connection, batch)

    def stream(self, count: int, topic: str, key: str | None, actor: str | None) -> int:
        """One entry of events that are alike; returns the first one's revision."""
        first = self.revision + 1
        meta = None if actor is None else [actor]
        packed = [msgpack.packb([topic, key, [b"", None, None], meta])] * count
        log.append(self.connection, log.Batch.joined(first, first + 5, first, packed))
        return first

    @property
    def revision(self) -> int:
        return log.last_revision(self.connection)

    @property
    def first_revision(self) -> int:
        return log.first_revision(self.connection)

    def columns(self, from_revision: int, events_max: int, bytes_max: int) -> Columns | None:
        return log.columns(self.connection, from_revision, events_max, bytes_max)


class Home:
    """An index in a folder."""

    def __init__(self, folder: Path, followed: FakeLog, cluster_id: str = "one") -> None:
        self.log = followed
        self.told = io.StringIO()
        tell = NodeLog(self.told, node="a", level="info", format="text", wall_ms=lambda: 0)
        self.index = EventIndex(folder / "index.db", cluster_id, followed, in_thread, tell)

    async def catch_up(self) -> None:
        """Let it index all that there is."""
        self.index.applied()
        for _ in range(10_000):
            await trio.sleep(LOOK_EVERY_S)
            if not self.index.lag and not self.index._has_work():
                return
        raise AssertionError("it does not catch up")

    def find(self, key: str) -> list[int]:
        """Revisions, by the index or without it."""
        parts = self.index.parts()
        try:
            page = event_query.query(
                self.log.connection, parts.sources, Filter(key=key), 1, 1 << 62,
                limit=10, bytes_max=1 << 20, examined_max=1 << 20,
            )  # fmt: skip
        finally:
            parts.close()
        return [event.revision for event in page.events]

    def all(self, **wanted: Any) -> tuple[list[int], list[int]]:
        """Revisions of what matches, by the index and without it."""
        parts = self.index.parts()
        found = []
        for sources in (parts.sources, []):
            page = event_query.query(
                self.log.connection, sources, Filter(**wanted), 1, 1 << 62,
                limit=1 << 20, bytes_max=1 << 30, examined_max=1 << 20,
            )  # fmt: skip
            found.append([event.revision for event in page.events])
        parts.close()
        return found[0], found[1]

    def covered(self) -> int:
        """How far the index reaches for readers."""
        parts = self.index.parts()
        parts.close()
        return max((source.last_revision for source in parts.sources), default=0)


async def lived(home: Home, *steps: Callable[[], Any]) -> None:
    """One life of an index: catch up, and again after each step."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.index.run)
        await home.catch_up()
        for step in steps:
            step()
            await home.catch_up()
        nursery.cancel_scope.cancel()


async def test_the_index_follows_the_log(tmp_path: Path, autojump_clock: object) -> None:
    """What is applied is found by the index, on disk or still in memory."""
    home = Home(tmp_path, FakeLog(3 * RUN_EVENTS + 10))
    await lived(home, lambda: home.log.append(500))
    assert home.covered() == 3 * RUN_EVENTS + 510
    parts = home.index.parts()
    kinds = [type(source) for source in parts.sources]
    parts.close()
    assert kinds == [RunSource, RunSource, RunSource, RecentSource]
    assert home.find(f"key-{RUN_EVENTS}") == [RUN_EVENTS]
    assert home.find(f"key-{3 * RUN_EVENTS + 400}") == [3 * RUN_EVENTS + 400]
    assert "key-0" not in home.told.getvalue()
    home.index.close()


async def test_a_restart_goes_on_where_the_file_ends(
    tmp_path: Path, autojump_clock: object
) -> None:
    """What was in memory alone is indexed again, the rest is not."""
    followed = FakeLog(2 * RUN_EVENTS + 10)
    first = Home(tmp_path, followed)
    await lived(first)
    first.index.close()
    read: list[int] = []
    whole = followed.columns

    def watched(from_revision: int, events_max: int, bytes_max: int) -> Columns | None:
        read.append(from_revision)
        return whole(from_revision, events_max, bytes_max)

    followed.columns = watched  # type: ignore[method-assign]
    second = Home(tmp_path, followed)
    await lived(second)
    assert min(read) == 2 * RUN_EVENTS  # the proof, and then what follows
    assert second.covered() == 2 * RUN_EVENTS + 10
    assert second.index.rebuilds == 0
    second.index.close()


@pytest.mark.parametrize("damage", ["removed", "nonsense", "flipped", "format", "empty"])
async def test_a_damaged_file_is_built_anew(
    tmp_path: Path, autojump_clock: object, damage: str
) -> None:
    """Nothing that happens to the file changes an answer, or stops the node."""
    followed = FakeLog(2 * RUN_EVENTS)
    first = Home(tmp_path, followed)
    await lived(first, lambda: followed.append(10))
    first.index.close()
    path = tmp_path / "index.db"
    if damage == "removed":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "nonsense":
        path.write_bytes(b"nonsense" * 1_000)
    elif damage == "format":
        connection = apsw.Connection(str(path))
        connection.pragma("user_version", 99)
        connection.close()
    else:
        content = bytearray(path.read_bytes())
        for offset in range(4_096, len(content), 4_096):
            content[offset + 2_000] ^= 1
        path.write_bytes(content)
    second = Home(tmp_path, followed)
    await lived(second, lambda: followed.append(2 * RUN_EVENTS))
    for _ in range(3):  # a reader finds what is corrupt first, and the task then builds it anew
        assert second.find("key-77") == [77]
        await lived(second)
    assert second.covered() == followed.revision
    assert second.index.rebuilds == (0 if damage in ("removed", "empty") else 1)
    second.index.close()


@pytest.mark.parametrize("other", ["cluster", "log"])
async def test_a_foreign_index_is_not_believed(
    tmp_path: Path, autojump_clock: object, other: str
) -> None:
    """It says whose log it is of, and proves it by its last event."""
    followed = FakeLog(2 * RUN_EVENTS)
    first = Home(tmp_path, followed)
    await lived(first, lambda: followed.append(10))
    first.index.close()
    if other == "cluster":
        second = Home(tmp_path, followed, "another")
    else:
        followed.connection.execute("UPDATE event_batches SET log_index = log_index + 1")
        second = Home(tmp_path, followed)
    await lived(second)
    assert second.index.rebuilds == 1
    assert second.covered() == followed.revision
    second.index.close()


async def test_an_index_ahead_of_its_state_waits(tmp_path: Path, autojump_clock: object) -> None:
    """After a power cut the state may be behind for a moment: neither believed nor thrown away."""
    first = Home(tmp_path, FakeLog(2 * RUN_EVENTS + 1))
    await lived(first)
    first.index.close()
    behind = FakeLog(100)
    second = Home(tmp_path, behind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.index.run)
        await trio.sleep(10 * LOOK_EVERY_S)
        assert second.covered() == 0
        assert second.find("key-77") == [77]
        behind.append(3 * RUN_EVENTS)
        await second.catch_up()
        nursery.cancel_scope.cancel()
    assert second.covered() == behind.revision
    assert second.index.rebuilds == 0
    second.index.close()


async def test_a_snapshot_leaves_a_gap(tmp_path: Path, autojump_clock: object) -> None:
    """The log goes on further up, and what is gone leaves the index."""
    followed = FakeLog(2 * RUN_EVENTS + 100)
    home = Home(tmp_path, followed)

    def install() -> None:
        followed.connection.execute("DELETE FROM event_batches")
        followed.append(2 * RUN_EVENTS, 10 * RUN_EVENTS)
        home.index.installed()

    await lived(home, install)
    assert home.covered() == followed.revision
    parts = home.index.parts()
    assert min(source.last_revision for source in parts.sources) >= 10 * RUN_EVENTS
    parts.close()
    assert home.find(f"key-{11 * RUN_EVENTS}") == [11 * RUN_EVENTS]
    assert home.find("key-5") == []
    home.index.close()


async def test_a_stream_is_not_read_again(tmp_path: Path, autojump_clock: object) -> None:
    """Of events that were told to be alike only the last one of each run is looked at."""
    followed = FakeLog()
    home = Home(tmp_path, followed)
    whole, read = followed.columns, 0

    def columns(from_revision: int, events_max: int, bytes_max: int) -> Columns | None:
        nonlocal read
        found = whole(from_revision, events_max, bytes_max)
        read += len(found.revisions) if found is not None else 0
        return found

    followed.columns = columns  # type: ignore[method-assign]
    for _ in range(200):
        home.index.note(followed.stream(60, "t", None, "ann"), 60, ("t", None, ["ann"]))
    await lived(home)
    assert home.covered() == 12_000
    assert read <= 12_000 / RUN_EVENTS + 1
    assert home.all(actor="ann") == (list(range(1, 12_001)),) * 2
    assert home.all(actor="bob") == ([], [])
    home.index.close()
    again = Home(tmp_path, followed)
    await lived(again)
    assert again.index.rebuilds == 0
    again.index.close()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_told_to_be_alike_is_found(
    seed: int, tmp_path: Path, autojump_clock: object
) -> None:
    """Streams that change, events between them, entries that nobody tells of, retention."""
    random = Random(seed)
    followed = FakeLog()
    home = Home(tmp_path, followed)
    terms = [("t", None, "ann"), ("t", "k", "ann"), ("u", "k", None)]

    def write() -> None:
        stream = random.choice(terms)
        for _ in range(random.randrange(1, 120)):
            if random.random() < 0.05:
                stream = random.choice(terms)
            topic, key, actor = stream
            count = random.randrange(1, 40)
            if random.random() < 0.03:
                followed.append(count)
                continue
            first = followed.stream(count, topic, key, actor)
            if random.random() < 0.97:
                home.index.note(first, count, (topic, key, None if actor is None else [actor]))
        if random.random() < 0.3:
            followed.connection.execute(
                "DELETE FROM event_batches WHERE first_revision + count < ?",
                (random.randrange(followed.revision),),
            )

    write()
    await lived(home, *[write] * 6)
    for wanted in ({"actor": "ann"}, {"key": "k"}, {"pattern": Pattern("u")}):
        by_index, scanned = home.all(**wanted)
        assert by_index == scanned, wanted
    assert home.index.rebuilds == 0
    home.index.close()


async def test_a_kill_in_the_middle_loses_nothing(tmp_path: Path, autojump_clock: object) -> None:
    """The files as they are at any moment make an index that goes on."""
    followed = FakeLog(20 * RUN_EVENTS)
    home = Home(tmp_path, followed)
    copies: list[Path] = []
    whole = home.index._step

    def step() -> None:
        whole()
        if len(copies) < 40 and home.index.lag % 7 == 0:
            copy = tmp_path / f"copy-{len(copies)}"
            copy.mkdir()
            for name in ("index.db", "index.db-wal"):
                shutil.copy(tmp_path / name, copy / name)
            copies.append(copy)

    home.index._step = step  # type: ignore[method-assign]
    await lived(home)
    home.index.close()
    assert len(copies) > 5
    for copy in copies:
        again = Home(copy, followed)
        await lived(again)
        assert again.index.rebuilds == 0
        for revision in (1, RUN_EVENTS, RUN_EVENTS + 1, 17 * RUN_EVENTS):
            assert again.find(f"key-{revision}") == [revision]
        again.index.close()


async def test_a_busy_loop_is_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The index gives way until it is far behind, and then it takes its share."""
    home = Home(tmp_path, FakeLog(INDEX_LAG_EVENTS_MAX // 2))

    async def others() -> None:
        while True:  # whoever wakes up here does so late
            await trio.sleep(0.0004)
            autojump_clock.jump(2 * indexing.BUSY_LATE_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        nursery.start_soon(home.index.run)
        home.index.applied()
        await trio.sleep(20 * LOOK_EVERY_S)
        assert home.index.lag > INDEX_LAG_EVENTS_MAX // 4
        home.log.append(2 * INDEX_LAG_EVENTS_MAX)
        with trio.fail_after(600):
            await until(lambda: home.index.lag <= INDEX_LAG_EVENTS_MAX)
        nursery.cancel_scope.cancel()
    home.index.close()


async def test_a_disk_that_refuses_is_tried_again(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stops the index for a while and never the node."""
    home = Home(tmp_path, FakeLog(3 * RUN_EVENTS))
    whole = event_index.flush
    refusals = [apsw.FullError("database or disk is full")] * 2

    def flush(connection: apsw.Connection, recent: Recent) -> int:
        if refusals:
            raise refusals.pop()
        return whole(connection, recent)

    monkeypatch.setattr(event_index, "flush", flush)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.index.run)
        await trio.sleep(3 * RETRY_S)
        await home.catch_up()
        nursery.cancel_scope.cancel()
    assert home.covered() == 3 * RUN_EVENTS
    assert "has to wait" in home.told.getvalue()
    home.index.close()


async def test_the_write_ahead_file_stays_small(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is moved into the file every now and then, by a thread."""
    monkeypatch.setattr(indexing, "CHECKPOINT_BYTES", 100_000)
    home = Home(tmp_path, FakeLog(60 * RUN_EVENTS))
    await lived(home)
    assert os.stat(tmp_path / "index.db-wal").st_size < 1_000_000
    home.index.close()
