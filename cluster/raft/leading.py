"""What a leader does for its followers: entries, heartbeats, commits, rounds, snapshots due.

One message per follower and tick; a follower's answer moves its progress, the commit rule and the
rounds of linearizable reads. `core.py` builds on it.

May not: read a clock, touch a socket or a disk, know PySyncObj.
"""

from __future__ import annotations

from typing import Any

from cluster.raft.consensus import Consensus
from cluster.raft.reads import ReadRounds
from cluster.raft.replication import BATCH_BYTES, BATCH_ENTRIES, Progress
from cluster.raft.stock import Message

COMMIT_NOTICE_S = 0.001
"""How long a follower may wait to hear of a commit that nobody there waits for: the next entries
usually bring it, and a message of its own costs both sides a wake-up."""
STREAM_S = 0.003
"""Where entries follow each other no slower than this, a follower waits for the next one, until
twice the time has passed that the last one took to come."""


_Place = tuple[int, int, bool]
"""Where a peer is: the next index, its flight, whether that is only a probe."""


_Batch = tuple[Message, int, int]
"""An append_entries, the index of its last entry and the bytes of all."""


class Leading(Consensus):
    """Consensus, and replication to the peers while this node leads."""

    def __init__(self, **arguments: Any) -> None:
        self._rounds = ReadRounds()
        self._progress: dict[str, Progress] = {}
        self._connected: dict[str, bool] = {}
        self._early: list[tuple[str, Message]] = []
        self._heartbeat_at: float = arguments["now"]
        self._notice_at = float("inf")
        self._appended_at = float("-inf")
        self._append_interval = float("inf")  # between the last two entries of callers
        super().__init__(**arguments)

    def progress(self) -> dict[str, Progress]:
        """The leader's view of its peers; empty on other nodes."""
        return self._progress if self.is_leader else {}

    def _watch(self, name: str, next_index: int) -> None:
        connected = self._connected.get(name, False)
        self._progress[name] = Progress(next_index, connected)

    def _replicate(self, now: float) -> None:
        heartbeat = now >= self._heartbeat_at or self._rounds.asked < self._rounds.number
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self.timing.heartbeat
        self._rounds.asked = self._rounds.number
        # thesis §10.2.1 holds for entries; a term or vote of this tick must be on disk first
        queue = self._late if self.log.term_dirty else self._early
        commit, notice_at, uninformed = self.commit_index, self._notice_at, False
        last_index = self.log.last.index
        made: dict[_Place, _Batch | None] = {}
        for name, progress in self._progress.items():
            if progress.can_send(last_index):
                queue.append((name, self._append_message(progress, made)))
            elif heartbeat and progress.connected:
                queue.append((name, self._heartbeat_message(progress)))
            elif progress.lacks_commit(commit):
                if now >= notice_at or progress.is_awaiting(commit):
                    queue.append((name, {**self._heartbeat_message(progress), "quiet": True}))
                else:
                    uninformed = True
        if not uninformed:
            self._notice_at = float("inf")
        elif notice_at == float("inf"):
            self._notice_at = self._notice_due(now)

    def _paced(self, now: float) -> None:
        """An entry of callers was appended."""
        self._append_interval, self._appended_at = now - self._appended_at, now

    def _notice_due(self, now: float) -> float:
        due = now + COMMIT_NOTICE_S
        if self._append_interval > STREAM_S:
            return due
        return max(due, self._appended_at + 2 * self._append_interval)

    def _heartbeat_message(self, progress: Progress) -> Message:
        """Carries no entries and no position: it commits what the peer has confirmed to have."""
        progress.told_commit = min(self.commit_index, progress.match)
        return self._sign_of_life(progress.flight, progress.told_commit)

    def _sign_of_life(self, flight: int, commit_index: int) -> Message:
        return {
            "type": "append_entries",
            "term": self.term,
            "commit_index": commit_index,
            "flight": flight,
            "round": self._rounds.number,
            "stall": self._stall,
            "wall": self.clock.shown(self._now),
        }

    def _append_message(self, progress: Progress, made: dict[_Place, _Batch | None]) -> Message:
        """Peers that are equally far get the very same message: it is made, and packed, once."""
        place = (progress.next, progress.flight, progress.probing)
        if place not in made:
            made[place] = self._make_batch(*place)
        batch = made[place]
        if batch is None:
            # what the peer needs next is cut: only a snapshot brings it here (§7)
            progress.snapshotting = True
            progress.snapshot_from = self.applied_index
            return self._heartbeat_message(progress)
        message, last_index, size = batch
        if last_index >= progress.next:
            progress.sent(last_index, size)
        progress.sent_probe = progress.probing
        confirmed = progress.match if progress.probing else last_index
        progress.told_commit = min(message["commit_index"], confirmed)
        return message

    def _make_batch(self, first: int, flight: int, probing: bool) -> _Batch | None:
        previous = self.log.get(first - 1)
        if previous is None:
            return None
        entries = self.log.slice(first, 1 if probing else BATCH_ENTRIES, BATCH_BYTES)
        message = self._sign_of_life(flight, self.commit_index)
        message["entries"] = entries
        message["prevLogIdx"] = previous.index
        message["prevLogTerm"] = previous.term
        size = sum(len(entry.command) for entry in entries)
        return message, previous.index + len(entries), size

    def _receive_append_reply(self, now: float, sender: str, message: Message) -> None:
        if message["term"] > self.term:
            self._adopt_term(now, message["term"])
            return
        progress = self._progress.get(sender)
        if not self.is_leader or message["term"] < self.term or progress is None:
            return  # an old term's answer counts nowhere, nor does a removed node's
        self._peer_answered(now, sender, progress, message["match"])
        self._peer_stall = max(message["stall"], self._peer_stall * 0.9)
        self.clock.observe(sender, message["wall"], now)
        if message["round"] > progress.round:
            progress.round = message["round"]
            self._confirm_reads()
        if message["match"] is not None:
            if progress.lacks_commit(self.commit_index):
                self._notice_at = min(self._notice_at, self._notice_due(now))
        elif message["reset_to"] is not None and message["flight"] == progress.flight:
            progress.restart(message["reset_to"])

    def _changes_nothing(self, sender: str, message: Message) -> bool:
        """Whether nothing waits for this answer: it commits nothing, confirms no read, and the
        peer gets nothing more. The second of two followers' answers, mostly. HOT."""
        progress = self._progress.get(sender)
        return (
            progress is not None
            and not progress.probing
            and message["term"] == self.term
            and message["reset_to"] is None
            and (message["match"] or 0) <= self.commit_index
            and message["round"] <= self._rounds.confirmed
            and progress.next > self.log.last.index
        )

    def _peer_answered(self, now: float, name: str, progress: Progress, match: int | None) -> None:
        """It is there, and perhaps says up to where it has the log."""
        progress.heard_at = now
        if match is not None:
            progress.acknowledged(match)
        if name in self.members.voters:
            self._heard(name, now)
            if match is not None:
                self._count(name, match)

    # --- snapshots: raft/snapshot.py moves the bytes ---

    def needed_index(self) -> int:
        """Behind which index connected peers still need the log. Cut there, a peer whose copy of
        the state takes longer than the log lasts would need one copy after the other."""
        connected = [p.needed_index for p in self.progress().values() if p.connected]
        return min(connected, default=self.log.last.index)

    def snapshots_due(self) -> list[str]:
        """Peers that lack entries which the log no longer has."""
        return [n for n, p in self.progress().items() if p.snapshotting and p.connected]

    def snapshot_answered(self, now: float, name: str, installed_index: int | None) -> None:
        """A peer answered a chunk; with an index it has installed the whole."""
        progress = self.progress().get(name)
        if progress is None:
            return
        self._peer_answered(now, name, progress, installed_index)
        if installed_index is not None:
            progress.snapshotting = False
            progress.restart(installed_index + 1)

    def snapshot_abandoned(self, name: str) -> None:
        """Sending failed: find out again what the peer needs."""
        progress = self.progress().get(name)
        if progress is not None:
            progress.snapshotting = False
            progress.restart(progress.next)

    def _confirm_reads(self) -> None:
        """The newest round that a quorum of voters has echoed serves it and all before it."""
        rounds = sorted(
            self._rounds.number if voter == self.name else self._progress[voter].round
            for voter in self.members.voters
        )
        self._rounds.confirm(rounds[len(rounds) - self.members.quorum])
