"""The simulator's disk under SQLite, with the product's own log and state on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import apsw
import pytest

from cluster import state
from cluster.corruption import CorruptState
from cluster.datadir import DataDir, swap_in
from cluster.raft.log import CorruptLog, StorageFailed
from cluster.raft.sqlite_log import SqliteLog
from cluster.storage import Storage
from simulation.node.sqlite_disk import Failing, NodeDisk, SimulatedDisks
from tests.cluster.entries import Driver
from tests.raft.log_disks import content, fill

CRASHES = 200
DISKS: list[SimulatedDisks] = []


@pytest.fixture(autouse=True)
def _disks() -> Iterator[None]:
    with SimulatedDisks.installed() as disks:
        DISKS.append(disks)
        yield
        DISKS.clear()


class Crash(Exception):
    """What a test raises in the middle of a call."""


class CrashAfter:
    """Strikes at the n-th call of the disk."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, kind: str) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise Crash(kind)


def add(folder: Path, seed: int = 0) -> NodeDisk:
    folder.mkdir(exist_ok=True)
    return DISKS[-1].add(folder, Random(seed))


def restart(disk: NodeDisk, *, power: bool = True) -> None:
    """The process dies, perhaps with the power, and another may begin."""
    disk.on_call = lambda kind: None
    disk.kill()
    if power:
        disk.lose_power()
    disk.revive()


def new_log(path: Path) -> SqliteLog:
    SqliteLog.create(path)
    return SqliteLog.open(path)


def write_until_crash(log: SqliteLog, random: Random) -> int:
    """Append and commit, and now and then drop a beginning; the last index known as committed."""
    committed = len(log)
    try:
        while True:
            last = log.last.index
            fill(log, last + 1, last + random.randint(1, 5))
            if random.random() < 0.2:
                log.set_term(log.term + 1, "a")
            if random.random() < 0.1:
                log.commit()
                committed = log.last.index
                log.compact(random.randint(log.first.index, log.last.index))
                log.sweep(20)
            log.commit()
            committed = log.last.index
    except (Crash, StorageFailed):
        return committed


def put(driver: Driver, count: int) -> None:
    for number in range(count):
        driver.do("put", f"key-{number % 50}", b"x" * (number % 400))


def test_both_databases_are_on_the_disk_and_other_files_are_not(tmp_path: Path) -> None:
    """Also under the checksum VFS; a folder that was not added is an ordinary one."""
    calls: list[str] = []
    disk = add(tmp_path / "a")
    disk.on_call = calls.append
    new_log(tmp_path / "a" / "raft.db").close()
    assert {"before write", "after write", "before sync", "after sync"} < set(calls)
    calls.clear()
    driver = Driver(tmp_path / "a" / "state.db")
    put(driver, 1)
    assert "after write" in calls
    assert (
        driver.connection.vfsname("main") == "cksm/simulation.node.sqlite_disk.SimulatedFile/unix"
    )
    calls.clear()
    Driver(tmp_path / "state.db").connection.close()
    new_log(tmp_path / "raft.db").close()
    assert calls == []


def test_committed_entries_survive_a_power_loss_and_others_do_not(tmp_path: Path) -> None:
    """What a commit returned for is there, what never was committed is not."""
    for seed in range(20):
        disk = add(tmp_path / str(seed), seed)
        path = tmp_path / str(seed) / "raft.db"
        log = new_log(path)
        fill(log, 2, 40)
        log.set_term(7, "b")
        log.commit()
        expected = content(log)
        fill(log, 41, 60)
        restart(disk)
        log = SqliteLog.open(path)
        assert content(log) == expected
        log.close()


def test_a_log_reopens_whole_after_any_crash(tmp_path: Path) -> None:
    """Whatever call the power loss struck at, every committed entry is there."""
    lost_some = 0
    for seed in range(CRASHES):
        random = Random(seed)
        folder = tmp_path / str(seed)
        disk = add(folder, seed)
        log = new_log(folder / "raft.db")
        committed = 1
        for _ in range(2):  # and what was recovered can be written to and lost again
            disk.on_call = CrashAfter(random.randrange(300))
            known = write_until_crash(log, random)
            lost_some += log.last.index > known
            restart(disk)
            log = SqliteLog.open(folder / "raft.db")
            committed = max(committed, known)
            assert log.last.index >= committed
        log.close()
    assert lost_some > CRASHES / 2


def test_a_log_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    """Planted: without its fsync the log loses what it committed, on most of the disks."""
    lost = 0
    for seed in range(30):
        disk = add(tmp_path / str(seed), seed)
        path = tmp_path / str(seed) / "raft.db"
        SqliteLog.create(path)
        connection = apsw.Connection(str(path))
        connection.pragma("locking_mode", "EXCLUSIVE")
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "OFF")
        log = SqliteLog(connection, str(path))
        for index in range(2, 20):
            fill(log, index, index)
            log.commit()
        restart(disk)
        try:
            log = SqliteLog.open(path)
        except CorruptLog:  # later transactions are there, or frames without the file's header
            lost += 1
            continue
        lost += log.last.index < 19
        log.close()
    assert lost > 15


def test_a_state_after_a_power_loss_is_an_earlier_one(tmp_path: Path) -> None:
    """It opens, is never ahead, and never behind what a checkpoint reported as durable."""
    behind = 0
    for seed in range(60):
        random = Random(seed)
        folder = tmp_path / str(seed)
        disk = add(folder, seed)
        path = folder / "state.db"
        driver = Driver(path)
        durable = 0
        disk.on_call = CrashAfter(random.randrange(20, 400))
        try:
            while True:
                put(driver, random.randint(1, 10))
                if random.random() < 0.3:
                    durable = state.checkpoint(driver.connection).applied_index or durable
        except (Crash, StorageFailed):
            pass
        restart(disk)
        connection = state.open_state(path, applied_index_min=durable)
        state.checkpoint(connection)
        state.verify(connection)
        applied = state.load(connection).applied_index
        assert durable <= applied <= driver.machine.applied_index + 1
        behind += applied < driver.machine.applied_index
        connection.close()
    assert behind > 10


def test_a_state_being_created_can_be_created_again(tmp_path: Path) -> None:
    """A power loss at any call of its creation leaves nothing that cannot be opened."""
    for seed in range(60):
        disk = add(tmp_path / str(seed), seed)
        path = tmp_path / str(seed) / "state.db"
        disk.on_call = CrashAfter(seed)
        try:
            state.open_state(path).close()
        except (Crash, StorageFailed):
            pass
        restart(disk)
        state.open_state(path).close()


def test_a_closed_state_can_lose_power_too(tmp_path: Path) -> None:
    """Closing removed the write-ahead file; that it may come back does no harm."""
    came_back = 0
    for seed in range(30):
        disk = add(tmp_path / str(seed), seed)
        path = tmp_path / str(seed) / "state.db"
        driver = Driver(path)
        put(driver, 30)
        driver.connection.close()
        disk.lose_power()
        came_back += path.with_name("state.db-wal").exists()
        connection = state.open_state(path)
        assert state.load(connection).applied_index == driver.machine.applied_index
        connection.close()
    assert 0 < came_back < 30


def test_what_the_product_renames_is_durable(tmp_path: Path) -> None:
    """An installed copy is the state, after a power loss at once or later."""
    for seed in range(10):
        disk = add(tmp_path / str(seed), seed)
        path, incoming = disk_paths(tmp_path / str(seed))
        driver = Driver(path)
        put(driver, 20)
        state.backup(driver.connection, incoming)
        put(driver, 20)
        driver.connection.close()
        swap_in(incoming, path)
        if seed % 2:
            disk.lose_power()
        connection = state.open_state(path)
        assert state.load(connection).applied_index == 21
        restart(disk)
        connection = state.open_state(path)
        assert state.load(connection).applied_index == 21
        state.verify(connection)
        connection.close()


def disk_paths(folder: Path) -> tuple[Path, Path]:
    return folder / "state.db", folder / "state.db.incoming"


def test_a_refused_sync_surfaces(tmp_path: Path) -> None:
    """Once or always, the log does not take a commit for done."""
    disk = add(tmp_path)
    log = new_log(tmp_path / "raft.db")
    once_and_always: list[Failing] = ["once", "always"]
    for failing in once_and_always:
        disk.sync_fails = failing
        fill(log, log.last.index + 1, log.last.index + 3)
        with pytest.raises(StorageFailed):
            log.commit()
        assert disk.sync_fails == ("never" if failing == "once" else "always")
        disk.sync_fails = "never"
        restart(disk)
        log = SqliteLog.open(tmp_path / "raft.db")
    driver = Driver(tmp_path / "state.db")
    put(driver, 3)
    disk.sync_fails = "always"
    with pytest.raises(StorageFailed):
        state.checkpoint(driver.connection)
    restart(disk)


def test_a_full_disk_surfaces(tmp_path: Path) -> None:
    """No file grows; what is there can be read, and written once there is room."""
    disk = add(tmp_path)
    log = new_log(tmp_path / "raft.db")
    driver = Driver(tmp_path / "state.db")
    disk.full = True
    fill(log, 2, 40)
    with pytest.raises(StorageFailed, match="full"):
        log.commit()
    with pytest.raises(StorageFailed, match="full"):
        put(driver, 40)
    restart(disk, power=False)
    disk.full = False
    log = SqliteLog.open(tmp_path / "raft.db")
    fill(log, 2, 40)
    log.commit()
    log.close()


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
    """Nothing is read from a changed page as if it were right."""
    refused = {"raft.db": 0, "state.db": 0}
    for seed in range(80):
        name = ("raft.db", "state.db")[seed % 2]
        disk = add(tmp_path / str(seed), seed)
        path = tmp_path / str(seed) / name
        if name == "raft.db":
            log = new_log(path)
            fill(log, 2, 1500)
            log.commit()
            expected: object = content(log)
            log.close()
        else:
            driver = Driver(path)
            put(driver, 60)
            expected = driver.rows()
            driver.connection.close()
        flipped = disk.flip(Random(seed))
        assert flipped is not None
        assert flipped[0] == path
        try:
            if name == "raft.db":
                log = SqliteLog.open(path)
                found: object = content(log)
                log.close()
            else:
                connection = state.open_state(path)
                state.verify_pages(connection)
                found = None
                connection.close()
        except (CorruptLog, CorruptState):
            refused[name] += 1
        else:
            assert name == "raft.db", "each byte of a page is under its checksum"
            assert found == expected
    assert refused["raft.db"] > 30
    assert refused["state.db"] == 40


def test_a_killed_process_writes_nothing_more(tmp_path: Path) -> None:
    """Its connections are dead for good; a new process finds all that was written, and no lock."""
    disk = add(tmp_path)
    path = tmp_path / "raft.db"
    log, driver = new_log(path), Driver(tmp_path / "state.db")
    reader = state.connect(tmp_path / "state.db")
    put(driver, 10)
    fill(log, 2, 9)
    log.commit()
    expected = content(log)
    disk.kill()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    fill(log, 10, 20)
    with pytest.raises(StorageFailed):
        log.commit()
    with pytest.raises(StorageFailed):
        put(driver, 3)
    with pytest.raises(apsw.Error):
        reader.execute("SELECT count(*) FROM kv").fetchall()
    with pytest.raises(StorageFailed):
        SqliteLog.open(path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    disk.revive()
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    fill(log, 21, 22)
    with pytest.raises(StorageFailed):
        log.commit()
    again, state_again = SqliteLog.open(path), state.open_state(tmp_path / "state.db")
    assert content(again) == expected
    assert state.load(state_again).applied_index == 11
    again.close()
    state_again.close()


def test_a_crash_in_a_call_comes_out_of_it(tmp_path: Path) -> None:
    """The exception of the hook is what the caller gets, before or after the write."""
    for calls in range(8):
        disk = add(tmp_path / str(calls))
        log = new_log(tmp_path / str(calls) / "raft.db")
        fill(log, 2, 9)
        disk.on_call = CrashAfter(calls)
        with pytest.raises((Crash, StorageFailed)):
            log.commit()
        restart(disk, power=False)
        SqliteLog.open(tmp_path / str(calls) / "raft.db").close()


def test_a_power_loss_under_an_open_connection_is_our_bug(tmp_path: Path) -> None:
    """Processes die first."""
    disk = add(tmp_path)
    log = new_log(tmp_path / "raft.db")
    with pytest.raises(AssertionError, match="kill, or close all"):
        disk.lose_power()
    log.close()
    disk.lose_power()


def test_syncs_take_the_time_that_they_are_told(tmp_path: Path) -> None:
    """Each sync is accounted, and takes between the least and the most."""
    disk = add(tmp_path)
    log = new_log(tmp_path / "raft.db")
    taken: list[float] = []
    disk.sync_s = (0.25, 0.5)
    disk.sync_takes = taken.append
    fill(log, 2, 3)
    log.commit()
    assert len(taken) >= 1
    assert all(0.25 <= seconds <= 0.75 for seconds in taken)
    log.close()


def test_a_sync_that_fails_when_a_directory_is_looked_at_names_the_file(tmp_path: Path) -> None:
    """Closing a log writes to the disk as well; seed 13 with five nodes met it as a bare error."""
    disk = add(tmp_path / "n")
    log = new_log(tmp_path / "n" / "raft.db")
    fill(log, 2, 5)
    log.commit()
    disk.sync_fails = "once"
    with pytest.raises(StorageFailed, match=r"raft\.db"):
        log.close()


def test_a_log_that_cannot_be_created_names_the_file(tmp_path: Path) -> None:
    """On a disk that fails or is full, in words for people."""
    disk = add(tmp_path / "n")
    disk.sync_fails = "once"
    with pytest.raises(StorageFailed, match=r"raft\.db"):
        SqliteLog.create(tmp_path / "n" / "raft.db")
    disk.full = True
    with pytest.raises(StorageFailed, match=r"raft\.db.*full"):
        SqliteLog.create(tmp_path / "n" / "other-raft.db")


def test_a_state_that_does_not_fit_on_the_disk_names_the_file(tmp_path: Path) -> None:
    """Whichever write of a first start meets the full disk; seed 2084677832 with five nodes met the
    last of them as a bare error."""
    refused: list[str] = []
    for writes in range(0, 60, 3):
        folder = tmp_path / str(writes)
        disk = add(folder)
        directory = DataDir.open(folder, "a", lambda: "uid-a")
        directory.join("cluster", [["a", "uid-a", "a:1", "voter"]])
        left = writes

        def fill_up(moment: str, disk: NodeDisk = disk) -> None:
            nonlocal left
            left -= moment == "before write"
            disk.full = disk.full or left < 0

        disk.on_call = fill_up
        try:
            Storage(directory, lambda applied: None, applied_index_min=0).close()
        except StorageFailed as error:
            refused.append(str(error))
        directory.close()
    assert len(refused) > 3
    assert all("state.db" in words for words in refused)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Of every file, with SQLite's own salts; another seed gives others."""

    def run(folder: Path, seed: int) -> dict[str, bytes]:
        DISKS[-1].seed(Random(seed))
        disk = add(folder, seed)
        log, driver = new_log(folder / "raft.db"), Driver(folder / "state.db")
        disk.on_call = CrashAfter(200)
        try:
            while True:
                put(driver, 3)
                fill(log, log.last.index + 1, log.last.index + 4)
                log.commit()
        except (Crash, StorageFailed):
            restart(disk)
        return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}

    first = run(tmp_path / "a", 1)
    assert first == run(tmp_path / "b", 1)
    assert first != run(tmp_path / "c", 2)
