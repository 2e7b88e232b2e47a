"""Triggering handlers by hand: one replicated operation, registered by the state machine.

`hook.trigger [topic, key, payload, content_type]` appends one event that imitates an event of
`topic`. Handlers get it through their groups like any other, so that it runs once per cluster and
handler, with the same retries, dead letters and effects. Deciding code: never raises for bad input.
"""

from typing import Any

import apsw

from hooks.configuration.definition import GROUP_PREFIX, NODE_MARK
from hooks.delivery import JSON_TYPE, TRIGGER_HEADER, TRIGGER_TOPIC
from hooks.replicated import registrations
from pubsub import groups
from pubsub.apply import Apply
from pubsub.events import SYSTEM_TOPICS
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, closest, compiled, is_reserved, validate_topic

KEY_BYTES_MAX = 1024  # as of any key
PAYLOAD_BYTES_MAX = 1024 * 1024  # as of any event
PAYLOAD_BYTES_MAX_V2 = 256 * 1024  # in entries before version 3
CONTENT_TYPE_BYTES_MAX = 256  # as of any event


def trigger(
    apply: Apply, topic: Any, key: Any, payload: Any, content_type: Any = JSON_TYPE
) -> list[Any] | Rejection:
    """Append the event; returns `[revision, names of the handlers that it is for]`.

    `payload` is what would be published; for a topic of the cluster's own JSON in UTF-8. It is not
    looked at here. Refused when no handler would get it.
    """
    problem = validate_topic(topic)
    if problem:
        return Rejection("malformed", problem)
    if is_reserved(topic) and topic not in SYSTEM_TOPICS.values():
        nearest = closest(topic, SYSTEM_TOPICS.values())
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return Rejection("unknown_topic", f'the cluster has no topic "{topic}"{hint}')
    if key is not None and (not isinstance(key, str) or len(key.encode()) > KEY_BYTES_MAX):
        return Rejection("malformed", f"key: a text of at most {KEY_BYTES_MAX} bytes or nil")
    payload_bytes_max = PAYLOAD_BYTES_MAX if apply.version >= 3 else PAYLOAD_BYTES_MAX_V2
    if not isinstance(payload, bytes) or len(payload) > payload_bytes_max:
        return Rejection("malformed", f"payload: at most {payload_bytes_max} bytes are expected")
    if content_type is not None and (
        not isinstance(content_type, str) or len(content_type.encode()) > CONTENT_TYPE_BYTES_MAX
    ):
        detail = f"content type: a text of at most {CONTENT_TYPE_BYTES_MAX} bytes or nil"
        return Rejection("malformed", detail)
    find = matching_handlers if apply.version >= 2 else _of_groups
    handlers = find(apply.connection, topic)
    if not handlers:
        return Rejection("no_handler", f'no handler of this cluster matches "{topic}"')
    data = [payload, content_type, {TRIGGER_HEADER: topic}]
    return [apply.emit(TRIGGER_TOPIC, key, data, apply.meta), handlers]


def matching_handlers(connection: apsw.Connection, topic: str) -> list[str]:
    """The names of the handlers, of any node, whose registered pattern matches.

    A disabled one is among them: the event waits for it. A group that was there before handlers
    were registered counts by its own pattern.
    """
    known = registrations.load(connection)
    matching = {
        name: None
        for name, handler in known.items()
        if not handler.removed and compiled(handler.policy["pattern"]).matches(topic)
    }
    for group in _of_groups(connection, topic):
        name = group.partition(NODE_MARK)[0]
        if name not in known:
            matching[name] = None
    return sorted(matching)


def _of_groups(connection: apsw.Connection, topic: str) -> list[str]:
    """The handlers' groups whose pattern matches, without their prefix."""
    matching: list[str] = []
    for name in groups.names(connection):
        if name.startswith(GROUP_PREFIX):
            described = groups.describe(connection, name)
            if described is not None and Pattern(described["pattern"]).matches(topic):
                matching.append(name.removeprefix(GROUP_PREFIX))
    return matching
