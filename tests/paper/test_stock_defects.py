"""What stock PySyncObj 0.3.17 does: one deterministic violation for each defect A to I.

These are the reasons for the rules in `cluster/raft/consensus.py`. A test that fails here after an
upgrade says that a defect is gone and its rule may go; `test_hardened.py` runs the same schedules
against our class and finds no violation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pysyncobj
import pytest
from pysyncobj.journal import FileJournal

from tests.paper import schedules
from tests.paper.laboratory import Crashed
from tests.paper.schedules import FIVE, LARGE_BYTES, THREE
from tests.paper.stock import StockLaboratory

SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"


def test_the_installed_pysyncobj_is_the_one_that_was_examined() -> None:
    """An upgrade of PySyncObj is a decision: the names and defects were read in this very file."""
    source = Path(pysyncobj.__path__[0], "syncobj.py").read_bytes()
    assert hashlib.sha256(source).hexdigest() == SHA256


def test_the_bench_shows_a_healthy_stock_cluster_at_work() -> None:
    """Without a fault, stock replicates, applies and acknowledges: the bench itself is sound."""
    laboratory = StockLaboratory(THREE)
    schedules.settled(laboratory)
    laboratory.write("a", "one", "two")
    laboratory.write("c", "three")
    laboratory.run(*THREE)
    assert sorted(laboratory.acknowledged()) == ["one", "three", "two"]
    assert laboratory.applied("a") == laboratory.applied("b") == laboratory.applied("c")
    assert laboratory.log("a") == laboratory.log("b") == laboratory.log("c")


def test_a_acknowledged_writes_are_lost_with_default_settings() -> None:
    """A: a resend behind a moved-back nextIndex cuts acknowledged entries off the follower."""
    laboratory = StockLaboratory(THREE)
    schedules.acknowledged_while_in_flight(laboratory, size=700, let_through=1)
    assert len(laboratory.acknowledged()) == 200
    lost = laboratory.lost("b", "c")
    assert lost == schedules.labels("late", 100)[-len(lost) :]
    assert len(lost) >= 8

    laboratory.restart("a")
    laboratory.run(*THREE)
    assert laboratory.log("a") == laboratory.log("b")
    assert laboratory.applied("a") != laboratory.applied("b"), "the states differ for good"


def test_b_a_diverged_follower_never_rejoins() -> None:
    """B: every batch of a burst is answered `reset`, the last answer wins, for ever."""
    laboratory = StockLaboratory(THREE)
    schedules.diverged_follower_returns(laboratory, rounds=500)
    assert laboratory.applied("c") == schedules.labels("kept", 400)
    assert laboratory.applied("a") == []
    assert all(laboratory.holders(orphan) == ["a"] for orphan in schedules.labels("orphan", 3))


def test_c_a_command_just_below_a_multiple_of_64_kib_kills_its_receiver() -> None:
    """C: the last but one piece is called `finish`: EOFError, again after every restart.

    (With `autoTick` the exception is logged, and the true last piece then happens to complete the
    pickle. Whoever drives the class, as we do, gets the exception.)
    """
    laboratory = StockLaboratory(THREE)
    assert schedules.large_command(laboratory, LARGE_BYTES - 40) >= 3
    assert laboratory.holders("large") == ["a"]
    assert laboratory.acknowledged() == []


@pytest.mark.parametrize("size", [LARGE_BYTES - 400, LARGE_BYTES])
def test_c_other_sizes_pass(size: int) -> None:
    """C: it is the size that kills, not the schedule."""
    laboratory = StockLaboratory(THREE)
    assert schedules.large_command(laboratory, size) == 0
    assert laboratory.acknowledged() == ["large"]


def test_d_overlapping_membership_changes_split_the_brain() -> None:
    """D: alone, a leader removes both others before either change is committed, and commits."""
    laboratory = StockLaboratory(THREE, dynamicMembershipChange=True)
    schedules.overlapping_removals(laboratory)
    assert laboratory.voters("a") == ["a"]
    assert laboratory.voters("b") == ["a", "b", "c"]
    assert laboratory.leads("a")
    assert laboratory.leads("b")
    assert laboratory.applied("a") == ["here"]
    assert laboratory.applied("b") == laboratory.applied("c") == ["there"]
    assert laboratory.acknowledged() == ["here", "there"]


def test_e_a_write_is_acknowledged_that_exists_nowhere() -> None:
    """E: the first snapshot chunk moves the commit index over the deposed leader's orphans."""
    laboratory = StockLaboratory(THREE)
    schedules.orphans_meet_a_snapshot(laboratory)
    orphans = schedules.labels("orphan", 3)
    assert set(orphans) <= set(laboratory.acknowledged())
    assert laboratory.lost(*THREE) == orphans
    assert all(laboratory.holders(orphan) == [] for orphan in orphans)


def test_f_the_kept_log_is_lost_by_a_kill_during_compaction(tmp_path: Path) -> None:
    """F: `deleteEntriesTo` clears the file and adds again; killed between, the rest is gone."""
    total, cut = 12, 4
    kept_after = []
    for survive in range(total - cut + 1):
        journal = _DyingJournal(str(tmp_path / f"journal{survive}"), survive)
        for index in range(1, total + 1):
            journal.add(b"\x00write", index, 1)
        journal.compacting = True
        try:
            journal.deleteEntriesTo(cut)
        except _KillMinusNine:
            pass
        journal._destroy()  # the page cache outlives the process
        reopened = FileJournal(str(tmp_path / f"journal{survive}"))
        kept_after.append(len(reopened))
        reopened._destroy()
    assert kept_after == list(range(total - cut + 1)), "each kill point but the last loses entries"


def test_g_an_entry_held_by_two_of_five_counts_as_committed_and_is_lost() -> None:
    """G: an acknowledgement carries no term, so one from two elections ago completes a majority."""
    laboratory = StockLaboratory(FIVE)
    schedules.acknowledgement_delayed_over_two_elections(laboratory)
    assert "second" in laboratory.acknowledged()
    assert laboratory.lost("b", "c", "e") == ["second"]
    assert laboratory.holders("second") == []


def test_h_a_busy_serializer_makes_the_leader_send_without_end() -> None:
    """H: with nothing to send yet, the loop sends empty messages for a whole heartbeat period."""
    laboratory = StockLaboratory(THREE)
    assert schedules.snapshot_wanted_while_one_is_made(laboratory) > 10_000


def test_i_the_late_acknowledgement_of_a_removed_node_kills_the_leader() -> None:
    """I: `__raftMatchIndex[node]` is gone when the acknowledgement arrives."""
    laboratory = StockLaboratory(THREE, dynamicMembershipChange=True)
    with pytest.raises(Crashed, match="node a raised KeyError"):
        schedules.acknowledgement_of_a_removed_node(laboratory)


class _KillMinusNine(Exception):
    """Stands for the end of the process: nothing after it runs."""


class _DyingJournal(FileJournal):  # type: ignore[misc]
    """The stock journal, killed when it has added `survive` entries of a compaction again."""

    def __init__(self, path: str, survive: int) -> None:
        super().__init__(path)
        self.compacting = False
        self._left = survive

    def add(self, command: bytes, idx: int, term: int) -> None:
        if self.compacting:
            if self._left == 0:
                raise _KillMinusNine
            self._left -= 1
        super().add(command, idx, term)
