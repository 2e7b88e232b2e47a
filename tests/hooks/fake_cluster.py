"""A cluster as the hook service sees it, without Raft: one replicated state, a port per node.

The groups, the log and what is registered are the real ones. Operations apply in the order in
which they arrive, after a delay; a port can be cut off, and then its operations wait (or give up).
Time is trio's, so that tests run on the mock clock.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import apsw
import trio

from hooks.ports import Unavailable
from hooks.replicated import completion, handler_groups, registrations, settings, switches
from hooks.replicated.trigger import trigger
from pubsub import events, groups, log, retention
from pubsub.apply import Apply
from pubsub.consumer_groups import dead_letters, replays
from pubsub.events import Event
from pubsub.rejection import Rejection
from pubsub.retention_rules import CAP, note_trim
from tests.hooks.workbench import CLUSTER_ID, ListLog

APPLY_SECONDS = 0.002
EXPIRE_SECONDS = 0.25


class FakeCluster:
    """The replicated state and everything that changes it."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        for schema in (
            log.SCHEMA,
            groups.SCHEMA,
            retention.SCHEMA,
            registrations.SCHEMA,
            settings.SCHEMA,
            "CREATE TABLE kv(key TEXT PRIMARY KEY, value)",
        ):
            self.connection.execute(schema).fetchall()
        self.watchers: list[Callable[[], None]] = []
        self.submitted: list[tuple[str, str]] = []  # node and operation
        self.written: list[int] = []  # revisions of `put`
        self.leader: str | None = None
        self.members = [("a", "10.0.0.1:7471"), ("b", "10.0.0.2:7471")]
        self.is_old = False  # an older release's: it knows nothing of registrations
        self.entry_version = 3  # what every member knows
        self.tells_registrations = False  # else tests count their own events alone
        self._apply = Apply(self.connection, self._run)
        self._log_index = 0
        self._operations: dict[str, Callable[..., Any]] = {
            "group.define": handler_groups.define,
            "group.join": groups.join,
            "group.keepalive": groups.keepalive,
            "group.leave": groups.leave,
            "group.expire": groups.expire,
            "group.checkpoint": completion.checkpoint,
            "group.seek": groups.seek,
            "hook.trigger": trigger,
            "hook.register": registrations.register,
            "hook.enable": switches.enable,
            "hook.disable": switches.disable,
            "hook.forget": switches.forget,
            "hook.settings": settings.change,
            "dlq.redrive": dead_letters.redrive,
            "replay.start": replays.start,
            "replay.step": replays.step,
            "put": _put,
            "publish": _publish,
        }

    @property
    def revision(self) -> int:
        return self._apply.revision

    def do(self, name: str, *arguments: Any) -> Any:
        """Apply one operation as one entry."""
        self._log_index += 1
        now_ms = int(trio.current_time() * 1000)
        apply = self._apply
        first = apply.revision + 1
        apply.begin(self._log_index, now_ms, now_ms, apply.revision)
        with self.connection:
            result = self._operations[name](apply, *arguments)
            if name == "hook.register" and not self.tells_registrations:
                apply.begin(self._log_index, now_ms, now_ms, first - 1)
            if apply.packed_events:
                count = apply.revision + 1 - first
                batch = log.Batch.joined(first, self._log_index, now_ms, apply.packed_events, count)
                log.append(self.connection, batch)
        for watcher in list(self.watchers):
            watcher()
        return result

    def put(self, key: str, value: bytes = b"v") -> int:
        self.written.append(int(self.do("put", key, value)))
        return self.written[-1]

    def lead(self, node: str | None) -> None:
        """Another node leads from now on; those that are not cut off know it at once."""
        self.leader = node
        for watcher in list(self.watchers):
            watcher()

    def value(self, key: str) -> bytes | None:
        row = self.connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def described(self, handler: str) -> dict[str, Any]:
        """The group of a handler; with the lowest floor, which is how far it has got."""
        described = groups.describe(self.connection, f"hook.{handler}")
        if described is None:
            return {"floor": -1}
        return {**described, "floor": min(p["floor"] for p in described["partitions"])}

    def letters(self, handler: str) -> list[dict[str, Any]]:
        return groups.dead_letters(self.connection, f"hook.{handler}")

    def trim(self, up_to_revision: int) -> None:
        """What a cap of the whole log does; every event was an entry of its own."""
        self.connection.execute(
            "DELETE FROM event_batches WHERE first_revision <= ?", (up_to_revision,)
        )
        note_trim(self.connection, CAP, up_to_revision)

    def read(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        return log.read(self.connection, from_revision, events_max, bytes_max)

    async def expire_members(self) -> None:
        """What the leader does."""
        while True:
            await trio.sleep(EXPIRE_SECONDS)
            deadline = groups.next_deadline(self.connection)
            if deadline is not None and deadline <= trio.current_time() * 1000:
                self.do("group.expire", int(trio.current_time() * 1000))

    def _run(self, name: str, arguments: Any) -> Any:
        if name not in ("put", "publish"):
            return Rejection("unknown_operation", f"{name} cannot be an effect")
        return self._operations[name](self._apply, *arguments)


class FakePort:
    """One node's view of the cluster."""

    def __init__(self, cluster: FakeCluster, node: str, seed: int = 0) -> None:
        self.cluster = cluster
        self.node = node
        self.cluster_id = CLUSTER_ID
        self.log = ListLog()
        self.connected = trio.Event()
        self.connected.set()
        self.unavailable = 0  # so many operations are applied, but their answers are lost
        self.answer_seconds = 0.0  # how late an answer is after the operation was applied
        self.events_read = 0
        self.labels: dict[str, str] = {}
        self.believes_in: str | None = None  # whom it took for the leader when it was cut off
        self._stale: tuple[apsw.Connection, int] | None = None  # what it knew when it was cut off
        self._random = random.Random(seed)

    @property
    def connection(self) -> apsw.Connection:
        return self._stale[0] if self._stale else self.cluster.connection

    @property
    def revision(self) -> int:
        return self._stale[1] if self._stale else self.cluster.revision

    @property
    def entry_version(self) -> int:
        return 1 if self.cluster.is_old else self.cluster.entry_version

    async def submit(
        self, name: str, arguments: Sequence[object], *, actor: str | None = None
    ) -> Any:
        await self.connected.wait()
        await trio.sleep(APPLY_SECONDS)
        await self.connected.wait()
        self.cluster.submitted.append((self.node, name))
        result: Any
        if self.cluster.is_old and (
            name.startswith("hook.") or (name == "group.join" and len(arguments) > 3)
        ):
            result = Rejection("unknown_operation", f'there is no operation "{name}"')
        else:
            result = self.cluster.do(name, *arguments)
        if self.answer_seconds:
            await trio.sleep(self.answer_seconds)
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable
        return result

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        found = self.cluster.read(from_revision, events_max, bytes_max)
        found = [event for event in found if event.revision <= self.revision]
        self.events_read += len(found)
        return found

    def members(self) -> list[tuple[str, str]]:
        return self.cluster.members

    async def read_prefix(
        self, prefix: str, keys_max: int, bytes_max: int
    ) -> list[tuple[str, bytes]] | None:
        await trio.lowlevel.checkpoint()
        rows: list[Any] = self.connection.execute("SELECT * FROM kv ORDER BY key").fetchall()
        found = [(key, bytes(value)) for key, value in rows if key.startswith(prefix)]
        size = sum(len(value) for _, value in found)
        return None if len(found) > keys_max or size > bytes_max else found

    def watch_applied(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.cluster.watchers.append(callback)
        return lambda: self.cluster.watchers.remove(callback)

    def monotonic_ms(self) -> int:
        return int(trio.current_time() * 1000)

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.monotonic_ms()

    @property
    def leads(self) -> bool:
        leader = self.believes_in if self._stale else self.cluster.leader
        return leader == self.node

    def random(self) -> float:
        return self._random.random()

    def disconnect(self) -> None:
        """From now on nothing arrives from the cluster, and nothing gets there."""
        self.connected = trio.Event()
        copy = apsw.Connection(":memory:")
        with copy.backup("main", self.cluster.connection, "main") as backup:
            backup.step()
        self._stale = copy, self.cluster.revision
        self.believes_in = self.cluster.leader

    def reconnect(self) -> None:
        self._stale = None
        self.connected.set()


def _put(
    apply: Apply, key: str, value: bytes, ttl_ms: None = None, expected_revision: int | None = None
) -> int | Rejection:
    if expected_revision is not None:
        return Rejection("revision_mismatch", f'key "{key}" has another revision')
    data = [value, 1, 1, 0, None]
    revision = apply.emit(events.KV_WRITE_COMMITTED, key, data, apply.meta)
    apply.connection.execute("INSERT OR REPLACE INTO kv VALUES(?, ?)", (key, value))
    return revision


def _publish(apply: Apply, topic: str, key: str | None, payload: bytes, *more: object) -> int:
    return apply.emit(topic, key, [payload, *more], apply.meta)
