"""Votes, appends and commits: PySyncObj's logic, hardened. Sans-IO and synchronous.

This is the only module that knows PySyncObj's private names (`_SyncObj__...`). PySyncObj keeps:
terms and votes, the election, the append rule, the commit rule (Raft Fig. 2). Replaced, each for
a defect measured in 0.3.17: sending, acknowledging, applying, membership, compaction, storage.
Each rule below cites the paper; tests/paper shows what the stock class does without it.

May not: read a clock (`now` comes with each call, monotonic seconds), touch a socket or a disk.
`core.py` adds what a leader and its followers do with an elected term.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import msgpack

from cluster.raft.clock import ClusterClock
from cluster.raft.log import Entry, ForgottenEntries, LogStore
from cluster.raft.membership import Membership
from cluster.raft.stock import FOLLOWER, LEADER, Message, Now, Outbox, SyncObj, SyncObjConf, peer_of

REGULAR, NO_OP, MEMBERSHIP = b"\x00", b"\x01", b"\x02"
HEADER_VERSION = 1
STALL_MAX_S = 2.0
"""What a slow disk may add to an election timeout at most."""


class Timing(NamedTuple):
    """Seconds. Heartbeats must fit several times into the shortest election timeout."""

    heartbeat: float = 0.05
    election_min: float = 0.3
    election_max: float = 0.6


class _Journal:
    """PySyncObj's journal interface on a LogStore. Every change of the log passes here, which is
    where the configuration in force follows the log (thesis §4.1)."""

    def __init__(self, core: Consensus, log: LogStore) -> None:
        self._core = core
        self._log = log

    def __len__(self) -> int:
        return len(self._log)

    def __getitem__(self, item: int) -> Entry | None:
        return self._log.last if item == -1 else self._log.get(self._log.first.index + item)

    def add(self, command: bytes, index: int, term: int) -> None:
        if command == NO_OP and self._core.is_leader:
            command = self._core.first_command_of_term()
        self._log.append(Entry(command, index, term))
        self._core.appended(command, index)

    def deleteEntriesFrom(self, position: int) -> None:
        index = self._log.first.index + position
        self._core.truncating(index)
        self._log.truncate(index)

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self._log.set_term(term, voted_for)

    def getCurrentTerm(self) -> int:
        return self._log.term

    def getVotedForNodeId(self) -> str | None:
        return self._log.voted_for

    def getRaftCommitIndex(self) -> int:
        return self._log.first.index

    def setRaftCommitIndex(self, index: int) -> None:
        """Not kept: the applied index of the state tells what certainly was committed."""

    def onOneSecondTimer(self) -> None:
        """Nothing is written lazily."""


class Consensus(SyncObj):  # type: ignore[misc]
    """Terms, votes, the append rule and the commit rule of one node. Use it through `Core`."""

    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int

    def __init__(
        self,
        *,
        name: str,
        uid: str,
        log: LogStore,
        applied_index: int,
        members: Membership,
        clock: ClusterClock,
        random: Random,
        timing: Timing,
        now: float,
    ) -> None:
        self.name = name
        self.uid = uid
        self.log = log
        self.clock = clock
        self.timing = timing
        self._random = random
        self._late: list[tuple[str, Message]] = []
        # (log index from which it is in force, configuration), oldest first
        self._configurations = [(applied_index, members)]
        self._election_deadline = now
        self._stand_for_election = False
        self._becoming_leader = False
        self._transfer_election = False
        self._votes: dict[str, int] = {}  # voter -> the term in which its vote was counted
        self._pre_votes: dict[str, bool] | None = None
        self._leader_heard_at = float("-inf")
        # as far as this node knows; never a proof (ask with a read)
        self.leader: str | None = None
        self._answering: Message = {}
        self._stall = 0.0
        self._peer_stall = 0.0
        Now.value = now
        configuration = SyncObjConf(
            autoTick=False,
            journalFile=_Journal(self, log),
            dynamicMembershipChange=False,
            raftMinTimeout=timing.election_min,
            raftMaxTimeout=timing.election_max,
            appendEntriesPeriod=timing.election_min / 4,
            leaderFallbackTimeout=timing.election_max,
            connectionTimeout=timing.election_max,
        )
        others = [peer_of(voter) for voter in members.voters if voter != name]
        super().__init__(peer_of(name), others, configuration, transport=Outbox(self._send))
        known = max(applied_index, log.first.index)
        self._SyncObj__raftCommitIndex = known
        self._SyncObj__raftLastApplied = known
        for entry in log.slice(known + 1, len(log), 1 << 62):
            self.appended(entry.command, entry.index)

    @property
    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    @property
    def commit_index(self) -> int:
        return self._SyncObj__raftCommitIndex

    @property
    def applied_index(self) -> int:
        return self._SyncObj__raftLastApplied

    @property
    def is_leader(self) -> bool:
        return self._SyncObj__raftState == LEADER

    @property
    def is_candidate(self) -> bool:
        return self._SyncObj__raftState not in (FOLLOWER, LEADER)

    @property
    def members(self) -> Membership:
        """The configuration in force: that of the newest membership entry in the log."""
        return self._configurations[-1][1]

    @property
    def members_index(self) -> int:
        """Up to which log index `members` is known: two different ones compare by age."""
        return self._configurations[-1][0]

    # --- for core.py ---

    def _enter(self, now: float) -> None:
        """Each call from outside brings the time."""
        Now.value = now

    @property
    def _now(self) -> float:
        return Now.value

    def _append_own(self, command: bytes, index: int) -> None:
        """The leader appends to its own log (§5.3)."""
        self.log.append(Entry(command, index, self.term))
        self.appended(command, index)

    def _run_stock(self, now: float) -> None:
        """Elections that were granted a pre-vote, the commit rule, check-quorum. Nothing else of
        stock's tick is in use, so mostly it would find nothing to do."""
        led = self.is_leader
        if self._stand_for_election or (led and not self._is_calm(now)):
            self._onTick(0.0)
        self._stand_for_election = False
        if led and not self.is_leader:
            self._step_down(now)

    def _is_calm(self, now: float) -> bool:
        """Whether nothing of this leader's log waits to be committed and no voter is silent."""
        if self.commit_index < self._SyncObj__getCurrentLogIndex():
            return False
        heard = min(self._SyncObj__lastResponseTime.values(), default=now)
        return heard > now - self.timing.election_max

    def _forgive(self, now: float, stalled: float) -> None:
        """Silence while this process could not listen says nothing about the others."""
        if stalled <= self.timing.heartbeat:
            return
        self._leader_heard_at += stalled
        for peer in self._SyncObj__lastResponseTime:
            self._SyncObj__lastResponseTime[peer] += stalled
        self._election_deadline += stalled
        if self._election_deadline < now + self.timing.election_min:
            # drawn anew: nodes that were all paused at once must not all stand at once
            self._election_deadline = now + self._SyncObj__generateRaftTimeout()

    def _heard(self, peer: str, now: float) -> None:
        """A follower answered in this term: it counts for check-quorum (thesis §6.2)."""
        patience = max(self._stall, self._peer_stall)
        self._SyncObj__lastResponseTime[peer_of(peer)] = now + patience

    def _count(self, peer: str, match: int) -> None:
        """A voter has every entry up to `match` on its disk."""
        matches, voter = self._SyncObj__raftMatchIndex, peer_of(peer)
        matches[voter] = max(match, matches[voter])

    def _mark_applied(self, index: int) -> None:
        if index != self.applied_index + 1:
            raise AssertionError(f"applied {index} after {self.applied_index}")
        self._SyncObj__raftLastApplied = index
        while len(self._configurations) > 1 and self._configurations[1][0] <= index:
            del self._configurations[0]

    def _jump_to(self, index: int, term: int, members: Membership) -> None:
        """A snapshot replaced the state: the log begins anew at its last entry."""
        self.log.reset(Entry(b"", index, term))
        self._SyncObj__raftCommitIndex = index
        self._SyncObj__raftLastApplied = index
        self._configurations = [(index, members)]
        self._configuration_changed()

    # --- hooks that core.py fills ---

    def _elected(self, now: float) -> None:
        """This node leads the new term; its first entry is in the log."""

    def _deposed(self, now: float) -> None:
        """This node led and no longer does."""

    def _leader_changed(self, previous: str | None, now: float) -> None:
        """Another leader is known, or none."""

    def _configuration_changed(self) -> None:
        """A configuration came into force or was rolled back: PySyncObj counts its voters."""
        voters = [voter for voter in self.members.voters if voter != self.name]
        peers = {peer_of(voter) for voter in voters}
        self._SyncObj__otherNodes = peers
        for table in (
            self._SyncObj__raftMatchIndex,
            self._SyncObj__raftNextIndex,
            self._SyncObj__lastResponseTime,
        ):
            for gone in [peer for peer in table if peer not in peers]:
                del table[gone]
        for voter in voters:
            peer = peer_of(voter)
            self._SyncObj__raftMatchIndex.setdefault(peer, 0)
            self._SyncObj__raftNextIndex.setdefault(peer, self.log.last.index + 1)
            self._SyncObj__lastResponseTime.setdefault(peer, Now.value)

    # --- the log changes ---

    def appended(self, command: bytes, index: int) -> None:
        """An entry entered the log: a configuration counts from now on (thesis §4.1)."""
        if command[:1] == MEMBERSHIP:
            members = Membership.decode(msgpack.unpackb(command[1:])[6])
            self._configurations.append((index, members))
            self._configuration_changed()

    def truncating(self, index: int) -> None:
        """Entries from `index` on are about to go: they conflict with the leader's (§5.3)."""
        if index <= self.commit_index:
            raise AssertionError(f"truncation at {index}, committed is {self.commit_index}")
        changed = False
        while self._configurations[-1][0] >= index and len(self._configurations) > 1:
            self._configurations.pop()
            changed = True
        if changed:
            self._configuration_changed()

    def _SyncObj__getEntries(self, first: int, count: int = 1 << 62) -> list[Entry]:
        """Stock's way to them leads through positions in the journal, and back."""
        return self.log.slice(first, count, 1 << 62)

    def _SyncObj__getCurrentLogIndex(self) -> int:
        """For the commit rule the leader's own copy counts only as far as it is persisted
        (thesis §10.2.1); stock counts it at once."""
        last = self.log.last.index
        if self.is_leader and not self._becoming_leader:
            return min(last, self.log.persisted_index)
        return last

    def _newest_stamp(self) -> tuple[int, int]:
        """The clocks of the newest stamped entry in the log, committed or not; else the base's."""
        index = self.log.last.index
        while (entry := self.log.get(index)) is not None:
            if len(entry.command) > 1:
                _, wall, elapsed, *_ = _header(entry.command)
                return max(wall, self._stamp_floor[0]), max(elapsed, self._stamp_floor[1])
            index -= 1
        return self._stamp_floor

    _stamp_floor: tuple[int, int] = (0, 0)
    """The applied state's clocks, kept current by the caller."""

    # --- elections ---

    @property
    def _SyncObj__raftElectionDeadline(self) -> float:
        # stock stands for election when this lies in the past: only a pre-vote lets it (§9.6)
        return float("-inf") if self._stand_for_election else float("inf")

    @_SyncObj__raftElectionDeadline.setter
    def _SyncObj__raftElectionDeadline(self, deadline: float) -> None:
        self._election_deadline = deadline

    def _SyncObj__generateRaftTimeout(self) -> float:
        patience = max(self._stall, self._peer_stall)
        chosen = self._random.uniform(self.timing.election_min, self.timing.election_max)
        return chosen + patience

    def _SyncObj__connectedToAnyone(self) -> bool:
        return True  # the pre-vote reached a majority already

    def _can_campaign(self) -> bool:
        member = self.members.get(self.name)
        return member is not None and member.role == "voter" and member.uid == self.uid

    def _start_pre_vote(self, now: float) -> None:
        """Ask whether an election could be won before disturbing anybody's term (thesis §9.6)."""
        self._election_deadline = now + self._SyncObj__generateRaftTimeout()
        self._set_leader(None, now)
        self._pre_votes = {self.name: True}
        if self.members.is_quorum(self._pre_votes):
            self._campaign(transfer=False)
            return
        last = self.log.last
        for voter in self.members.voters:
            if voter != self.name:
                position = {"last_log_index": last.index, "last_log_term": last.term}
                self._send(voter, {"type": "pre_vote", "term": self.term + 1, **position})

    def _campaign(self, transfer: bool) -> None:
        """Let stock stand for election at the next tick."""
        self._pre_votes = None
        self._transfer_election = transfer
        self._stand_for_election = True

    def _receive_pre_vote(self, now: float, sender: str, message: Message) -> None:
        last = self.log.last
        current = (message["last_log_term"], message["last_log_index"]) >= (last.term, last.index)
        granted = message["term"] > self.term and current and not self._leader_is_alive(now)
        reply = {"type": "pre_vote_reply", "term": self.term, "for": message["term"]}
        self._send(sender, {**reply, "granted": granted, **self._clock_shows()})

    def _clock_shows(self) -> Message:
        """What a voter tells a candidate: its own wall clock, and its claim of the stamped one."""
        return {"wall": self.clock.own_wall_ms(), "shown": self.clock.claim(Now.value)}

    def _receive_pre_vote_reply(self, now: float, sender: str, message: Message) -> None:
        self.clock.observe(sender, message["wall"], now, message.get("shown"))
        if message["term"] > self.term:
            self._adopt_term(now, message["term"])
        elif self._pre_votes is None or message["for"] != self.term + 1 or self.is_leader:
            return
        elif message["granted"]:
            self._pre_votes[sender] = True
            if self.members.is_quorum(self._pre_votes) and self._can_campaign():
                self._campaign(transfer=False)

    def _leader_is_alive(self, now: float) -> bool:
        """Leader stickiness (thesis §4.2.3): who hears a leader helps nobody to depose it."""
        return self.is_leader or now - self._leader_heard_at < self.timing.election_min

    def _receive_request_vote(self, now: float, sender: str, message: Message) -> None:
        if self._leader_is_alive(now) and not message["transfer"]:
            return
        if message["term"] > self.term:
            self._adopt_term(now, message["term"])
        self._stock_receive(sender, message)

    def _receive_response_vote(self, now: float, sender: str, message: Message) -> None:
        # a vote counts once, from a voter, for this term
        self.clock.observe(sender, message["wall"], now, message.get("shown"))
        counted = self._votes.get(sender) == message["term"]
        if message["term"] == self.term and sender in self.members.voters and not counted:
            self._votes[sender] = self.term
            self._stock_receive(sender, message)

    def _SyncObj__onBecomeLeader(self) -> None:
        now = Now.value
        self._becoming_leader = True
        self.clock.lead(now, self.term, *self._newest_stamp())
        super()._SyncObj__onBecomeLeader()
        self._becoming_leader = False
        self._set_leader(self.name, now)
        self._elected(now)

    def first_command_of_term(self) -> bytes:
        """The no-op of a new term says who leads: applying it is the election's event."""
        voters, learners = list(self.members.voters), list(self.members.learners)
        return NO_OP + self._stamped(self.name, voters, learners)

    def _stamped(self, *fields: object) -> bytes:
        wall, elapsed = self.clock.stamp(Now.value, self.members.voters)
        return bytes(msgpack.packb([HEADER_VERSION, wall, elapsed, *fields]))

    def _adopt_term(self, now: float, term: int) -> None:
        """Somebody is in a later term: follow (Fig. 2, rules for all servers)."""
        led = self.is_leader
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes = None
        if led:
            self._step_down(now)
        else:
            self._set_leader(None, now)

    def _step_down(self, now: float) -> None:
        self._election_deadline = now + self._SyncObj__generateRaftTimeout()
        self._set_leader(None, now)
        self._deposed(now)

    def _set_leader(self, leader: str | None, now: float) -> None:
        previous, self.leader = self.leader, leader
        if previous != leader:
            self._leader_changed(previous, now)

    # --- the append rule, follower side ---

    def _receive_append_entries(self, now: float, sender: str, message: Message) -> None:
        if message["term"] < self.term:
            # Our term tells a deposed leader (§5.1). It may lead again when it hears this, and the
            # round of its former leadership confirms nothing in the new one.
            self._acknowledge(sender, {**message, "round": 0})
            return
        led = self.is_leader
        if led and message["term"] == self.term:
            raise AssertionError(f"{sender} and {self.name} both lead term {self.term}")
        self._leader_heard_at = now
        self._peer_stall = message["stall"]
        self.clock.follow(message["wall"], now, message["term"])
        self._pre_votes = None
        self._answering = message
        if "prevLogIdx" in message:
            self._append(sender, message)
        else:
            # a heartbeat: what it lets us commit, the leader knows that we have
            if message["commit_index"] > self.log.last.index:
                raise ForgottenEntries(message["commit_index"], self.log.last.index)
            self._stock_receive(sender, message)
            if "quiet" not in message:
                self._acknowledge(sender, message)
        if led:
            self._step_down(now)
        self._set_leader(sender, now)

    def _is_mere_heartbeat(self, sender: str, message: Message) -> bool:
        """Whether the leader that this node follows says no more than that it is there."""
        return (
            message["type"] == "append_entries"
            and sender == self.leader
            and message["term"] == self.term
            and "prevLogIdx" not in message
            and message["commit_index"] <= self.commit_index
        )

    def _append(self, sender: str, message: Message) -> None:
        """§5.3, with what already matches trimmed away before stock sees it, because stock
        truncates everything behind the first entry of a message, acknowledged or not."""
        previous: int = message["prevLogIdx"]
        entries: list[tuple[bytes, int, int]] = message["entries"]
        end = previous + len(entries)
        commit = min(message["commit_index"], end)
        heartbeat = {"type": "append_entries", "term": message["term"]}
        mine = self.log.get(previous)
        if previous > self.commit_index and (mine is None or mine.term != message["prevLogTerm"]):
            self._stock_receive(sender, {**heartbeat, "commit_index": 0})
            self._acknowledge(sender, message, reset_to=self._conflict_hint(previous))
            return
        known = max(self.commit_index - previous, 0)  # committed entries are the leader's (§5.4)
        while known < len(entries) and (have := self.log.get(previous + known + 1)) is not None:
            _, _, term = entries[known]
            if have.term != term:
                break
            known += 1
        if known >= len(entries):
            self._stock_receive(sender, {**heartbeat, "commit_index": commit})
            self._acknowledge(sender, message, match=end)
            return
        before = self.log.get(previous + known)
        assert before is not None, "the entry before the first new one is in the log"
        fresh = {"prevLogIdx": before.index, "prevLogTerm": before.term}
        self._stock_receive(
            sender, {**heartbeat, "commit_index": commit, "entries": entries[known:], **fresh}
        )

    def _conflict_hint(self, previous: int) -> int:
        """Where the leader should try next: behind the last entry that can match, by terms."""
        mine = self.log.get(previous)
        if mine is None:
            return max(min(self.log.last.index, previous) + 1, self.commit_index + 1)
        index = previous
        while index - 1 > self.commit_index:
            before = self.log.get(index - 1)
            if before is None or before.term != mine.term:
                break
            index -= 1
        return max(index, self.commit_index + 1)

    def _SyncObj__sendNextNodeIdx(
        self, node: Any, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
    ) -> None:
        """Stock's answer after it appended."""
        if not success or nextNodeIdx is None:
            raise AssertionError("stock refused an append that was checked before")
        self._acknowledge(node.id, self._answering, match=nextNodeIdx - 1)

    def _acknowledge(
        self, to: str, message: Message, match: int | None = None, reset_to: int | None = None
    ) -> None:
        """Every answer carries our term (an old one counts nowhere) and echoes flight and round."""
        self._send(
            to,
            {
                "type": "append_reply",
                "term": self.term,
                "match": match,
                "reset_to": reset_to,
                "flight": message["flight"],
                "round": message["round"],
                "wall": self.clock.own_wall_ms(),
                "stall": self._stall,
            },
        )

    # --- between stock and us ---

    def _stock_receive(self, sender: str, message: Message) -> None:
        self._SyncObj__onMessageReceived(peer_of(sender), message)

    def _send(self, to: str, message: Message) -> None:
        """Queue a message that leaves after the fsync. Stock's votes pass here, too."""
        if message["type"] == "request_vote":
            message["transfer"] = self._transfer_election
        elif message["type"] == "response_vote":
            message.update(self._clock_shows())
        self._late.append((to, message))

    def _checkCommandsToApply(self) -> None:
        """Stock's queue is not used: core.py places proposals."""

    def _SyncObj__sendAppendEntries(self) -> None:
        """Replaced by core.py's replication."""

    def _SyncObj__applyLogEntries(self) -> bool:
        """Replaced: the caller applies, bounded, and nothing it raises is swallowed."""
        return False

    def _SyncObj__tryLogCompaction(self) -> None:
        """Replaced: the log is cut where a completed checkpoint of the state allows."""

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        """Replaced: the configuration follows the log in `appended` and `truncating`."""


def _header(command: bytes) -> list[Any]:
    """`[version, wall_ms, elapsed_ms]` of a stamped command without decoding the rest."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(command[1:64])
    unpacker.read_array_header()
    return [unpacker.unpack() for _ in range(3)]
