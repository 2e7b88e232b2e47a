"""The data directory: whose it is, and when it is not believed any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import state
from cluster.datadir import IDENTITY, MARK, DataDir, DataDirError, Marker
from cluster.machine import Machine
from cluster.raft.log import Entry
from cluster.raft.sqlite_log import SqliteLog

FOUNDERS = [["a", "uid-1", "a:1", "voter"]]
ENTRIES = 9


class Directories:
    """Opens one directory again and again, as successive processes do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._uids = 0
        self._open: DataDir | None = None

    def __call__(self, node: str = "a") -> DataDir:
        self.close()
        self._open = DataDir.open(self.path, node, self._mint)
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _mint(self) -> str:
        self._uids += 1
        return f"uid-{self._uids}"


@pytest.fixture
def open_again(tmp_path: Path) -> Iterator[Directories]:
    directories = Directories(tmp_path / "data")
    yield directories
    directories.close()


@pytest.fixture
def member(open_again: Directories) -> Directories:
    """The directory of a member that has been running: a log, a mark as far, and a state."""
    directory = open_again()
    directory.join("cluster", FOUNDERS)
    log = SqliteLog.open(directory.log_path)
    machine = Machine(state.open_state(directory.state_path))
    for index in range(2, ENTRIES + 1):
        log.append(Entry(b"\x01", index, 2))
        machine.apply(index, 2, b"\x01")
    log.set_term(2, "a")
    log.commit()
    marker = directory.marker()
    marker.write(log.term, log.persisted_index)
    marker.close()
    log.close()
    machine.commit()
    machine.connection.close()
    open_again.close()
    return open_again


def change_log(path: Path, change: Callable[[SqliteLog], None]) -> None:
    log = SqliteLog.open(path / "raft.db")
    change(log)
    log.commit()
    log.close()


def test_a_new_directory_gets_a_uid_once(open_again: Directories) -> None:
    """It is kept over restarts, and belongs to nobody yet."""
    first = open_again()
    assert first.identity.uid == "uid-1"
    assert first.identity.cluster_id is None
    assert not first.identity.applicant
    assert open_again().identity == first.identity


def test_a_wiped_directory_is_somebody_else(open_again: Directories) -> None:
    """The same name, another uid."""
    open_again()
    open_again.close()
    shutil.rmtree(open_again.path)
    assert open_again().identity.uid == "uid-2"


def test_a_directory_is_used_by_one_process(open_again: Directories) -> None:
    """The second is told so, and the first is not disturbed."""
    first = open_again()
    with pytest.raises(DataDirError, match="in use by another process"):
        DataDir.open(first.path, "a", lambda: "uid")
    first.join("cluster", FOUNDERS)


def test_a_directory_belongs_to_one_node(open_again: Directories) -> None:
    """A swapped configuration file does not make one node speak as another."""
    open_again()
    with pytest.raises(DataDirError, match="belongs to node 'a', this node is 'b'"):
        open_again("b")
    assert open_again().identity.uid == "uid-1"


def test_a_path_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    """A file stands in the way."""
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="cannot use the data directory"):
        DataDir.open(tmp_path / "data", "a", lambda: "uid")


def test_a_member_finds_everything_again(member: Directories) -> None:
    """Its cluster, its founders, its log."""
    directory = member()
    assert directory.forgot is None
    assert directory.identity == ("a", "uid-1", "cluster", FOUNDERS, False)
    log = SqliteLog.open(directory.log_path)
    assert (log.last.index, log.term, log.voted_for) == (ENTRIES, 2, "a")
    log.close()


def test_what_was_interrupted_before_it_belonged_begins_anew(open_again: Directories) -> None:
    """Without a cluster nothing was promised: files of the attempt go, the uid stays."""
    directory = open_again()
    SqliteLog.create(directory.log_path)
    assert open_again().identity.uid == "uid-1"
    assert not (open_again.path / "raft.db").exists()


# --- what was forgotten ---


def forget_log(path: Path) -> None:
    (path / "raft.db").unlink()


def forget_entries(path: Path) -> None:
    change_log(path, lambda log: log.truncate(ENTRIES - 2))


def forget_entries_and_follow(path: Path) -> None:
    forget_entries(path)
    change_log(path, lambda log: log.set_term(3, None))


def forget_term(path: Path) -> None:
    forget_log(path)
    SqliteLog.create(path / "raft.db")
    change_log(path, lambda log: log.reset(Entry(b"", ENTRIES, 1)))


def forget_state(path: Path) -> None:
    (path / "state.db").unlink()


def forget_identity(path: Path) -> None:
    (path / IDENTITY).unlink()


def forget_entries_and_mark(path: Path) -> None:
    forget_entries(path)
    (path / MARK).unlink()


@pytest.mark.parametrize(
    ("forget", "reason"),
    [
        (forget_log, "raft.db is missing"),
        (forget_entries, "raft.db ends at index 6 of term 2, it had reached index 9 of term 2"),
        (
            forget_entries_and_follow,
            "raft.db ends at index 6 of term 3, it had reached index 9 of term 2",
        ),
        (forget_term, "raft.db ends at index 9 of term 0, it had reached index 9 of term 2"),
        (forget_state, "state.db is missing"),
        (forget_identity, "identity.json is missing"),
        (forget_entries_and_mark, "raft.db ends at index 6, and state.db had applied 9"),
    ],
)
def test_a_directory_that_forgot_is_an_applicant(
    member: Directories, forget: Callable[[Path], None], reason: str
) -> None:
    """What is left is kept aside, and the node is another one, which never founds a cluster."""
    before = {path.name for path in member.path.iterdir()} - {"lock"}
    forget(member.path)
    directory = member()
    assert directory.forgot == reason
    assert directory.identity == ("a", "uid-2", None, [], True)
    assert not directory.log_path.exists()
    kept = {path.name for path in (member.path / "forgotten-1").iterdir()}
    assert kept <= before
    assert kept

    again = member()
    assert again.forgot is None
    assert again.identity == directory.identity, "an applicant stays one until it is added"


def test_what_was_forgotten_twice_is_kept_twice(member: Directories) -> None:
    """Nothing that may be needed to rescue data is ever removed."""
    forget_log(member.path)
    member().join("cluster", FOUNDERS)
    forget_log(member.path)
    assert member().forgot == "raft.db is missing"
    assert (member.path / "forgotten-1" / "state.db").exists()
    assert (member.path / "forgotten-2" / IDENTITY).exists()


def test_an_applicant_that_is_added_is_a_member_that_applied(member: Directories) -> None:
    """It belongs from now on, and remembers where it comes from."""
    forget_log(member.path)
    member().join("cluster", FOUNDERS)
    directory = member()
    assert directory.forgot is None
    assert directory.identity == ("a", "uid-2", "cluster", FOUNDERS, True)


def test_a_state_that_was_never_made_is_not_missing(open_again: Directories) -> None:
    """A crash right after joining: the log begins at the beginning."""
    open_again().join("cluster", FOUNDERS)
    assert open_again().forgot is None


def test_a_log_that_is_rightly_shorter_forgot_nothing(member: Directories) -> None:
    """The mark is lowered before the truncation reaches the disk."""
    directory = member()
    log = SqliteLog.open(directory.log_path)
    marker = directory.marker()
    log.on_shorter = marker.lower
    log.reset(Entry(b"", ENTRIES - 1, 3))
    for index in (ENTRIES, ENTRIES + 1):
        log.append(Entry(b"\x01", index, 3))
    log.commit()
    log.truncate(ENTRIES + 1)
    log.commit()
    assert marker.read() == (2, ENTRIES)
    marker.close()
    log.close()
    assert member().forgot is None


# --- what is corrupt ---


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 1}', json.dumps({"format": 9}), json.dumps({"format": None})],
)
def test_an_identity_that_makes_no_sense_stops_the_node(member: Directories, text: str) -> None:
    """Corrupt is not forgotten: nothing is moved, and a person decides."""
    (member.path / IDENTITY).write_text(text)
    with pytest.raises(DataDirError, match=r"is corrupt|has format"):
        member()
    assert (member.path / "raft.db").exists()


def test_a_corrupt_log_stops_the_node(member: Directories) -> None:
    """With a sentence that says how to go on."""
    (member.path / "raft.db").write_bytes(b"nothing of ours " * 1000)
    with pytest.raises(DataDirError, match="move its data directory away"):
        member()


def test_a_flipped_byte_in_the_mark_stops_the_node(member: Directories) -> None:
    """Every byte of the record counts."""
    mark = member.path / MARK
    whole = mark.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        mark.write_bytes(flipped)
        with pytest.raises(DataDirError, match="is corrupt"):
            member()
    mark.write_bytes(whole)
    assert member().forgot is None


def test_a_mark_that_never_reached_the_disk_says_nothing(tmp_path: Path) -> None:
    """A missing, an empty or a zeroed file: the power went before its first write did."""
    marker = Marker(tmp_path / MARK)
    assert marker.read() == (0, 0)
    for data in (b"", bytes(60)):
        (tmp_path / MARK).write_bytes(data)
        assert marker.read() == (0, 0)


def test_a_mark_is_overwritten_in_place(tmp_path: Path) -> None:
    """The newest record counts, however much shorter its numbers are."""
    marker = Marker(tmp_path / MARK)
    for position in ((1, 5), (7, 10**18), (8, 3)):
        marker.write(*position)
        assert marker.read() == position
    marker.lower(8, 2)
    assert marker.read() == (8, 2)
    marker.close()
    reopened = Marker(tmp_path / MARK)
    reopened.write(9, 9)
    assert reopened.read() == (9, 9)
    reopened.close()


# --- an interrupted installation ---


@pytest.mark.parametrize("complete", [True, False])
def test_an_interrupted_installation_is_completed(member: Directories, complete: bool) -> None:
    """With the note in the log, the complete copy becomes the state; without it, it goes."""
    member.close()
    copy = Machine(state.open_state(member.path / "state.db.incoming"))
    for index in range(2, 31):
        copy.apply(index, 2, b"\x01")
    copy.commit()
    copy.connection.close()

    def install(log: SqliteLog) -> None:
        if complete:
            log.note("installing", 30)
            log.reset(Entry(b"", 30, 2))

    change_log(member.path, install)
    directory = member()
    assert directory.forgot is None
    log = SqliteLog.open(directory.log_path)
    directory.finish_installation(log)
    assert log.noted("installing") is None
    log.close()
    assert not directory.incoming_path.exists()
    connection = state.open_state(directory.state_path)
    assert state.load(connection).applied_index == (30 if complete else ENTRIES)
    connection.close()


def test_an_installation_whose_copy_was_swapped_in_already_is_complete(member: Directories) -> None:
    """The crash came between the swap and the end of the note."""
    change_log(member.path, lambda log: log.note("installing", ENTRIES))
    directory = member()
    log = SqliteLog.open(directory.log_path)
    directory.finish_installation(log)
    assert log.noted("installing") is None
    log.close()
    assert directory.state_path.exists()
