"""The catalogue of the cluster's own event types, and patterns that none of them matches.

It is closed: whatever stands below `hooks.` in a log is one of these, or was written by a newer
release.
"""

from collections.abc import Mapping
from typing import Any, Final

from hooks.events.schema import DIALECT, EventType, Field
from pubsub.events import SYSTEM_TOPICS
from pubsub.topics import Pattern, closest, validate_pattern

VERSION: Final = 3  # of the catalogue: rises with every type or field that is added

# A trigger is a fact of its own that carries the topic it imitates: `hooks/delivery.py`. Stored
# under its text, not under a code, since before there were codes for topics of hooks.
TRIGGERED: Final = "hooks.hook.triggered"
TRIGGERED_TOPIC_HEADER: Final = "triggered-topic"

# Of what a handler did with an event below this nothing is said: that would be one more of them.
ABOUT_HOOKS: Final = "hooks.hook."

_KEY: Final = Field("string", "The key.")
_REVISION_BEFORE: Final = Field("integer", "The revision that the key was at before.")
_NODE: Final = Field("string", "The node's name.")
_HANDLER: Final = Field("string", "The handler's name.")
_VOTERS: Final = Field("array", "The names of the voters.", items="string")
_LEARNERS: Final = Field("array", "The names of the learners.", items="string")

_KV: Final = (
    EventType(
        "hooks.kv.write_committed",
        "A key was written, by a put, a batch or a transaction.",
        {
            "key": _KEY,
            "value": Field("string|null", "The value, or what a rule of capture left of it."),
            "value_encoding": Field(
                "string|null", "How the text stands for the bytes.", ("utf-8", "base64")
            ),
            "value_size_bytes": Field("integer", "The size of the value that was written."),
            "is_create": Field("boolean", "Whether the key did not exist before."),
            "version": Field("integer", "How many puts made this key: 1 for a new one."),
            "create_revision": Field("integer", "The revision at which the key came to be."),
            "previous_revision": Field(
                "integer|null", "The revision that the key was at before, if it existed."
            ),
            "expires_ms": Field(
                "integer|null", "When it expires, in milliseconds on the cluster's wall clock."
            ),
            "value_capture": Field(
                "string",
                "What the log has of the value, by the rule for the key's prefix.",
                ("full", "truncated", "hash", "none"),
            ),
            "value_sha256": Field(
                "string|null", "SHA-256 of the whole value in hexadecimal: hash and truncated."
            ),
        },
        version=2,
    ),
    EventType(
        "hooks.kv.delete_committed",
        "A key that existed was deleted. Deleting a key that does not exist is no event.",
        {
            "key": _KEY,
            "existed": Field("boolean", "Always true."),
            "previous_revision": _REVISION_BEFORE,
            "version": Field("integer", "How many puts the key had."),
        },
    ),
    EventType(
        "hooks.kv.ttl_expired",
        "A key was removed because its time to live was over on the cluster's clock.",
        {
            "key": _KEY,
            "previous_revision": _REVISION_BEFORE,
            "version": Field("integer", "How many puts the key had."),
            "expires_ms": Field("integer", "When its time was over."),
        },
    ),
)

_CLUSTER: Final = (
    EventType(
        "hooks.cluster.leader_elected",
        "A node became leader; once per term that had a leader.",
        {
            "new_leader": Field("string", "The node that leads in this term."),
            "previous_leader": Field("string|null", "Who led before, if anybody ever did."),
            "term": Field("integer", "The term."),
            "voters": _VOTERS,
            "learners": _LEARNERS,
        },
    ),
    EventType(
        "hooks.cluster.membership_changed",
        "The set of voters or learners changed.",
        {
            "voters": _VOTERS,
            "learners": _LEARNERS,
            "affected_node": Field("string", "The node that was added, promoted or removed."),
            "change_type": Field(
                "string",
                "What happened to it.",
                ("added_learner", "added_voter", "promoted", "removed"),
            ),
        },
    ),
    EventType(
        "hooks.cluster.node_added",
        "A node became a member of the cluster.",
        {
            "node": _NODE,
            "address": Field("string", "Where its peers reach it."),
            "role": Field("string", "As what it was added.", ("learner", "voter")),
        },
    ),
    EventType(
        "hooks.cluster.node_removed",
        "A node is no longer a member of the cluster.",
        {"node": _NODE},
    ),
)

_SYSTEM: Final = (
    EventType(
        "hooks.system.retention_capped",
        "The cap of the whole log took events that a protected group had not dealt with.",
        {
            "first_revision": Field("integer", "The oldest event that is left."),
            "groups": Field("array", "The groups that lost some.", items="string"),
        },
    ),
    EventType(
        "hooks.system.snapshot_created",
        "A node made its state durable and let go of the Raft log before it.",
        {
            "node": _NODE,
            "index": Field("integer", "The Raft log is gone up to this index."),
            "term": Field("integer", "The term of the entry at that index."),
            "size_bytes": Field("integer", "The size of the state."),
        },
    ),
    EventType(
        "hooks.system.snapshot_installed",
        "A node that was too far behind took over a copy of another node's state.",
        {
            "node": _NODE,
            "index": Field("integer", "The copy has everything up to this index."),
            "term": Field("integer", "The term of the entry at that index."),
            "size_bytes": Field("integer", "The size of the copy."),
            "from": Field("string|null", "The node that sent it, where it is known."),
        },
    ),
    EventType(
        "hooks.system.health_changed",
        "The leader cannot reach a member any more, or reaches it again.",
        {
            "node": _NODE,
            "previous": Field("string", "How it was before.", ("healthy", "unreachable")),
            "current": Field("string", "How it is from now on.", ("healthy", "unreachable")),
            "reason": Field("string|null", "What the leader saw."),
        },
    ),
    EventType(
        "hooks.system.node_started",
        "A node started and serves. Handlers of node scope can bring up to date what they keep.",
        {
            "node": _NODE,
            "version": Field("string", "The release that it runs."),
            "uid": Field("string", "The identity of its data directory."),
        },
    ),
    EventType(
        "hooks.system.node_stopped",
        "A node is about to stop because it was asked to. One that dies says nothing.",
        {"node": _NODE, "reason": Field("string|null", "Why it stops.")},
    ),
    EventType(
        "hooks.system.config_reloaded",
        "A node read its configuration again.",
        {
            "node": _NODE,
            "accepted": Field("boolean", "Whether it goes by it from now on."),
            "changes": Field("array", "What is different.", items="string"),
            "problems": Field(
                "array", "What is wrong with it, or takes a restart.", items="string"
            ),
        },
    ),
    EventType(
        "hooks.system.settings_changed",
        "A setting of the whole cluster has another value.",
        {
            "name": Field("string", "The setting."),
            "value": Field("any", "Its value from now on."),
            "actor": Field("string|null", "Who changed it."),
        },
    ),
)

_HOOK: Final = (
    EventType(
        TRIGGERED,
        "Somebody made an event by hand. Handlers get it under the topic that it imitates.",
        {
            "topic": Field("string", "The topic that it imitates."),
            "key": Field("string|null", "The key that was given."),
            "payload": Field(
                "any", "The payload that was given; bytes that are no text as base64."
            ),
        },
    ),
    EventType(
        "hooks.hook.registered",
        "A handler is new to the cluster, or its policy is another from now on.",
        {
            "handler": _HANDLER,
            "version": Field("integer", "The version of the policy in force."),
            "node": Field("string", "The node that registered it."),
            "change": Field(
                "string",
                "What is new about it: a new handler, another policy, or one that was removed.",
                ("registered", "changed", "back"),
            ),
        },
    ),
    EventType(
        "hooks.hook.failed",
        "A handler has given up on an event. Of events below `hooks.hook.` this is not said.",
        {
            "handler": _HANDLER,
            "revision": Field("integer", "The event."),
            "topic": Field("string|null", "The event's topic."),
            "key": Field("string|null", "The event's key."),
            "attempts": Field("integer", "How often it was tried."),
            "error": Field("string|null", "What the last attempt said."),
            "node": Field("string|null", "Where the last attempt was made."),
            "verdict": Field("string", "What became of it.", ("dead_letter", "skipped")),
        },
    ),
    EventType(
        "hooks.hook.executed",
        "A handler with `report_executions` has handled an event, and its effects are committed. Of"
        " events below `hooks.hook.` this is not said.",
        {
            "handler": _HANDLER,
            "revision": Field("integer", "The event; of a batch the newest."),
            "topic": Field("string", "The event's topic."),
            "key": Field("string|null", "The event's key."),
            "attempts": Field("integer", "How often it was tried, the last time with success."),
            "events": Field(
                "integer", "How many events the attempt was at: 1, and of a batch more."
            ),
            "node": Field("string|null", "Where it was handled."),
            "duration_ms": Field("integer", "How long the last attempt took."),
        },
    ),
    EventType(
        "hooks.hook.disabled",
        "A handler was disabled on every node. Its events wait.",
        {"handler": _HANDLER, "reason": Field("string|null", "Why, as it was said.")},
    ),
    EventType(
        "hooks.hook.enabled",
        "A handler was enabled on every node.",
        {"handler": _HANDLER},
    ),
    EventType(
        "hooks.hook.removed",
        "No node has this handler any more. Retention does not wait for it.",
        {"handler": _HANDLER, "node": Field("string|null", "The node that had it last.")},
    ),
    EventType(
        "hooks.hook.load_failed",
        "A node cannot load the code of a handler, and runs without it.",
        {
            "handler": Field("string", "The handler, or the module or file that it should be in."),
            "node": _NODE,
            "problem": Field("string", "What is wrong."),
        },
    ),
)

_GROUP: Final = (
    EventType(
        "hooks.group.event_replayed",
        "A consumer group gets an event of the past again, because a replay was asked for.",
        {
            "group": Field("string", "The group."),
            "revision": Field("integer", "The event that it gets again."),
        },
    ),
    EventType(
        "hooks.group.event_redriven",
        "A consumer group gets a dead letter again, as it was or as it was edited.",
        {
            "group": Field("string", "The group."),
            "revision": Field("integer", "The event that it gets again."),
            "topic": Field("string", "Its topic."),
            "data": Field("array", "Its data, as it was or as it was edited."),
            "redrives": Field("integer", "How often it came back out of the dead letters."),
        },
    ),
)

# The closed set of the cluster's own event types, by topic.
CATALOGUE: Final[Mapping[str, EventType]] = {
    event_type.topic: event_type for event_type in (*_KV, *_CLUSTER, *_SYSTEM, *_HOOK, *_GROUP)
}


def document() -> dict[str, Any]:
    """The whole catalogue, for programs: `cluster hook events --json`."""
    return {
        "version": VERSION,
        "dialect": DIALECT,
        "events": [
            {
                "topic": event_type.topic,
                "version": event_type.version,
                "summary": event_type.summary,
                "schema": event_type.json_schema(),
            }
            for event_type in CATALOGUE.values()
        ],
    }


def pattern_problem(text: str) -> str | None:
    """Why a handler with this pattern could never fire, or None.

    Beside the grammar: a pattern below `hooks.` that no event type matches is a misspelt one, since
    nobody but the cluster publishes there; the nearest spelling is named.
    """
    problem = validate_pattern(text)
    if problem or not text.startswith("hooks."):
        return problem
    matches = Pattern(text).matches
    matched = [topic for topic in CATALOGUE if matches(topic)]
    if matched == [TRIGGERED]:
        return "pattern: a triggered event reaches handlers under the topic that it imitates"
    if matched:
        return None
    spellings = list(CATALOGUE)
    for topic in CATALOGUE:
        family = topic.rpartition(".")[0]
        spellings += [f"{family}.*", f"{family}.>"]
    nearest = closest(text, dict.fromkeys(spellings))
    hint = f'; did you mean "{nearest}"?' if nearest else _family_of(text)
    return f'pattern: no event type matches "{text}"{hint}'


def publish_problem(text: str) -> str | None:
    """Why a pattern has no place in `publish_topics`, or None. The setting is for the cluster's own
    topics: a list without any of them keeps every event of the cluster from handlers."""
    if (problem := pattern_problem(text)) is not None:
        return problem
    if any(map(Pattern(text).matches, CATALOGUE)):
        return None
    return f'pattern: "{text}" matches no topic of the cluster; those of users are always published'


def _family_of(text: str) -> str:
    """What there is in the family that a pattern names rightly, if it names one."""
    family = ".".join(text.split(".")[:2]) + "."
    known = [topic for topic in CATALOGUE if topic.startswith(family)]
    return f"; there are {', '.join(known)}" if known else ""


# A catalogue that forgot a topic would let a handler for it be called misspelt.
assert set(CATALOGUE) == {*SYSTEM_TOPICS.values(), TRIGGERED}
