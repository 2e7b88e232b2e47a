"""Operations that wait for a place in the log, and callers that wait for an entry's results.

Group commit: what waits at a tick becomes one entry. A follower sends its operations to the
leader and answers its callers once it has applied the entry itself. An operation that was never
handed on fails definitely; one that was fails with an unknown outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.errors import DefiniteError, LeaderChanged, Overloaded

Done = Callable[[object], None]
"""Called exactly once: with the operation's result, a Rejection, or a TremulaError."""

PENDING_BYTES_MAX = 64 << 20
PENDING_OPERATIONS_MAX = 100_000


class Proposal(NamedTuple):
    """A packed operation and who waits for it: a local caller, or `(peer, id, position)`."""

    payload: bytes
    done: Done | None
    origin: Forwarded | None = None


_new = tuple.__new__  # a third of the time that the constructor of a named tuple takes


class Forwarded:
    """A bundle that a follower sent here; it is answered when its last operation is appended."""

    __slots__ = ("identity", "peer")

    def __init__(self, peer: str, identity: int) -> None:
        self.peer = peer
        self.identity = identity


class Waiters(NamedTuple):
    """Callers of one entry: `done[i]` waits for the result at `offset + i`."""

    term: int
    offset: int
    done: Sequence[Done | None]


class Proposals:
    """Bounded queues; `pending` may still fail definitely, everything else only as unknown."""

    def __init__(self, first_identity: int = 0) -> None:
        self.pending: deque[Proposal] = deque()
        self.pending_bytes = 0
        self._forwarded: dict[int, tuple[str, list[Done | None]]] = {}
        self._forward_id = first_identity
        self._waiting: dict[int, list[Waiters]] = {}
        self._in_entries = 0  # operations that `_waiting` is about

    @property
    def under_way(self) -> int:
        """Operations that are not answered yet, of those that are not with another node."""
        return len(self.pending) + self._in_entries

    def add(self, payload: bytes, done: Done | None, origin: Forwarded | None = None) -> None:
        size = len(payload)
        if done is not None and self.is_full(size):
            done(overloaded())
            return
        self.pending_bytes += size
        self.pending.append(_new(Proposal, (payload, done, origin)))

    def is_full(self, size: int) -> bool:
        """Whether `size` more bytes are more than may wait."""
        return (
            self.pending_bytes + size > PENDING_BYTES_MAX
            or len(self.pending) >= PENDING_OPERATIONS_MAX
        )

    def take(self, operations_max: int, bytes_max: int) -> list[Proposal]:
        """The next entry's operations, in the order of their arrival; a bundle is not split."""
        if len(self.pending) <= operations_max and self.pending_bytes <= bytes_max:
            everything = list(self.pending)
            self.pending.clear()
            self.pending_bytes = 0
            return everything
        taken: list[Proposal] = []
        size = 0
        while self.pending:
            head = self.pending[0]
            full = len(taken) >= operations_max or size + len(head.payload) > bytes_max
            if taken and full and (head.origin is None or head.origin is not taken[-1].origin):
                break
            taken.append(self.pending.popleft())
            size += len(head.payload)
        self.pending_bytes -= size
        return taken

    def wait(self, index: int, term: int, offset: int, done: Sequence[Done | None]) -> None:
        self._waiting.setdefault(index, []).append(Waiters(term, offset, done))
        self._in_entries += len(done)

    def forward(self, peer: str, proposals: list[Proposal]) -> tuple[int, list[bytes]]:
        """Note that `proposals` go to `peer`; returns the bundle's id and its payloads."""
        self._forward_id += 1
        self._forwarded[self._forward_id] = (peer, [p.done for p in proposals])
        return self._forward_id, [p.payload for p in proposals]

    def placed(self, identity: int, index: int, term: int, offset: int, applied: int) -> None:
        """The leader says where it put a bundle. Too late to wait means an unknown outcome."""
        _, done = self._forwarded.pop(identity, ("", []))
        if index <= applied:
            _fail(done, LeaderChanged())
        elif done:
            self.wait(index, term, offset, done)

    def refused(self, identity: int, error: DefiniteError) -> None:
        """The leader did not take a bundle, for certain."""
        _, done = self._forwarded.pop(identity, ("", []))
        _fail(done, error)

    def applied(self, index: int, term: int, results: Sequence[object]) -> None:
        """Answer everybody who waits for entry `index`."""
        for waiters in self._waiting.pop(index, ()):
            self._in_entries -= len(waiters.done)
            if waiters.term != term:
                _fail(waiters.done, LeaderChanged())
                continue
            for position, done in enumerate(waiters.done, waiters.offset):
                if done is not None:
                    done(results[position])

    def skipped(self, index: int) -> None:
        """A snapshot jumped over entries up to `index`: their results are not known here."""
        for waiting in sorted(i for i in self._waiting if i <= index):
            for waiters in self._waiting.pop(waiting):
                self._in_entries -= len(waiters.done)
                _fail(waiters.done, LeaderChanged())

    def lost_leadership(self) -> None:
        """What this node appended itself may be overwritten or may commit: nobody here knows."""
        waiting, self._waiting = self._waiting, {}
        self._in_entries = 0
        for index in sorted(waiting):
            for waiters in waiting[index]:
                _fail(waiters.done, LeaderChanged())

    def lost_leader(self, peer: str) -> None:
        """The node that bundles went to no longer leads, or its session broke."""
        for identity in [i for i, (to, _) in self._forwarded.items() if to == peer]:
            _fail(self._forwarded.pop(identity)[1], LeaderChanged())
        self.lost_leadership()

    def fail_pending(self, error: DefiniteError) -> None:
        """Nothing pending was ever handed on: it certainly did not happen."""
        pending, self.pending = self.pending, deque()
        self.pending_bytes = 0
        _fail([p.done for p in pending], error)

    def drop_forwarded(self) -> list[Forwarded]:
        """Bundles of other nodes still pending here, removed, to be refused by the caller."""
        bundles: dict[int, Forwarded] = {}
        kept: deque[Proposal] = deque()
        for proposal in self.pending:
            if proposal.origin is None:
                kept.append(proposal)
            else:
                bundles[id(proposal.origin)] = proposal.origin
        self.pending = kept
        self.pending_bytes = sum(len(p.payload) for p in kept)
        return list(bundles.values())


def overloaded() -> Overloaded:
    """What is told who proposes more than may wait."""
    return Overloaded("proposals", PENDING_OPERATIONS_MAX)


def _fail(done: Sequence[Done | None], error: object) -> None:
    for waiter in done:
        if waiter is not None:
            waiter(error)
