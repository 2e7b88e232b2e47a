"""A node among its peers: whom it dials, whom it talks to, what it hears and passes on.

Implements what the transport asks of its host (`raft.transport.Host`). Before the node belongs to
a cluster it gathers what the peers say; from then on it follows the configuration in the log.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Sequence

import trio

from cluster.acquaintances import Acquaintances
from cluster.administration import Administration
from cluster.belonging import Gathering
from cluster.config import NodeConfig
from cluster.datadir import DataDir
from cluster.logs import NodeLog
from cluster.metrics import NodeMetrics
from cluster.net import Network
from cluster.raft import peers
from cluster.raft.core import Core
from cluster.raft.engine import Engine
from cluster.raft.membership import Membership
from cluster.raft.peers import Hello, Refusal
from cluster.raft.stock import Message
from cluster.raft.transport import Transport
from cluster.security.tls import Subject

REFUSAL_LOGGED_EVERY_S = 60.0  # the same from the same machine; the metric counts each
REFUSALS_MAX = 1024
WAIT_SAID_AFTER_S = 2.0


class Peering:
    """One node's. `engine` and `administration` are set once the node belongs to a cluster;
    `on_digest(peer, index, digest)` gets what peers say of their state."""

    def __init__(
        self,
        config: NodeConfig,
        directory: DataDir,
        network: Network,
        random: random.Random,
        *,
        log: NodeLog,
        metrics: NodeMetrics,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        on_digest: Callable[[str, int, bytes], None],
    ) -> None:
        self.engine: Engine | None = None
        self.administration: Administration | None = None
        self._config = config
        self._name: str = config.node.name
        self._address = _own_address(config)
        self._directory = directory
        self._log = log
        self._metrics = metrics
        self._on_digest = on_digest
        self._acquaintances = Acquaintances()
        self._told_of_members_at = 0  # log index of the newest configuration told that lacks us
        self._refusals: dict[tuple[str, ...], float] = {}  # when each was logged last
        self._dialled: Membership | None = None
        self._gathering: Gathering | None = None
        self._belongs = trio.Event()
        self.transport = Transport(
            self, network, random, server_tls=server_tls, client_tls=client_tls
        )

    @property
    def core(self) -> Core | None:
        return None if self.engine is None else self.engine.core

    # --- forming or joining ---

    async def find_cluster(self) -> None:
        """Until it is certain which cluster this node belongs to, and the directory says so."""
        identity = self._directory.identity
        founders = {peer.name: str(peer.address) for peer in self._config.cluster.peers}
        self._gathering = Gathering(self._name, identity.uid, self._address, founders)
        self.transport.dial(self._configured_addresses())
        self._consider()
        with trio.move_on_after(WAIT_SAID_AFTER_S):
            await self._belongs.wait()
        if not self._belongs.is_set():
            waiting = ", ".join(self._gathering.missing) or "a node of the cluster to join"
            self._log.info("waiting to form or join a cluster", missing=waiting)
            await self._belongs.wait()

    def _consider(self) -> None:
        if self._gathering is None or self._belongs.is_set():
            return
        identity = self._directory.identity
        joins = bool(self._config.cluster.join) or identity.applicant
        belonging = self._gathering.decide(joins)
        if belonging is None:
            return
        self._directory.join(belonging.cluster_id, belonging.founders)
        founder = any(row[:2] == [self._name, identity.uid] for row in belonging.founders)
        self._log.info(
            "belongs to cluster",
            cluster=belonging.cluster_id,
            role="founder" if founder else "joining",
        )
        self._belongs.set()

    # --- following the configuration ---

    def was_removed(self, core: Core) -> bool:
        """Whether a newer configuration than the node's own is known to lack it."""
        return core.leader is None and self._told_of_members_at > core.members_index

    def candidate(self, name: str) -> Hello | None:
        """Who would be added under `name`."""
        in_touch = self.transport.uid_of(name)
        return self._acquaintances.candidate(name, in_touch, trio.current_time())

    def follow_members(self) -> None:
        """Dial whom the configuration names, if it is a new one. HOT: asked after each tick."""
        core = self.core
        if core is None or core.members is self._dialled:
            return
        before, self._dialled = self._dialled, core.members
        if core.role != "outsider":  # whose members may have been replaced long ago
            for member in core.members.members:
                self.transport.insist(member.name, member.uid)
        for member in before.members if before is not None else ():
            if core.members.get(member.name) is None:
                self.transport.hang_up(member.name, "removed: it hears so when it dials again")
        self._dial_members(core)

    def _dial_members(self, core: Core) -> None:
        """An outsider also dials whomever it has heard of, and a member that lags whom a newer
        configuration names: its leader may have joined since."""
        addresses: dict[str, str | None] = {
            m.address: m.name for m in core.members.members if m.name != self._name
        }
        for other in self._acquaintances.everybody():
            if core.role == "outsider" or other.members_index > core.members_index:
                addresses |= {row[2]: row[0] for row in other.members if row[0] != self._name}
        if core.role == "outsider":
            addresses |= self._configured_addresses()
        self.transport.dial(addresses)

    def _configured_addresses(self) -> dict[str, str | None]:
        cluster = self._config.cluster
        addresses: dict[str, str | None] = {
            str(peer.address): peer.name for peer in cluster.peers if peer.name != self._name
        }
        addresses |= {str(address): None for address in cluster.join}
        addresses.pop(self._address, None)
        return addresses

    # --- what the transport asks and tells ---

    def hello(self) -> Hello:
        identity, core = self._directory.identity, self.core
        return Hello(
            self._name,
            identity.uid,
            self._address,
            identity.cluster_id,
            identity.founders,
            [] if core is None else core.members.encode(),
            0 if core is None else core.members_index,
        )

    def objection(self, other: Hello, subject: Subject | None) -> Refusal | None:
        refusal = peers.objection(self.hello(), self._members, other, subject)
        if refusal is not None and refusal.code == "forgotten_data":
            self._acquaintances.turned_away(other, trio.current_time())
        return refusal

    def met(self, other: Hello) -> None:
        self._acquaintances.met(other)
        own = [self._name, self._directory.identity.uid]
        if other.members and own not in [row[:2] for row in other.members]:
            # a node that was removed gets no entries any more, not even the one that says so
            self._told_of_members_at = max(self._told_of_members_at, other.members_index)
        if self._gathering is not None and not self._belongs.is_set():
            self._gathering.meet(other)
            self._consider()
        elif (core := self.core) is not None and (
            core.role == "outsider" or other.members_index > core.members_index
        ):
            self._dial_members(core)

    def refused(self, address: str, refusal: Refusal) -> None:
        self._metrics.strangers.labels("peer", refusal.code).inc()
        host = address.rpartition(":")[0]  # whoever dials has a new port each time
        if self._is_news((host, *refusal)):
            self._log.warning(
                "peer refused", peer=address, code=refusal.code, detail=refusal.detail
            )

    def stands_in(self, other: Hello) -> bool:
        """Whether `other` only has the name of a member, and no cluster: told of ours, let go."""
        return peers.stands_in(self._members, other)

    def stranger(self, port: str, reason: str) -> None:
        self._metrics.strangers.labels(port, "malformed").inc()
        if self._is_news((port, reason)):
            self._log.warning("stranger turned away", port=port, reason=reason)

    def received(self, sender: str, messages: Sequence[Message]) -> None:
        """HOT."""
        if self.engine is None or self.administration is None:
            return
        rest: list[Message] = []
        for message in messages:
            if message["type"] == "digest":
                self._on_digest(sender, message["index"], message["digest"])
            elif not self.administration.receive(sender, message):
                rest.append(message)
        if rest:
            self.engine.received(sender, rest)

    def link_up(self, name: str) -> None:
        self._log.info("peer connected", peer=name)
        if self.engine is not None:
            self.engine.link_up(name)

    def link_down(self, name: str) -> None:
        self._log.info("peer disconnected", peer=name)
        if self.engine is not None and self.administration is not None:
            self.engine.link_down(name)
            self.administration.link_down(name)

    def _is_news(self, refusal: tuple[str, ...]) -> bool:
        now = trio.current_time()
        if now - self._refusals.get(refusal, -REFUSAL_LOGGED_EVERY_S) < REFUSAL_LOGGED_EVERY_S:
            return False
        if len(self._refusals) >= REFUSALS_MAX:
            self._refusals.clear()
        self._refusals[refusal] = now
        return True

    @property
    def _members(self) -> Membership:
        return Membership([]) if self.core is None else self.core.members


def _own_address(config: NodeConfig) -> str:
    """Where peers reach this node: what the peer list says of it, else where it listens."""
    for peer in config.cluster.peers:
        if peer.name == config.node.name:
            return str(peer.address)
    return str(config.listen.peer)
