"""The network between simulated hosts: sessions of bytes, FIFO, that break rather than lose.

Implements `cluster.net.Network` for each host on trio's clock. One seed decides every latency. A
direction that is cut holds what is sent, as TCP does, until it heals or an end gives up; a host
that dies breaks its sessions, at once or, when the power went, unheard.

May not: look into the bytes.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from math import inf
from random import Random

import trio

from cluster.byte_session import PeerIdentity
from cluster.net import (
    CONNECT_S,
    CONNECTIONS_MAX,
    Handler,
    Listener,
    ListenerStatistics,
    Session,
)
from simulation.node.determinism import Scheduler

SILENCE_S = 30.0
"""After so long without a sign of life TCP gives a session up (`cluster.net`)."""
KEEPALIVE_S = 15.0
"""A session that says nothing is probed this often: a host that was started again resets it."""

_END = b""


class Links:
    """All hosts and what lies between them."""

    def __init__(
        self, random: Random, scheduler: Scheduler, latency_s: tuple[float, float]
    ) -> None:
        self.random = random
        self.scheduler = scheduler
        self.latency_s = latency_s  # at least, and at random more
        self.cut: set[tuple[str, str]] = set()  # (from, to)
        self.delay_s: dict[tuple[str, str], float] = {}  # slow directions
        self.listening: dict[tuple[str, int], tuple[Handler, trio.Nursery]] = {}
        self.on_send: Callable[[str, str, bytes, float], None] | None = None
        """Told of the sender, the receiver, the bytes and when they arrive, if nothing is cut."""
        self._sessions: dict[SimulatedSession, None] = {}

    def at(self, host: str) -> HostNetwork:
        """The network as one host has it."""
        return HostNetwork(self, host)

    def set_cut(self, cut: set[tuple[str, str]]) -> None:
        """From now on exactly these directions carry nothing."""
        self.cut = cut
        for session in self._sessions:
            session.look_again()

    def crash(self, host: str, *, silent: bool = False) -> None:
        """The host is gone. With `silent` its peers hear nothing of it for a while."""
        for address in [address for address in self.listening if address[0] == host]:
            del self.listening[address]
        for session in [session for session in self._sessions if session.host == host]:
            session.die(SILENCE_S if silent else 0.0)

    def disconnect(self, one: str, other: str) -> None:
        """Break the sessions between two hosts; what is on the way is lost."""
        for session in [s for s in self._sessions if s.host == one and s.is_with(other)]:
            session.break_off()

    def revive(self, host: str) -> None:
        """The host is there again, and knows nothing of the sessions of its former life."""
        for session in self._sessions:
            session.peer_is_back(host)

    def latency(self, sender: str, to: str) -> float:
        """Seconds that bytes take, this time."""
        least_s, spread_s = self.latency_s
        jitter_s = self.random.random() ** 3 * spread_s
        return least_s + jitter_s + self.delay_s.get((sender, to), 0.0)

    def pair(self, one: str, other: str) -> tuple[SimulatedSession, SimulatedSession]:
        """Both ends of a new connection."""
        near, far = SimulatedSession(self, one, other), SimulatedSession(self, other, one)
        near.other, far.other = far, near
        self._sessions[near] = self._sessions[far] = None
        return near, far

    def forget(self, session: SimulatedSession) -> None:
        self._sessions.pop(session, None)


class SimulatedSession:
    """One end of a connection."""

    def __init__(self, links: Links, host: str, peer: str) -> None:
        self.host = host
        self.peer = PeerIdentity(f"{peer}:0")
        self.close_reason: str | None = None
        self.other: SimulatedSession
        self._links = links
        self._peer = peer
        self._dead = False
        self._reset_at = inf  # the host of the other end says then that it knows of no session
        self._is_unknown = False  # to that host
        self._incoming: deque[tuple[float, bytes]] = deque()
        self._looks_at = 0.0
        self._news = trio.Event()

    @property
    def closed(self) -> bool:
        return self.close_reason is not None

    @property
    def buffered_bytes(self) -> int:
        """What a cut holds back looks like a slow peer."""
        if (self.host, self._peer) not in self._links.cut:
            return 0
        return sum(len(data) for _, data in self.other._incoming)

    async def receive(self) -> bytes:
        """See `cluster.net.Session`."""
        while not self.closed:
            now = trio.current_time()
            if self._reset_at <= now:
                self.close_reason = "connection reset"
                self._links.forget(self)
            elif self._due() <= now:
                await trio.lowlevel.checkpoint()  # first: who is cancelled here has lost nothing
                if self.closed or self._due() > now:
                    continue
                _, data = self._incoming.popleft()
                if self._incoming:
                    self.look_again()
                if data == _END:
                    self.close_reason = self.close_reason or "closed by the peer"
                    self._links.forget(self)
                return data
            else:
                await self._news.wait()
                self._news = trio.Event()
        await trio.lowlevel.checkpoint()
        return b""

    def send_nowait(self, data: bytes) -> None:
        """See `cluster.net.Session`."""
        if self.closed or self._dead or not data:
            return
        latency_s = self._links.latency(self.host, self._peer)
        if self._is_unknown:
            self._reset(2 * latency_s)
        elif not self.other._dead:
            arrival_s = self._put(data, latency_s)
            if self._links.on_send is not None:
                self._links.on_send(self.host, self._peer, data, arrival_s)

    async def drain(self) -> None:
        """See `cluster.net.Session`; a cut is drained when it heals."""
        while self.buffered_bytes and not self.closed:  # noqa: ASYNC110 - on virtual time
            await trio.sleep(0.01)
        await trio.lowlevel.checkpoint()

    def close(self, reason: str = "closed") -> None:
        """See `cluster.net.Session`."""
        if self.closed or self._dead:
            return
        self.close_reason = reason
        self._put(_END, self._links.latency(self.host, self._peer))
        self._links.forget(self)
        self.look_again()

    def die(self, unheard_s: float) -> None:
        """The host of this end is gone: nothing leaves any more, and nothing is received."""
        self._dead = True
        self._incoming.clear()
        self._links.forget(self)
        self.other._reset(self._links.latency(self.host, self._peer) + unheard_s)

    def is_with(self, host: str) -> bool:
        return self._peer == host

    def break_off(self) -> None:
        """Both ends are told at once."""
        for end in (self, self.other):
            end._incoming.clear()
            end._reset(0.0)

    def peer_is_back(self, host: str) -> None:
        """If the other end was at `host`, it is not known there any more."""
        if self._peer == host and self.other._dead:
            self._is_unknown = True
            self._reset(KEEPALIVE_S)

    def _reset(self, after_s: float) -> None:
        self._reset_at = min(self._reset_at, trio.current_time() + after_s)
        self.look_again()

    def look_again(self) -> None:
        """Something about the way here has changed: whoever receives looks when it matters."""
        due = min(self._due(), self._reset_at)
        now = trio.current_time()
        if due <= now or self.closed:
            self._news.set()
        elif due < self._looks_at or self._looks_at <= now:
            self._looks_at = due
            self._links.scheduler.after(due - now, self.look_again)

    def _due(self) -> float:
        if self._dead or not self._incoming or (self._peer, self.host) in self._links.cut:
            return inf
        return self._incoming[0][0]

    def _put(self, data: bytes, latency_s: float) -> float:
        queue = self.other._incoming
        earliest_s = queue[-1][0] if queue else 0.0
        arrival_s = max(earliest_s, trio.current_time() + latency_s)
        queue.append((arrival_s, data))
        self.other.look_again()
        return arrival_s


class _Listening:
    def __init__(self, links: Links, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._links = links

    def close(self) -> None:
        self._links.listening.pop((self.host, self.port), None)

    def statistics(self) -> ListenerStatistics:
        return ListenerStatistics(open=0, accepted=0, refused_full=0, refused_handshake=0)


class HostNetwork:
    """`cluster.net.Network` of one host. Addresses are (host, port), whatever was bound."""

    def __init__(self, links: Links, host: str) -> None:
        self._links = links
        self._host = host

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Session:
        """See `Network.connect`."""
        links = self._links
        await trio.sleep(links.latency(self._host, host) + links.latency(host, self._host))
        with trio.move_on_after(CONNECT_S):
            ways = {(self._host, host), (host, self._host)}
            while ways & links.cut:  # noqa: ASYNC110 - on virtual time
                await trio.sleep(0.05)
            if (host, port) not in links.listening:
                raise ConnectionRefusedError(f"{host}:{port}")
            handler, nursery = links.listening[host, port]
            near, far = links.pair(self._host, host)

            async def attend() -> None:
                try:
                    await handler(far)
                finally:
                    far.close()

            try:
                with links.scheduler.on(host):
                    nursery.start_soon(attend)
            except RuntimeError:  # the node there is just ending
                raise ConnectionRefusedError(f"{host}:{port}") from None
            return near
        raise TimeoutError(f"no connection to {host}:{port}")

    async def serve(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        handler: Handler,
        nursery: trio.Nursery,
        connections_max: int = CONNECTIONS_MAX,
    ) -> Listener:
        """See `Network.serve`."""
        await trio.lowlevel.checkpoint()
        self._links.listening[self._host, port] = (handler, nursery)
        return _Listening(self._links, self._host, port)
