"""What must hold inside the cluster at every moment, seen with the disks of all nodes at hand.

A broken promise shows only when the faults that follow are unlucky; the rule that was broken shows
at once. Each check cites its rule (Raft, Fig. 2 and Fig. 3) and raises Violation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.raft.log import Entry
from cluster.raft.stock import Message
from simulation.core.process import EPOCH_MS
from simulation.violation import Violation

if TYPE_CHECKING:
    from simulation.core.process import Process
    from simulation.core.world import World

CLOCK_TOLERANCE_MS = 1_000


class Invariants:
    """Sees every message that is sent, every entry that is applied or leaves a disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._votes: dict[tuple[int, str], str] = {}  # (term, uid) -> candidate
        self._committed: dict[int, int] = {}  # index -> its term, once a leader has told it
        self._committed_in: dict[int, int] = {}  # index -> the term of that leader
        self.committed_index = 1
        self.leaders: dict[int, str] = {}
        self._honest_clocks = True

    # --- messages ---

    def sends(self, process: Process, to: str, message: Message) -> None:
        """A message leaves: what it claims must be on the disk already."""
        kind = message["type"]
        if kind == "append_entries":
            if message["commit_index"] > self.committed_index:
                self._advances(process)
        elif kind == "append_reply" and message["match"] is not None:
            self._acknowledges(process, message["term"], message["match"])
        elif kind == "snapshot_reply" and message["installed"] is not None:
            self._acknowledges(process, message["term"], message["installed"])
        elif kind == "response_vote":
            self._votes_for(process, message["term"], to)
        elif kind == "request_vote":
            self._votes_for(process, message["term"], process.name)

    def _acknowledges(self, process: Process, term: int, index: int) -> None:
        """Stable storage before the answer (Fig. 2). One tick may acknowledge entries to a leader
        and then cut them for the next: as if the disk had had them for a moment."""
        core = process.core
        last = process.platter.entries[-1].index
        if last < index and core is not None and core.term == term:
            raise Violation(f"{process.name} acknowledges {index}, its disk ends at {last}")

    def _votes_for(self, process: Process, term: int, candidate: str) -> None:
        """One vote per term, kept over a restart (Fig. 2, RequestVote)."""
        voted = self._votes.setdefault((term, process.uid), candidate)
        if voted != candidate:
            raise Violation(f"{process.name} votes for {voted} and {candidate} in term {term}")
        if process.platter.term < term:
            raise Violation(f"{process.name} votes in term {term}, which is not on its disk")

    def _advances(self, process: Process) -> None:
        """A leader commits by counting copies only of its own term's entries (§5.4.2)."""
        core = process.core
        assert core is not None, "only living leaders speak"
        newest = core.log.get(core.commit_index)
        if newest is not None and newest.term != core.term:
            raise Violation(
                f"{process.name} commits {newest.index} of term {newest.term} in term {core.term}"
            )
        for index in range(self.committed_index + 1, core.commit_index + 1):
            self._commits(process, index)

    def _commits(self, process: Process, index: int) -> None:
        """A leader says that `index` is committed: it is on the disks of a majority (§5.3)."""
        core = process.core
        assert core is not None, "only living leaders speak"
        entry = core.log.get(index)
        term = entry.term if entry is not None else self._world.checker.log[index][0]
        if self._committed.setdefault(index, term) != term:
            raise Violation(
                f"{process.name} commits {index} of term {term}, it was of {self._committed[index]}"
            )
        voters = [m for m in core.members.members if m.role == "voter"]
        holders = [m.name for m in voters if self._holds(m.uid, index, term)]
        if len(holders) < core.members.quorum:
            raise Violation(
                f"{process.name} commits {index} of term {term} for {len(voters)} voters, "
                f"it is on the disks of {holders}"
            )
        self._committed_in.setdefault(index, core.term)
        self.committed_index = max(self.committed_index, index)

    def _holds(self, uid: str, index: int, term: int) -> bool:
        entries = self._world.platters[uid].entries
        position = index - entries[0].index
        if position < 0:
            return True  # compacted: the state has it
        return position < len(entries) and entries[position].term == term

    # --- steps ---

    def leads(self, process: Process) -> None:
        """One leader per term (§5.2), and it has what was committed in earlier terms (§5.4)."""
        core = process.core
        assert core is not None, "only living nodes lead"
        known = self.leaders.get(core.term)
        if known == process.name:
            return
        if known is not None:
            raise Violation(f"{known} and {process.name} both lead term {core.term}")
        self.leaders[core.term] = process.name
        self._world.note(process.name, f"leads term {core.term}")
        for index in range(core.log.first.index, self.committed_index + 1):
            entry = core.log.get(index)
            missing = entry is None or entry.term != self._committed.get(index)
            if missing and self._committed_in.get(index, core.term) < core.term:
                raise Violation(f"{process.name} leads term {core.term} without entry {index}")

    def cuts(self, process: Process, removed: list[Entry]) -> None:
        """Entries leave a disk by truncation: none of them is committed (§5.4)."""
        for entry in removed:
            if self._committed.get(entry.index) == entry.term:
                raise Violation(f"{process.name} drops the committed entry {entry.index}")

    def applies(self, process: Process, entry: Entry) -> None:
        """Only what is committed is applied, and it is the same everywhere."""
        self._world.checker.applied(process.name, entry)
        if entry.index > self.committed_index:
            if process.leads:
                self._advances(process)
            else:  # it led when it committed this, and lost its quorum in the same tick
                self._commits(process, entry.index)

    def stamps(self, process: Process) -> None:
        """The clocks of the newest entry are not ahead of real time, as long as one
        clock of several is wrong."""
        world = self._world
        core = process.core
        if core is not None and core.is_leader:
            skewed = [v for v in core.members.voters if world.processes[v].skew_ms > 0]
            if len(skewed) == len(core.members.voters):
                self._honest_clocks = False
        passed_ms = int(world.now * 1000)
        rows = process.state.rows
        if self._honest_clocks and rows.wall_ms > EPOCH_MS + passed_ms + CLOCK_TOLERANCE_MS:
            raise Violation(
                f"the cluster's wall clock is {rows.wall_ms - EPOCH_MS - passed_ms} ahead"
            )
        if rows.elapsed_ms > passed_ms + 1:
            raise Violation(f"{rows.elapsed_ms} ms elapsed in {passed_ms}")
