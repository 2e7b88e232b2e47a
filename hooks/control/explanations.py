"""What one node says to `explain`: every handler, an event of the log or a made-up one."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hooks import routing
from hooks.conditions import Condition, condition
from hooks.configuration.definition import HandlerDefinition
from hooks.control.explain import (
    InHand,
    Row,
    Stage,
    Switches,
    is_settled,
    reaches,
    why,
)
from hooks.control.explain import explain as explain_place
from hooks.control.known import KnownHandler, known_handlers, publish_topics, unknown_handler
from hooks.control.places import (
    FAILED,
    delivery_at,
    failures_of,
    given_to,
    is_in_use,
    may_be_skipped,
    places,
)
from hooks.control.whereabouts import in_hand
from hooks.delivery import JSON_TYPE, TRIGGER_HEADER, TRIGGER_TOPIC, Delivery, deliver
from hooks.execution.service import HookService
from hooks.routing import Decision, Verdict
from pubsub.events import HOOK_REGISTERED, SYSTEM_TOPICS, Event
from pubsub.limits import INTEGER_MAX
from pubsub.rejection import Rejection
from pubsub.topics import closest, is_reserved, validate_topic

Published = Callable[[str, int], Awaitable[Sequence[Event]]]
"""The events of a topic, from a revision on."""

REGISTERED: Final = SYSTEM_TOPICS[HOOK_REGISTERED]
ASKED: Final = ("revision", "topic", "payload", "key", "handler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened to an event's handlers since, by handler."""

    given_up: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    began: Mapping[str, int] = field(default_factory=dict)  # the first revision it was there for


async def explain(
    service: HookService, asked: Mapping[str, Any], published: Published
) -> dict[str, Any] | Rejection:
    """For every handler (or the one that `asked` names) what it makes of an event, and where that
    is: the event of a `revision`, or one of a `topic` with a `payload` and a `key`."""
    if unknown := [name for name in asked if name not in ASKED]:
        return Rejection("malformed", f'explain knows no "{unknown[0]}"; one of {", ".join(ASKED)}')
    handlers = known_handlers(service)
    only = asked.get("handler")
    if only is not None and (not isinstance(only, str) or only not in handlers):
        return unknown_handler(str(only), handlers)
    revision = asked.get("revision")
    if (revision is None) == (asked.get("topic") is None):
        return Rejection("malformed", "explain needs a revision or else a topic")
    if revision is None:
        delivery = made_up(service, asked)
    elif type(revision) is not int or not 1 <= revision <= INTEGER_MAX:
        return Rejection("malformed", "revision: an integer from 1 is needed")
    else:
        delivery = delivery_at(service, revision)
    if isinstance(delivery, Rejection):
        return delivery
    chosen = [handler for name, handler in handlers.items() if only in (None, name)]
    past = Past() if revision is None else await _past(chosen, revision, published)
    return {
        "node": service.port.node,
        "applied_revision": service.port.revision,
        "event": _facts(delivery, revision),
        "publish_topics": list(publish_topics(service)),
        "handlers": [
            row
            for name in (handler.name for handler in chosen)
            for row in _rows(service, handlers, name, delivery, past, is_real=revision is not None)
        ],
    }


def made_up(service: HookService, asked: Mapping[str, Any]) -> Delivery | Rejection:
    """An event that is in no log; one of the cluster's own topics carries its payload as a trigger
    does."""
    topic, key, payload = asked.get("topic"), asked.get("key"), asked.get("payload")
    if problem := validate_topic(topic):
        return Rejection("malformed", problem)
    assert isinstance(topic, str), "it would be a problem otherwise"
    if key is not None and not isinstance(key, str):
        return Rejection("malformed", "key: a text or nil")
    if is_reserved(topic) and topic not in (topics := [*SYSTEM_TOPICS.values(), TRIGGER_TOPIC]):
        nearest = closest(topic, topics)
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return Rejection("unknown_topic", f'the cluster has no topic "{topic}"{hint}')
    try:
        body = _bytes(payload, is_reserved(topic))
    except (TypeError, ValueError, RecursionError) as error:
        return Rejection("malformed", f"payload: not JSON: {error}")
    headers = {TRIGGER_HEADER: topic} if is_reserved(topic) else None
    data = (body, JSON_TYPE, headers)
    revision = service.port.revision + 1
    return deliver(
        Event(
            revision=revision,
            topic=TRIGGER_TOPIC if is_reserved(topic) else topic,
            key=key,
            data=data,
            actor=None,
            correlation_id=None,
            causation_id=None,
            hops=0,
            traceparent=None,
            wall_ms=0,
            log_index=0,
            ordinal=0,
            size_bytes=len(data[0]),
        )
    )


def _rows(
    service: HookService,
    handlers: Mapping[str, KnownHandler],
    name: str,
    delivery: Delivery,
    past: Past,
    *,
    is_real: bool,
) -> list[Row]:
    """What a handler makes of an event, once for each of its groups."""
    handler = handlers[name]
    definition, node = handler.definition, service.port.node
    groups = [group for group in handler.groups if is_in_use(definition, group)]
    only = None
    if is_real:
        delivery, only = given_to(service, groups, delivery)
    topics = publish_topics(service, delivery if is_real else None)
    decision = routing.decide(definition, delivery, topics)
    if not is_real and reaches(decision) and not routing.is_published(delivery.topic, topics):
        # It is made up in the form of a triggered event, which nothing holds back.
        decision = Decision(Verdict.NOT_PUBLISHED, ", ".join(topics))
    asked = decision.kind not in (Verdict.PATTERN, Verdict.NOT_PUBLISHED)
    parts = clauses(definition.filter, delivery) if asked else []
    because = why(decision, delivery.topic, parts)
    base: Row = {
        "handler": handler.name,
        "group": None,
        "decision": decision.kind.value,
        "clauses": parts,
        "attempts": [],
        "node": node,
        "owner": None,
    }
    if not reaches(decision):
        return [{**base, "stage": Stage.NO_MATCH.value, "because": because}]
    if not is_real:
        return [{**base, "stage": Stage.WOULD_RUN.value, "because": because}]
    rows = [
        {
            **base,
            **explain_place(
                place,
                switches(handler),
                _in_hand(service, handlers, handler, place.group, delivery),
                node=node,
                revision=delivery.revision,
                began=past.began.get(handler.name, 0),
            ),
            # What a node remembers it did for its own group: with scope node each has another.
            "attempts": attempts(service, handler.name, delivery.revision)
            if place.group == definition.group_of(node)
            else [],
        }
        for place in places(service, handler, delivery, past.given_up)
        if only in (None, place.group)
    ]
    nobody = "no node has taken the handler up yet"
    return rows or [{**base, "stage": Stage.UNOWNED.value, "because": nobody}]


def clauses(text: str | None, delivery: Delivery) -> list[list[Any]]:
    """What each part of a handler's condition says of an event."""
    known = None if text is None else condition(text)
    if not isinstance(known, Condition):
        return []
    return [[clause, result] for clause, result in known.clauses(delivery)]


def switches(handler: KnownHandler) -> Switches:
    """What the cluster lets a handler do."""
    registration = handler.registration
    return Switches(
        is_enabled=handler.is_enabled,
        disabled_reason=None if registration is None else registration.disabled_reason,
        is_removed=handler.is_removed,
    )


def attempts(service: HookService, name: str, revision: int) -> list[dict[str, Any]]:
    """What this node remembers of its attempts at an event."""
    return [
        past.as_dict() | {"node": service.port.node}
        for past in reversed(service.history.of(name))
        if past.revision == revision
    ]


def _in_hand(
    service: HookService,
    handlers: Mapping[str, KnownHandler],
    handler: KnownHandler,
    group: str,
    delivery: Delivery,
) -> InHand | None:
    for work in service.works:
        definition = work.definition
        if definition.name == handler.name and definition.group_of(service.port.node) == group:
            now_ms = service.port.monotonic_ms()
            awaited = partial(_awaited, service, handlers, definition, delivery)
            return in_hand(work, delivery, now_ms, awaited)
    return None


def _awaited(
    service: HookService,
    handlers: Mapping[str, KnownHandler],
    definition: HandlerDefinition,
    delivery: Delivery,
) -> str | None:
    """The first handler of `after` that has still something to do with an event."""
    for other in (handlers[name] for name in definition.after if name in handlers):
        topics = publish_topics(service, delivery)
        if (
            other.is_enabled
            and not other.is_removed
            and reaches(routing.decide(other.definition, delivery, topics))
            and not all(is_settled(place) for place in places(service, other, delivery))
        ):
            return other.name
    return None


async def _past(handlers: Sequence[KnownHandler], revision: int, published: Published) -> Past:
    """What the log itself says since an event: the state keeps no list of what is over."""
    given_up: Mapping[str, Mapping[str, Any]] = {}
    if any(may_be_skipped(handler.definition) for handler in handlers):
        given_up = failures_of(await published(FAILED, revision), revision)
    starts = {handler.name: handler.definition.start for handler in handlers}
    began: dict[str, int] = {}
    for event in await published(REGISTERED, revision):
        name, _, _, change = event.data[:4]
        if change == "registered" and name not in began and starts.get(name) != "earliest":
            start = starts.get(name)
            began[name] = start if isinstance(start, int) else event.revision
    return Past(given_up=given_up, began=began)


def _facts(delivery: Delivery, revision: int | None) -> dict[str, Any]:
    event = delivery.event
    return {
        "revision": revision,
        "topic": delivery.topic,
        "key": event.key,
        "actor": event.actor,
        "time_ms": event.wall_ms or None,
        "triggered": delivery.triggered and revision is not None,
        "replayed": delivery.replayed,
        "hops": event.hops,
    }


def _bytes(payload: object, as_json: bool) -> bytes:
    """The payload as the log would have it; a text of a user's topic is its bytes."""
    if not as_json and isinstance(payload, bytes):
        return payload
    if not as_json and isinstance(payload, str):
        return payload.encode()
    return json.dumps({} if payload is None else payload, allow_nan=False).encode()
