"""From a committed event to what people, programs and other systems see of it.

The state machine stores an event in the apply of the change itself; this module is the catalogue of
the event types and the pure functions that present one: `payload` as plain JSON data, `cloud_event`
as a CloudEvents 1.0 structure. Nothing here decides anything about the state.
"""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from pubsub.events import SYSTEM_TOPICS, Event, Identifier
from pubsub.topics import Pattern, closest, validate_pattern

Payload = dict[str, Any]

# Deeper JSON is passed on unparsed, so that whoever writes it out again cannot run out of stack.
JSON_LEVELS_MAX: Final = 100

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class EventType(NamedTuple):
    """One kind of event: what it says, and the JSON types of the fields of its payload."""

    topic: str
    summary: str
    fields: Mapping[str, str]  # name -> JSON type; "|null" after it where the value may be missing

    def json_schema(self) -> Payload:
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
    hint = f'; did you mean "{nearest}"?' if nearest else ""
    return f'pattern: no event type matches "{text}"{hint}'


def payload(event: Event) -> Payload:
    """The event's payload as JSON data; its fields are those of the catalogue."""
    build = _PAYLOADS.get(event.topic)
    if build is not None:
        return build(event)
    if event.is_system:
        # An event type of a newer release: shown as it is stored rather than not at all.
        return {"key": event.key, "data": _plain(event.data)}
    return _user_event(event)


def cloud_event(event: Event, cluster_id: str) -> Payload:
    """The event in the JSON format of CloudEvents 1.0.

    `id` is `<cluster id>-<revision>`, the same on every node and for ever; `sequence` and
    `partitionkey` are the specification's documented extensions.
    """
    envelope: Payload = {
        "specversion": "1.0",
        "id": f"{cluster_id}-{event.revision}",
        "source": f"urn:tremula:{cluster_id}",
        "type": event.topic,
        "time": timestamp(event.wall_ms),
        "sequence": f"{event.revision:020d}",  # its order as text is the order of the log
        "subject": event.key or None,
        "partitionkey": event.key or None,
        "actor": event.actor,
        "correlationid": _identifier(event.correlation_id, cluster_id),
        "causationid": _identifier(event.causation_id, cluster_id),
        "traceparent": event.traceparent,
        "hops": event.hops or None,
    }
    envelope = {name: value for name, value in envelope.items() if value is not None}
    if event.is_system:
        return {**envelope, "datacontenttype": "application/json", "data": payload(event)}
    return {**envelope, **_user_data(event)}


def timestamp(wall_ms: int) -> str:
    """A time of the cluster clock in RFC 3339, to the millisecond, in UTC."""
    at = _EPOCH + timedelta(milliseconds=wall_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_committed(event: Event) -> Payload:
    value, create_revision, version, previous_revision, expires_ms = event.data[:5]
    text, encoding = _text(value)
    return {
        "key": event.key,
        "value": text,
        "value_encoding": encoding,
        "value_size_bytes": len(value),
        "is_create": previous_revision == 0,
        "version": version,
        "create_revision": create_revision,
        "previous_revision": previous_revision or None,
        "expires_ms": expires_ms,
    }


def _delete_committed(event: Event) -> Payload:
    previous_revision, version = event.data[:2]
    return {
        "key": event.key,
        "existed": True,  # otherwise there would be no event
        "previous_revision": previous_revision,
        "version": version,
    }


def _named(*names: str) -> Callable[[Event], Payload]:
    """A payload whose fields stand in the stored data in this order."""

    def build(event: Event) -> Payload:
        return dict(zip(names, map(_plain, event.data), strict=False))

    return build


def _ttl_expired(event: Event) -> Payload:
    previous_revision, version, expires_ms = event.data[:3]
    return {
        "key": event.key,
        "previous_revision": previous_revision,
        "version": version,
        "expires_ms": expires_ms,
    }


def _user_event(event: Event) -> Payload:
    body, content_type, headers = event.data[:3]
    text, encoding = _text(body)
    return {
        "key": event.key,
        "payload": text,
        "payload_encoding": encoding,
        "payload_size_bytes": len(body),
        "content_type": content_type,
        "headers": _plain(headers or {}),
    }


def _user_data(event: Event) -> Payload:
    """The data members of a user's event: JSON as JSON, text as text, anything else as base64."""
    body, content_type, headers = event.data[:3]
    members: Payload = {}
    if content_type is not None:
        members["datacontenttype"] = content_type
    if headers:
        members["headers"] = json.dumps(_plain(headers), ensure_ascii=False)
    text, encoding = _text(body)
    if encoding == "base64":
        return {**members, "data_base64": text}
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            value = json.loads(text, parse_constant=_not_json)
            if _nests_within(value, JSON_LEVELS_MAX):
                return {**members, "data": value}
        except (ValueError, RecursionError):
            pass  # it is called JSON and is not
        # Passed on as it came: as text it would be taken for a JSON string.
        return {**members, "data_base64": base64.b64encode(body).decode()}
    return {**members, "data": text}


def _not_json(constant: str) -> Any:
    raise ValueError(constant)  # NaN and the infinities, which Python alone would read


def _nests_within(value: Any, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_within(child, levels - 1) for child in children)


_PAYLOADS: Final[Mapping[str, Callable[[Event], Payload]]] = {
    "hooks.kv.write_committed": _write_committed,
    "hooks.kv.delete_committed": _delete_committed,
    "hooks.kv.ttl_expired": _ttl_expired,
    "hooks.cluster.leader_elected": _named(
        "new_leader", "previous_leader", "term", "voters", "learners"
    ),
    "hooks.cluster.membership_changed": _named(
        "voters", "learners", "affected_node", "change_type"
    ),
    "hooks.cluster.node_added": _named("node", "address", "role"),
    "hooks.cluster.node_removed": _named("node"),
}

# A catalogue that forgot a topic would let a handler for it be called misspelt.
assert set(CATALOGUE) == set(_PAYLOADS) == set(SYSTEM_TOPICS.values())


def _text(value: bytes) -> tuple[str, str]:
    """Bytes as JSON text, and how they were encoded."""
    try:
        return value.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(value).decode(), "base64"


def _plain(value: Any) -> Any:
    """Decoded msgpack as JSON data."""
    if isinstance(value, bytes):
        return _text(value)[0]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    return value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(_plain(key))


def _identifier(value: Identifier | None, cluster_id: str) -> str | None:
    """A correlation or causation id outside the cluster: a revision becomes that event's id."""
    return f"{cluster_id}-{value}" if isinstance(value, int) else value


def _schema(kind: str) -> Payload:
    kind, _, optional = kind.partition("|")
    return {"type": [kind, "null"] if optional else kind}
