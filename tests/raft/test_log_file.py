"""`raft.db` as a file: what is found out about it, and a disk that refuses."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from cluster import state
from cluster.datadir import DataDir, DataDirError
from cluster.raft.log import CorruptLog, Entry, StorageFailed
from cluster.raft.sqlite_log import SqliteLog
from tests.raft.log_disks import Content, SqliteDisk, content, fill

ENTRIES = 120
PLACES = 150
"""Every byte takes minutes; an odd step meets every kind of place on a page."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log with some entries, closed."""
    path = tmp_path / "raft.db"
    SqliteLog.create(path)
    log = SqliteLog.open(path)
    fill(log, 2, 20)
    log.set_term(3, "b")
    log.commit()
    log.close()
    return path


def tamper(path: Path, statement: str) -> None:
    """Change rows behind the log's back."""
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("DELETE FROM entries WHERE idx BETWEEN 5 AND 7", "entries 5 to 7 are missing"),
        ("DELETE FROM entries WHERE idx = 1", "entries 1 to 1 are missing"),
        ("DELETE FROM entries", "no entry at all"),
        ("UPDATE entries SET term = 2 WHERE idx = 9", "entry 9 does not fit"),
        ("UPDATE entries SET command = x'00' WHERE idx = 9", "entry 9 does not fit"),
        ("UPDATE entries SET command = 'text' WHERE idx = 9", "bytes-like"),
        ("UPDATE entries SET chain = chain + 1 WHERE idx = 20", "entry 20 does not fit"),
        ("UPDATE meta SET value = 2 WHERE name = 'term'", "term, vote and base does not fit"),
        ("UPDATE meta SET value = 'a' WHERE name = 'voted_for'", "term, vote and base"),
        ("UPDATE meta SET value = 5 WHERE name = 'base'", "term, vote and base"),
        ("DELETE FROM meta WHERE name = 'check'", "term, vote and base"),
        ("UPDATE meta SET value = 99 WHERE name = 'format'", "format 99, this version reads 1"),
        ("DROP TABLE meta", "no such table"),
    ],
)
def test_a_log_that_is_not_whole_is_refused(path: Path, statement: str, detail: str) -> None:
    """A gap, a changed entry, a changed vote: the message says what does not fit."""
    tamper(path, statement)
    with pytest.raises(CorruptLog, match=detail):
        SqliteLog.open(path)


def test_a_foreign_tail_is_refused(path: Path, tmp_path: Path) -> None:
    """Whole entries of another log with the right indexes do not continue this chain."""
    other = SqliteDisk(tmp_path)
    fill(other.log, 2, 20, term=2)
    other.log.commit()
    other.close()
    connection = apsw.Connection(str(path))
    connection.execute("ATTACH ? AS other", (str(other.path),))
    connection.execute("REPLACE INTO main.entries SELECT * FROM other.entries WHERE idx >= 15")
    connection.close()
    with pytest.raises(CorruptLog, match="entry 15 does not fit"):
        SqliteLog.open(path)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", b"nothing of ours " * 500])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, data: bytes) -> None:
    """Whatever stands there is not written over."""
    path = tmp_path / "raft.db"
    path.write_bytes(data)
    with pytest.raises(CorruptLog):
        SqliteLog.open(path)


def test_a_folder_that_is_gone_is_a_disk_that_refuses(tmp_path: Path) -> None:
    """Not a corrupt log: there may be a whole one where it is mounted."""
    with pytest.raises(StorageFailed):
        SqliteLog.open(tmp_path / "gone" / "raft.db")


# --- a flipped byte anywhere ---


def member_directory(folder: Path) -> tuple[Path, Content]:
    """A data directory with a log of several pages, its mark up to date, and a state."""
    directory = DataDir.open(folder, "a", lambda: "uid")
    directory.join("cluster", [["a", "uid", "a:1", "voter"]])
    state.open_state(directory.state_path).close()
    log = SqliteLog.open(directory.log_path)
    for index in range(2, ENTRIES):
        log.append(Entry(bytes([index]) * 150, index, 1))
        if index % 30 == 0:
            log.set_term(index // 30, "b")
            log.commit()
    log.commit()
    marker = directory.marker()
    marker.write(log.term, log.persisted_index)
    marker.close()
    expected = content(log)
    shutil.copytree(folder, folder.with_name("crashed"))  # with its write-ahead file
    log.close()
    directory.close()
    return folder, expected


def judged(folder: Path) -> Content | None:
    """What a node that starts on `folder` works with; None if it does not trust what is there."""
    try:
        directory = DataDir.open(folder, "a", lambda: "another")
    except DataDirError:
        return None
    try:
        if directory.forgot is not None:
            return None
        log = SqliteLog.open(directory.log_path)
        try:
            return content(log)
        finally:
            log.close()
    finally:
        directory.close()


@pytest.mark.parametrize("name", ["raft.db", "raft.db-wal"])
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    """Wherever it is, in the database or in its write-ahead file: the node finds its whole log, or
    refuses it, or finds that it ends before its mark. Never does it go on with something else."""
    folder, expected = member_directory(tmp_path / "data")
    source = folder if name == "raft.db" else folder.with_name("crashed")
    assert judged_copy(source, tmp_path / "whole") == expected
    data = (source / name).read_bytes()
    positions = {*range(0, 100, 9), *range(0, len(data), len(data) // PLACES | 1)}
    noticed = 0
    for position in positions:
        copy = tmp_path / "flipped"
        shutil.copytree(source, copy)
        with (copy / name).open("r+b") as file:
            file.seek(position)
            file.write(bytes([data[position] ^ 0xFF]))
        found = judged(copy)
        assert found in (None, expected), f"byte {position} of {name}"
        noticed += found is None
        shutil.rmtree(copy)
    assert noticed > len(positions) / 3


def judged_copy(source: Path, copy: Path) -> Content | None:
    shutil.copytree(source, copy)
    return judged(copy)


@pytest.mark.parametrize("kept", [0, 1, 3, 7])
def test_a_file_that_lost_its_end_is_noticed(tmp_path: Path, kept: int) -> None:
    """Cut at a page or in the middle of one, in the database or in its write-ahead file."""
    folder, _ = member_directory(tmp_path / "data")
    for source, name in ((folder, "raft.db"), (folder.with_name("crashed"), "raft.db-wal")):
        size = (source / name).stat().st_size
        for cut in (size * kept // 8, size * kept // 8 // 4096 * 4096):
            copy = tmp_path / f"{name}-{cut}"
            shutil.copytree(source, copy, dirs_exist_ok=True)
            with (copy / name).open("r+b") as file:
                file.truncate(cut)
            assert judged(copy) is None


# --- sweeping ---


def rows(log: SqliteLog, path: Path) -> int:
    """Entries that stand in the file, below the base or not."""
    log.commit()
    copy = path.with_name("looked-at")
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    connection = apsw.Connection(str(copy))
    count = connection.execute("SELECT count(*) FROM entries").get
    connection.close()
    assert isinstance(count, int)
    return count


def test_an_unfinished_sweep_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Rows below the base are no part of the log, and the next process removes them."""
    disk = SqliteDisk(tmp_path)
    fill(disk.log, 2, 30)
    disk.log.compact(25)
    assert disk.log.sweep(10)
    assert rows(disk.log, disk.path) == 20
    expected = content(disk.log)

    log = disk.lose_power()
    assert content(log) == expected
    assert log.first.index == 25
    assert log.sweep(10)
    assert not log.sweep(10)
    assert rows(log, disk.path) == 6
    assert content(disk.lose_power()) == expected
    disk.close()


def test_a_sweep_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Large rows go one at a time, so that a tick stays short."""
    disk = SqliteDisk(tmp_path)
    for index in range(2, 8):
        disk.log.append(Entry(bytes(1000), index, 1))
    disk.log.compact(7)
    assert disk.log.sweep(100, bytes_max=1500)
    assert rows(disk.log, disk.path) == 5
    assert disk.log.sweep(100, bytes_max=10)
    assert rows(disk.log, disk.path) == 4
    disk.close()


def test_whoever_keeps_a_mark_hears_before_the_log_becomes_shorter(tmp_path: Path) -> None:
    """With the term that is on disk, not the one that the same commit brings."""
    disk = SqliteDisk(tmp_path)
    log = disk.log
    told: list[tuple[int, int]] = []
    log.on_shorter = lambda term, last: told.append((term, last))
    fill(log, 2, 9)
    log.set_term(1, None)
    log.commit()
    log.set_term(2, None)
    log.truncate(6)
    assert told == [(1, 5)]
    log.commit()
    log.reset(Entry(b"", 3, 2))
    assert told == [(1, 5), (2, 3)]
    log.reset(Entry(b"", 300, 2))
    assert len(told) == 2
    disk.close()


# --- a disk that refuses ---


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_fails_the_commit(tmp_path: Path) -> None:
    """Nothing counts as persisted, and what was committed before is whole."""
    disk = SqliteDisk(tmp_path)
    fill(disk.log, 2, 5)
    disk.log.set_term(1, "a")
    disk.log.commit()
    before = content(disk.log)
    fill(disk.log, 6, 300)
    size = disk.path.with_name("raft.db-wal").stat().st_size
    with file_size_limit(size), pytest.raises(StorageFailed, match=r"raft\.db"):
        disk.log.commit()
    assert disk.log.persisted_index == 5
    assert content(disk.lose_power()) == before
    disk.close()


def test_a_database_that_may_not_grow_fails_the_commit(path: Path) -> None:
    """A bound inside of SQLite is the same to us as a disk without room."""
    connection = apsw.Connection(str(path))
    connection.pragma("max_page_count", connection.pragma("page_count"))
    log = SqliteLog(connection, str(path))
    fill(log, 21, 2000)
    with pytest.raises(StorageFailed, match="full"):
        log.commit()
    log.close()
