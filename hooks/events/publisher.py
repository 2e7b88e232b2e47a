"""From a committed event to what people, programs and other systems see of it.

The state machine stores an event in the apply of the change itself; this module has the
pure functions that present one: `payload` as plain JSON data, `cloud_event` as a CloudEvents 1.0
structure. `catalogue` lists the event types. Nothing here decides anything about the state.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from hooks.events.catalogue import CATALOGUE
from pubsub import cloudevents
from pubsub.events import Event

Payload = dict[str, Any]


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
    """The event in the JSON format of CloudEvents 1.0 (pubsub/cloudevents.py)."""
    if not event.is_system:
        return cloudevents.to_structured(cloudevents.of_user_event(event, cluster_id))
    attributes = cloudevents.attributes(event, cluster_id)
    return {**attributes, "datacontenttype": cloudevents.JSON_TYPE, "data": payload(event)}


def binary_cloud_event(event: Event, cluster_id: str) -> tuple[dict[str, str], bytes]:
    """The same in the binary mode: headers and body."""
    if not event.is_system:
        return cloudevents.to_binary(cloudevents.of_user_event(event, cluster_id))
    attributes = cloudevents.attributes(event, cluster_id)
    attributes["datacontenttype"] = cloudevents.JSON_TYPE
    body = json.dumps(payload(event), ensure_ascii=False).encode()
    return cloudevents.to_binary(cloudevents.CloudEvent(attributes, body))


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
    body, content_type, headers, schema_version = [*event.data, None][:4]
    text, encoding = _text(body)
    found = {
        "key": event.key,
        "payload": text,
        "payload_encoding": encoding,
        "payload_size_bytes": len(body),
        "content_type": content_type,
        "headers": _plain(headers or {}),
    }
    return found if schema_version is None else {**found, "schema_version": schema_version}


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
    "hooks.system.retention_capped": _named("first_revision", "groups"),
    "hooks.group.event_replayed": _named("group", "revision"),
    "hooks.group.event_redriven": _named("group", "revision", "topic", "data", "redrives"),
}

assert set(CATALOGUE) == set(_PAYLOADS)


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
