"""One tick of a node, in the one order that is safe. The engine and the simulator
both run this function: what is proven in one holds in the other.

Receive, tick, let the leader's entries go, persist (one commit, one fsync), let everything else
go, apply a bounded amount, answer. A leader applies and answers before it persists: what it applies
was persisted in an earlier tick, and its callers need not wait for a later entry's fsync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cluster.raft.core import Core
from cluster.raft.snapshot import Snapshots, SnapshotStore
from cluster.raft.stock import Message

APPLY_ENTRIES_MAX = 64
APPLY_BYTES_MAX = 128 << 10
APPLY_S_MAX = 0.005
"""What one tick applies at most, so that it ends well within a heartbeat."""


class StateMachine(SnapshotStore, Protocol):
    """What the driver needs of the replicated state."""

    @property
    def wall_ms(self) -> int: ...
    @property
    def elapsed_ms(self) -> int: ...
    @property
    def entry_version(self) -> int: ...
    def apply(self, index: int, term: int, command: bytes) -> Sequence[object]: ...


class Driver:
    """Drives one Core. `send(peer, message)` must not block and may drop only whole sessions."""

    def __init__(
        self,
        core: Core,
        state: StateMachine,
        send: Callable[[str, Message], None],
        monotonic: Callable[[], float],
        observe_fsync: Callable[[float], None] = lambda seconds: None,
        observe_apply: Callable[[float], None] = lambda seconds: None,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """`answered` is called when callers were answered and an fsync follows."""
        self.core = core
        self._answered = answered
        self._observe_fsync = observe_fsync
        self._observe_apply = observe_apply
        self.snapshots = Snapshots(core, state, self._reply_later)
        self._state = state
        self._send = send
        self._monotonic = monotonic
        self._replies: list[tuple[str, Message]] = []
        self._follow_state()

    def take_note(self, now: float, sender: str, message: Message) -> bool:
        """Take in, and answer, a message that changes nothing; False if it needs a step. HOT."""
        if not self.core.take_note(now, sender, message):
            return False
        for peer, reply in self.core.take_messages():
            self._send(peer, reply)
        return True

    def step(
        self, now: float, arrived: Iterable[tuple[str, Message]], stalled: float = 0.0
    ) -> bool:
        """Run one tick; True when there is work left that needs no waiting."""
        core = self.core
        core.forgive(now, stalled)
        for sender, message in arrived:
            if not self.snapshots.receive(now, sender, message):
                core.receive(now, sender, message)
            elif message["type"] == "snapshot_chunk":  # it may have become the state
                self._follow_state()
        core.tick(now)
        self.snapshots.drive(now)
        for peer, message in core.take_early():
            self._send(peer, message)
        answers_first = core.is_leader and core.log.dirty
        if answers_first:
            self._apply()
            core.serve_reads()
            self._answered()
        self._persist()
        for peer, message in core.take_messages():
            self._send(peer, message)
        replies, self._replies = self._replies, []
        for peer, message in replies:
            self._send(peer, message)
        if not answers_first:
            self._apply()
            core.serve_reads()
        return core.has_work()

    def _persist(self) -> None:
        log = self.core.log
        if log.dirty:
            began = self._monotonic()
            log.commit()
            seconds = self._monotonic() - began
            self.core.persisted(seconds)
            self._observe_fsync(seconds)

    def _apply(self) -> None:
        entries = self.core.take_committed(APPLY_ENTRIES_MAX, APPLY_BYTES_MAX)
        if entries:
            began = now = self._monotonic()
            for entry in entries:
                results = self._state.apply(entry.index, entry.term, entry.command)
                self.core.applied(entry, results)
                before, now = now, self._monotonic()
                self._observe_apply(now - before)
                if now > began + APPLY_S_MAX:
                    break
            self._follow_state()

    def _follow_state(self) -> None:
        state = self._state
        self.core.follow_state(state.wall_ms, state.elapsed_ms, state.entry_version)

    def _reply_later(self, peer: str, message: Message) -> None:
        # a snapshot's answers claim what the log holds: they leave after the fsync
        self._replies.append((peer, message))
