"""The operations that publish events of users to their topics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from cluster.entry import Entry
from cluster.limits import (
    CONTENT_TYPE_BYTES_MAX,
    HEADER_NAME_BYTES_MAX,
    HEADER_VALUE_BYTES_MAX,
    HEADERS_MAX,
    KEY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PUBLISH_BATCH_EVENTS_MAX,
)
from cluster.operations import is_text
from pubsub.limits import SEGMENT_BYTES_MAX, TOPIC_SEGMENTS_MAX
from pubsub.rejection import Rejection
from pubsub.topics import is_reserved, validate_topic

_TOPICS_REMEMBERED: Final = 4_096


def publish(
    apply: Entry,
    topic: Any,
    key: Any,
    payload: Any,
    content_type: Any = None,
    headers: Any = None,
) -> int | Rejection:
    """`publish [topic, key, payload, content_type, headers]` -> the revision. HOT."""
    problem = publish_problem(topic, key, payload, content_type, headers)
    if problem is not None:
        return problem
    return apply.emit(topic, key, (payload, content_type, headers), apply.meta)


def publish_batch(apply: Entry, items: Any) -> list[int] | Rejection:
    """`publish_batch [[topic, key, payload, content_type, headers], ...]` -> [first, count].

    All or none; what can be left out of `publish` can be left out here.
    """
    if items.__class__ is not list or not items:
        return Rejection("malformed", "publish_batch: a non-empty list of events is needed")
    if len(items) > PUBLISH_BATCH_EVENTS_MAX:
        return Rejection(
            "limit_exceeded", f"publish_batch: at most {PUBLISH_BATCH_EVENTS_MAX} events"
        )
    for item in items:
        problem = publish_item_problem(item)
        if problem is not None:
            return problem
    first = apply.revision + 1
    for item in items:
        publish(apply, *item)
    return [first, len(items)]


def publish_item_problem(item: Any) -> Rejection | None:
    """What is wrong with one event of a batch or a transaction, without the operation's name."""
    if not isinstance(item, Sequence) or not 3 <= len(item) <= 5:
        return Rejection("malformed", "publish: topic, key and payload are needed")
    topic, key, payload = item[:3]
    content_type = item[3] if len(item) > 3 else None
    return publish_problem(topic, key, payload, content_type, item[4] if len(item) > 4 else None)


def publish_problem(
    topic: Any, key: Any, payload: Any, content_type: Any, headers: Any
) -> Rejection | None:
    """What is wrong with the arguments of a publish. HOT."""
    if topic.__class__ is not str or len(topic) > _TOPIC_CHARACTERS_MAX:
        return _NO_TOPIC
    problem = _topic_problem(topic)
    if problem is not None:
        return problem
    if payload.__class__ is not bytes:
        return Rejection("malformed", "publish: the payload must be bytes")
    if len(payload) > PAYLOAD_BYTES_MAX:
        return Rejection(
            "limit_exceeded", f"publish: a payload has at most {PAYLOAD_BYTES_MAX} bytes"
        )
    if key is not None and not (key and is_text(key, KEY_BYTES_MAX)):
        return Rejection(
            "malformed", f"publish: the key must be a text of 1 to {KEY_BYTES_MAX} bytes or nil"
        )
    if content_type is not None and not is_text(content_type, CONTENT_TYPE_BYTES_MAX):
        return Rejection(
            "malformed",
            f"publish: the content type must be a text of at most {CONTENT_TYPE_BYTES_MAX} bytes",
        )
    return None if headers is None else _headers_problem(headers)


def _headers_problem(headers: Any) -> Rejection | None:
    if headers.__class__ is not dict:
        return Rejection("malformed", "publish: headers must be a map of texts or nil")
    if len(headers) > HEADERS_MAX:
        return Rejection("limit_exceeded", f"publish: at most {HEADERS_MAX} headers")
    for name, text in headers.items():
        if not (is_text(name, HEADER_NAME_BYTES_MAX) and is_text(text, HEADER_VALUE_BYTES_MAX)):
            return Rejection(
                "malformed",
                f"publish: a header is a text of at most {HEADER_NAME_BYTES_MAX} bytes and its"
                f" value one of at most {HEADER_VALUE_BYTES_MAX}",
            )
    return None


_TOPIC_CHARACTERS_MAX: Final = TOPIC_SEGMENTS_MAX * (SEGMENT_BYTES_MAX + 1)
_NO_TOPIC: Final = Rejection(
    "malformed",
    f"publish: the topic must be a text of at most {TOPIC_SEGMENTS_MAX} segments of"
    f" {SEGMENT_BYTES_MAX} bytes",
)


@lru_cache(_TOPICS_REMEMBERED)
def _topic_problem(topic: str) -> Rejection | None:
    """A pure function of its argument, so remembering it is no state of any node."""
    problem = validate_topic(topic)
    if problem is not None:
        return Rejection("malformed", f"publish: {problem}")
    if is_reserved(topic):
        return Rejection(
            "reserved_topic", f'publish: "{topic}" is one of the topics of the cluster itself'
        )
    return None
