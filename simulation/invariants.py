"""What must hold inside the cluster at every moment, seen with the disks of all nodes at hand.

A broken promise shows only when the faults that follow are unlucky; the rule that was broken shows
at once. Each check cites its rule (Raft, Fig. 2 and Fig. 3) and raises Violation. Both levels call
the same checks: the core level with its platters, the node level through `node/observer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cluster.raft.core import Core
from cluster.raft.log import Entry
from cluster.raft.stock import Message
from simulation.violation import Violation

CLOCK_TOLERANCE_MS = 1_000


class Disk(Protocol):
    """The durable Raft log of one data directory."""

    @property
    def term(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is there, or compacted: then the state has it."""


class Observed(Protocol):
    """One node of either level."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def core(self) -> Core | None: ...
    @property
    def skew_ms(self) -> int:
        """By how much its wall clock is ahead of real time."""


class Invariants:
    """Sees every message that is sent, every entry that is applied or leaves a disk."""

    def __init__(
        self,
        disks: Mapping[str, Disk],
        now: Callable[[], float],
        epoch_ms: int,
        note: Callable[[str, str], None] = lambda who, what: None,
    ) -> None:
        """`disks` by the uid of their directory; `now` in seconds since `epoch_ms`."""
        self._disks = disks
        self._now = now
        self._epoch_ms = epoch_ms
        self._note = note
        self._votes: dict[tuple[int, str], str] = {}  # (term, uid) -> candidate
        self._written: dict[tuple[int, int], tuple[bytes, int]] = {}
        """(index, term) -> command, and the term of the entry before it."""
        self._ends: dict[str, tuple[object, Entry]] = {}  # node -> its log, how far it was read
        self._applied: dict[int, tuple[int, bytes]] = {}  # index -> (term, command)
        self._committed: dict[int, int] = {}  # index -> its term, once a leader has told it
        self._committed_in: dict[int, int] = {}  # index -> the term of that leader
        self.committed_index = 1
        self.leaders: dict[int, str] = {}
        self._ahead: dict[str, None] = {}  # whose clocks ever were
        self._are_outvoted = True

    # --- messages ---

    def sends(self, node: Observed, to: str, message: Message) -> None:
        """A message leaves: what it claims must be on the disk already."""
        self._looks_at_clock(node)
        kind = message["type"]
        if kind == "append_entries":
            if message["commit_index"] > self.committed_index:
                self.advances(node)
        elif kind == "append_reply" and message["match"] is not None:
            self._acknowledges(node, message["term"], message["match"])
        elif kind == "snapshot_reply" and message["installed"] is not None:
            self._acknowledges(node, message["term"], message["installed"])
        elif kind == "response_vote":
            self._votes_for(node, message["term"], to)
        elif kind == "request_vote":
            self._votes_for(node, message["term"], node.name)

    def _acknowledges(self, node: Observed, term: int, index: int) -> None:
        """Stable storage before the answer (Fig. 2). One tick may acknowledge entries to a leader
        and then cut them for the next: as if the disk had had them for a moment."""
        core = node.core
        last = self._disks[node.uid].last_index
        if last < index and core is not None and core.term == term:
            raise Violation(f"{node.name} acknowledges {index}, its disk ends at {last}")

    def _votes_for(self, node: Observed, term: int, candidate: str) -> None:
        """One vote per term, kept over a restart (Fig. 2, RequestVote)."""
        voted = self._votes.setdefault((term, node.uid), candidate)
        if voted != candidate:
            raise Violation(f"{node.name} votes for {voted} and {candidate} in term {term}")
        if self._disks[node.uid].term < term:
            raise Violation(f"{node.name} votes in term {term}, which is not on its disk")

    def advances(self, node: Observed) -> None:
        """A leader commits by counting copies only of its own term's entries (§5.4.2)."""
        core = _living(node)
        newest = core.log.get(core.commit_index)
        if newest is not None and newest.term != core.term:
            raise Violation(
                f"{node.name} commits {newest.index} of term {newest.term} in term {core.term}"
            )
        for index in range(self.committed_index + 1, core.commit_index + 1):
            self._commits(node, index)

    def _commits(self, node: Observed, index: int) -> None:
        """A leader says that `index` is committed: it is on the disks of a majority (§5.3)."""
        core = _living(node)
        entry = core.log.get(index)
        term = entry.term if entry is not None else self._applied[index][0]
        if self._committed.setdefault(index, term) != term:
            raise Violation(
                f"{node.name} commits {index} of term {term}, it was of {self._committed[index]}"
            )
        voters = [m for m in core.members.members if m.role == "voter"]
        holders = [m.name for m in voters if self._holds(m.uid, index, term)]
        if len(holders) < core.members.quorum:
            raise Violation(
                f"{node.name} commits {index} of term {term} for {len(voters)} voters, "
                f"it is on the disks of {holders}"
            )
        self._committed_in.setdefault(index, core.term)
        self.committed_index = max(self.committed_index, index)

    def _holds(self, uid: str, index: int, term: int) -> bool:
        disk = self._disks.get(uid)
        return disk is not None and disk.holds(index, term)

    # --- steps ---

    def leads(self, node: Observed) -> None:
        """One leader per term (§5.2), and it has what was committed in earlier terms (§5.4)."""
        core = _living(node)
        known = self.leaders.get(core.term)
        if known == node.name:
            return
        if known is not None:
            raise Violation(f"{known} and {node.name} both lead term {core.term}")
        self.leaders[core.term] = node.name
        self._note(node.name, f"leads term {core.term}")
        for index in range(core.log.first.index, self.committed_index + 1):
            entry = core.log.get(index)
            missing = entry is None or entry.term != self._committed.get(index)
            if missing and self._committed_in.get(index, core.term) < core.term:
                raise Violation(f"{node.name} leads term {core.term} without entry {index}")

    def grows(self, node: Observed) -> None:
        """Log matching (§5.3): an index and a term name one entry and one entry before it, and so
        the whole log up to there. Reads what is new in the node's log."""
        core = _living(node)
        log, last = core.log, core.log.last
        known, end = self._ends.get(node.name, (None, last))
        if known is log and end is last:
            return
        is_longer = known is log and log.get(end.index) is end
        start = end if is_longer else log.first
        before = start.term
        for entry in log.slice(start.index + 1, last.index - start.index, 1 << 62):
            written = (entry.command, before)
            if self._written.setdefault((entry.index, entry.term), written) != written:
                raise Violation(
                    f"{node.name} has another entry {entry.index} of term {entry.term}, "
                    "or another one before it"
                )
            if not before <= entry.term <= core.term:
                raise Violation(
                    f"{node.name}, in term {core.term}, has entry {entry.index} of term "
                    f"{entry.term} after one of term {before}"
                )
            before = entry.term
        self._ends[node.name] = (log, last)

    def cuts(self, node: Observed, removed: Sequence[Entry]) -> None:
        """Entries leave a disk by truncation: none of them is committed (§5.4)."""
        for entry in removed:
            if self._committed.get(entry.index) == entry.term:
                raise Violation(f"{node.name} drops the committed entry {entry.index}")

    def applies(self, node: Observed, entry: Entry) -> None:
        """Only what is committed is applied, and it is the same everywhere (§5.4.3)."""
        applied = (entry.term, entry.command)
        if self._applied.setdefault(entry.index, applied) != applied:
            raise Violation(f"{node.name} applied another entry {entry.index} (term {entry.term})")
        if entry.index > self.committed_index:
            if _living(node).is_leader:
                self.advances(node)
            else:  # it led when it committed this, and lost its quorum in the same tick
                self._commits(node, entry.index)

    def opens(self, node: Observed, term: int, index: int, index_term: int) -> None:
        """A new process on an old directory, whose log was in `term` and ended with the entry
        `index` of `index_term`: it knows its vote, and what of that is committed (Fig. 2)."""
        log = _living(node).log
        if log.term < term:
            raise Violation(f"{node.name} was in term {term} and starts in term {log.term}")
        voted = self._votes.get((log.term, node.uid))
        if voted is not None and log.voted_for != voted:
            raise Violation(
                f"{node.name} voted for {voted} in term {log.term} and starts with a vote for "
                f"{log.voted_for or 'nobody'}"
            )
        while index > log.first.index and self._committed.get(index) != index_term:
            written = self._written.get((index, index_term))
            if written is None:
                return  # a snapshot ended there: the log began with it
            index, index_term = index - 1, written[1]
        entry = log.get(index)
        if index > log.first.index and (entry is None or entry.term != index_term):
            raise Violation(f"{node.name} starts without the committed entry {index}")

    def stamps(self, node: Observed, wall_ms: int, elapsed_ms: int) -> None:
        """The clocks of the applied state are not ahead of real time, as long as so few clocks
        were wrong that any majority outvotes them: one, of two to six voters."""
        self._looks_at_clock(node)
        passed_ms = int(self._now() * 1000)
        ahead_ms = wall_ms - self._epoch_ms - passed_ms
        if self._are_outvoted and ahead_ms > CLOCK_TOLERANCE_MS:
            raise Violation(f"the cluster's wall clock is {ahead_ms} ahead")
        if elapsed_ms > passed_ms + 1:
            raise Violation(f"{elapsed_ms} ms elapsed in {passed_ms}")

    def _looks_at_clock(self, node: Observed) -> None:
        """Messages carry clocks, and a peer remembers what it heard."""
        if node.skew_ms > 0:
            self._ahead[node.name] = None
        core = node.core
        if self._ahead and core is not None and core.is_leader:
            ahead = sum(voter in self._ahead for voter in core.members.voters)
            # a leader takes the lower middle of the clocks that it knows, a majority at least
            self._are_outvoted &= ahead <= core.members.quorum // 2


def _living(node: Observed) -> Core:
    core = node.core
    assert core is not None, "only living nodes take steps"
    return core
