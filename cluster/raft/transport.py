"""Sessions between nodes: each node dials every peer and sends over the session it dialled.

Two one-way sessions make a link; the link is up when both are. A session is FIFO and breaks
rather than lose: when either breaks, Raft is told and starts its flights anew. Sends are made by
the caller's task at once. A stranger gets a closed connection and is counted.

May not: know what messages mean, beyond their shape.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

import msgpack
import trio

from cluster.net import Listener, Network, Session
from cluster.raft import messages, peers
from cluster.raft.peers import Hello, Refusal
from cluster.raft.stock import Message
from cluster.security.tls import Subject

GREETING_S = 5.0
GREETING_BYTES_MAX = 1 << 20
REDIAL_MIN_S, REDIAL_MAX_S = 0.05, 1.0
HALF_LINK_S = 3.0
PEER_CONNECTIONS_MAX = 64
HELD_MAX = 1000
"""Messages that wait for the other half of a link: a round trip's."""


class Host(Protocol):
    """What the transport asks and tells the node."""

    def hello(self) -> Hello: ...
    def objection(self, other: Hello, subject: Subject | None) -> Refusal | None: ...
    def met(self, other: Hello) -> None: ...
    def refused(self, address: str, refusal: Refusal) -> None: ...
    def stands_in(self, other: Hello) -> bool: ...
    def stranger(self, port: str, reason: str) -> None: ...
    def received(self, sender: str, messages: Sequence[Message]) -> None: ...
    def link_up(self, name: str) -> None: ...
    def link_down(self, name: str) -> None: ...


class Transport:
    """The peer port of one node, and its dialled sessions."""

    def __init__(
        self,
        host: Host,
        network: Network,
        random: Random,
        *,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
    ) -> None:
        self._host = host
        self._network = network
        self._random = random
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._outbound: dict[str, Session] = {}
        self._inbound: dict[str, Session] = {}
        self._up: dict[str, bool] = {}
        self._held: dict[str, list[Message]] = {}
        self._uids: dict[str, str] = {}
        self._dials: dict[str, trio.CancelScope] = {}
        self._answered: dict[str, str] = {}  # address -> who answered there last
        self._nursery: trio.Nursery | None = None
        self._pack = msgpack.Packer().pack
        self._packed: tuple[Message, bytes] = ({}, b"")  # what was sent last

    async def serve(self, address: tuple[str, int], nursery: trio.Nursery) -> Listener:
        """Bind the peer port (raises OSError) and let `dial` begin."""
        self._nursery = nursery
        return await self._network.serve(
            *address, self._server_tls, self._attend, nursery, PEER_CONNECTIONS_MAX
        )

    def dial(self, addresses: Mapping[str, str | None]) -> None:
        """Keep a session to each of these `host:port` (with the node's name, where it is known),
        and to no other."""
        assert self._nursery is not None, "serve comes first"
        for address in [a for a in self._dials if a not in addresses]:
            self._dials.pop(address).cancel()
        for address, name in addresses.items():
            if address not in self._dials:
                scope = trio.CancelScope()
                self._dials[address] = scope
                self._nursery.start_soon(self._keep_dialled, address, name, scope)

    def redial(self) -> None:
        """Greet everybody anew: what this node says of itself has changed."""
        for session in [*self._outbound.values(), *self._inbound.values()]:
            session.close("greeting anew")

    def insist(self, name: str, uid: str) -> None:
        """`name` is the node with this uid: hang up on any other of that name."""
        if self._uids.get(name, uid) != uid:
            self.hang_up(name, "another node of this name is the member")

    def hang_up(self, name: str, reason: str) -> None:
        """End the sessions with a node; it may dial again, and then hears how things stand."""
        for sessions in (self._outbound, self._inbound):
            session = sessions.pop(name, None)
            if session is not None:
                session.close(reason)
        self._set_link(name, False)

    def send(self, to: str, message: Message) -> None:
        """Send at once, or nothing when the link is down. A message that was sent is not changed
        any more: who sends the very same one to several peers has it packed once. HOT."""
        session = self._outbound.get(to)
        if session is not None and self._up.get(to):
            if self._packed[0] is not message:
                self._packed = (message, self._pack([peers.GROUP, message]))
            session.send_nowait(self._packed[1])

    def is_up(self, name: str) -> bool:
        return self._up.get(name, False)

    async def _keep_dialled(self, address: str, name: str | None, scope: trio.CancelScope) -> None:
        pause = REDIAL_MIN_S
        with scope:
            while True:
                # two addresses of one node would take turns in superseding each other
                elsewhere = self._answered.get(address) in self._outbound
                if not elsewhere and await self._dial_once(address, name):
                    pause = REDIAL_MIN_S
                await trio.sleep(pause * (0.5 + self._random.random()))
                pause = min(pause * 2, REDIAL_MAX_S)

    async def _dial_once(self, address: str, name: str | None) -> bool:
        """One session from dial to break; False when it was not even greeted."""
        host, _, port = address.rpartition(":")
        try:
            session = await self._network.connect(
                host.strip("[]"), int(port), self._client_tls, name
            )
        except ssl.SSLError as error:  # not silence, as when nobody listens: somebody must act
            self._host.refused(
                address, Refusal("tls", getattr(error, "verify_message", str(error)))
            )
            return False
        except OSError:
            return False
        try:
            session.send_nowait(self._pack(self._host.hello().encode()))
            answer = await _greeting(session, msgpack.Unpacker(max_buffer_size=GREETING_BYTES_MAX))
            if isinstance(answer, Refusal):
                self._host.refused(address, answer)
                return False
            if answer is None:
                reason = session.close_reason or ""
                if reason.startswith("TLS"):  # our own certificate does not please them
                    self._host.refused(address, Refusal("tls", reason))
                return False
            refusal = self._host.objection(answer, session.peer.subject)
            if refusal is not None or answer.name == self._host.hello().name:
                self._host.refused(address, refusal or Refusal("self", "that is this node"))
                return False
            if self._host.stands_in(answer):
                return False
            self._host.met(answer)
            self._answered[address] = answer.name
            self._keep(self._outbound, answer, session)
            try:
                await self._stay(answer.name, session)
            finally:
                self._drop(self._outbound, answer.name, session)
            return True
        finally:
            session.close()

    async def _stay(self, name: str, session: Session) -> None:
        """Until a session that this node has dialled breaks, or is but half a link for too long:
        the other side may dial back only when it hears what this node says of itself by now."""
        while not session.closed:
            with trio.move_on_after(HALF_LINK_S) as waiting:
                if await session.receive():
                    session.close("the accepting side of a peer session sends nothing")
                return
            if waiting.cancelled_caught and not self._up.get(name):
                session.close("half a link: greeting anew")

    async def _attend(self, session: Session) -> None:
        """A connection to the peer port."""
        unpacker = msgpack.Unpacker(max_buffer_size=messages.FRAME_BYTES_MAX)
        other = await _greeting(session, unpacker)
        if not isinstance(other, Hello):
            self._host.stranger("peer", "no greeting")
            return
        refusal = self._host.objection(other, session.peer.subject)
        if refusal is not None:
            self._host.refused(session.peer.address, refusal)
            session.send_nowait(self._pack(refusal.encode()))
            return
        session.send_nowait(self._pack(self._host.hello().encode()))
        if self._host.stands_in(other):
            return
        self._host.met(other)
        self._keep(self._inbound, other, session)
        try:
            await self._receive_all(session, unpacker, other.name)
        finally:
            self._drop(self._inbound, other.name, session)

    async def _receive_all(self, session: Session, unpacker: Any, sender: str) -> None:
        while True:
            arrived: list[Message] = []
            try:
                for frame in unpacker:
                    message = messages.check(frame)
                    if message is None:
                        self._host.stranger("peer", f"malformed frame from {sender}")
                        return
                    arrived.append(message)
                if self._up.get(sender):
                    self._host.received(sender, arrived)
                else:
                    self._hold(sender, session, arrived)
                data = await session.receive()
                if not data or self._inbound.get(sender) is not session:
                    return
                unpacker.feed(data)
            except (ValueError, msgpack.UnpackException, msgpack.BufferFull):
                self._host.stranger("peer", f"bytes from {sender} that are no msgpack")
                return

    def _hold(self, sender: str, session: Session, arrived: list[Message]) -> None:
        """The other side's link can be up before ours. What it sends has to wait: our answers
        would go nowhere, and it never sends again what it believes to be under way."""
        held = self._held.setdefault(sender, [])
        held += arrived
        if len(held) > HELD_MAX:
            session.close("its link is up, ours is not")

    def uid_of(self, name: str) -> str | None:
        """The uid of the node of this name that there is a session with now."""
        in_touch = name in self._inbound or name in self._outbound
        return self._uids.get(name) if in_touch else None

    def _keep(self, sessions: dict[str, Session], other: Hello, session: Session) -> None:
        name = other.name
        if self._uids.get(name, other.uid) != other.uid:
            self.hang_up(name, "superseded by another node of this name")
        self._uids[name] = other.uid
        before = sessions.get(name)
        sessions[name] = session
        if before is not None:
            before.close("superseded by a newer session")
            self._set_link(name, False)
        if sessions is self._inbound:
            self._held.pop(name, None)
        if name in self._outbound and name in self._inbound:
            self._set_link(name, True)

    def _drop(self, sessions: dict[str, Session], name: str, session: Session) -> None:
        if sessions.get(name) is session:
            del sessions[name]
            self._set_link(name, False)

    def _set_link(self, name: str, up: bool) -> None:
        if self._up.get(name, False) == up:
            return
        self._up[name] = up
        if up:
            self._host.link_up(name)
            self._host.received(name, self._held.pop(name, []))
        else:
            self._host.link_down(name)


async def _greeting(session: Session, unpacker: Any) -> Hello | Refusal | None:
    """The first value that the other side sends, in bounded time and size."""
    with trio.move_on_after(GREETING_S):
        size = 0
        while data := await session.receive():
            size += len(data)
            unpacker.feed(data)
            try:
                for value in unpacker:
                    return peers.decode(value)
            except (ValueError, msgpack.UnpackException):
                return None
            if size > GREETING_BYTES_MAX:
                return None
    return None
