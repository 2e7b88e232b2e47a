"""From a committed event to what people, programs and other systems see of it.

The state machine stores an event in the apply of the change itself; this module has the
pure functions that present one: `payload` as plain JSON data, `cloud_event` as a CloudEvents 1.0
structure. `catalogue` lists the event types. Nothing here decides anything about the state.
"""

import base64
import json
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, Final

from hooks.events.catalogue import CATALOGUE, TRIGGERED, TRIGGERED_TOPIC_HEADER
from pubsub import cloudevents
from pubsub.events import Event

Payload = dict[str, Any]


def payload(event: Event) -> Payload:
    """The event's payload as JSON data; its fields are those of the catalogue."""
    build = _PAYLOADS.get(event.topic)
    if build is not None:
        return build(event)
    if event.topic in CATALOGUE:
        return _as_catalogued(event)
    if event.is_system:
        # An event type of a newer release: shown as it is stored rather than not at all.
        return {"key": event.key, "data": _plain(event.data)}
    return _user_event(event)


def cloud_event(event: Event, cluster_id: str) -> Payload:
    """The event in the JSON format of CloudEvents 1.0 (pubsub/cloudevents.py)."""
    if not event.is_system:
        return cloudevents.to_structured(cloudevents.of_user_event(event, cluster_id))
    return {**_attributes(event, cluster_id), "data": payload(event)}


def binary_cloud_event(event: Event, cluster_id: str) -> tuple[dict[str, str], bytes]:
    """The same in the binary mode: headers and body."""
    if not event.is_system:
        return cloudevents.to_binary(cloudevents.of_user_event(event, cluster_id))
    attributes = _attributes(event, cluster_id)
    body = json.dumps(payload(event), ensure_ascii=False).encode()
    return cloudevents.to_binary(cloudevents.CloudEvent(attributes, body))


def _attributes(event: Event, cluster_id: str) -> dict[str, cloudevents.Attribute]:
    """Those of one of the cluster's own events."""
    found = cloudevents.attributes(event, cluster_id)
    found["datacontenttype"] = cloudevents.JSON_TYPE
    event_type = CATALOGUE.get(event.topic)
    if event_type is not None:
        found["dataschema"] = event_type.schema_id
    return found


def _write_committed(event: Event) -> Payload:
    value, create_revision, version, previous_revision, expires_ms, captured = (
        *event.data,
        None,
    )[:6]
    mode, size, digest = captured[:3] if captured else ("full", len(value), None)
    text, encoding = (None, None) if value is None else _text(value)
    return {
        "key": event.key,
        "value": text,
        "value_encoding": encoding,
        "value_size_bytes": size,
        "is_create": previous_revision == 0,
        "version": version,
        "create_revision": create_revision,
        "previous_revision": previous_revision or None,
        "expires_ms": expires_ms,
        "value_capture": mode,
        "value_sha256": digest,
    }


def _delete_committed(event: Event) -> Payload:
    previous_revision, version = event.data[:2]
    return {
        "key": event.key,
        "existed": True,  # otherwise there would be no event
        "previous_revision": previous_revision,
        "version": version,
    }


def _as_catalogued(event: Event) -> Payload:
    """Of a type whose payload has the stored items in their order; one that an older release
    stored without an item has null there."""
    fields = CATALOGUE[event.topic].fields
    return dict(zip_longest(fields, map(_plain, event.data[: len(fields)])))


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


def _triggered(event: Event) -> Payload:
    body, content_type, headers = event.data[:3]
    given: Any = _text(body)[0]
    if content_type == cloudevents.JSON_TYPE:
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            pass  # shown as the text that it is
    return {"topic": headers[TRIGGERED_TOPIC_HEADER], "key": event.key, "payload": given}


# Types whose payload is more than their stored items under the catalogue's names.
_PAYLOADS: Final[Mapping[str, Callable[[Event], Payload]]] = {
    "hooks.kv.write_committed": _write_committed,
    "hooks.kv.delete_committed": _delete_committed,
    "hooks.kv.ttl_expired": _ttl_expired,
    TRIGGERED: _triggered,
}


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
