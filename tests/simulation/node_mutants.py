"""Bugs planted into whole nodes, each of which takes away one promise of the product.

A plant changes production code in place, through pytest's `monkeypatch`: what it patches is what
every node of the run does. What a mutant pins of the drawn options (the workload that it concerns,
the kind of fault) saves runs that have no chance; times, places and victims are drawn as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

import cluster.machine
import cluster.node
import cluster.sessions
import cluster.storage
import hooks.execution.runtime
import pubsub.consumer_groups.checkpoint
import pubsub.consumer_groups.competing
import pubsub.consumer_groups.competing_leases
import pubsub.consumer_groups.competing_settle
import pubsub.consumer_groups.consumption
import pubsub.consumer_groups.group_tables
import pubsub.consumer_groups.membership
import pubsub.retention
from cluster import kv
from cluster.raft.clock import ClusterClock
from cluster.raft.core import Core
from cluster.raft.sqlite_log import SqliteLog
from cluster.registry import OPERATIONS
from hooks.delivery import Delivery
from hooks.execution.attempt import Failed, Succeeded
from hooks.execution.partition import Item, PartitionWork
from hooks.execution.progress import Checkpoint, Progress
from hooks.execution.service import HookService
from hooks.execution.work import HandlerWork
from pubsub.apply import Apply
from pubsub.consumer_groups.addressing import ADDRESSED
from pubsub.consumer_groups.assignment import Partition, assign
from pubsub.consumer_groups.competing_tables import CompetingGroup, Pending, unpack_events
from pubsub.limits import DELAYED_PUBLISHED_MAX
from pubsub.publishing import delayed
from pubsub.rejection import Rejection
from pubsub.subscription import Subscription
from simulation.node.sqlite_disk import NodeDisk
from tests.simulation import core_mutants

Plant = Callable[[pytest.MonkeyPatch], None]


def core(mutant: type[Core]) -> Plant:
    """A Raft core without one of its rules, in whole nodes."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(cluster.node, "Core", mutant)

    plant.__name__ = mutant.__name__
    plant.__doc__ = mutant.__doc__
    return plant


# --- Raft and its disk ---


def the_log_is_acknowledged_unwritten(patch: pytest.MonkeyPatch) -> None:
    """What was appended counts as persisted without a commit."""

    def commit(self: SqliteLog) -> None:
        self.term_dirty = False
        self.persisted_term = self.term
        self.persisted_index = self.last.index

    patch.setattr(SqliteLog, "commit", commit)


def votes_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Term and vote live in memory only."""

    def set_term(self: SqliteLog, term: int, voted_for: str | None) -> None:
        self.term, self.voted_for = term, voted_for

    patch.setattr(SqliteLog, "set_term", set_term)


def a_sync_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """The disk says that it has synced, and has not."""
    patch.setattr(NodeDisk, "sync", lambda self, book: None)


def reads_ask_nobody(patch: pytest.MonkeyPatch) -> None:
    """A node answers from its own state without a ReadIndex round."""
    patch.setattr(cluster.node.Node, "read_index", lambda self, done: done(None))


# --- the replicated state ---


def retries_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Every request counts as new, also the one that is made again."""
    recall = cluster.sessions.Sessions.recall

    def forgetful(self: cluster.sessions.Sessions, client_id: int, seq: int) -> Any:
        known = recall(self, client_id, seq)
        expired = isinstance(known, Rejection) and known.code == "session_expired"
        return known if expired else cluster.sessions.NEW

    patch.setattr(cluster.sessions.Sessions, "recall", forgetful)


def a_snapshot_forgets_retries(patch: pytest.MonkeyPatch) -> None:
    """A node that got its state as a copy remembers no results of requests."""
    adopt = cluster.storage.Storage._adopt

    def forgetful(self: cluster.storage.Storage) -> None:
        adopt(self)
        self.machine.connection.execute("DELETE FROM session_results")

    patch.setattr(cluster.storage.Storage, "_adopt", forgetful)


def events_follow_the_change(patch: pytest.MonkeyPatch) -> None:
    """The event of a change goes into the log with the next one."""
    emit = Apply.emit
    late: dict[int, tuple[Any, ...]] = {}

    def emit_late(self: Apply, *event: Any) -> int:
        before = late.pop(id(self.connection), None)
        late[id(self.connection)] = event
        return self.revision if before is None else emit(self, *before)

    patch.setattr(Apply, "emit", emit_late)


def an_entry_is_applied_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The applied index on disk is one behind what was applied."""
    begin = cluster.machine.Machine.__init__

    def behind(self: cluster.machine.Machine, connection: Any) -> None:
        begin(self, connection)
        if self.applied_index > 2:
            self.applied_index -= 1

    patch.setattr(cluster.machine.Machine, "__init__", behind)


def keys_expire_by_the_leaders_clock(patch: pytest.MonkeyPatch) -> None:
    """A leader stamps what its own clock shows, and asks no voter."""
    patch.setattr(ClusterClock, "_median", lambda self, *arguments: self._wall_ms())


def keys_expire_twice(patch: pytest.MonkeyPatch) -> None:
    """The event of an expiry is in the log twice."""

    def expire(apply: Any, up_to_wall_ms: Any, limit: Any = 1) -> Any:
        first = len(apply.packed_events)
        result = kv.expire(apply, up_to_wall_ms, limit)
        again = apply.packed_events[first:]
        apply.packed_events += again
        apply.revision += len(again)
        return result

    patch.setitem(OPERATIONS, "kv.expire", OPERATIONS["kv.expire"]._replace(function=expire))


# --- readers and handlers ---


def a_resumed_reader_misses_an_event(patch: pytest.MonkeyPatch) -> None:
    """A subscription that does not start at the beginning starts one event late."""
    begin = Subscription.__init__

    def late(self: Subscription, pattern: Any, from_revision: int, *more: Any) -> None:
        begin(self, pattern, from_revision + (from_revision > 1), *more)

    patch.setattr(Subscription, "__init__", late)


def cursors_pass_running_handlers(patch: pytest.MonkeyPatch) -> None:
    """What is read counts as done at once, before its handler has run."""
    build = Progress.build

    def build_at_once(self: Progress, now_ms: int, *, flush: bool = False) -> Checkpoint | None:
        self._floors_ms = -self._limits.floor_checkpoint_ms
        return build(self, now_ms, flush=flush)

    patch.setattr(Progress, "build", build_at_once)
    patch.setattr(Progress, "_floor", lambda self, partition: self.work.position_of(partition))
    # and what they return counts all the same: only a handler that never ends is missed
    patch.setattr(
        pubsub.consumer_groups.checkpoint._Stored,
        "completed",
        lambda self, revision: revision in self.completions,
    )


def generations_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint counts under any token, and whoever owns the partition by now."""
    refusal = pubsub.consumer_groups.checkpoint._refusal

    def lenient(apply: Apply, row: Any, member: Any, progress: Any, stored: Any, units: Any) -> Any:
        forged = {}
        for number, each in stored.items():
            owned = each.row._replace(owner=member, token=progress[number].token)
            forged[number] = each._replace(row=owned)
        return refusal(apply, row, member, progress, forged, units)

    patch.setattr(pubsub.consumer_groups.checkpoint, "_refusal", lenient)


def a_partition_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """Of what moves at once the last partition is given to nobody, when several members share."""

    def skip(
        group: str, partitions: Sequence[Partition], members: Sequence[str], token: int, **more: Any
    ) -> tuple[list[Partition], int]:
        after, token = assign(group, partitions, members, token, **more)
        moved = [new.number for old, new in zip(partitions, after, strict=True) if new != old]
        if len(members) > 1 and moved:
            number = moved[-1]
            after[number] = after[number]._replace(owner=None, next_owner=None)
        return after, token

    patch.setattr(pubsub.consumer_groups.membership, "assign", skip)


# --- groups of clients ---


def a_partition_has_two_owners(patch: pytest.MonkeyPatch) -> None:
    """It moves without a new token and without waiting for its owner, who may go on with it."""

    def hasten(
        group: str, partitions: Sequence[Partition], members: Sequence[str], token: int, **more: Any
    ) -> tuple[list[Partition], int]:
        after, token = assign(group, partitions, members, token, **more)
        hastened = [
            new if new.next_owner is None else new._replace(owner=new.next_owner, next_owner=None)
            for new in after
        ]
        return hastened, token

    patch.setattr(pubsub.consumer_groups.membership, "assign", hasten)


def acks_are_lost(patch: pytest.MonkeyPatch) -> None:
    """An ack in a competing group is answered, its effects are applied, and the event stays."""

    def complete(self: CompetingGroup, event: Pending) -> None:
        self.wait(event, event.attempt, 0)

    patch.setattr(CompetingGroup, "complete", complete)


def leases_do_not_end(patch: pytest.MonkeyPatch) -> None:
    """What a member had leased when it crashed stays with it."""

    def expire(apply: Apply, up_to_elapsed_ms: Any) -> int:
        return 0

    expiry = OPERATIONS["lease.expire"]._replace(function=expire)
    patch.setitem(OPERATIONS, "lease.expire", expiry)
    patch.setattr(pubsub.consumer_groups.competing_leases, "expire", expire)


def any_token_settles(patch: pytest.MonkeyPatch) -> None:
    """An answer counts under any token, whoever has the event by now."""

    def find(self: Any, token: int) -> list[Any]:
        rows = self._apply.connection.execute(
            "SELECT id, deadline_ms, events FROM competing_leases WHERE group_id = ? ORDER BY id",
            (self._group.id,),
        ).fetchall()
        return [
            pubsub.consumer_groups.competing_settle._Lease(
                identity, deadline_ms, {event.revision: event for event in unpack_events(blob)}
            )
            for identity, deadline_ms, blob in rows
        ]

    patch.setattr(pubsub.consumer_groups.competing_settle._Leases, "_load", find)


def a_fetch_leaves_its_events_to_others(patch: pytest.MonkeyPatch) -> None:
    """The cursor stays before the last event that was leased, which goes out again."""
    read_on = pubsub.consumer_groups.competing._Fetch.read_on

    def forgetful(self: Any) -> Any:
        gap = read_on(self)
        if self.events:
            self._group.cursor = min(self._group.cursor, self.events[-1].revision - 1)
        return gap

    patch.setattr(pubsub.consumer_groups.competing._Fetch, "read_on", forgetful)


def keys_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """An ordered group hands out an event while an earlier one of its key is under way."""
    patch.setattr(CompetingGroup, "is_busy", lambda self, order_key: False)


def a_failed_event_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    """The cursor passes an event whose attempt failed, and nobody tries it again."""
    end = HandlerWork.end

    def forgiving(self: HandlerWork, items: Any, outcome: Any, *more: Any) -> None:
        end(self, items, Succeeded() if isinstance(outcome, Failed) else outcome, *more)

    patch.setattr(HandlerWork, "end", forgiving)


def effects_leave_the_cursor_behind(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint that has effects applies them and keeps its completions to itself."""
    store = pubsub.consumer_groups.checkpoint._store_progress
    apply_effects = pubsub.consumer_groups.checkpoint._apply_effects
    had_effects: list[bool] = [False]

    def note(apply: Apply, units: Any, stored: Any) -> Any:
        had_effects[0] = bool(units)
        return apply_effects(apply, units, stored)

    def keep(connection: Any, group: Any, progress: Any, stored: Any) -> int:
        return int(group.token if had_effects[0] else store(connection, group, progress, stored))

    patch.setattr(pubsub.consumer_groups.checkpoint, "_apply_effects", note)
    patch.setattr(pubsub.consumer_groups.checkpoint, "_store_progress", keep)


def a_reload_forgets_what_was_done(patch: pytest.MonkeyPatch) -> None:
    """The old service goes without writing down what its handlers have done since the last time."""

    async def hurry(new: HookService, old: HookService) -> None:
        old._stopping = True
        old._stop_attempts()
        await old.session.leave_all()
        assert old._nursery is not None, "it runs"
        old._nursery.cancel_scope.cancel()

    patch.setattr(hooks.execution.runtime, "take_over", hurry)


def the_newest_event_is_coalesced(patch: pytest.MonkeyPatch) -> None:
    """Of the events of a key that came while it was not quiet, the first is handled."""

    def keep_the_first(self: PartitionWork, item: Item, delivery: Delivery) -> Item:
        newer = Item(delivery, self, item.key)
        newer.finish()
        self.open[newer.revision] = newer
        return newer

    patch.setattr(PartitionWork, "supersede", keep_the_first)


# --- what was published: when, once, for how long, and again ---


def a_new_leader_hurries_delayed_events(patch: pytest.MonkeyPatch) -> None:
    """What is due comes out with the first entry of a term, and once more when time asks for it."""
    elect = cluster.machine.Machine._elect

    def hurry(self: cluster.machine.Machine, term: int, items: Any) -> Any:
        result = elect(self, term, items)
        execute = self.connection.execute
        execute("SAVEPOINT waiting")
        delayed.publish(self._apply, self._apply.wall_ms, DELAYED_PUBLISHED_MAX)
        execute("ROLLBACK TO waiting")
        execute("RELEASE waiting")
        return result

    patch.setattr(cluster.machine.Machine, "_elect", hurry)


def a_cancelled_event_comes(patch: pytest.MonkeyPatch) -> None:
    """A cancel is answered, and changes nothing."""

    def cancel(apply: Apply, identity: Any) -> bool:
        statement = "SELECT count(*) FROM delayed_events WHERE id = ?"
        return bool(apply.connection.execute(statement, (identity,)).get)

    operation = OPERATIONS["delayed.cancel"]._replace(function=cancel)
    patch.setitem(OPERATIONS, "delayed.cancel", operation)


def message_ids_end_with_their_leader(patch: pytest.MonkeyPatch) -> None:
    """Another leader, and what was published before is new."""
    elect = cluster.machine.Machine._elect

    def forgetful(self: cluster.machine.Machine, term: int, items: Any) -> Any:
        self.connection.execute("DELETE FROM message_ids")
        return elect(self, term, items)

    patch.setattr(cluster.machine.Machine, "_elect", forgetful)


def retention_waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """A rule takes what a protected group has not read."""
    patch.setattr(pubsub.retention, "holders", lambda connection: [])


def gaps_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """A reader behind retention goes on with what is left."""
    patch.setattr(cluster.node.Node, "compacted", lambda self, pattern, from_revision: None)


def a_replay_goes_to_all_groups(patch: pytest.MonkeyPatch) -> None:
    """What is handed out again is handed to whoever reads it."""

    def concerns(event: Any, group: str, pattern: Any) -> bool:
        return event.topic in ADDRESSED or bool(pattern.matches(event.topic))

    patch.setattr(pubsub.consumer_groups.consumption, "concerns", concerns)


def a_letter_goes_back_and_stays(patch: pytest.MonkeyPatch) -> None:
    """A redriven letter can be redriven again."""

    def keep(connection: Any, group_id: int, revision: int) -> bool:
        return True

    patch.setattr(pubsub.consumer_groups.group_tables, "delete_letter", keep)


class Mutant(NamedTuple):
    """A plant, and what must find it."""

    plant: Plant
    by: str  # what the check says that finds it, as a regular expression
    nodes: int = 3
    pinned: Mapping[str, Any] = {}  # options that are not drawn

    def __str__(self) -> str:
        return self.plant.__name__


STATES = "the state of|the tables of|the states differ"
FOUND_LATER = f"{STATES}|acknowledged and is not in the log|not within 30 s|NotLinearizable"
STALE = "serves a read at|NotLinearizable"
HANDLERS = {"workloads": ("handlers",), "member_ttl_ms": 2_000}
TTL = {"workloads": ("ttl",)}
CUT = {"compact_entries": 20}
LATE = {"workloads": (), "faults": {"late_answers": 1.0}}
COMPETING = {"workloads": ("competing",)}
PARTITIONED = {"workloads": ("partitioned",)}
RELOADS = {**HANDLERS, "faults": {"reload": 1.0}, "membership_rate": 0.0}
DEBOUNCED = {"workloads": ("debounced",)}
ABSENCE = {**HANDLERS, "faults": {"absence": 1.0}}
LATER = {"workloads": ("later",)}
RETAINED = {"workloads": ("retained",), "think_s": 0.05}
AGAIN = {"workloads": ("again",)}

MUTANTS = [
    # acknowledge before the fsync
    Mutant(core(core_mutants.AnswersBeforeSync), "is not on its disk|its disk ends at"),
    Mutant(the_log_is_acknowledged_unwritten, FOUND_LATER),
    Mutant(a_sync_does_nothing, f"{FOUND_LATER}|starts w|ended by itself"),
    # truncate entries that match; forget the vote; count the own copy early; hear old terms
    Mutant(core(core_mutants.NoTrimming), "drops the committed entry", pinned=CUT),
    Mutant(votes_are_forgotten, "is not on its disk|votes for|starts "),
    # a copy that counts too early shows where no other one is needed
    Mutant(core(core_mutants.OwnCopyAtOnce), "it is on the disks of", nodes=1),
    Mutant(core(core_mutants.AnyTermsAnswer), f"{STALE}|applied another entry", pinned=LATE),
    Mutant(core(core_mutants.CommitsOldTerms), "commits .* of term"),
    Mutant(core(core_mutants.AnybodysVote), "votes for|both lead"),
    # serve a read too early
    Mutant(core(core_mutants.ReadsWithoutRounds), STALE, pinned={"workloads": ()}),
    Mutant(core(core_mutants.ServesBeforeItsTerm), STALE),
    Mutant(core(core_mutants.ReadsBeforeApplied), STALE),
    Mutant(reads_ask_nobody, STALE),
    # the state: events, retries, restarts
    Mutant(events_follow_the_change, FOUND_LATER),
    Mutant(retries_are_forgotten, "the log has a write twice|and is in the log at"),
    Mutant(a_snapshot_forgets_retries, STATES, pinned=CUT),
    Mutant(an_entry_is_applied_again_after_a_restart, f"{STATES}| applied .* then "),
    # time
    Mutant(keys_expire_by_the_leaders_clock, "wall clock is .* ahead|ttl_expired", pinned=TTL),
    Mutant(keys_expire_twice, "nothing stood there", pinned=TTL),
    # readers and handlers
    Mutant(
        a_resumed_reader_misses_an_event, "saw revision", pinned={"workloads": ("subscribers",)}
    ),
    Mutant(cursors_pass_running_handlers, "never handled|no effect of", pinned=HANDLERS),
    Mutant(a_partition_is_skipped, "Handlers are done", pinned=HANDLERS),
    Mutant(
        generations_are_ignored,
        "which no owner told|all checkpoints were fenced",
        pinned=ABSENCE,
    ),
    Mutant(a_failed_event_counts_as_done, "never handled|no effect of", pinned=HANDLERS),
    Mutant(effects_leave_the_cursor_behind, "effects more than once|are done", pinned=HANDLERS),
    Mutant(a_reload_forgets_what_was_done, "handled again though", pinned=RELOADS),
    Mutant(the_newest_event_is_coalesced, "the newest write of", pinned=DEBOUNCED),
    # groups of clients
    Mutant(a_partition_has_two_owners, "under the token of", pinned=PARTITIONED),
    Mutant(acks_are_lost, "Competing are done|effects more than once", pinned=COMPETING),
    Mutant(leases_do_not_end, "Competing are done", pinned=COMPETING),
    Mutant(any_token_settles, "under a token of the past|the old token", pinned=COMPETING),
    Mutant(
        a_fetch_leaves_its_events_to_others,
        "has read|effects more than once",
        pinned=COMPETING,
    ),
    Mutant(keys_are_not_waited_for, "out of order|in two places", pinned=COMPETING),
    # when, once, for how long, and again
    Mutant(a_new_leader_hurries_delayed_events, "is in the log . times", pinned=LATER),
    Mutant(a_cancelled_event_comes, "was cancelled, and it came", pinned=LATER),
    Mutant(message_ids_end_with_their_leader, "was answered|is in the log . times", pinned=LATER),
    Mutant(retention_waits_for_nobody, "the group has dealt with", pinned=RETAINED),
    Mutant(gaps_are_not_told, "a follower missed|were to be read", pinned=RETAINED),
    Mutant(a_replay_goes_to_all_groups, "was handed", pinned=AGAIN),
    Mutant(a_letter_goes_back_and_stays, "was redriven twice|lost or doubled", pinned=AGAIN),
]
