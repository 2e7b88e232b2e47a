"""The catalogue of the cluster's own event types, and patterns that none of them matches."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pubsub.events import SYSTEM_TOPICS
from pubsub.topics import Pattern, closest, validate_pattern


class EventType(NamedTuple):
    """One kind of event: what it says, and the JSON types of the fields of its payload."""

    topic: str
    summary: str
    fields: Mapping[str, str]  # name -> JSON type; "|null" after it where the value may be missing

    def json_schema(self) -> dict[str, Any]:
        """The payload's shape as JSON Schema 2020-12."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.topic,
            "description": self.summary,
            "type": "object",
            "properties": {name: _schema(kind) for name, kind in self.fields.items()},
            "required": list(self.fields),
        }


# The closed set of the cluster's own event types, by topic.
CATALOGUE: Final[Mapping[str, EventType]] = {
    event_type.topic: event_type
    for event_type in (
        EventType(
            "hooks.kv.write_committed",
            "A key was written, by a put, a batch or a transaction.",
            {
                "key": "string",
                "value": "string",
                "value_encoding": "string",
                "value_size_bytes": "integer",
                "is_create": "boolean",
                "version": "integer",
                "create_revision": "integer",
                "previous_revision": "integer|null",
                "expires_ms": "integer|null",
            },
        ),
        EventType(
            "hooks.kv.delete_committed",
            "A key that existed was deleted. Deleting a key that does not exist is no event.",
            {
                "key": "string",
                "existed": "boolean",
                "previous_revision": "integer",
                "version": "integer",
            },
        ),
        EventType(
            "hooks.kv.ttl_expired",
            "A key was removed because its time to live was over on the cluster's clock.",
            {
                "key": "string",
                "previous_revision": "integer",
                "version": "integer",
                "expires_ms": "integer",
            },
        ),
        EventType(
            "hooks.cluster.leader_elected",
            "A node became leader; once per term that had a leader.",
            {
                "new_leader": "string",
                "previous_leader": "string|null",
                "term": "integer",
                "voters": "array",
                "learners": "array",
            },
        ),
        EventType(
            "hooks.cluster.membership_changed",
            "The set of voters or learners changed.",
            {
                "voters": "array",
                "learners": "array",
                "affected_node": "string",
                "change_type": "string",
            },
        ),
        EventType(
            "hooks.cluster.node_added",
            "A node became a member of the cluster.",
            {"node": "string", "address": "string", "role": "string"},
        ),
        EventType(
            "hooks.cluster.node_removed",
            "A node is no longer a member of the cluster.",
            {"node": "string"},
        ),
        EventType(
            "hooks.system.retention_capped",
            "The cap of the whole log took events that a protected group had not dealt with.",
            {"first_revision": "integer", "groups": "array"},
        ),
        EventType(
            "hooks.group.event_replayed",
            "A consumer group gets an event of the past again, because a replay was asked for.",
            {"group": "string", "revision": "integer"},
        ),
        EventType(
            "hooks.group.event_redriven",
            "A consumer group gets a dead letter again, as it was or as it was edited.",
            {
                "group": "string",
                "revision": "integer",
                "topic": "string",
                "data": "array",
                "redrives": "integer",
            },
        ),
    )
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
    if any(matches(topic) for topic in CATALOGUE):
        return None
    spellings = list(CATALOGUE)
    for topic in CATALOGUE:
        family = topic.rpartition(".")[0]
        spellings += [f"{family}.*", f"{family}.>"]
    nearest = closest(text, dict.fromkeys(spellings))
    hint = f'; did you mean "{nearest}"?' if nearest else _family_of(text)
    return f'pattern: no event type matches "{text}"{hint}'


def _family_of(text: str) -> str:
    """What there is in the family that a pattern names rightly, if it names one."""
    family = ".".join(text.split(".")[:2]) + "."
    known = [topic for topic in CATALOGUE if topic.startswith(family)]
    return f"; there are {', '.join(known)}" if known else ""


def _schema(kind: str) -> dict[str, Any]:
    kind, _, optional = kind.partition("|")
    return {"type": [kind, "null"] if optional else kind}


# A catalogue that forgot a topic would let a handler for it be called misspelt.
assert set(CATALOGUE) == set(SYSTEM_TOPICS.values())
