"""The operations that publish events of users to their topics, at once or later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from cluster.operations import is_count, is_text
from pubsub.limits import (
    DELAY_MS_MAX,
    MESSAGE_ID_BYTES_MAX,
    SCHEMA_VERSION_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    TOPIC_SEGMENTS_MAX,
)
from pubsub.publishing import delayed, message_ids
from pubsub.publishing.topic_tails import last_revision
from pubsub.rejection import Rejection
from pubsub.topics import is_reserved, validate_topic

_TOPICS_REMEMBERED: Final = 4_096

EXPECTED: Final = "expected_last_revision"
MESSAGE_ID: Final = "message_id"
SCHEMA_VERSION: Final = "schema_version"


def publish(
    apply: Entry,
    topic: Any,
    key: Any,
    payload: Any,
    content_type: Any = None,
    headers: Any = None,
    options: Any = None,
) -> int | Rejection:
    """`publish [topic, key, payload, content_type, headers, options]` -> the revision. HOT.

    Options: `message_id` (a repetition is answered with the first one's revision and is no event),
    `expected_last_revision` (refused if the topic has a newer event) and `schema_version`.
    """
    problem = publish_problem(topic, key, payload, content_type, headers)
    if problem is not None:
        return problem
    if options is None:
        revision = apply.emit(topic, key, (payload, content_type, headers), apply.meta)
        apply.published[topic] = revision
        return revision
    problem = _options_problem(options)
    if problem is not None:
        return problem
    return _publish_with(apply, topic, key, (payload, content_type, headers), options)[0]


def publish_each(apply: Entry, items: list[Any]) -> list[int] | None:
    """The revisions of events that are published each for itself; None, and nothing done, unless
    they are of the commonest shape. HOT."""
    if not _are_plain(items):
        return None
    first, count = _publish_plain(apply, items)
    return list(range(first, first + count))


def publish_batch(apply: Entry, items: Any) -> list[Any] | Rejection:
    """`publish_batch [[topic, key, payload, content_type, headers, options], ...]` ->
    [first, count].

    All or none; what can be left out of `publish` can be left out here. `first` and `count` are of
    the events that are new; if some were published before, a third item `[[position, revision],
    ...]` says which ones, and as what.
    """
    if items.__class__ is not list or not items:
        return Rejection("malformed", "publish_batch: a non-empty list of events is needed")
    if len(items) > PUBLISH_BATCH_EVENTS_MAX:
        return Rejection(
            "limit_exceeded", f"publish_batch: at most {PUBLISH_BATCH_EVENTS_MAX} events"
        )
    if _are_plain(items):
        return _publish_plain(apply, items)
    item_problem = publish_item_problem if apply.version > 1 else publish_item_problem_v1
    for item in items:
        problem = item_problem(item)
        if problem is not None:
            return problem
    conditional = any(is_conditional(item) for item in items)
    return (
        apply.atomically(lambda: _publish_some(apply, items))
        if conditional
        else _publish_some(apply, items)
    )


def _are_plain(items: list[Any]) -> bool:
    """Whether these are valid events of the commonest shape: five arguments, the last two nil, and
    runs of one topic. Looked at in one loop it costs a third of what each event costs alone. HOT.
    """
    known = ""  # a topic that is valid
    for item in items:
        if item.__class__ is not list or len(item) != 5:
            return False
        topic, key, payload, content_type, headers = item
        if topic != known:
            if publish_problem(topic, None, b"", None, None) is not None:
                return False
            known = topic
        if (
            payload.__class__ is not bytes
            or len(payload) > PAYLOAD_BYTES_MAX
            or content_type is not None
            or headers is not None
            or not (key is None or (key.__class__ is str and 0 < len(key) * 4 <= KEY_BYTES_MAX))
        ):
            return False
    return True


def _publish_plain(apply: Entry, items: list[Any]) -> list[Any]:
    first = apply.revision + 1
    meta = apply.meta
    apply.emit_all(
        [(topic, key, (payload, None, None), meta) for topic, key, payload, _, _ in items]
    )
    published = apply.published
    for revision, item in enumerate(items, first):
        published[item[0]] = revision
    return [first, len(items)]


def publish_later(
    apply: Entry,
    topic: Any,
    key: Any,
    payload: Any,
    content_type: Any,
    headers: Any,
    options: Any,
    delay_ms: Any,
    at_wall_ms: Any = None,
) -> int | Rejection:
    """`publish_later [topic, key, payload, content_type, headers, options, delay_ms, at_wall_ms]`
    -> the id under which the event waits.

    The time is one of the two, the other nil; one that is over is now. A `message_id` is that of
    this request: a repetition is answered with the first one's id.
    """
    problem = (
        publish_problem(topic, key, payload, content_type, headers)
        or (None if options is None else _options_problem(options))
        or _time_problem(apply, delay_ms, at_wall_ms)
    )
    if problem is not None:
        return problem
    options = options or {}
    if options.get(EXPECTED) is not None:
        # Nobody would hear of the refusal when the time has come.
        return Rejection("malformed", f"publish_later: {EXPECTED} is for what is published at once")
    message_id = options.get(MESSAGE_ID)
    if message_id is not None:
        known = message_ids.known(apply, message_ids.DELAYED, topic, message_id)
        if known is not None:
            return known
    due_ms = apply.wall_ms + delay_ms if at_wall_ms is None else at_wall_ms
    data = _data(payload, content_type, headers, options)
    identity = delayed.keep(apply, due_ms, topic, key, data)
    if message_id is not None and not isinstance(identity, Rejection):
        message_ids.remember(apply, message_ids.DELAYED, topic, message_id, identity)
    return identity


def publish_item_problem(item: Any) -> Rejection | None:
    """What is wrong with one event of a batch or a transaction, without the operation's name."""
    if item.__class__ is list and len(item) == 6:
        options = item[5]
        if options is not None:
            problem = _options_problem(options)
            if problem is not None:
                return problem
        item = item[:5]
    return publish_item_problem_v1(item)


def publish_item_problem_v1(item: Any) -> Rejection | None:
    """The same in entries of version 1, where events had no options."""
    if not isinstance(item, Sequence) or not 3 <= len(item) <= 5:
        return Rejection("malformed", "publish: topic, key and payload are needed")
    topic, key, payload = item[:3]
    content_type = item[3] if len(item) > 3 else None
    return publish_problem(topic, key, payload, content_type, item[4] if len(item) > 4 else None)


def is_conditional(item: Sequence[Any]) -> bool:
    """Whether the state may refuse an event whose shape is right; `item` is as in a batch."""
    return len(item) > 5 and item[5] is not None and item[5].get(EXPECTED) is not None


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


def _publish_with(
    apply: Entry, topic: str, key: str | None, data: tuple[Any, Any, Any], options: dict[str, Any]
) -> tuple[int, bool] | tuple[Rejection, bool]:
    """Publish with options that are in order: the revision, and whether it was there before."""
    message_id, expected = options.get(MESSAGE_ID), options.get(EXPECTED)
    known: int | None = None
    if expected is not None:
        # A repetition is answered as the first one was, though the topic went on meanwhile.
        if message_id is not None:
            known = message_ids.known(apply, message_ids.PUBLISHED, topic, message_id)
        found = last_revision(apply, topic) if known is None else 0
        if found > expected:
            return Rejection(
                "revision_mismatch", f'topic "{topic}" is at revision {found}, expected {expected}'
            ), False
    if message_id is not None and known is None:
        following = apply.revision + 1
        known = message_ids.remember(apply, message_ids.PUBLISHED, topic, message_id, following)
    if known is not None:
        return known, True
    revision = apply.emit(topic, key, _data(*data, options), apply.meta)
    apply.published[topic] = revision
    return revision, False


def _publish_some(apply: Entry, items: list[Any]) -> list[Any] | Rejection:
    """A batch in which events have options; every item is in order."""
    first = apply.revision + 1
    before: list[list[int]] = []
    for position, item in enumerate(items):
        topic, key, payload, content_type, headers, options = [*item, None, None, None][:6]
        data = payload, content_type, headers
        revision, repeated = _publish_with(apply, topic, key, data, options or {})
        if isinstance(revision, Rejection):
            return revision
        if repeated:
            before.append([position, revision])
    count = apply.revision + 1 - first
    return [first, count, before] if before else [first, count]


def _data(
    payload: Any, content_type: Any, headers: Any, options: dict[str, Any]
) -> tuple[Any, ...]:
    """What the log keeps of a user's event (pubsub/events.py)."""
    schema_version = options.get(SCHEMA_VERSION)
    if schema_version is None:
        return payload, content_type, headers
    return payload, content_type, headers, schema_version


def _options_problem(options: Any) -> Rejection | None:
    if options.__class__ is not dict:
        return Rejection("malformed", "publish: options must be a map or nil")
    for name, value in options.items():
        check = _OPTIONS.get(name) if name.__class__ is str else None
        if check is None:
            return Rejection("malformed", f"publish: the options are {', '.join(_OPTIONS)}")
        if value is not None and not check[0](value):
            return Rejection("malformed", f"publish: {name} must be {check[1]}")
    return None


def _time_problem(apply: Entry, delay_ms: Any, at_wall_ms: Any) -> Rejection | None:
    if (delay_ms is None) == (at_wall_ms is None):
        return Rejection("malformed", "publish_later: either delay_ms or at_wall_ms is needed")
    if delay_ms is None:
        if is_count(at_wall_ms) and at_wall_ms <= apply.wall_ms + DELAY_MS_MAX:
            return None
    elif is_count(delay_ms) and delay_ms <= DELAY_MS_MAX:
        return None
    return Rejection(
        "malformed", f"publish_later: a time is an integer, at most {DELAY_MS_MAX} ms from now"
    )


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


_OPTIONS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    MESSAGE_ID: (
        lambda value: bool(value) and is_text(value, MESSAGE_ID_BYTES_MAX),
        f"a text of 1 to {MESSAGE_ID_BYTES_MAX} bytes",
    ),
    EXPECTED: (is_count, "an integer from 0"),
    SCHEMA_VERSION: (
        lambda value: bool(value) and is_text(value, SCHEMA_VERSION_BYTES_MAX),
        f"a text of 1 to {SCHEMA_VERSION_BYTES_MAX} bytes",
    ),
}
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
