"""Planted bugs: each removes one rule of the hardening. A checker has to notice every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.raft.clock import ClusterClock
from cluster.raft.core import Core
from cluster.raft.membership import Membership
from cluster.raft.proposals import Proposals
from cluster.raft.stock import Message
from simulation.core.disk import SimulatedLog
from simulation.core.process import Process
from simulation.core.world import World


class ReadsWithoutRounds(Core):
    """The leader believes in itself and serves reads at once."""

    def _confirm_reads(self) -> None:
        self._rounds.confirm(self._rounds.number)


class AnyTermsAnswer(Core):
    """An acknowledgement counts whatever term it is of (defect G)."""

    def _receive_append_reply(self, now: float, sender: str, message: Message) -> None:
        super()._receive_append_reply(now, sender, {**message, "term": self.term})


class NoTrimming(Core):
    """A message truncates what stands behind its first entry, as stock does (defect A)."""

    def _append(self, sender: str, message: Message) -> None:
        previous = message["prevLogIdx"]
        if previous >= self.commit_index and self.log.get(previous + 1) is not None:
            mine = self.log.get(previous)
            if mine is not None and mine.term == message["prevLogTerm"]:
                self.truncating(previous + 1)
                self.log.truncate(previous + 1)
        super()._append(sender, message)


class OwnCopyAtOnce(Core):
    """The leader counts its own copy before its fsync, as stock does."""

    def _SyncObj__getCurrentLogIndex(self) -> int:
        return self.log.last.index


class OverlappingChanges(Core):
    """Membership changes do not wait for each other (defect D)."""

    def _refusal(self, change: Any, name: str) -> Exception | None:
        self._membership_index = 0
        return super()._refusal(change, name)

    def _promotion_refusal(self, name: str) -> Exception | None:
        return None


class AnybodysVote(Core):
    """Votes count without looking at the voter, and again when they are repeated."""

    def _receive_pre_vote_reply(self, now: float, sender: str, message: Message) -> None:
        super()._receive_pre_vote_reply(now, sender, {**message, "granted": True})

    def _receive_request_vote(self, now: float, sender: str, message: Message) -> None:
        self.log.voted_for = None  # type: ignore[misc]
        self._SyncObj__votedForNodeId = None
        super()._receive_request_vote(now, sender, message)


class _ForgetfulLog(SimulatedLog):
    """The vote is kept in memory only."""

    def set_term(self, term: int, voted_for: str | None) -> None:
        super().set_term(term, voted_for)
        self._unsynced.append(lambda platter: setattr(platter, "voted_for", None))


class ForgottenVotes(World):
    """A restarted node votes again in the same term."""

    def make_log(self, process: Process) -> SimulatedLog:
        return _ForgetfulLog(process.platter, process.on_commit)


class CommitsUnverified(Core):
    """The commit index is taken from a message without looking at what it verified (defect E)."""

    def _append(self, sender: str, message: Message) -> None:
        super()._append(sender, message)
        last = self.log.last.index
        self._SyncObj__raftCommitIndex = max(self.commit_index, min(message["commit_index"], last))

    def _receive_append_entries(self, now: float, sender: str, message: Message) -> None:
        told = message["commit_index"]
        if "prevLogIdx" not in message:
            message = {**message, "commit_index": min(told, self.log.last.index)}
        super()._receive_append_entries(now, sender, message)
        if message["term"] == self.term:
            self._SyncObj__raftCommitIndex = max(self.commit_index, min(told, self.log.last.index))

    def _heartbeat_message(self, progress: Any) -> Message:
        return {**super()._heartbeat_message(progress), "commit_index": self.commit_index}


class AnswersBeforeSync(Core):
    """Votes and acknowledgements leave before the fsync that they speak of."""

    def take_early(self) -> list[tuple[str, Message]]:
        return super().take_early() + super().take_messages()


class CommitsOldTerms(Core):
    """A leader counts copies of older terms' entries (Fig. 8 of the paper)."""

    def _run_stock(self, now: float) -> None:
        super()._run_stock(now)
        if self.is_leader:
            copies = sorted(
                self.log.persisted_index if voter == self.name else self._progress[voter].match
                for voter in self.members.voters
            )
            common = copies[len(copies) - self.members.quorum]
            self._SyncObj__raftCommitIndex = max(self.commit_index, common)


class ServesBeforeItsTerm(Core):
    """A new leader reads and changes members before an entry of its own term is committed."""

    def _elected(self, now: float) -> None:
        super()._elected(now)
        self._term_started_at = 0


class ReadsBeforeApplied(Core):
    """A confirmed read does not wait for the state to come so far."""

    def _read_confirmed(self, done: Any, index: int | None) -> None:
        super()._read_confirmed(done, None if index is None else 0)


class IdsStartAnew(Core):
    """A new process names its requests as its predecessor did."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._asked_id = 0
        self.proposals = Proposals()


class _OwnClock(ClusterClock):
    def _median(self, now: float, voters: Sequence[str], clock: object) -> float | None:
        return self._wall_ms()


class BelievesItsClock(World):
    """A leader stamps what its own clock shows."""

    def make_clock(self, process: Process) -> ClusterClock:
        return _OwnClock(process.name, process.wall_ms)


class AnybodyOfThatName(World):
    """A node is known by its name alone: one that was wiped votes and acknowledges as before."""

    def objects(self, process: Process, other: Process) -> bool:
        return False

    def insist(self, process: Process, members: Membership) -> None:
        """Nobody is hung up on."""


CORES: list[type[Core]] = [
    ReadsWithoutRounds,
    AnyTermsAnswer,
    NoTrimming,
    OwnCopyAtOnce,
    OverlappingChanges,
    AnybodysVote,
    CommitsUnverified,
    AnswersBeforeSync,
    CommitsOldTerms,
    ServesBeforeItsTerm,
    ReadsBeforeApplied,
    IdsStartAnew,
]
WORLDS: list[type[World]] = [ForgottenVotes, BelievesItsClock, AnybodyOfThatName]
