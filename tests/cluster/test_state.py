"""`state.db` as a file: what is found out about it, what is durable, how it is copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
import pytest

from cluster import kv, state
from cluster.corruption import CorruptState, UnsupportedState
from cluster.limits import VALUE_BYTES_MAX
from cluster.machine import Machine
from cluster.raft.log import StorageFailed
from tests.cluster.entries import Driver, dump

PAGE = state.PAGE_BYTES


def filled(path: Path, keys: int = 300) -> Driver:
    """A state with some pages of keys, and one value of many pages."""
    driver = Driver(path)
    driver.do("put", "large", bytes(range(256)) * 200)
    for number in range(keys):
        driver.do("put", f"key/{number:04}", b"x" * 100)
    return driver


def closed(path: Path, keys: int = 300) -> bytes:
    """The bytes of a whole file with nothing beside it."""
    driver = filled(path, keys)
    assert state.checkpoint(driver.connection).applied_index == driver.machine.applied_index
    driver.connection.close()
    assert not path.with_name(path.name + "-wal").exists()
    return path.read_bytes()


def test_a_new_state_is_empty_and_has_page_checksums(tmp_path: Path) -> None:
    """Entry 1 of every log does nothing and counts as applied."""
    connection = state.open_state(tmp_path / "state.db")
    meta = state.load(connection)
    assert (meta.applied_index, meta.revision, meta.members) == (1, 0, [])
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("page_size") == PAGE
    assert int(connection.pragma("checksum_verification")) == 1
    assert state.verify(connection) > 0
    connection.close()


def test_opening_again_finds_what_was_applied(tmp_path: Path) -> None:
    """With and without a checkpoint before."""
    driver = filled(tmp_path / "state.db")
    before, rows = state.load(driver.connection), driver.rows()
    driver.reopen()
    assert state.load(driver.connection) == before
    assert driver.rows() == rows
    assert driver.machine.digest == before.digest


def test_other_databases_of_the_process_keep_their_vfs(tmp_path: Path) -> None:
    """The checksum VFS is asked for by name: raft.db has checksums of its own."""
    state.open_state(tmp_path / "state.db").close()
    other = apsw.Connection(str(tmp_path / "raft.db"))
    assert other.vfsname("main") == apsw.vfs_names()[0] != state.CHECKSUMS
    other.close()


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    """In every page, and in every byte of the header: opening or verifying says so."""
    good = closed(tmp_path / "good.db")
    path = tmp_path / "state.db"
    spots = [
        *range(100),
        *(start + 7 * (start // PAGE) % PAGE for start in range(0, len(good), PAGE)),
    ]
    spots += [start + PAGE - 1 for start in range(0, len(good), PAGE)]  # the checksum itself
    for spot in spots:
        bad = bytearray(good)
        bad[spot] ^= 1 << spot % 8
        path.write_bytes(bad)
        with pytest.raises(CorruptState, match=r"remove the node from the cluster"):
            verified(path)


@pytest.mark.parametrize("bit", range(8))
def test_checksums_cannot_be_turned_off_by_a_flipped_byte(tmp_path: Path, bit: int) -> None:
    """The header says whether pages have checksums: opening alone finds that it does not."""
    path = tmp_path / "state.db"
    bad = bytearray(closed(path, keys=3))
    bad[20] ^= 1 << bit
    path.write_bytes(bad)
    with pytest.raises(CorruptState):
        state.open_state(path)


def verified(path: Path) -> None:
    """Open a state and verify all of it."""
    connection = state.open_state(path)
    try:
        state.verify(connection)
    finally:
        connection.close()


def test_reading_a_corrupt_page_is_an_error(tmp_path: Path) -> None:
    """Whoever reads the page gets CorruptState: point reads, ranges, and apply."""
    path = tmp_path / "state.db"
    good = closed(path)
    spot = good.index(b"key/0123")
    path.write_bytes(good[:spot] + b"K" + good[spot + 1 :])
    connection = state.open_state(path)
    with pytest.raises(CorruptState, match="checksum"):
        kv.range_(connection, "key/", "key0")
    with pytest.raises(CorruptState):
        kv.count(connection, "key/", "key0")
    machine = Machine(connection)
    driver = Driver()
    driver.machine = machine
    with pytest.raises(CorruptState):
        driver.do("txn", [], [["range", "key/", "key0"]])
    with pytest.raises(AssertionError):
        driver.do("put", "a", b"")
    connection.close()


def test_the_pages_of_a_large_value_are_checked(tmp_path: Path) -> None:
    """Also those that hold nothing but the middle of one value."""
    path = tmp_path / "state.db"
    good = closed(path)
    content = bytes(range(256)) * 4
    spots = [at for at in range(0, len(good), PAGE) if content in good[at : at + PAGE]]
    assert len(spots) >= 40, "the value is there twice: in its row and in its event"
    corrupt = 0
    for spot in spots[::4]:
        path.write_bytes(good[: spot + 900] + bytes([good[spot + 900] ^ 1]) + good[spot + 901 :])
        connection = state.open_state(path)
        try:
            kv.get(connection, "large")
        except CorruptState:
            corrupt += 1
        connection.close()
    assert 0 < corrupt < len(spots[::4]), "those of the row; those of the event were not read"


@pytest.mark.parametrize("cut", [1, 50, 100, PAGE - 1, PAGE, 5 * PAGE, -PAGE, -1])
def test_a_truncated_file_is_corrupt(tmp_path: Path, cut: int) -> None:
    """Nothing is made up for what is missing."""
    path = tmp_path / "state.db"
    path.write_bytes(closed(tmp_path / "good.db")[:cut])
    with pytest.raises(CorruptState):
        verified(path)


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, bytes(4096)])
def test_another_file_is_no_state(tmp_path: Path, content: bytes) -> None:
    """It is not overwritten either."""
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(CorruptState):
        state.open_state(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_no_state(tmp_path: Path) -> None:
    """Whole, but somebody else's."""
    path = tmp_path / "state.db"
    state.open_state(path).close()
    connection = apsw.Connection(str(path), vfs=state.CHECKSUMS)
    connection.pragma("application_id", 7)
    connection.close()
    with pytest.raises(CorruptState, match="not a state of Tremula"):
        state.open_state(path)


def test_a_state_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    """The message says to upgrade, not to throw the state away."""
    path = tmp_path / "state.db"
    connection = state.open_state(path)
    connection.pragma("user_version", state.FORMAT + 1)
    connection.close()
    with pytest.raises(UnsupportedState, match="upgrade this node"):
        state.open_state(path)


def test_a_state_of_our_format_may_lack_tables(tmp_path: Path) -> None:
    """A table that was thought of later is made when the state is opened, once."""
    path = tmp_path / "state.db"
    connection = state.open_state(path)
    names = "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    complete = connection.execute(names).fetchall()
    for table in ("hooks", "hook_state"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DROP INDEX hook_nodes_by_name")
    connection.close()
    connection = state.open_state(path)
    assert connection.execute(names).fetchall() == complete
    assert connection.execute("SELECT changes FROM hook_state").get == 0
    connection.close()
    whole = path.read_bytes()
    state.open_state(path).close()
    assert path.read_bytes() == whole, "a complete one is not written to"


def test_a_state_that_forgot_is_told_from_one_that_lags(tmp_path: Path) -> None:
    """What a completed checkpoint made durable must still be there."""
    path = tmp_path / "state.db"
    driver = filled(path)
    index = driver.machine.applied_index
    driver.connection.close()
    state.open_state(path, applied_index_min=index).close()
    with pytest.raises(CorruptState, match=f"{index + 1} was on disk"):
        state.open_state(path, applied_index_min=index + 1)


def test_a_log_that_does_not_end_at_the_revision_is_corrupt(tmp_path: Path) -> None:
    """A cheap look at open that finds tables of two different times."""
    path = tmp_path / "state.db"
    driver = filled(path)
    driver.connection.execute("DELETE FROM event_batches WHERE first_revision = 301")
    driver.connection.close()
    with pytest.raises(CorruptState, match="the log ends at 300"):
        state.open_state(path)


def test_a_completed_checkpoint_is_in_the_file_alone(tmp_path: Path) -> None:
    """What it says is durable survives the loss of the write-ahead file."""
    path = tmp_path / "state.db"
    driver = filled(path)
    index = state.checkpoint(driver.connection).applied_index
    driver.do("put", "later", b"")
    alone = tmp_path / "alone.db"
    shutil.copy(path, alone)
    copy = state.open_state(alone)
    assert state.load(copy).applied_index == index == driver.machine.applied_index - 1
    assert state.verify(copy) == alone.stat().st_size // PAGE
    copy.close()
    driver.connection.close()


def test_a_checkpoint_says_when_it_could_not_finish(tmp_path: Path) -> None:
    """A reader that holds an old view keeps what came after it in the write-ahead file."""
    path = tmp_path / "state.db"
    driver = filled(path)
    reader = state.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    driver.do("put", "later", b"")
    found = state.checkpoint(driver.connection)
    assert found.applied_index is None
    assert found.moved_pages < found.wal_pages
    reader.execute("COMMIT")
    assert state.checkpoint(driver.connection).applied_index == driver.machine.applied_index
    assert state.checkpoint(reader).applied_index == driver.machine.applied_index
    reader.close()
    driver.connection.close()


def test_a_copy_is_the_state_at_its_end(tmp_path: Path) -> None:
    """Made in slices on the machine's own connection while entries are applied in between."""
    driver = filled(tmp_path / "state.db")
    copy = state.Backup(driver.connection, tmp_path / "copy.db")
    steps = 0
    while not copy.step(10):
        driver.do("put", f"key/{steps:04}", b"changed")
        driver.do("put", f"new/{steps:04}", b"y" * 500)
        steps += 1
    assert steps > 5
    assert copy.progress[0] == 0
    copy.close()
    check_copy(tmp_path / "copy.db", driver)
    driver.connection.close()


def test_a_copy_can_be_made_on_a_connection_of_its_own(tmp_path: Path) -> None:
    """In one step, as a thread does it; also of what is not yet checkpointed."""
    driver = filled(tmp_path / "state.db")
    own = state.connect(tmp_path / "state.db")
    state.backup(own, tmp_path / "copy.db")
    own.close()
    check_copy(tmp_path / "copy.db", driver)
    driver.connection.close()


def test_a_copy_larger_than_a_cache_is_whole(tmp_path: Path) -> None:
    """Pages that are written before the first one have their checksums too."""
    driver = filled(tmp_path / "state.db")
    for number in range(5):
        driver.do("put", f"huge/{number}", bytes(VALUE_BYTES_MAX))
    state.backup(driver.connection, tmp_path / "copy.db")
    check_copy(tmp_path / "copy.db", driver)
    driver.connection.close()


def check_copy(path: Path, driver: Driver) -> None:
    """A copy is a whole state, equal to the original, and goes on like it."""
    connection = state.open_state(path)
    assert state.verify(connection) > 0
    assert dump(connection) == driver.rows()
    other = Machine(connection)
    driver.do("put", "next", b"")
    other.apply(*driver.entries[-1])
    assert other.digest == driver.machine.digest
    connection.close()


def test_a_full_disk_stops_the_machine(tmp_path: Path) -> None:
    """The error says what the disk refused; what was applied before is still whole."""
    path = tmp_path / "state.db"
    driver = filled(path)
    pages = int(driver.connection.pragma("page_count"))
    driver.connection.pragma("max_page_count", pages + 5)
    before = driver.rows()
    with pytest.raises(StorageFailed, match="full"):
        driver.do("put", "huge", bytes(VALUE_BYTES_MAX))
    with pytest.raises(AssertionError):
        driver.do("put", "small", b"")
    assert driver.rows() == before
    driver.reopen()
    assert driver.rows() == before
    assert state.verify(driver.connection) > 0


def test_a_crash_while_it_is_created_leaves_nothing(tmp_path: Path) -> None:
    """The half that was written is taken back, and the state is created again."""
    creating = state.connect(tmp_path / "creating.db")
    creating.execute("BEGIN")
    creating.execute("CREATE TABLE half(made)")
    creating.cache_flush()
    for suffix in ("", "-journal"):
        shutil.copy(tmp_path / f"creating.db{suffix}", tmp_path / f"state.db{suffix}")
    creating.close(True)
    assert (tmp_path / "state.db").stat().st_size > 0
    connection = state.open_state(tmp_path / "state.db")
    assert state.load(connection).applied_index == 1
    assert not connection.table_exists("main", "half")
    assert state.verify(connection) > 0
    connection.close()


def test_a_state_in_memory_works_the_same() -> None:
    """For tests and for programs that embed a node."""
    driver = Driver()
    driver.do("put", "a", b"1")
    assert state.checkpoint(driver.connection).applied_index == driver.machine.applied_index
    assert state.verify(driver.connection) == 0


def test_a_copy_of_a_state_in_memory_is_a_file(tmp_path: Path) -> None:
    """With page checksums, as every other."""
    driver = Driver()
    driver.do("put", "a", b"1")
    state.backup(driver.connection, tmp_path / "copy.db")
    check_copy(tmp_path / "copy.db", driver)


def test_a_file_that_cannot_be_opened_is_no_corruption(tmp_path: Path) -> None:
    """A directory in the way is the operator's business, and nothing to recover from peers."""
    with pytest.raises(StorageFailed):
        state.open_state(tmp_path)
