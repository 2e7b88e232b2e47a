"""Bringing the whole state to a peer whose next entry the log no longer has (Raft §7).

The leader sends a consistent copy of its state in chunks, one in flight, each answered. The
receiver puts them into a file of its own, checks the whole, and only then lets go of its log:
first the copy is durable, then the log begins anew (one commit, with a note that an installation
is under way), then the copy becomes the state. A crash between any two is finished at start.
A copy that the receiver's log already covers is answered as installed: entries it has
acknowledged to an earlier leader may be the only second copy (Fig. 13, step 6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from cluster.raft.core import Core
from cluster.raft.membership import Membership
from cluster.raft.stock import Message

RESEND_S = 2.0
"""A chunk unanswered for so long (a restarted receiver) is sent again."""


class SnapshotSource(Protocol):
    """A consistent copy of the state, read in pieces."""

    index: int
    term: int
    members: Membership
    size: int

    def read(self, offset: int, size: int) -> bytes: ...
    def close(self) -> None: ...


class SnapshotSink(Protocol):
    """Where an arriving copy is put. `seal` makes it durable, `adopt` makes it the state."""

    def write(self, data: bytes) -> None: ...
    def seal(self) -> None: ...
    def adopt(self) -> None: ...
    def discard(self) -> None: ...


class SnapshotStore(Protocol):
    """The state's side. `copy` may answer later; None means that no copy can be made now."""

    def copy(self, ready: Callable[[SnapshotSource | None], None]) -> None: ...
    def receive(self) -> SnapshotSink: ...


class _Sending:
    """One copy on its way to one peer, in one term."""

    def __init__(self, identity: int, term: int) -> None:
        self.identity = identity
        self.term = term
        self.source: SnapshotSource | None = None
        self.offset = 0
        self.sent_at = float("-inf")
        self.digest = hashlib.blake2b(digest_size=16)
        self.digested = 0


class _Receiving:
    def __init__(self, sender: str, identity: int, term: int, sink: SnapshotSink) -> None:
        self.key = (sender, identity, term)
        self.sink = sink
        self.offset = 0
        self.digest = hashlib.blake2b(digest_size=16)


class Snapshots:
    """Both directions for one node. Synchronous; `send` queues a message that leaves at once."""

    def __init__(
        self, core: Core, store: SnapshotStore, send: Callable[[str, Message], None]
    ) -> None:
        self._core = core
        self._store = store
        self._send = send
        self._sending: dict[str, _Sending] = {}
        self._receiving: _Receiving | None = None
        self.sent = 0  # copies that a peer installed, since start
        self.installed = 0  # copies that became this node's state
        self._identity = 0

    @property
    def receiving(self) -> bool:
        return self._receiving is not None

    def drive(self, now: float) -> None:
        """Start, continue or drop what the leader owes its peers. Call once a tick."""
        due = self._core.snapshots_due()
        for name in [n for n in self._sending if n not in due]:
            self._drop(name)
        for name in due:
            sending = self._sending.get(name)
            if sending is None or sending.term != self._core.term:
                self._begin(name)
            elif sending.source is not None and now - sending.sent_at > RESEND_S:
                self._send_chunk(now, name, sending)

    def receive(self, now: float, sender: str, message: Message) -> bool:
        """Take a message of ours; False for any other."""
        if message["type"] == "snapshot_chunk":
            self._receive_chunk(now, sender, message)
        elif message["type"] == "snapshot_reply":
            self._receive_reply(now, sender, message)
        else:
            return False
        return True

    def close(self) -> None:
        self.stop_sending()
        self._stop_receiving()

    def stop_sending(self) -> None:
        """Let go of the copies that are on their way to peers."""
        for name in list(self._sending):
            self._drop(name)

    # --- sending ---

    def _begin(self, name: str) -> None:
        self._drop(name)
        self._identity += 1
        sending = _Sending(self._identity, self._core.term)
        self._sending[name] = sending

        def ready(source: SnapshotSource | None) -> None:
            if self._sending.get(name) is not sending:
                if source is not None:
                    source.close()
            elif source is None:
                del self._sending[name]
                self._core.snapshot_abandoned(name)
            else:
                sending.source = source

        self._store.copy(ready)

    def _drop(self, name: str) -> None:
        sending = self._sending.pop(name, None)
        if sending is not None and sending.source is not None:
            sending.source.close()

    def _send_chunk(self, now: float, name: str, sending: _Sending) -> None:
        source = sending.source
        assert source is not None, "a copy is sent once it exists"
        data = source.read(sending.offset, self._core.bounds.snapshot_chunk_bytes)
        end = sending.offset + len(data)
        if end > sending.digested:
            sending.digest.update(data[sending.digested - sending.offset :])
            sending.digested = end
        sending.sent_at = now
        self._send(
            name,
            {
                "type": "snapshot_chunk",
                "term": sending.term,
                "id": sending.identity,
                "index": source.index,
                "log_term": source.term,
                "members": source.members.encode(),
                "offset": sending.offset,
                "data": data,
                "digest": sending.digest.digest() if end == source.size else None,
            },
        )

    def _receive_reply(self, now: float, sender: str, message: Message) -> None:
        sending = self._sending.get(sender)
        if sending is None or sending.source is None or message["id"] != sending.identity:
            return
        if not self._core.is_leader or message["term"] != self._core.term:
            return
        self._core.snapshot_answered(now, sender, message["installed"])
        if message["installed"] is not None:
            self.sent += 1
            self._drop(sender)
            return
        if message["offset"] < sending.offset:  # the receiver began anew
            sending.digest = hashlib.blake2b(digest_size=16)
            sending.digested = 0
            sending.offset = 0
        else:
            sending.offset = message["offset"]
        self._send_chunk(now, sender, sending)

    # --- receiving ---

    def _receive_chunk(self, now: float, sender: str, message: Message) -> None:
        if message["term"] != self._core.term or sender != self._core.leader:
            return  # an old leader's, or ahead of the heartbeat that tells the term: sent again
        index = message["index"]
        mine = self._core.log.get(index)
        covered = mine is not None and mine.term == message["log_term"]
        if covered or self._core.commit_index >= index:
            self._stop_receiving()
            self._reply(sender, message, 0, index)
            return
        receiving = self._receiving
        key = (sender, message["id"], message["term"])
        if receiving is None or receiving.key != key:
            self._stop_receiving()
            if message["offset"] != 0:
                self._reply(sender, message, 0, None)
                return
            receiving = _Receiving(*key, self._store.receive())
            self._receiving = receiving
        if message["offset"] == receiving.offset:
            receiving.sink.write(message["data"])
            receiving.digest.update(message["data"])
            receiving.offset += len(message["data"])
            if message["digest"] is not None:
                self._finish(now, sender, message, receiving)
                return
        self._reply(sender, message, receiving.offset, None)

    def _finish(self, now: float, sender: str, message: Message, receiving: _Receiving) -> None:
        self._receiving = None
        if receiving.digest.digest() != message["digest"]:
            receiving.sink.discard()
            self._reply(sender, message, 0, None)
            return
        index = message["index"]
        receiving.sink.seal()
        self._core.log.note("installing", index)
        self._core.installed(now, index, message["log_term"], Membership.decode(message["members"]))
        self._core.log.commit()
        receiving.sink.adopt()
        self.installed += 1
        # on disk before the next copy can arrive in the file that this note speaks of
        self._core.log.note("installing", None)
        self._core.log.commit()
        self._reply(sender, message, receiving.offset, index)

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.sink.discard()
            self._receiving = None

    def _reply(self, to: str, message: Message, offset: int, installed: int | None) -> None:
        reply = {"type": "snapshot_reply", "term": self._core.term, "id": message["id"]}
        self._send(to, {**reply, "offset": offset, "installed": installed})
