"""Events: the stored form, which never changes its meaning, and the view that readers get.

Stored, an event is the msgpack array `[topic, key, data, meta]`:

- `topic`: an integer, the code of a system topic below, or the text of a user's topic;
- `key`: text or nil;
- `data`: an array whose shape the topic fixes (the table at `SYSTEM_TOPICS`; new fields are only
  ever appended). A user's event has `[payload bytes, content type | nil, headers map | nil]`
  and, only where it was given, the schema version;
- `meta`: nil or `[actor, correlation id, causation id, hops, traceparent]`, trailing nils cut. An
  id that is an integer is the revision of an event of this cluster.

Revision, time, log index and ordinal are not stored with the event: its batch knows them.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

KV_WRITE_COMMITTED: Final = 1
KV_DELETE_COMMITTED: Final = 2
KV_TTL_EXPIRED: Final = 3
CLUSTER_LEADER_ELECTED: Final = 10
CLUSTER_MEMBERSHIP_CHANGED: Final = 11
CLUSTER_NODE_ADDED: Final = 12
CLUSTER_NODE_REMOVED: Final = 13
SYSTEM_RETENTION_CAPPED: Final = 20
SYSTEM_SNAPSHOT_CREATED: Final = 21
SYSTEM_SNAPSHOT_INSTALLED: Final = 22
SYSTEM_HEALTH_CHANGED: Final = 23
SYSTEM_NODE_STARTED: Final = 24
SYSTEM_NODE_STOPPED: Final = 25
SYSTEM_CONFIG_RELOADED: Final = 26
SYSTEM_SETTINGS_CHANGED: Final = 27
HOOK_REGISTERED: Final = 30
HOOK_FAILED: Final = 31
HOOK_DISABLED: Final = 32
HOOK_ENABLED: Final = 33
HOOK_REMOVED: Final = 34
HOOK_LOAD_FAILED: Final = 35
HOOK_EXECUTED: Final = 36
GROUP_EVENT_REPLAYED: Final = 40
GROUP_EVENT_REDRIVEN: Final = 41

# A code is for ever: it stands in the logs of clusters that run. 20 and up are kept for
# hooks.system.*, 30 and up for hooks.hook.*, 40 and up for hooks.group.*.
SYSTEM_TOPICS: Final[dict[int, str]] = {
    # [value | nil, create_revision, version, previous_revision (0 = it did not exist),
    #  expires_ms | nil], and where a rule of capture says that the log has less than the value:
    # [mode, size of the value, SHA-256 of it as hexadecimal text | nil]
    KV_WRITE_COMMITTED: "hooks.kv.write_committed",
    # [previous_revision, version]
    KV_DELETE_COMMITTED: "hooks.kv.delete_committed",
    # [previous_revision, version, expires_ms]
    KV_TTL_EXPIRED: "hooks.kv.ttl_expired",
    # [new_leader, previous_leader | nil, term, voters, learners]
    CLUSTER_LEADER_ELECTED: "hooks.cluster.leader_elected",
    # [voters, learners, affected_node, added_voter | added_learner | removed | promoted]
    CLUSTER_MEMBERSHIP_CHANGED: "hooks.cluster.membership_changed",
    # [node, address, role]
    CLUSTER_NODE_ADDED: "hooks.cluster.node_added",
    # [node]
    CLUSTER_NODE_REMOVED: "hooks.cluster.node_removed",
    # [first_revision that is left, [group that had not read what went, ...]]
    SYSTEM_RETENTION_CAPPED: "hooks.system.retention_capped",
    # [node, index, term, size_bytes]
    SYSTEM_SNAPSHOT_CREATED: "hooks.system.snapshot_created",
    # [node, index, term, size_bytes, node that it came from | nil]
    SYSTEM_SNAPSHOT_INSTALLED: "hooks.system.snapshot_installed",
    # [node, previous state, current state, reason]
    SYSTEM_HEALTH_CHANGED: "hooks.system.health_changed",
    # [node, version of the software, uid of the data directory]
    SYSTEM_NODE_STARTED: "hooks.system.node_started",
    # [node, reason]
    SYSTEM_NODE_STOPPED: "hooks.system.node_stopped",
    # [node, accepted, [what changed, ...], [problem, ...]]
    SYSTEM_CONFIG_RELOADED: "hooks.system.config_reloaded",
    # [name, value, actor | nil]
    SYSTEM_SETTINGS_CHANGED: "hooks.system.settings_changed",
    # [handler, version, node, registered | changed | back]
    HOOK_REGISTERED: "hooks.hook.registered",
    # [handler, revision, topic, key | nil, attempts, error, node | nil, dead_letter | skipped]
    HOOK_FAILED: "hooks.hook.failed",
    # [handler, reason | nil]
    HOOK_DISABLED: "hooks.hook.disabled",
    # [handler]
    HOOK_ENABLED: "hooks.hook.enabled",
    # [handler, node | nil]
    HOOK_REMOVED: "hooks.hook.removed",
    # [handler, node, problem]
    HOOK_LOAD_FAILED: "hooks.hook.load_failed",
    # [handler, revision, topic, key | nil, attempts, events, node | nil, duration_ms]
    HOOK_EXECUTED: "hooks.hook.executed",
    # [group, revision of the event that it gets again]
    GROUP_EVENT_REPLAYED: "hooks.group.event_replayed",
    # [group, revision, topic, data, redrives, wall_ms, meta | nil]: of the event as it was, or as
    # it was edited; the log may have lost it by now
    GROUP_EVENT_REDRIVEN: "hooks.group.event_redriven",
}

Identifier = int | str
Meta = Sequence[Any]  # [actor, correlation_id, causation_id, hops, traceparent], may be shorter


class Event(NamedTuple):
    """One committed event, as every reader on every node sees it.

    A named tuple and not a dataclass because it is built once per event and reader: a frozen
    dataclass of this size takes three times as long.
    """

    revision: int
    topic: str
    key: str | None
    data: tuple[Any, ...]
    actor: str | None
    correlation_id: Identifier | None
    causation_id: Identifier | None
    hops: int
    traceparent: str | None
    wall_ms: int
    log_index: int
    ordinal: int  # position among the events of its log entry
    size_bytes: int  # of the stored form: what a reader's byte bounds count

    @property
    def is_system(self) -> bool:
        """True for the cluster's own events, False for what users published."""
        return self.topic.startswith("hooks.")


def array_header(count: int) -> bytes:
    """The msgpack header of an array of `count` items."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65_536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def decode(
    blob: bytes, first_revision: int, log_index: int, wall_ms: int, skip: int, events_max: int
) -> list[Event]:
    """The events of one batch after the first `skip` places, at most `events_max` of them.

    A place that holds nil was left by an event that retention took.
    """
    unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False, max_buffer_size=len(blob))
    unpacker.feed(blob)
    count = unpacker.read_array_header()
    for _ in range(min(skip, count)):
        unpacker.skip()
    events: list[Event] = []
    make = Event._make  # half the time of a call with thirteen arguments
    start = unpacker.tell()
    for ordinal in range(skip, count):
        if len(events) >= events_max:
            break
        stored = unpacker.unpack()
        if stored is None:
            start = unpacker.tell()
            continue
        topic, key, data, meta = stored
        if topic.__class__ is int:
            topic = SYSTEM_TOPICS.get(topic) or topic_name(topic)
        actor = correlation_id = causation_id = traceparent = None
        hops = 0
        if meta is not None:
            if len(meta) == 1:  # mostly: nobody traces
                actor = meta[0]
            else:
                actor, correlation_id, causation_id, hops, traceparent = expand(meta)
        end = unpacker.tell()
        events.append(
            make(
                (
                    first_revision + ordinal,
                    topic,
                    key,
                    data,
                    actor,
                    correlation_id,
                    causation_id,
                    hops,
                    traceparent,
                    wall_ms,
                    log_index,
                    ordinal,
                    end - start,
                )
            )
        )
        start = end
    return events


def topic_name(topic: int | str) -> str:
    """The topic that stands in a stored event, as readers know it."""
    if isinstance(topic, str):
        return topic
    # A code that this release does not know was written by a newer one: still an event.
    return SYSTEM_TOPICS.get(topic) or f"hooks.unknown.{topic}"


def expand(
    meta: Meta | None,
) -> tuple[str | None, Identifier | None, Identifier | None, int, str | None]:
    """The five fields of a stored meta: cut ones filled in, those of newer releases dropped."""
    fields = [*(meta or ()), None, None, None, None, None]
    return fields[0], fields[1], fields[2], fields[3] or 0, fields[4]


def compress(
    actor: str | None,
    correlation_id: Identifier | None,
    causation_id: Identifier | None,
    hops: int,
    traceparent: str | None,
) -> list[Any] | None:
    """The stored form of the five fields: trailing nils cut, None when nothing is left."""
    fields = [actor, correlation_id, causation_id, hops or None, traceparent]
    while fields and fields[-1] is None:
        fields.pop()
    return fields or None
