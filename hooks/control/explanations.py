"""What one node says to `explain`: every handler, an event of the log or a made-up one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hooks import routing
from hooks.configuration.definition import HandlerDefinition
from hooks.control.explain import (
    InHand,
    Memory,
    Place,
    Row,
    Stage,
    Switches,
    is_settled,
    reaches,
    routed,
)
from hooks.control.explain import explain as explain_place
from hooks.control.known import KnownHandler, known_handlers, publish_topics, unknown_handler
from hooks.control.made_up import made_up, made_up_row
from hooks.control.places import (
    FAILED,
    Failures,
    again_or_plain,
    deliveries,
    event_at,
    failures_of,
    is_in_use,
    may_be_skipped,
    places,
)
from hooks.control.whereabouts import in_hand
from hooks.delivery import Delivery, deliver
from hooks.execution.service import HookService
from hooks.replicated.settings import PUBLISH_TOPICS
from hooks.routing import Decision, Verdict
from pubsub.events import HOOK_REGISTERED, SYSTEM_SETTINGS_CHANGED, SYSTEM_TOPICS, Event
from pubsub.limits import INTEGER_MAX
from pubsub.rejection import Rejection
from pubsub.topics import is_reserved

Published = Callable[[str, int], Awaitable[Sequence[Event]]]
"""The events of a topic, from a revision on."""

REGISTERED: Final = SYSTEM_TOPICS[HOOK_REGISTERED]
SETTINGS_CHANGED: Final = SYSTEM_TOPICS[SYSTEM_SETTINGS_CHANGED]
ASKED: Final = ("revision", "topic", "payload", "key", "handler")
NOBODY: Final = "no node has taken the handler up yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened to an event's handlers since, by handler."""

    given_up: Failures = field(default_factory=dict)
    began: Mapping[str, int] = field(default_factory=dict)  # the first revision it was there for
    changed: Mapping[str, int] = field(default_factory=dict)  # where its policy became another
    published: int | None = None  # where publish_topics became another

    def changed_of(self, name: str, delivery: Delivery) -> int | None:
        """Since when an event of before has been for the handler by what is in force now."""
        published = self.published if is_reserved(delivery.topic) else None
        return max(filter(None, (self.changed.get(name), published)), default=None)


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
    chosen = [handler for name, handler in handlers.items() if only in (None, name)]
    if revision is None:
        delivery = made_up(service, asked)
        if isinstance(delivery, Rejection):
            return delivery
        given = {name for name in ("payload", "key") if asked.get(name) is not None}
        rows = [made_up_row(service, handler, delivery, given) for handler in chosen]
    elif type(revision) is not int or not 1 <= revision <= INTEGER_MAX:
        return Rejection("malformed", "revision: an integer from 1 is needed")
    else:
        event = event_at(service, revision)
        if isinstance(event, Rejection):
            return event
        delivery = again_or_plain(service, event)
        past = await _past(chosen, revision, published)
        rows = [row for each in chosen for row in _rows(service, handlers, each, event, past)]
    return {
        "node": service.port.node,
        "applied_revision": service.port.revision,
        "event": _facts(delivery, revision),
        "publish_topics": list(publish_topics(service)),
        "handlers": rows,
    }


def _rows(
    service: HookService,
    handlers: Mapping[str, KnownHandler],
    handler: KnownHandler,
    event: Event,
    past: Past,
) -> list[Row]:
    """What a handler makes of an event of the log: a row for each group that it is for, or one row
    that says why it is for none."""
    found: list[Row] = []
    given = deliveries(service, handler, event)
    for delivery, own_groups in given:
        topics = publish_topics(service, delivery)
        decision = routing.decide(handler.definition, delivery, topics)
        base = routed(handler.definition, delivery, decision, service.port.node)
        if not reaches(decision):
            found.append({**base, "stage": Stage.NO_MATCH.value})
            continue
        found += [
            {**base, **_place_row(service, handlers, handler, place, delivery, past)}
            for place in places(service, handler, delivery, own_groups, past.given_up)
        ] or [{**base, "stage": Stage.UNOWNED.value, "because": NOBODY}]
    if not given:
        plain = Decision(Verdict.PATTERN, handler.definition.pattern.text)
        base = routed(handler.definition, deliver(event), plain, service.port.node)
        gone = "the event that this one hands out again is gone: retention took it"
        return [{**base, "stage": Stage.NO_MATCH.value, "because": gone}]
    return [row for row in found if row["stage"] != Stage.NO_MATCH] or found[:1]


def _place_row(
    service: HookService,
    handlers: Mapping[str, KnownHandler],
    handler: KnownHandler,
    place: Place,
    delivery: Delivery,
    past: Past,
) -> Row:
    node, definition = service.port.node, handler.definition
    memory = Memory()
    if place.group == definition.group_of(node):  # with scope node each node has another
        memory = Memory(
            attempts=attempts(service, handler.name, delivery.revision),
            stood_for_by=service.history.stood_for_by(handler.name, delivery.revision),
        )
    return explain_place(
        place,
        switches(handler),
        _in_hand(service, handlers, handler, place.group, delivery),
        node=node,
        revision=delivery.revision,
        began=past.began.get(handler.name, 0),
        memory=memory,
        coalesces=bool(definition.debounce_ms or definition.throttle_ms),
        changed=past.changed_of(handler.name, delivery),
    )


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
        if revision in past.revisions
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
        own_groups = [group for group in other.groups if is_in_use(other.definition, group)]
        if (
            other.is_enabled
            and not other.is_removed
            and reaches(routing.decide(other.definition, delivery, topics))
            and not all(map(is_settled, places(service, other, delivery, own_groups)))
        ):
            return other.name
    return None


async def _past(handlers: Sequence[KnownHandler], revision: int, published: Published) -> Past:
    """What the log itself says since an event: the state keeps no list of what is over."""
    given_up: Failures = {}
    if any(may_be_skipped(handler.definition) for handler in handlers):
        given_up = failures_of(await published(FAILED, revision), revision)
    starts = {handler.name: handler.definition.start for handler in handlers}
    began: dict[str, int] = {}
    changed: dict[str, int] = {}
    for event in await published(REGISTERED, revision):
        name, _, _, change = event.data[:4]
        if change == "changed":
            changed[name] = event.revision
        if change == "registered" and name not in began and starts.get(name) != "earliest":
            start = starts.get(name)
            began[name] = start if isinstance(start, int) else event.revision
    settings = await published(SETTINGS_CHANGED, revision)
    topics = [event.revision for event in settings if event.data[0] == PUBLISH_TOPICS]
    last = topics[-1] if topics else None
    return Past(given_up=given_up, began=began, changed=changed, published=last)


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
