"""The Raft log, the same for `raft.db` and for the simulator's disk; then a model of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.raft.log import Entry
from simulation.core.disk import FIRST
from tests.raft.log_disks import LogDisk, SimulatedDisk, SqliteDisk, content, fill


@pytest.fixture(params=["sqlite", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogDisk]:
    disk = SqliteDisk(tmp_path) if request.param == "sqlite" else SimulatedDisk()
    yield disk
    disk.close()


def test_a_fresh_log_has_the_entry_that_every_log_begins_with(disk: LogDisk) -> None:
    """And no term and no vote; nothing has to be written."""
    assert content(disk.log) == (0, None, [FIRST])
    assert (disk.log.first, disk.log.last, len(disk.log)) == (FIRST, FIRST, 1)
    assert disk.log.persisted_index == 1
    assert not disk.log.dirty


def test_an_entry_is_persisted_by_the_commit_after_it(disk: LogDisk) -> None:
    """In memory at once, on the disk with the commit."""
    log = disk.log
    fill(log, 2, 4)
    assert (log.last.index, log.persisted_index, log.dirty) == (4, 1, True)
    log.commit()
    assert (log.persisted_index, log.dirty) == (4, False)
    assert disk.lose_power().last == Entry(b"\x00command 4 of term 1", 4, 1)
    assert disk.log.persisted_index == 4


def test_nothing_survives_without_a_commit(disk: LogDisk) -> None:
    """No entry, no truncation, no term, no vote, no note: the state is that of the last commit."""
    log = disk.log
    fill(log, 2, 5)
    log.set_term(1, "a")
    log.note("installing", 3)
    log.commit()
    before = content(log)

    log.truncate(4)
    fill(log, 4, 9, term=2)
    log.compact(3)
    log.set_term(2, "b")
    log.note("installing", None)
    found = disk.lose_power()
    assert content(found) == before
    assert found.noted("installing") == 3


def test_all_between_two_commits_survives_together(disk: LogDisk) -> None:
    """What a process may do in one tick, in any order."""
    log = disk.log
    fill(log, 2, 5)
    log.set_term(3, None)
    log.truncate(4)
    fill(log, 4, 6, term=3)
    log.set_term(3, "c")
    log.compact(3)
    log.note("installing", 7)
    log.commit()
    expected = content(log)
    found = disk.lose_power()
    assert content(found) == expected
    assert [entry.index for entry in expected[2]] == [3, 4, 5, 6]
    assert found.noted("installing") == 7


def test_a_term_is_dirty_until_it_is_on_disk(disk: LogDisk) -> None:
    """A leader's entries may leave before the fsync, but not before its own term is on disk."""
    fill(disk.log, 2, 2)
    assert not disk.log.term_dirty
    disk.log.set_term(4, "b")
    assert (disk.log.term, disk.log.voted_for, disk.log.term_dirty) == (4, "b", True)
    disk.log.commit()
    assert not disk.log.term_dirty
    found = disk.lose_power()
    assert (found.term, found.voted_for) == (4, "b")


def test_truncation_takes_back_what_counted_as_persisted(disk: LogDisk) -> None:
    """What replaces it is not on disk only because something with its index was."""
    log = disk.log
    fill(log, 2, 6)
    log.commit()
    log.truncate(4)
    fill(log, 4, 4, term=2)
    assert (log.last.index, log.persisted_index) == (4, 3)
    log.commit()
    assert log.persisted_index == 4
    assert disk.lose_power().last.term == 2


def test_compaction_moves_the_base(disk: LogDisk) -> None:
    """The base itself stays, so that the entry behind it can be checked against it."""
    log = disk.log
    fill(log, 2, 9)
    log.commit()
    whole = log.kept_bytes
    log.compact(6)
    log.compact(6)
    assert (log.first.index, log.last.index, len(log)) == (6, 9, 4)
    assert log.get(5) is None
    assert log.slice(5, 9, 1 << 20) == []
    assert log.kept_bytes == sum(len(entry.command) for entry in content(log)[2]) < whole
    log.commit()
    fill(log, 10, 10)
    log.commit()
    assert [entry.index for entry in content(disk.lose_power())[2]] == [6, 7, 8, 9, 10]


def test_a_reset_begins_anew(disk: LogDisk) -> None:
    """A snapshot's last entry is the base, whether the log was shorter or longer."""
    log = disk.log
    fill(log, 2, 4)
    log.commit()
    for base in (Entry(b"", 100, 7), Entry(b"", 50, 8)):
        log.reset(base)
        assert (log.first, log.last, log.persisted_index, log.kept_bytes) == (
            base,
            base,
            base[1],
            0,
        )
        fill(log, base[1] + 1, base[1] + 2, term=8)
        log.commit()
        log = disk.lose_power()
        assert [entry.index for entry in content(log)[2]] == list(range(base[1], base[1] + 3))


def test_slices_are_bounded(disk: LogDisk) -> None:
    """In number and in bytes, but never empty while there is an entry: a large one goes alone."""
    log = disk.log
    for index in range(2, 8):
        log.append(Entry(bytes(100), index, 1))
    assert [entry.index for entry in log.slice(3, 2, 1 << 20)] == [3, 4]
    assert [entry.index for entry in log.slice(3, 9, 250)] == [3, 4]
    assert [entry.index for entry in log.slice(3, 9, 1)] == [3]
    assert log.slice(8, 9, 1 << 20) == []


def test_what_is_kept_is_bounded_in_number_and_bytes(disk: LogDisk) -> None:
    """Where to cut so that no more stays behind the cut."""
    log = disk.log
    for index in range(2, 12):
        log.append(Entry(bytes(100), index, 1))
    assert log.index_before(4, 1 << 20) == 7
    assert log.index_before(100, 300) == 8
    assert log.index_before(100, 1 << 20) == 1


def test_what_no_caller_may_ask_for_is_our_bug(disk: LogDisk) -> None:
    """A gap, a cut into the base, a base that is not there: loudly, before anything is written."""
    log = disk.log
    fill(log, 2, 5)
    log.compact(3)
    log.commit()
    with pytest.raises(AssertionError, match="gap"):
        fill(log, 7, 7)
    with pytest.raises(AssertionError, match="base"):
        log.truncate(3)
    for index in (2, 6):
        with pytest.raises(AssertionError, match="not in the log"):
            log.compact(index)
    assert not log.dirty


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("append", "append", "append", "truncate", "compact", "reset", "term", "commit", "lose")
        ),
        st.integers(0, 5),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["sqlite", "simulated"])
@settings(max_examples=40)
@given(steps=STEPS)
def test_both_behave_like_a_list(kind: str, steps: list[tuple[str, int]]) -> None:
    """Any sequence of changes, commits and power losses, against two lists of entries."""
    with tempfile.TemporaryDirectory() as folder:
        disk: LogDisk = SqliteDisk(Path(folder)) if kind == "sqlite" else SimulatedDisk()
        entries, term = [FIRST], 0
        durable = ([FIRST], 0)
        for step, number in steps:
            log = disk.log
            first, last = entries[0].index, entries[-1].index
            inside = min(first + number, last)
            if step == "append":
                entry = Entry(b"\x00" + bytes([number]) * number, last + 1, number)
                log.append(entry)
                entries = [*entries, entry]
            elif step == "truncate" and inside > first:
                log.truncate(inside)
                entries = [e for e in entries if e.index < inside]
            elif step == "compact":
                log.compact(inside)
                entries = [e for e in entries if e.index >= inside]
            elif step == "reset":
                entries = [Entry(b"", first + 2 * number, number)]
                log.reset(entries[0])
            elif step == "term":
                term += 1
                log.set_term(term, str(term))
            elif step == "commit":
                log.commit()
                durable = (entries, term)
            elif step == "lose":
                disk.lose_power()
                entries, term = durable
            assert content(disk.log) == (term, str(term) if term else None, entries)
            assert disk.log.kept_bytes == sum(len(entry.command) for entry in entries)
        disk.close()
