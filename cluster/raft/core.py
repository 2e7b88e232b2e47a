"""One node's Raft: consensus plus what a term is for. Sans-IO and synchronous.

Proposals become entries (group commit), entries reach followers (one message per follower and
tick), reads are confirmed (ReadIndex), members and leadership change. One tick, in this order:
`forgive`, `receive` what arrived, `tick`, send `take_early`, persist the log, `persisted`, send
`take_messages`, apply `take_committed`, report each with `applied`, `serve_reads`.

May not: read a clock, touch a socket or a disk, know PySyncObj.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from cluster.errors import LeaderChanged, NoLeader, NotLeader, Rejected
from cluster.operations import VERSION, seal
from cluster.raft.consensus import MEMBERSHIP, REGULAR, STALL_MAX_S
from cluster.raft.gathering import Gathering
from cluster.raft.leading import Leading
from cluster.raft.log import Entry
from cluster.raft.membership import Change, Membership
from cluster.raft.proposals import Done, Forwarded, Proposal, Proposals, overloaded
from cluster.raft.reads import ReadRounds
from cluster.raft.stock import Message
from cluster.raft.versions import EntryVersions

ReadDone = Callable[[object], None]
"""Called once: with None when the local state is fresh enough, or with a TremulaError."""

CATCH_UP_ENTRIES_MAX = 256
"""A learner is promoted only when it lacks no more entries than these (thesis §4.2.1)."""
UNAPPLIED_ENTRIES_MAX = 512
"""With so many entries on their way the leader appends no more; proposals wait and gather."""
TICK_BYTES_MAX = 4 << 20
"""After so many bytes the leader appends no more in this tick: one fsync has to take them."""
REMEMBER_EVERY_S = 1.0
"""How often a node looks whether its wall clock moved against the stamped one."""
CLOCK_NOTE = "clock_ms"
"""Where the log keeps the difference for the next process (clock.py)."""
STALL_REMEMBERED_S = 10.0
"""How long peers are patient after a slow fsync."""


class Bounds(NamedTuple):
    """What one entry and one message may carry, so that a tick stays well below a heartbeat."""

    entry_operations_max: int = 1000
    entry_bytes_max: int = 64 << 10
    snapshot_chunk_bytes: int = 256 << 10


class Core(Leading):
    """Drive it as the module says; all methods are synchronous, every callback is called once."""

    def __init__(self, *, bounds: Bounds | None = None, **arguments: Any) -> None:
        now: float = arguments["now"]
        self.bounds = bounds or Bounds()
        self.proposals = Proposals(arguments["random"].getrandbits(48))
        self._leaderless_since = now
        self._gathering = Gathering()
        self._new_reads: list[ReadDone] = []
        self._asked_reads: dict[int, tuple[str, list[ReadDone]]] = {}
        # ids are never used again, not by the next process either: a peer may still answer old ones
        self._asked_id: int = arguments["random"].getrandbits(48)
        self._ready_reads: list[tuple[int, ReadDone]] = []
        self._transfer: tuple[str, float, Done] | None = None
        self._transfer_sent = False
        self._term_started_at = 0
        self._membership_index = 0
        self._stall_until = now
        self._remembered_at = now
        self.versions = EntryVersions()
        self._handlers = {
            "append_entries": self._receive_append_entries,
            "append_reply": self._receive_append_reply,
            "request_vote": self._receive_request_vote,
            "response_vote": self._receive_response_vote,
            "pre_vote": self._receive_pre_vote,
            "pre_vote_reply": self._receive_pre_vote_reply,
            "timeout_now": self._receive_timeout_now,
            "forward": self._receive_forward,
            "forward_reply": self._receive_forward_reply,
            "read_index": self._receive_read_index,
            "read_index_reply": self._receive_read_index_reply,
            "release": self._receive_release,
        }
        super().__init__(**arguments)

    # --- what the caller sees ---

    @property
    def role(self) -> str:
        """leader | candidate | follower | learner | outsider (not in the configuration)."""
        member = self.members.get(self.name)
        if self.is_leader:
            return "leader"
        if member is None or member.uid != self.uid:
            return "outsider"
        if member.role == "learner":
            return "learner"
        return "candidate" if self.is_candidate else "follower"

    @property
    def ready_to_lead(self) -> bool:
        """Leader, and this term's first entry is applied: nothing older can still surface."""
        return self.is_leader and self.applied_index >= self._term_started_at

    def deadline(self) -> float:
        """When `tick` must be called next at the latest, monotonic seconds."""
        if self.is_leader:
            due = min(self._heartbeat_at, self._notice_at)
            if self._gathering.deadline > self._now:  # if not, what waits has other reasons
                due = min(due, self._gathering.deadline)
            return due if self._transfer is None else min(due, self._transfer[1])
        watching = self.leader is not None or self._can_campaign()
        due = self._election_deadline if watching else float("inf")
        waiting = self.proposals.pending or self._new_reads or self._ready_reads
        if waiting and not self._reachable_leader():
            due = min(due, self._leaderless_since + self.timing.election_max)
        return due

    def receive(self, now: float, sender: str, message: Message) -> None:
        """A message of a member's session. Unknown kinds are a newer version's: ignored."""
        handler = self._handlers.get(message["type"])
        if handler is not None:
            self._enter(now)
            handler(now, sender, message)

    def take_note(self, now: float, sender: str, message: Message) -> bool:
        """`receive` a message that calls for no tick, though perhaps for an answer; False, and
        nothing done, if it does call for one. HOT."""
        if message["type"] == "append_reply":
            idle = self.is_leader and self._transfer is None
            changes_nothing = idle and self._changes_nothing(sender, message)
        else:
            idle = not (self.proposals.pending or self._new_reads or self.log.dirty)
            changes_nothing = idle and self._is_mere_heartbeat(sender, message)
        if changes_nothing:
            self.receive(now, sender, message)
        return changes_nothing

    def peer_connected(self, now: float, name: str) -> None:
        """A session with `name` is up: what was on the way in the last one is lost."""
        self._connected[name] = True
        self._send(name, {"type": "release", "entry_version": VERSION})
        progress = self._progress.get(name)
        if progress is not None:
            progress.connected = True
            progress.snapshotting = False
            progress.restart(progress.match + 1 if progress.match else progress.next)

    def peer_disconnected(self, now: float, name: str) -> None:
        """The session with `name` broke."""
        self._connected[name] = False
        self.versions.forget(name)
        if name in self._progress:
            self._progress[name].connected = False
        if name == self.leader:
            self._leaderless_since = now
            self.proposals.lost_leader(name)
            self._fail_asked_reads(name)

    def propose(self, payload: bytes, done: Done) -> None:
        """Queue one packed operation; `done` gets its result, a Rejection or a TremulaError."""
        self.proposals.add(payload, done)

    def gathers(self, now: float) -> bool:
        """Whether what was proposed waits for more to come, up to `deadline`; the first look begins
        the wait. HOT."""
        proposals, bounds = self.proposals, self.bounds
        return (
            self.is_leader
            and len(proposals.pending) < bounds.entry_operations_max
            and proposals.pending_bytes < bounds.entry_bytes_max
            and self._gathering.waits(now, len(proposals.pending))
        )

    def has_all(self) -> bool:
        """Whether everybody who could be expected has proposed something."""
        return self.is_leader and self._gathering.is_complete(len(self.proposals.pending))

    def read(self, done: ReadDone) -> None:
        """Ask for a linearizable read: `done(None)` once the local state is fresh enough."""
        self._new_reads.append(done)

    def take_early(self) -> list[tuple[str, Message]]:
        """Messages that may leave before the fsync: the leader's entries, because its own copy
        does not count before it is persisted (thesis §10.2.1)."""
        early, self._early = self._early, []
        return early

    def take_messages(self) -> list[tuple[str, Message]]:
        """Messages that leave after the fsync: votes, acknowledgements and all the rest."""
        late, self._late = self._late, []
        return late

    def persisted(self, seconds: float) -> None:
        """The log is on disk; it took `seconds`, which peers add to their patience."""
        if seconds >= self._stall or self._now > self._stall_until:
            self._stall = min(seconds, STALL_MAX_S)
            self._stall_until = self._now + STALL_REMEMBERED_S

    def take_committed(self, count: int, bytes_max: int) -> list[Entry]:
        """The next committed entries to apply, in order."""
        index = self.applied_index
        ready = min(self.commit_index, self.log.persisted_index) - index
        return self.log.slice(index + 1, min(count, ready), bytes_max) if ready > 0 else []

    def applied(self, entry: Entry, results: Sequence[object]) -> None:
        """The state machine has applied `entry`: answer who waits for it."""
        self._mark_applied(entry.index)
        self.proposals.applied(entry.index, entry.term, results)

    def serve_reads(self) -> None:
        """Let the reads go whose index is applied. Call after a batch of `applied`."""
        if self._ready_reads:
            ready = [done for index, done in self._ready_reads if index <= self.applied_index]
            self._ready_reads = [r for r in self._ready_reads if r[0] > self.applied_index]
            for done in ready:
                done(None)

    def has_work(self) -> bool:
        """Whether the next tick can do something without waiting for a peer or a timer."""
        if self.commit_index > self.applied_index or self._late:
            return True
        if not (self._new_reads or self.proposals.pending):
            return False
        if self.is_leader:
            return bool(self._new_reads) or (self._may_append() and not self.gathers(self._now))
        return self._reachable_leader() is not None

    def follow_state(self, wall_ms: int, elapsed_ms: int, entry_version: int) -> None:
        """The applied state's clocks, before which no new leader's stamps begin, and the newest
        entry version in it."""
        self._stamp_floor = (wall_ms, elapsed_ms)
        self.versions.agreed = entry_version

    def installed(self, now: float, index: int, term: int, members: Membership) -> None:
        """A snapshot became the state (Fig. 13); entries it jumped over answer nobody here."""
        self._enter(now)
        self._jump_to(index, term, members)
        self.proposals.skipped(index)

    def forgive(self, now: float, stalled: float) -> None:
        """This process could not listen for `stalled` seconds. Call it before what waited in that
        time is received: that counts as heard now, and no later."""
        self._enter(now)
        self._forgive(now, stalled)

    def tick(self, now: float) -> None:
        """Let time pass: elections, the commit rule, group commit, replication."""
        self._enter(now)
        if now > self._stall_until:
            self._stall = 0.0
        if now > self._remembered_at + REMEMBER_EVERY_S:
            self._remembered_at = now
            offset_ms = self.clock.to_remember(now)
            if offset_ms is not None:
                self.log.note(CLOCK_NOTE, offset_ms)
        if self.is_leader:
            self.clock.tick(now)
        elif self._election_deadline <= now:
            self._set_leader(None, now)
            if self._can_campaign():
                self._start_pre_vote(now)
        self._run_stock(now)
        if self.is_leader:
            self._append_proposals()
            self._open_read_round()
            self._drive_transfer(now)
            self._replicate(now)
        else:
            self._forward_proposals(now)
            self._ask_reads(now)

    # --- proposals ---

    def _append_proposals(self) -> None:
        pending = self.proposals.pending
        if not pending or self.gathers(self._now):
            return
        enough = self.proposals.pending_bytes - TICK_BYTES_MAX
        while pending and self._may_append():
            self._append_entry(self._take_proposals())
            if self.proposals.pending_bytes <= enough:
                break

    def _forward_proposals(self, now: float) -> None:
        pending = self.proposals.pending
        if pending and (leader := self._reachable_leader()):
            while pending:
                identity, payloads = self.proposals.forward(leader, self._take_proposals())
                self._send(leader, {"type": "forward", "id": identity, "payloads": payloads})
        elif pending and now >= self._leaderless_since + self.timing.election_max:
            self.proposals.fail_pending(NoLeader())

    def _take_proposals(self) -> list[Proposal]:
        return self.proposals.take(self.bounds.entry_operations_max, self.bounds.entry_bytes_max)

    def _reachable_leader(self) -> str | None:
        """The leader, if this node has a session with it."""
        return self.leader if self.leader is not None and self._connected.get(self.leader) else None

    def _may_append(self) -> bool:
        return (
            self._transfer is None
            and self.log.last.index - self.applied_index < UNAPPLIED_ENTRIES_MAX
            and self.clock.is_settled(self._now, self.members.voters)
        )

    def _append_entry(self, proposals: list[Proposal]) -> None:
        wall, elapsed = self.clock.stamp(self._now, self.members.voters)
        version = self.versions.newest(self._progress)
        payloads, callers, origins = zip(*proposals, strict=True)
        command = REGULAR + seal(payloads, wall, elapsed, version)
        index = self.log.last.index + 1
        self._append_own(command, index)
        self.proposals.wait(index, self.term, 0, callers)
        self._gathering.appended(len(proposals), self.proposals.under_way)
        self._paced(self._now)
        answered: Forwarded | None = None
        for position, origin in enumerate(origins):
            if origin is not None and origin is not answered:
                answered = origin
                if origin.peer in self._progress:
                    self._progress[origin.peer].awaited = index
                place = {"index": index, "term": self.term, "offset": position}
                self._send(origin.peer, {"type": "forward_reply", "id": origin.identity, **place})

    def _receive_release(self, now: float, sender: str, message: Message) -> None:
        self.versions.told(sender, message["entry_version"])

    def _receive_forward(self, now: float, sender: str, message: Message) -> None:
        if not self.is_leader:
            self._refuse(sender, message["id"])
            return
        if self.proposals.is_full(sum(map(len, message["payloads"]))):
            self._refuse(sender, message["id"], overloaded=True)
            return
        origin = Forwarded(sender, message["id"])
        for payload in message["payloads"]:
            self.proposals.add(payload, None, origin)

    def _refuse(self, peer: str, identity: int, *, overloaded: bool = False) -> None:
        why = {"leader": self.leader, "overloaded": overloaded}
        self._send(peer, {"type": "forward_reply", "id": identity, **why})

    def _receive_forward_reply(self, now: float, sender: str, message: Message) -> None:
        if "index" in message:
            place = (message["index"], message["term"], message["offset"])
            self.proposals.placed(message["id"], *place, self.applied_index)
        elif message["overloaded"]:
            self.proposals.refused(message["id"], overloaded())
        else:
            self.proposals.refused(message["id"], NotLeader(message["leader"]))

    # --- reads ---

    def _open_read_round(self) -> None:
        for done in self._new_reads:
            self._rounds.add(partial(self._read_confirmed, done))
        self._new_reads = []
        if self._rounds.waiting and self.commit_index >= self._term_started_at:
            self._rounds.open_round(self.commit_index)
            self._confirm_reads()

    def _ask_reads(self, now: float) -> None:
        leader = self._reachable_leader()
        if leader is None:
            if now >= self._leaderless_since + self.timing.election_max:
                self._give_up_reads()
        elif self._new_reads:
            self._asked_id += 1
            self._asked_reads[self._asked_id] = (leader, self._new_reads)
            self._new_reads = []
            self._send(leader, {"type": "read_index", "id": self._asked_id})

    def _give_up_reads(self) -> None:
        """Without a leader nothing new is confirmed, and what a confirmed read waits for may never
        come: a removed node is sent no more entries. A read can always be asked for again."""
        waiting = self._new_reads + [done for _, done in self._ready_reads]
        self._new_reads, self._ready_reads = [], []
        for done in waiting:
            done(NoLeader())

    def _read_confirmed(self, done: ReadDone, index: int | None) -> None:
        if index is None:
            done(NotLeader(self.leader))
        else:
            self._ready_reads.append((index, done))

    def _receive_read_index(self, now: float, sender: str, message: Message) -> None:
        reply = {"type": "read_index_reply", "id": message["id"]}
        if not self.is_leader:
            self._send(sender, {**reply, "index": None})
            return
        self._rounds.add(lambda index: self._send(sender, {**reply, "index": index}))

    def _receive_read_index_reply(self, now: float, sender: str, message: Message) -> None:
        _, waiting = self._asked_reads.pop(message["id"], ("", []))
        for done in waiting:
            self._read_confirmed(done, message["index"])

    def _fail_asked_reads(self, leader: str) -> None:
        for identity in [i for i, (asked, _) in self._asked_reads.items() if asked == leader]:
            for done in self._asked_reads.pop(identity)[1]:
                done(NotLeader(None))

    # --- members ---

    def change_members(self, change: Change, name: str, uid: str, address: str, done: Done) -> None:
        """Append one single-server change (thesis §4.1), or refuse it with a reason."""
        refusal = self._refusal(change, name)
        if refusal is not None:
            done(refusal)
            return
        if change == "added_learner":
            members = self.members.with_learner(name, uid, address)
        elif change == "promoted":
            members = self.members.with_voter(name)
        else:
            members = self.members.without(name)
        affected = members.get(name) or self.members.get(name)
        address = affected.address if affected is not None else address
        command = MEMBERSHIP + self._stamped(change, name, address, members.encode())
        index = self.log.last.index + 1
        self._append_own(command, index)
        self.proposals.wait(index, self.term, 0, [done])

    def _refusal(self, change: Change, name: str) -> Exception | None:
        member = self.members.get(name)
        if not self.is_leader:
            return NotLeader(self.leader)
        if not self.ready_to_lead or self._membership_index > self.applied_index:
            return Rejected("membership_change_pending", "another change is not yet committed")
        if change == "added_learner" and member is not None:
            return Rejected("member_exists", f"{name} is a {member.role} already")
        if change != "added_learner" and member is None:
            return Rejected("unknown_member", f"{name} is not a member of this cluster")
        if change == "promoted":
            return self._promotion_refusal(name)
        return self._removal_refusal(name) if change == "removed" else None

    def _removal_refusal(self, name: str) -> Exception | None:
        if name == self.name:
            return Rejected("member_leads", f"{name} leads: transfer leadership first")
        remaining = self.members.without(name)
        silent = [v for v in remaining.voters if v != self.name and not self._hears(v)]
        if name in self.members.voters and len(remaining.voters) - len(silent) < remaining.quorum:
            # the removal itself could never commit, and nothing after it
            detail = f"without {name} too few voters answer: {', '.join(silent)} do not"
            return Rejected("quorum_at_risk", f"{detail}; repair or remove them first")
        return None

    def _hears(self, name: str) -> bool:
        """Whether a peer of this leader answered within an election timeout."""
        patience = self.timing.election_max + max(self._stall, self._peer_stall)
        return self._now - self._progress[name].heard_at < patience

    def _promotion_refusal(self, name: str) -> Exception | None:
        if name in self.members.voters:
            return Rejected("member_exists", f"{name} is a voter already")
        progress = self._progress[name]
        lacking = self.log.last.index - progress.match
        heard = progress.connected and self._hears(name)
        if progress.snapshotting or lacking > CATCH_UP_ENTRIES_MAX or not heard:
            return Rejected("member_lags", f"{name} lacks {lacking} entries, wait and try again")
        return None

    def _configuration_changed(self) -> None:
        super()._configuration_changed()
        self._membership_index = self._configurations[-1][0]
        if self.is_leader:
            for name in [n for n in self._progress if self.members.get(n) is None]:
                del self._progress[name]
            for member in self.members.members:
                if member.name not in self._progress and member.name != self.name:
                    self._watch(member.name, self.log.last.index + 1)
                elif member.name in self.members.voters and member.name != self.name:
                    self._count(member.name, self._progress[member.name].match)

    # --- leadership ---

    def transfer_leadership(self, now: float, target: str | None, done: Done) -> None:
        """Hold new proposals until `target` (default: the most advanced voter) has everything,
        then let it stand (thesis §3.10). Given up after one election timeout."""
        others = [v for v in self.members.voters if v != self.name and self._connected.get(v)]
        if not self.is_leader:
            done(NotLeader(self.leader))
        elif self._transfer is not None:
            done(Rejected("transfer_pending", f"leadership is going to {self._transfer[0]}"))
        elif target == self.name:
            done(None)
        elif (target is not None and target not in others) or not others:
            done(Rejected("unknown_member", f"{target or 'nobody'} is no connected voter"))
        else:
            chosen = target or max(others, key=lambda name: (self._progress[name].match, name))
            patience = max(self._stall, self._peer_stall)
            self._transfer = (chosen, now + self.timing.election_max + patience, done)
            self._transfer_sent = False

    def _drive_transfer(self, now: float) -> None:
        if self._transfer is None:
            return
        target, until, done = self._transfer
        if now >= until or target not in self._progress:
            self._transfer = None
            done(Rejected("transfer_failed", f"{target} did not take over in time"))
        elif not self._transfer_sent and self._progress[target].match == self.log.last.index:
            self._transfer_sent = True
            self._send(target, {"type": "timeout_now", "term": self.term})

    def _receive_timeout_now(self, now: float, sender: str, message: Message) -> None:
        if message["term"] == self.term and sender == self.leader and self._can_campaign():
            self._campaign(transfer=True)

    # --- what consensus.py tells ---

    def _elected(self, now: float) -> None:
        self._progress = {}
        for member in self.members.members:
            if member.name != self.name:
                self._watch(member.name, self.log.last.index)
        self._term_started_at = self.log.last.index
        self._heartbeat_at = now
        self._notice_at = float("inf")
        self._rounds = ReadRounds()

    def _deposed(self, now: float) -> None:
        self._progress = {}
        self._rounds.fail()
        self.proposals.lost_leadership()
        for bundle in self.proposals.drop_forwarded():
            self._refuse(bundle.peer, bundle.identity)
        if self._transfer is not None:
            (_, _, done), self._transfer = self._transfer, None
            done(None if self._transfer_sent else LeaderChanged())

    def _leader_changed(self, previous: str | None, now: float) -> None:
        if self.leader is None:
            self._leaderless_since = now
        if previous is not None and previous != self.name:
            self.proposals.lost_leader(previous)
            self._fail_asked_reads(previous)
