"""CloudEvents 1.0: an event for other systems, and their events for our log.

Structured mode is one JSON object; binary mode is attributes as headers, and the data as the body.
Headers of a user's event may have any names, so they travel as JSON text in one extension
attribute, `headers`. Pure functions; what makes no sense is an `InvalidCloudEvent` that says why.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import isinf
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from pubsub.events import Event, Identifier
from pubsub.limits import MESSAGE_ID_BYTES_MAX
from pubsub.topics import is_reserved, validate_topic

Attribute = str | int | bool

SPEC_VERSION: Final = "1.0"
JSON_TYPE: Final = "application/json"
SOURCE_PREFIX: Final = "urn:tremula:"
# Deeper JSON is passed on unparsed, so that whoever writes it out again cannot run out of stack.
JSON_LEVELS_MAX: Final = 100

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAME: Final = re.compile(r"[a-z0-9]+")
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_HEADER_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_HEADER_TEXT: Final = re.compile(r"[\x20-\x7e]*")
# Of an event of ours: what the log that takes it in says anew.
_OURS: Final = frozenset(
    (
        "specversion", "id", "source", "type", "time", "sequence", "subject", "partitionkey",
        "actor", "correlationid", "causationid", "traceparent", "hops", "datacontenttype",
        "schemaversion", "headers",
    )
)  # fmt: skip
_PLACED: Final = _OURS - {"id", "source", "time", "sequence", "actor", "hops"}
"""Attributes that have a place in a publish; those of a stranger's event that have none are kept as
headers `ce-<name>`."""


class InvalidCloudEvent(ValueError):
    """The value is no CloudEvent, or none that can be published here."""


class CloudEvent(NamedTuple):
    """Context attributes by name, extensions among them, and the data as bytes."""

    attributes: dict[str, Attribute]
    data: bytes | None

    @property
    def is_ours(self) -> bool:
        """Whether a cluster of Tremula made it."""
        return str(self.attributes["source"]).startswith(SOURCE_PREFIX)


class Publication(NamedTuple):
    """What to publish so that an event of somebody else stands in our log."""

    topic: str
    key: str | None
    payload: bytes
    content_type: str | None
    headers: dict[str, str] | None
    schema_version: str | None
    message_id: str  # the same for the same event, however often it comes
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None


def attributes(event: Event, cluster_id: str) -> dict[str, Attribute]:
    """The context attributes of an event of ours; those of a user's data are `of_user_event`'s.

    `id` is `<cluster id>-<revision>`, the same on every node and for ever; `sequence` and
    `partitionkey` are the specification's documented extensions.
    """
    known: dict[str, Attribute | None] = {
        "specversion": SPEC_VERSION,
        "id": f"{cluster_id}-{event.revision}",
        "source": f"{SOURCE_PREFIX}{cluster_id}",
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
    return {name: value for name, value in known.items() if value is not None}


def of_user_event(event: Event, cluster_id: str) -> CloudEvent:
    """A user's event, whole."""
    body, content_type, headers, schema_version = [*event.data, None][:4]
    found = attributes(event, cluster_id)
    if content_type is not None:
        found["datacontenttype"] = content_type
    if schema_version is not None:
        found["schemaversion"] = schema_version
    if headers:
        found["headers"] = json.dumps(headers, ensure_ascii=False)
    return CloudEvent(found, body)


def to_structured(event: CloudEvent) -> dict[str, Any]:
    """The JSON object: JSON data as JSON, text as text, anything else as base64."""
    return {**event.attributes, **_data_members(event)}


def to_binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body. A content type that no header can carry is left out."""
    headers = {
        f"ce-{name}": quote(_text(value), safe=_HEADER_SAFE)
        for name, value in event.attributes.items()
        if name != "datacontenttype"
    }
    content_type = event.attributes.get("datacontenttype")
    if content_type is not None and _HEADER_TEXT.fullmatch(str(content_type)):
        headers["content-type"] = str(content_type)
    return headers, event.data or b""


def from_structured(value: object) -> CloudEvent:
    """The event in a decoded JSON object."""
    if not isinstance(value, dict):
        raise InvalidCloudEvent("a CloudEvent is a JSON object")
    members = {name: member for name, member in value.items() if member is not None}
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    event = CloudEvent(_checked(members), None)
    if encoded is not None:
        if data is not None:
            raise InvalidCloudEvent("data and data_base64 exclude each other")
        return event._replace(data=_from_base64(encoded))
    if data is None and "data" not in value:
        return event
    content_type = event.attributes.get("datacontenttype")
    if content_type is not None:
        is_text = isinstance(data, str) and not is_json(str(content_type))
    else:
        is_text = isinstance(data, str) and event.is_ours  # nobody gave it a type
        if not is_text:
            event.attributes["datacontenttype"] = JSON_TYPE  # what it means to leave it out
    return event._replace(data=_encoded(data, "data") if is_text else _from_json(data))


def from_binary(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """The event in the headers and the body of a message."""
    members: dict[str, Any] = {}
    for header, value in headers.items():
        name = header.lower()
        if name == "content-type":
            members["datacontenttype"] = value
        elif name.startswith("ce-"):
            try:
                members[name[3:]] = unquote(value, errors="strict")
            except UnicodeDecodeError:
                raise InvalidCloudEvent(f"{name}: not percent-encoded UTF-8") from None
    return CloudEvent(_checked(members), body or None)


def to_publish(event: CloudEvent) -> Publication:
    """What to publish for an event: its type is the topic, its partition key the key.

    Attributes of a stranger's event that have no place here become headers `ce-<name>`.
    """
    found = event.attributes
    topic = str(found["type"])
    problem = validate_topic(topic)
    if problem is not None:
        raise InvalidCloudEvent(f"type: {problem}")
    if is_reserved(topic):
        raise InvalidCloudEvent(f'type: "{topic}" is one of the topics of the cluster itself')
    headers = _headers(found.get("headers"))
    if not event.is_ours:
        for name, value in found.items():
            if name not in _PLACED:
                headers[f"ce-{name}"] = _text(value)
    return Publication(
        topic,
        _optional(found.get("partitionkey", found.get("subject"))),
        event.data or b"",
        _optional(found.get("datacontenttype")),
        headers or None,
        _optional(found.get("schemaversion")),
        _message_id(event),
        _optional(found.get("correlationid")),
        _optional(found.get("causationid")),
        _optional(found.get("traceparent")),
    )


def is_json(content_type: str) -> bool:
    """Whether a media type says JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def timestamp(wall_ms: int) -> str:
    """A time of the cluster clock in RFC 3339, to the millisecond, in UTC."""
    at = _EPOCH + timedelta(milliseconds=wall_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data_members(event: CloudEvent) -> dict[str, Any]:
    if event.data is None:
        return {}
    try:
        text = event.data.decode()
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(event.data).decode()}
    if is_json(str(event.attributes.get("datacontenttype", ""))):
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
            if _nests_within(value, JSON_LEVELS_MAX):
                if "\\ud" in text or "\\uD" in text:  # perhaps half of a pair, which has no bytes
                    json.dumps(value, ensure_ascii=False).encode()
                return {"data": value}
        except (ValueError, RecursionError):
            pass  # it is called JSON and is not, or nothing that could be written as such again
        # Passed on as it came: as text it would be taken for a JSON string.
        return {"data_base64": base64.b64encode(event.data).decode()}
    return {"data": text}


def _checked(members: Mapping[Any, Any]) -> dict[str, Attribute]:
    """Attributes whose names and values the specification allows."""
    found: dict[str, Attribute] = {}
    for name, value in members.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidCloudEvent(f"{name!r}: an attribute's name is of a-z and 0-9")
        if not isinstance(value, str | int):
            raise InvalidCloudEvent(f"{name}: an attribute is a text, an integer or a boolean")
        if isinstance(value, str):
            _encoded(value, name)
        found[name] = value
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise InvalidCloudEvent(f"{name}: a non-empty text is needed")
    if found["specversion"] != SPEC_VERSION:
        raise InvalidCloudEvent(f"specversion: {SPEC_VERSION} is known, not {found['specversion']}")
    time = found.get("time")
    if time is not None and not (isinstance(time, str) and _TIME.fullmatch(time)):
        raise InvalidCloudEvent("time: a time as RFC 3339 writes it is needed")
    return found


def _headers(value: object) -> dict[str, str]:
    """The headers in the extension attribute of that name."""
    if value is None:
        return {}
    try:
        headers = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
        raise InvalidCloudEvent("headers: a JSON object of texts is needed")
    return headers


def _message_id(event: CloudEvent) -> str:
    """Source and id, which name one event; ours name their cluster in the id already."""
    identity = str(event.attributes["id"])
    name = identity if event.is_ours else f"{event.attributes['source']} {identity}"
    encoded = name.encode()
    if len(encoded) <= MESSAGE_ID_BYTES_MAX:
        return name
    return blake2b(encoded, digest_size=32).hexdigest()


def _from_base64(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded if isinstance(encoded, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCloudEvent("data_base64: base64 is needed") from None


def _from_json(value: object) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidCloudEvent("data: not JSON, or too deep") from None
    return _encoded(text, "data")


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidCloudEvent(f"{name}: half of a character cannot be written") from None


def _identifier(value: Identifier | None, cluster_id: str) -> str | None:
    """A correlation or causation id outside the cluster: a revision becomes that event's id."""
    return f"{cluster_id}-{value}" if isinstance(value, int) else value


def _optional(value: Attribute | None) -> str | None:
    return None if value is None else _text(value)


def _text(value: Attribute) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _no_constant(constant: str) -> Any:
    raise ValueError(constant)  # NaN and the infinities, which Python alone would read


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):  # 1e400 is JSON, and what Python would write for it is not
        raise ValueError(text)
    return value


def _nests_within(value: Any, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_within(child, levels - 1) for child in children)
