"""One node: everything composed, started in order, and stopped in order.

Directory -> code of hooks -> peers (form or join a cluster) -> log, state, engine -> client port
and hooks.
A node offers to its client port and to the hook service: `submit`, `read_index`, `read_events`,
`status` and the membership calls. All are synchronous, from the trio thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import apsw
import trio

from cluster import __version__
from cluster.administration import Administration, Request
from cluster.blocking import Blocking
from cluster.config import NodeConfig
from cluster.datadir import DataDir, DataDirError
from cluster.divergence import Divergence
from cluster.errors import Stopping, TremulaError
from cluster.hookport import HookPort
from cluster.housekeeping import Housekeeping
from cluster.http import HttpPages
from cluster.indexing import EventIndex, FollowedState, Parts
from cluster.logs import NodeLog
from cluster.machine import Applied, Each, Machine
from cluster.metrics import NodeMetrics
from cluster.net import Listener, Network
from cluster.nodemetrics import publish_metrics, publish_strangers
from cluster.peering import Peering
from cluster.raft.clock import ClusterClock
from cluster.raft.consensus import Timing
from cluster.raft.core import CLOCK_NOTE, Bounds, Core
from cluster.raft.driver import Driver
from cluster.raft.engine import Engine
from cluster.raft.membership import Membership
from cluster.raft.sqlite_log import SqliteLog
from cluster.reporting import Reporting
from cluster.security.tls import client_context, server_context
from cluster.selfcheck import SelfCheck
from cluster.server import Server
from cluster.storage import Storage
from cluster.timekeeper import Timekeeper
from hooks.ports import Spawn
from hooks.registry import Registry
from pubsub import retention
from pubsub.events import Event
from pubsub.log import Compacted, read_events

Done = Callable[[object], None]

DRAIN_S = 5.0
HAND_OVER_S = 3.0


class Ports(Protocol):
    """What a node takes from its surroundings, so that a simulator can give it another world."""

    network: Network
    random: random.Random
    environment: Mapping[str, str]
    spawn: Spawn
    blocking: Blocking
    registry: Registry | None  # of Python handlers that run in this very process

    def wall_ms(self) -> int: ...


class Node:
    """A running node. `run` is its whole life."""

    def __init__(self, config: NodeConfig, ports: Ports, log: NodeLog) -> None:
        self.config = config
        self.name: str = config.node.name
        self.log = log
        self.metrics = NodeMetrics()
        self.on_applied: list[Callable[[], None]] = []
        self.on_leader: list[Callable[[], None]] = []  # another one, or none any more
        self.on_flush: list[Callable[[], None]] = []
        self.started_at = trio.current_time()
        self.leader_changes = 0
        self.divergence = Divergence()
        self._ports = ports
        self.random = ports.random
        self.environment = ports.environment
        self.spawn = ports.spawn
        self.blocking = ports.blocking
        self.wall_ms = ports.wall_ms
        self.registry = ports.registry
        self.network = ports.network
        self._last_leader: str | None = None
        self._is_serving = self._stopping = False
        self._persisted = 0  # of the log, when the last tick was over
        self.directory = DataDir.open(config.node.data_dir, self.name, self._mint_uid)
        self.storage: Storage | None = None
        self.engine: Engine | None = None
        self.server: Server | None = None
        self.index: EventIndex | None = None
        self.hooks = HookPort(self)
        self.reporting: Reporting | None = None
        tls = config.tls
        files = (tls.ca, tls.certificate, tls.key)
        self._server_tls = server_context(*files) if tls.enabled else None  # type: ignore[arg-type]
        self.peering = Peering(
            config,
            self.directory,
            ports.network,
            ports.random,
            log=log,
            metrics=self.metrics,
            server_tls=self._server_tls,
            client_tls=client_context(*files) if tls.enabled else None,  # type: ignore[arg-type]
            on_digest=self.divergence.report,
        )
        self.transport = self.peering.transport

    def _mint_uid(self) -> str:
        return f"{self._ports.random.getrandbits(64):016x}"

    # --- life ---

    async def run(self, stop: trio.Event) -> None:
        """Serve until `stop` is set; then hand over leadership, drain, and close."""
        if self.directory.forgot is not None:
            self.log.error(
                "this node forgot what it may have acknowledged: it votes in nothing until it is "
                "removed and added again",
                missing=self.directory.forgot,
            )
        self._refuse_hopeless_wait()
        listen = self.config.listen
        async with trio.open_nursery() as nursery:
            pages = HttpPages(self.metrics, live=lambda: None, ready=self.not_ready)
            http_tls = None if listen.http.is_loopback else self._server_tls
            http = await self._ports.network.serve(
                listen.http.host, listen.http.port, http_tls, pages.serve, nursery
            )
            nursery.start_soon(self._begin, stop, http, nursery)
            await stop.wait()
            if self.engine is None:
                nursery.cancel_scope.cancel()
        self.directory.close()

    async def _begin(self, stop: trio.Event, http: Listener, nursery: trio.Nursery) -> None:
        # before anybody counts on this node: it may refuse to start over its hooks
        await nursery.start(self.hooks.run)
        listen = self.config.listen.peer
        peer = await self.transport.serve((listen.host, listen.port), nursery)
        publish_strangers(self.metrics, {"http": http, "peer": peer})
        await self._serve(stop)
        nursery.cancel_scope.cancel()

    async def _serve(self, stop: trio.Event) -> None:
        if self.cluster_id is None:
            await self.peering.find_cluster()
        raft_log = SqliteLog.open(self.directory.log_path)
        self.directory.finish_installation(raft_log)
        first = raft_log.first.index
        self.storage = Storage(self.directory, self._applied, first, self.blocking)
        marker = self.directory.marker()
        raft_log.on_shorter = marker.lower
        self.engine = self._make_engine(raft_log, self.storage, marker.write)
        self.peering.engine = self.engine
        self.peering.administration = Administration(
            self.engine.core,
            known=self.peering.candidate,
            send=self.transport.send,
            wake=self.engine.wake,
            clock=trio.current_time,
        )
        self.server = Server(
            self,
            limits=self.config.limits.client,
            certificate_required=self.config.tls.enabled,
        )
        self.index = self._make_index(self.storage)
        self.reporting = self._make_reporting(self.storage, self.index)
        publish_metrics(self, self.hooks.runtime)
        housekeeping = self._make_housekeeping(self.storage, raft_log, self.engine)
        timekeeper = Timekeeper(lambda: self.machine, self._clocks, self.propose, self._tell_lost)
        async with trio.open_nursery() as nursery:
            self.storage.run_in(nursery)
            nursery.start_soon(self.engine.run)
            nursery.start_soon(housekeeping.run)
            nursery.start_soon(timekeeper.run)
            nursery.start_soon(self.index.run)
            self.reporting.seed_capture(self.config.hooks.capture)
            nursery.start_soon(self.reporting.run)
            self.peering.follow_members()
            self.transport.redial()
            # before the port opens: its requests are known from the first connection on
            await self.hooks.serve()
            client = self.config.listen.client
            await nursery.start(
                self.server.run,
                self._ports.network,
                client.host,
                client.port,
                self._server_tls,
            )
            scan = SelfCheck(self.directory.state_path, nursery, self.blocking)
            self.server.extra["doctor.scan"] = scan.start
            self._is_serving = True
            self.log.info("serving", cluster=self.cluster_id, client=str(client))
            self.reporting.node_started(__version__, self.uid)
            await stop.wait()
            self._stopping = True
            self.log.info("stopping")
            await self.reporting.node_stopped("asked to stop")
            await self.hooks.stop()
            await self._hand_over()
            await self.server.drain(DRAIN_S)
            nursery.cancel_scope.cancel()
        marker.write(raft_log.term, raft_log.persisted_index)
        self.index.close()
        self.storage.close()
        raft_log.close()
        self.log.info("stopped")

    def _make_index(self, storage: Storage) -> EventIndex:
        assert self.cluster_id is not None, "it belongs to one by now"
        followed = FollowedState(storage)
        index = EventIndex(
            self.directory.index_path, self.cluster_id, followed, self.blocking, self.log
        )
        self.on_applied.append(index.applied)
        return index

    def _make_housekeeping(
        self, storage: Storage, raft_log: SqliteLog, engine: Engine
    ) -> Housekeeping:
        raft = self.config.raft
        return Housekeeping(
            storage,
            raft_log,
            engine.wake,
            needed_index=engine.core.needed_index,
            log_entries_max=raft.log_entries_max,
            log_bytes_max=raft.log_bytes_max,
            on_cut=self._log_cut,
        )

    def _make_reporting(self, storage: Storage, index: EventIndex) -> Reporting:
        reporting = Reporting(
            self.name,
            self.random.getrandbits(63),
            core=lambda: self.core,
            machine=lambda: self.machine,
            propose=self.propose,
            log=self.log,
        )

        def installed() -> None:
            index.installed()
            machine = self.machine
            size = self.directory.state_path.stat().st_size
            at = machine.applied_index, machine.applied_term
            reporting.snapshot_installed(*at, size, self.leader)

        storage.on_installed = installed
        return reporting

    def _make_engine(
        self, raft_log: SqliteLog, storage: Storage, mark: Callable[[int, int], None]
    ) -> Engine:
        raft = self.config.raft
        noted = raft_log.noted(CLOCK_NOTE)
        remembered_ms = noted if isinstance(noted, int) else None
        core = Core(
            name=self.name,
            uid=self.directory.identity.uid,
            log=raft_log,
            applied_index=storage.machine.applied_index,
            members=Membership.decode(storage.machine.members),
            clock=ClusterClock(self.name, self._ports.wall_ms, remembered_ms),
            random=self._ports.random,
            timing=Timing(
                raft.heartbeat_ms / 1000,
                raft.election_timeout_min_ms / 1000,
                raft.election_timeout_max_ms / 1000,
            ),
            bounds=Bounds(
                raft.entry_operations_max, raft.entry_bytes_max, raft.snapshot_chunk_bytes
            ),
            now=trio.current_time(),
        )
        metrics = self.metrics
        driver = Driver(
            core,
            storage,
            self.transport.send,
            trio.current_time,
            metrics.raft_fsync_seconds.observe,
            metrics.apply_seconds.observe,
            self._flush,
        )
        return Engine(
            driver,
            after_step=self._stepped,
            mark=mark,
            observe_tick=metrics.raft_tick_seconds.observe,
        )

    def _refuse_hopeless_wait(self) -> None:
        """An applicant gets its state from peers; a cluster of one has none."""
        cluster = self.config.cluster
        alone = not cluster.join and all(peer.name == self.name for peer in cluster.peers)
        if self.directory.identity.applicant and alone:
            raise DataDirError(
                f"{self.directory.path} lost what the only node of its cluster had acknowledged; "
                "what is left lies in its forgotten-* folders: restore a backup, or begin anew "
                "with an empty directory"
            )

    async def _hand_over(self) -> None:
        """A leader that stops lets another take over first (thesis §3.10)."""
        core = self.core
        if core is None or not core.is_leader or len(core.members.voters) < 2:
            return
        answered = trio.Event()
        core.transfer_leadership(trio.current_time(), None, lambda result: answered.set())
        self._wake()
        with trio.move_on_after(HAND_OVER_S):
            await answered.wait()

    def reload(self) -> None:
        """Read the configuration again, as far as that can be done while the node runs."""
        self.hooks.reload.ask()

    # --- what the client port and the hook service use ---

    @property
    def uid(self) -> str:
        return self.directory.identity.uid

    @property
    def cluster_id(self) -> str | None:
        return self.directory.identity.cluster_id

    @property
    def core(self) -> Core | None:
        return None if self.engine is None else self.engine.core

    @property
    def machine(self) -> Machine:
        assert self.storage is not None, "only a node that belongs to a cluster is served"
        return self.storage.machine

    @property
    def leader(self) -> str | None:
        return None if self.core is None else self.core.leader

    def open_reader(self) -> apsw.Connection:
        """Another connection to the applied state, for a long read in a thread."""
        assert self.storage is not None, "only a node that belongs to a cluster is served"
        return self.storage.open_reader()

    def open_index(self) -> Parts:
        """The event index as it is now, for one query in a thread; the caller closes it."""
        return Parts([], None) if self.index is None else self.index.parts()

    def submit(self, operation: bytes, done: Done) -> None:
        """Replicate a packed operation; `done` is called once with its result, a Rejection or a
        TremulaError, after this node has applied it."""
        if self._stopping:
            done(Stopping())
            return
        self.propose(operation, done)

    def read_index(self, done: Callable[[TremulaError | None], None]) -> None:
        """`done(None)` once the applied state is at least as fresh as the cluster was now."""
        core = self.core
        assert core is not None, "only a node that belongs to a cluster is served"
        core.read(done)  # type: ignore[arg-type]
        self._wake()

    def hasten(self, is_alone: bool) -> None:
        """Work now on what was submitted and asked, if there is nobody to wait for."""
        if self.engine is not None:
            self.engine.hasten(is_alone)

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        """The applied log from a revision on, in order; empty at its end."""
        assert self.storage is not None, "only a node that belongs to a cluster is served"
        connect = self.storage.connect
        return read_events(self.storage.tail, connect, from_revision, events_max, bytes_max)

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        """Whether retention took what a reader of `pattern` needs, and where it may go on."""
        return retention.compacted(self.machine.connection, pattern, from_revision)

    def status(self) -> dict[str, Any]:
        """Facts for people and for `cluster status`."""
        core = self.core
        assert core is not None, "only a node that belongs to a cluster is served"
        machine = self.machine
        return {
            "node": self.name,
            "uid": self.uid,
            "version": __version__,
            "cluster_id": self.cluster_id,
            "cluster_name": self.config.cluster.name,
            "role": core.role,
            "leader": core.leader,
            "term": core.term,
            "commit_index": core.commit_index,
            "applied_index": machine.applied_index,
            "log_first_index": core.log.first.index,
            "revision": machine.revision,
            "digest": machine.digest.hex(),
            "wall_ms": machine.wall_ms,
            "elapsed_ms": machine.elapsed_ms,
            "members": machine.members,
            "peers": {
                name: {
                    "match": progress.match,
                    "connected": progress.connected,
                    "snapshot": progress.snapshotting,
                }
                for name, progress in core.progress().items()
            },
            "problem": self.not_ready(),
        }

    def add_member(self, name: str, address: str, done: Done) -> None:
        """Add the node `name` as a learner. It must have contacted the leader before."""
        self._administer("add", name, address, done)

    def promote(self, name: str, done: Done) -> None:
        """Make a learner that has caught up a voter."""
        self._administer("promote", name, "", done)

    def remove_member(self, name: str, done: Done) -> None:
        """Remove a member; a leader must hand over first."""
        self._administer("remove", name, "", done)

    def transfer_leadership(self, name: str | None, done: Done) -> None:
        """Hand leadership to `name`, or to whoever is most advanced."""
        self._administer("transfer", name, "", done)

    def not_ready(self) -> str | None:
        """Why this node cannot serve now, or None."""
        core = self.core
        if core is None:
            is_loaded = self.hooks.is_loaded
            return "waiting to form or join a cluster" if is_loaded else "loading its hooks"
        if self._stopping:
            return "stopping"
        if core.role == "outsider" or self.peering.was_removed(core):
            return "not a member of the cluster: add it with `cluster member add`"
        if core.leader is None:
            return "no leader"
        return None if self._is_serving else "starting"

    # --- between the parts ---

    def propose(self, operation: bytes, done: Done) -> None:
        """`submit` for the node's own parts, which still work while it stops. HOT."""
        assert self.engine is not None, "only a node that belongs to a cluster is served"
        self.engine.propose(operation, done)

    def _administer(self, request: Request, name: str | None, address: str, done: Done) -> None:
        administration = self.peering.administration
        assert administration is not None, "only a node that belongs to a cluster is served"
        administration.request(request, name, address, done)

    def _wake(self) -> None:
        if self.engine is not None:
            self.engine.wake()

    def _clocks(self) -> tuple[int, int] | None:
        core = self.core
        if core is None or not core.ready_to_lead:
            return None
        return core.clock.peek(trio.current_time(), core.members.voters)

    def _log_cut(self, index: int, term: int) -> None:
        """The state alone has the entries up to there from now on."""
        if self.reporting is not None:
            size = self.directory.state_path.stat().st_size
            self.reporting.snapshot_created(index, term, size)

    def _tell_lost(self, groups: list[str]) -> None:
        self.log.error("the cap of the log took events that groups had not read", groups=groups)

    def _applied(self, applied: Applied) -> None:
        # the results of each of those that came together count
        count = sum(len(one) if isinstance(one, Each) else 1 for one in applied.results)
        self.metrics.entry_operations.observe(count)
        batch = applied.batch
        if batch is not None and applied.alike is not None and self.index is not None:
            self.index.note(batch.first_revision, batch.count, applied.alike)

    def _stepped(self, applied: bool) -> None:
        """After each tick: answer, tell who waits for applied entries, and then do the rest."""
        core = self.core
        if core is None or self.storage is None:
            return
        if core.leader != self._last_leader:
            self._leader_changed(core)
        self.peering.follow_members()
        self._flush()
        if applied:
            for callback in self.on_applied:
                callback()
            self._flush()
        persisted, self._persisted = self._persisted, core.log.persisted_index
        # Who was answered may be back soon. The good time for a leader is that in which followers
        # write what it sent them: it has then just written the same itself.
        if not (applied and core.is_leader and core.log.persisted_index == persisted):
            self.storage.write()
            self._compare_digests(core)

    def _flush(self) -> None:
        for callback in self.on_flush:
            callback()

    def _compare_digests(self, core: Core) -> None:
        digests = self.machine.digests
        told = self.divergence.due(self.machine.applied_index, digests)
        if told is not None:
            index, digest = told
            for member in core.members.members:
                if member.name != self.name:
                    message = {"type": "digest", "index": index, "digest": digest}
                    self.transport.send(member.name, message)
            self.divergence.check(digests, core.members.voters, core.members.quorum)

    def _leader_changed(self, core: Core) -> None:
        self.log.term = core.term
        if core.leader is not None:
            if self.reporting is not None:
                self.reporting.leader_changed()
            self.leader_changes += 1
            self.log.info("leader", leader=core.leader, term=core.term)
        else:
            self.log.info("no leader", last=self._last_leader)
        self._last_leader = core.leader
        for callback in self.on_leader:
            callback()
