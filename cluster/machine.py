"""The replicated state machine: the same log gives the same rows, results and digest everywhere.

`apply` takes one committed entry of the Raft log: then its results are there, and its events.
`finish` stores what of it is only in memory still, so that callers can be answered before; nobody
finds it unfinished, because whoever takes the connection finishes it. `commit` makes one
transaction of the entries since the last one, with the applied index inside: after a crash exactly
what is missing is applied again. `apply` is total: whatever an operation holds, the answer is a
result or a Rejection that changed nothing. An exception that leaves it, or `finish`, is a corrupt
file, a disk that refuses, a log of a newer release, or our bug; the transaction is rolled back and
this machine is of no more use.

May not: read a clock, draw a random number, or know anything that is not in the entry or in the
state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from cluster import kv, state
from cluster.corruption import storage_error
from cluster.entry import Entry
from cluster.limits import DIGESTS_MAX, EACH_CALLS_MAX, INTEGER_MAX
from cluster.operations import (
    EACH,
    EACH_SINCE,
    MEMBERSHIP,
    NO_OP,
    REGULAR,
    VERSION,
    UnsupportedEntry,
    is_count,
    is_text,
    unpack,
    unseal,
)
from cluster.publishing import publish_each
from cluster.registry import OPERATIONS, Operation, by_version
from cluster.sessions import NEW, Sessions
from hooks import routing
from hooks.replicated import registrations, reports, settings
from pubsub import log
from pubsub.apply import Terms
from pubsub.events import (
    CLUSTER_LEADER_ELECTED,
    CLUSTER_MEMBERSHIP_CHANGED,
    CLUSTER_NODE_ADDED,
    CLUSTER_NODE_REMOVED,
)
from pubsub.limits import NAME_BYTES_MAX
from pubsub.publishing import topic_tails
from pubsub.rejection import Rejection

DIGEST_BYTES: Final = 32
UNCOMMITTED_ENTRIES_MAX: Final = 64
UNCOMMITTED_BYTES_MAX: Final = 128 << 10
"""So much is in one transaction; what it costs to write is spent between two ticks."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying one entry did: what callers are answered, and what readers can now see."""

    index: int
    term: int
    results: list[Any]  # one for each operation of the entry
    batch: log.Batch | None  # its events, if it made any
    alike: Terms | None  # what all of them can be found by, if they are alike
    wall_ms: int  # the cluster's clock at this entry
    trimmed_to: int  # the newest event that retention took in this entry, or 0


class _Unfinished(NamedTuple):
    """What `finish` needs of the entry that was applied last."""

    applied: Applied
    command: bytes
    packed_events: list[bytes]


class Each(list[Any]):
    """The results of one `each`, in its order."""


_UNCHANGING: Final = frozenset((int, bool, type(None), str, Rejection, Each))
"""Results that no caller changes: of `each` the client port makes answers, and nothing else."""


class Machine:
    """The state behind one connection. Read its attributes freely; only `apply` changes them."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._unfinished: _Unfinished | None = None
        meta = state.load(connection)
        self.applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.revision = meta.revision
        self._digest = meta.digest
        self.wall_ms = meta.wall_ms
        self.elapsed_ms = meta.elapsed_ms
        self.cluster_id = meta.cluster_id
        self.members = meta.members
        self.entry_version = state.entry_version(connection)
        # Which topics of the cluster reach subscribers; None: all of them.
        self.is_published = routing.published(settings.publish_topics(connection))
        self._digests: dict[int, bytes] = {self.applied_index: self._digest}
        self.duplicates = 0  # requests answered from the retry window, since start
        self._leader = meta.leader
        self._leader_term = meta.leader_term
        self._next_client_id = meta.next_client_id
        self._failed = False
        self._uncommitted = 0  # entries
        self._uncommitted_bytes = 0
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack
        self._sessions = Sessions(connection)
        self._apply = Entry(connection, self._run_nested)
        self._registries = by_version({**OPERATIONS, **self._own_operations()})
        self._registry = self._registries[VERSION]  # of the entry in progress
        # name -> [done, rejected] since start; metrics, not state
        self.operations = {name: [0, 0] for name in self._registry}

    @property
    def connection(self) -> apsw.Connection:
        """To the whole applied state."""
        self.finish()
        return self._connection

    @property
    def digest(self) -> bytes:
        """Of the applied state."""
        self.finish()
        return self._digest

    @property
    def digests(self) -> dict[int, bytes]:
        """Those after the last entries, by log index."""
        self.finish()
        return self._digests

    def get(self, key: str) -> kv.Row | None:
        """What the applied state holds under `key`. Only between entries. HOT."""
        return kv.get_remembered(self._apply, key)

    def topics(self, after: str, limit: int) -> tuple[list[tuple[str, int]], bool]:
        """Topics of users as `topic_tails.page` gives them. Only between entries."""
        return topic_tails.page(self.connection, self._apply.published, after, limit)

    @property
    def sessions_count(self) -> int:
        """How many client sessions there are."""
        return self._sessions.count

    def apply(self, index: int, term: int, command: bytes) -> Applied:
        """Apply the entry at `index`. One that was applied before is ignored: it has no results."""
        if index <= self.applied_index:
            return Applied(index, term, [], None, None, self.wall_ms, 0)
        self.finish()
        if self._failed or index != self.applied_index + 1:
            raise AssertionError(f"entry {index} after {self.applied_index}")
        results = self._all_or_nothing(self._interpret, index, term, command)
        apply = self._apply
        batch, count = None, apply.revision - self.revision
        if count:
            batch = log.Batch.joined(
                self.revision + 1, index, apply.wall_ms, apply.packed_events, count
            )
        applied = Applied(index, term, results, batch, apply.alike, apply.wall_ms, apply.trimmed_to)
        self._unfinished = _Unfinished(applied, command, apply.packed_events)
        self.applied_index = index
        self.applied_term = term
        self.revision = apply.revision
        self.wall_ms = apply.wall_ms
        self.elapsed_ms = apply.elapsed_ms
        self._uncommitted += 1
        self._uncommitted_bytes += len(command)
        if not _UNCHANGING.issuperset(map(type, results)):
            self.finish()  # what its caller does with a list must not reach what is stored of it
        return applied

    def finish(self) -> None:
        """Store what the last entry left in memory: results, events, and the digest after it."""
        if self._unfinished is not None:
            unfinished, self._unfinished = self._unfinished, None
            self._all_or_nothing(self._finish, *unfinished)

    def commit(self) -> None:
        """Make one transaction of what was applied since the last one. A crash before it takes the
        state back to there, and the Raft log brings it forward again."""
        if not self._uncommitted:
            return
        if self._failed:
            raise AssertionError("what was applied is rolled back")
        self.finish()
        try:
            self._store_published()
            self._connection.execute(
                "UPDATE meta SET applied_index = ?, applied_term = ?, revision = ?, digest = ?,"
                " wall_ms = ?, elapsed_ms = ?, next_client_id = ?",
                (
                    self.applied_index,
                    self.applied_term,
                    self.revision,
                    self._digest,
                    self.wall_ms,
                    self.elapsed_ms,
                    self._next_client_id,
                ),
            )
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self._failed = True
            self._roll_back()
            raise storage_error(self._connection.filename, error) from error
        self._uncommitted = self._uncommitted_bytes = 0

    def _store_published(self) -> None:
        published = self._apply.published
        if published and self.entry_version > 1:
            topic_tails.store(self._connection, published)
        published.clear()

    @property
    def is_commit_due(self) -> bool:
        """Whether so much was applied that losing it would cost more than writing it."""
        return (
            self._uncommitted >= UNCOMMITTED_ENTRIES_MAX
            or self._uncommitted_bytes >= UNCOMMITTED_BYTES_MAX
        )

    # --- one entry ---

    def _interpret(self, index: int, term: int, command: bytes) -> list[Any]:
        """Run what the command says; the clocks of the entry are in force from here on."""
        if not self._uncommitted:
            self._connection.execute("BEGIN IMMEDIATE")
        kind = command[0] if command else REGULAR
        if kind > MEMBERSHIP:
            raise UnsupportedEntry("kind", kind, MEMBERSHIP)
        items = unseal(command[1:])
        apply = self._apply
        if items is None:
            apply.begin(index, self.wall_ms, self.elapsed_ms, self.revision)
            return [_malformed("the entry is not one of ours")] if command[1:] else []
        # Both clocks are monotone in the state, whatever the leaders' stamps were.
        wall_ms = max(self.wall_ms, items[1])
        elapsed_ms = max(self.elapsed_ms, items[2])
        apply.begin(index, wall_ms, elapsed_ms, self.revision)
        version = apply.version = items[0]
        self._registry = self._registries[version]
        if version > self.entry_version:
            if self.entry_version < 2:
                apply.published.clear()  # of older entries: the log knows more of them
                topic_tails.adopt(self._connection, self.revision)
            self.entry_version = version
            state.note_entry_version(self._connection, version)
        if kind == REGULAR:
            return self._run_operations(items[3:])
        if kind == NO_OP:
            return self._elect(term, items[3:])
        return self._change_membership(items[3:])

    def _run_operations(self, items: list[Any]) -> list[Any]:
        """The results of a regular entry's operations, in their order. HOT."""
        payloads = items[0] if items else None
        if payloads.__class__ is not list:
            return [_malformed("the entry has no list of operations")]
        apply = self._apply
        recall, remember = self._sessions.recall, self._sessions.remember
        results: list[Any] = []
        answer = results.append
        for payload in payloads:
            operation = unpack(payload)
            if isinstance(operation, Rejection):
                answer(operation)
                continue
            client_id, seq, name, args, apply.meta = operation
            if name == EACH and apply.version >= EACH_SINCE:
                answer(self._run_each(client_id, seq, args))
                continue
            if client_id:
                known = recall(client_id, seq)
                if known is not NEW:
                    self.duplicates += 1
                    answer(known)
                    continue
                result = self._run(name, args)
                remember(client_id, seq, result)
            else:
                result = self._run(name, args)
            answer(result)
        apply.meta = None
        return results

    def _run_each(self, client_id: int, first_seq: int, args: list[Any]) -> Any:
        """The results of requests that came together; they have numbers, so a session. HOT."""
        problem = self._each_problem(client_id, first_seq, args)
        if problem is not None:
            return _malformed(f"{EACH}: {problem}")
        name, calls = args
        sessions = self._sessions
        if sessions.follows(client_id, first_seq):
            revisions = publish_each(self._apply, calls) if name == "publish" else None
            if revisions is not None:
                self.operations[name][0] += len(calls)
            results = Each(revisions or [self._run(name, call) for call in calls])
            sessions.remember_each(client_id, first_seq, results)
            return results
        results = Each()
        for seq, call in enumerate(calls, first_seq):
            result = sessions.recall(client_id, seq)
            if result is NEW:
                result = self._run(name, call)
                sessions.remember(client_id, seq, result)
            else:
                self.duplicates += 1
            results.append(result)
        return results

    def _each_problem(self, client_id: int, first_seq: int, args: list[Any]) -> str | None:
        if not client_id or len(args) != 2 or args[1].__class__ is not list:
            return "a session, a name and a list are needed"
        name, calls = args
        operation = self._registry.get(name) if name.__class__ is str else None
        if operation is None or not operation.nestable:
            return "an operation that can be an effect is needed"
        if not 0 < len(calls) <= min(EACH_CALLS_MAX, INTEGER_MAX - first_seq):
            return f"from 1 to {EACH_CALLS_MAX} requests are needed"
        if any(call.__class__ is not list for call in calls):
            return "the arguments of each must be a list"
        return None

    def _run(self, name: str, args: Any) -> Any:
        """The result of one operation. HOT."""
        operation = self._registry.get(name)
        if operation is None:
            detail = f'there is no operation "{name[:64]}"{self._held_back(name)}'
            return Rejection("unknown_operation", detail)
        function, least, most, _, revocable, _, _ = operation
        if not least <= len(args) <= most:
            detail = f"{name}: from {least} to {most} arguments are needed{self._held_back(name)}"
            result: Any = _malformed(detail)
        elif revocable:
            result = self._apply.atomically(lambda: function(self._apply, *args))
        else:
            result = function(self._apply, *args)
        counts = self.operations[name]
        counts[result.__class__ is Rejection] += 1
        return result

    def _held_back(self, name: str) -> str:
        """Says so where a newer entry could have held what this one cannot."""
        newest = self._registries[VERSION]
        if name not in newest or newest[name] == self._registry.get(name):
            return ""
        return "; more than that once no member of the cluster is of an older release"

    def _run_nested(self, name: str, args: Any) -> Any:
        """An effect of a handler, inside a checkpoint that is being applied."""
        operation = self._registry.get(name)
        if operation is None or not operation.nestable:
            return Rejection("unknown_operation", f'"{name[:64]}" cannot be an effect')
        if args.__class__ is not list:
            return _malformed(f"{name}: the arguments must be a list")
        return self._run(name, args)

    def _finish(self, applied: Applied, command: bytes, packed_events: list[bytes]) -> None:
        index, term, results, batch = applied.index, applied.term, applied.results, applied.batch
        self._sessions.flush(index, self.elapsed_ms)
        if batch is not None:
            log.append(self._connection, batch)
        digest = blake2b(self._digest, digest_size=DIGEST_BYTES)
        digest.update(self._pack((index, term, self.revision, self._next_client_id)))
        digest.update(command)
        # a release may reword what it tells people
        digest.update(self._pack(_without_words(results)))
        for packed in packed_events:
            digest.update(packed)
        self._digest = self._digests[index] = digest.digest()
        if len(self._digests) > DIGESTS_MAX:
            del self._digests[next(iter(self._digests))]

    def _all_or_nothing(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What the work raises undoes the transaction, and ends this machine."""
        self._failed = True
        try:
            result = work(*arguments)
        except apsw.Error as error:
            self._roll_back()
            raise storage_error(self._connection.filename, error) from error
        except BaseException:
            self._roll_back()
            raise
        self._failed = False
        return result

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error:
                pass  # some errors roll back by themselves; what matters is the first one

    # --- entries of the cluster itself ---

    def _elect(self, term: int, items: list[Any]) -> list[Any]:
        """A term began: its first entry names the leader, once (Raft §5.2)."""
        if len(items) != 3 or not (_is_name(items[0]) and _is_names(items[1], items[2])):
            return [_malformed("no-op: leader, voters and learners are needed")]
        if term <= self._leader_term:
            return []
        leader, voters, learners = items
        data = (leader, self._leader, term, voters, learners)
        self._apply.emit(CLUSTER_LEADER_ELECTED, None, data, None)
        self._leader, self._leader_term = leader, term
        self._connection.execute("UPDATE meta SET leader = ?, leader_term = ?", (leader, term))
        return []

    def _change_membership(self, items: list[Any]) -> list[Any]:
        """One node was added, promoted or removed; answers the revision of the change."""
        if len(items) != 4 or not (
            items[0] in _CHANGES and _is_name(items[1]) and _is_text(items[2])
        ):
            return [_malformed("membership: change, node, address and members are needed")]
        change, node, address, members = items
        if members.__class__ is not list or not all(map(_is_member, members)):
            return [_malformed("membership: a member is [name, uid, address, role]")]
        voters = [member[0] for member in members if member[3] == "voter"]
        learners = [member[0] for member in members if member[3] == "learner"]
        emit = self._apply.emit
        revision = emit(CLUSTER_MEMBERSHIP_CHANGED, None, (voters, learners, node, change), None)
        if change == "removed":
            emit(CLUSTER_NODE_REMOVED, None, (node,), None)
            reports.forget(self._connection, node)
            registrations.remove_node(self._apply, node)
        elif change != "promoted":
            emit(CLUSTER_NODE_ADDED, None, (node, address, change.removeprefix("added_")), None)
        self.members = members
        self._connection.execute("UPDATE meta SET members = ?", (self._pack(members),))
        return [revision]

    # --- operations that need more than the state ---

    def _own_operations(self) -> dict[str, Operation]:
        return {
            "session.open": Operation(self._open_session, 0, 0),
            "session.close": Operation(self._close_session, 1, 1),
            "session.expire": Operation(self._expire_sessions, 1, 1),
            "hook.register": Operation(self._register_hooks, 2, 2, revocable=True, since=2),
            "hook.settings": Operation(self._change_hook_settings, 1, 2, since=2),
        }

    def _open_session(self, apply: Entry) -> int | Rejection:
        """`session.open []` -> client_id."""
        result = self._sessions.open(self._next_client_id, apply.elapsed_ms)
        if result.__class__ is int:
            self._next_client_id += 1
        return result

    def _close_session(self, apply: Entry, client_id: Any) -> bool | Rejection:
        """`session.close [client_id]` -> whether there was such a session."""
        if not is_count(client_id):
            return _malformed("session.close: an integer is needed")
        return self._sessions.close(client_id)

    def _expire_sessions(self, apply: Entry, up_to_elapsed_ms: Any) -> int | Rejection:
        """`session.expire [up_to_elapsed_ms]` -> how many ended, never beyond the clock."""
        if not is_count(up_to_elapsed_ms):
            return _malformed("session.expire: an integer from 0 is needed")
        return self._sessions.expire(min(up_to_elapsed_ms, apply.elapsed_ms))

    def _register_hooks(self, apply: Entry, node: Any, handlers: Any) -> list[Any] | Rejection:
        """`hook.register [node, handlers]`."""
        return self._is_no_member(node) or registrations.register(apply, node, handlers)

    def _change_hook_settings(
        self, apply: Entry, values: Any, node: Any = None
    ) -> list[Any] | Rejection:
        """`hook.settings [values, node]`, without a node from an operator."""
        refused = None if node is None else self._is_no_member(node)
        if refused is not None:
            return refused
        result = settings.change(apply, values, node)
        self.is_published = routing.published(settings.publish_topics(apply.connection))
        return result

    def _is_no_member(self, node: Any) -> Rejection | None:
        """What a node that was removed meanwhile says of itself nobody would ever take back."""
        if not self.members or any(member[0] == node for member in self.members):
            return None
        return Rejection("unknown_member", "a node speaks for itself only while it is a member")


_CHANGES: Final = ("added_learner", "added_voter", "promoted", "removed")


def _malformed(detail: str) -> Rejection:
    return Rejection("malformed", detail)


def _is_text(value: Any) -> bool:
    return is_text(value, NAME_BYTES_MAX)


def _is_name(value: Any) -> bool:
    return bool(value) and _is_text(value)


def _is_names(*lists: Any) -> bool:
    return all(names.__class__ is list and all(map(_is_name, names)) for names in lists)


def _is_member(value: Any) -> bool:
    return (
        value.__class__ is list
        and len(value) == 4
        and _is_names(value)
        and value[3] in ("voter", "learner")
    )


def _without_words(results: list[Any]) -> list[Any]:
    """Results, of rejections only the code."""
    return [
        result.code
        if result.__class__ is Rejection
        else _without_words(result)
        if result.__class__ is Each
        else result
        for result in results
    ]
