"""The schedules A to I against our class: no violation, and the violation again without its rule.

`test_stock_defects.py` has the same schedules against the stock class. Where a planted bug takes
one rule of the hardening away and the schedule then fails, the schedule is known to bite.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.raft.log import Entry
from cluster.raft.replication import BATCH_BYTES, Progress
from cluster.raft.sqlite_log import SqliteLog
from tests.paper import schedules
from tests.paper.hardened import HardenedLaboratory
from tests.paper.laboratory import Outcome
from tests.paper.schedules import FIVE, LARGE_BYTES, THREE
from tests.simulation.core_mutants import (
    AnyTermsAnswer,
    CommitsUnverified,
    NoTrimming,
    OverlappingChanges,
)

WRITE_BYTES = 30_000
"""A hundred of these are several of our batches, as 700 bytes are of stock's."""
WAL_HEADER_BYTES, WAL_FRAME_BYTES = 32, 24 + 4096


@pytest.mark.parametrize("let_through", range(6))
def test_a_what_was_acknowledged_survives_the_leader(let_through: int) -> None:
    """A: wherever the leader dies in its burst, the follower keeps what it acknowledged."""
    laboratory = HardenedLaboratory(THREE)
    schedules.acknowledged_while_in_flight(laboratory, WRITE_BYTES, let_through)
    assert len(laboratory.acknowledged()) == 200
    assert laboratory.lost("b") == laboratory.lost("c") == []

    laboratory.restart("a")
    laboratory.run(*THREE)
    assert laboratory.log("a") == laboratory.log("b") == laboratory.log("c")
    assert laboratory.applied("a") == laboratory.applied("b") == laboratory.applied("c")


class _MovesBack(Progress):
    """An acknowledgement moves `next` back, as in stock."""

    __slots__ = ()

    def acknowledged(self, match: int) -> None:
        newer = match > self.match
        super().acknowledged(match)
        if newer:
            self.next = match + 1


class _ResendsAndTruncates(NoTrimming):
    """Both rules that answer A are gone."""

    def _watch(self, name: str, next_index: int) -> None:
        connected = self._connected.get(name, False)
        self._progress[name] = _MovesBack(next_index, connected)


def test_a_without_its_rules_writes_are_lost() -> None:
    """A: trimming and a `next` that never moves back are what keeps the writes."""
    lost = []
    for let_through in range(6):
        laboratory = HardenedLaboratory(THREE, _ResendsAndTruncates)
        schedules.acknowledged_while_in_flight(laboratory, WRITE_BYTES, let_through)
        lost += laboratory.lost("b", "c")
    assert lost


def test_b_a_diverged_follower_rejoins() -> None:
    """B: the follower drops its orphans and has the leader's log after a few rounds."""
    laboratory = HardenedLaboratory(THREE)
    schedules.diverged_follower_returns(laboratory, rounds=10)
    assert laboratory.applied("a") == laboratory.applied("c") == schedules.labels("kept", 400)
    assert laboratory.log("a") == laboratory.log("c")


@pytest.mark.parametrize(
    "size", [*range(LARGE_BYTES - 100, LARGE_BYTES + 20, 10), BATCH_BYTES - 20, BATCH_BYTES * 2]
)
def test_c_a_command_of_any_size_arrives(size: int) -> None:
    """C: an entry travels whole, also one that is larger than a batch."""
    laboratory = HardenedLaboratory(THREE)
    assert schedules.large_command(laboratory, size) == 0
    assert laboratory.acknowledged() == ["large"]
    assert laboratory.holders("large") == ["a", "b"]


def test_d_one_membership_change_at_a_time() -> None:
    """D: the second removal is refused, the first cannot commit, and there is one history."""
    laboratory = HardenedLaboratory(THREE)
    schedules.overlapping_removals(laboratory)
    assert laboratory.voters("a") == ["a", "c"]
    assert [change.outcome for change in laboratory.changes][1] is Outcome.REFUSED
    assert laboratory.acknowledged() == ["there"]

    laboratory.reunite("a")
    laboratory.run(*THREE)
    assert laboratory.changes[0].outcome is Outcome.UNKNOWN
    assert laboratory.voters("a") == ["a", "b", "c"]
    assert laboratory.applied("a") == laboratory.applied("b") == ["there"]


def test_d_without_its_rule_the_brain_splits() -> None:
    """D: with changes that overlap, the leader that is cut off commits alone."""
    laboratory = HardenedLaboratory(THREE, OverlappingChanges)
    schedules.overlapping_removals(laboratory)
    assert laboratory.acknowledged() == ["here", "there"]


def test_e_orphans_are_neither_acknowledged_nor_applied() -> None:
    """E: nothing moves the commit index over entries that the leader has not verified."""
    laboratory = HardenedLaboratory(THREE)
    schedules.orphans_meet_a_snapshot(laboratory)
    orphans = [request for request in laboratory.requests if request.node == "a"]
    assert [orphan.outcome for orphan in orphans] == [Outcome.UNKNOWN] * 3
    assert laboratory.ever_applied("a") == []
    assert laboratory.applied("a") == laboratory.applied("b") == schedules.labels("kept", 20)


def test_e_without_its_rule_orphans_are_applied() -> None:
    """E: a commit index that is taken from any message applies the orphans."""
    laboratory = HardenedLaboratory(THREE, CommitsUnverified)
    schedules.orphans_meet_a_snapshot(laboratory)
    assert laboratory.ever_applied("a") == schedules.labels("orphan", 3)


def test_f_a_kill_during_compaction_loses_no_entry(tmp_path: Path) -> None:
    """F: whatever part of a compaction's writes reached the file, the kept entries are there."""
    path = tmp_path / "raft.db"
    SqliteLog.create(path)
    log = SqliteLog.open(path)
    for index in range(2, 61):
        log.append(Entry(b"\x00" + b"write" * 40, index, 1))
    log.commit()
    kept = log.slice(50, 11, 1 << 30)
    checked = 0
    log.compact(50)
    more = True
    while more:
        wal_before = _wal_bytes(path)
        log.commit()
        for killed in _after_a_kill(path, wal_before):
            reopened = SqliteLog.open(killed)
            assert reopened.first.index in (1, 50)
            assert reopened.slice(50, 99, 1 << 30) == kept
            reopened.close()
            checked += 1
        more = log.sweep(20)
    log.close()
    assert checked > 6


def _wal_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def _after_a_kill(path: Path, wal_before: int) -> Iterator[Path]:
    """The files as a kill leaves them after each write of the last commit, and within one."""
    wal_after = _wal_bytes(path)
    copy = path.with_name("killed.db")
    boundaries = range(wal_before or WAL_HEADER_BYTES, wal_after + 1, WAL_FRAME_BYTES)
    for boundary in boundaries:
        for torn in (0, 1000):
            shutil.copy(path, copy)
            shutil.copy(f"{path}-wal", f"{copy}-wal")
            with Path(f"{copy}-wal").open("r+b") as wal:
                wal.truncate(min(boundary + torn, wal_after))
            yield copy


def test_g_an_acknowledgement_counts_only_in_its_own_term() -> None:
    """G: the late acknowledgement is of another term and completes no majority."""
    laboratory = HardenedLaboratory(FIVE)
    schedules.acknowledgement_delayed_over_two_elections(laboratory)
    assert laboratory.acknowledged() == []
    assert laboratory.log("b") == laboratory.log("c") == laboratory.log("e")


def test_g_without_its_rule_an_acknowledged_write_is_lost() -> None:
    """G: counting it acknowledges a write that two of five hold, and it is lost with them."""
    laboratory = HardenedLaboratory(FIVE, AnyTermsAnswer)
    schedules.acknowledgement_delayed_over_two_elections(laboratory)
    assert laboratory.lost("b", "c", "e") == ["second"]


def test_h_a_leader_that_makes_a_snapshot_sends_no_more_than_otherwise() -> None:
    """H: one message per follower and tick while the copy is made; then the follower catches up."""
    laboratory = HardenedLaboratory(THREE)
    # the greeting of the new session, and one for each follower
    assert schedules.snapshot_wanted_while_one_is_made(laboratory) <= 3
    laboratory.finish_compaction("a")
    laboratory.run(*THREE)
    everything = schedules.labels("before", 20) + schedules.labels("after", 5)
    assert laboratory.applied("c") == laboratory.applied("a") == everything


def test_i_a_removed_nodes_acknowledgement_is_nothing() -> None:
    """I: it is dropped, counts nowhere, and the rest of the cluster goes on."""
    laboratory = HardenedLaboratory(THREE)
    schedules.acknowledgement_of_a_removed_node(laboratory)
    assert laboratory.voters("a") == ["a", "c"]
    assert laboratory.acknowledged() == []
    laboratory.run("a", "c")
    assert laboratory.acknowledged() == ["last words"]
    assert laboratory.changes[0].outcome is Outcome.ACKNOWLEDGED
