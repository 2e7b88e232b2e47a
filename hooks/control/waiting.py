""" "Wait until handler H is done with event R": from the replicated state, on any node.

A handler is done with an event when its group is, which the cluster knows with its next checkpoint
(a fraction of a second). A node that has not applied so far yet waits longer, and never says more
than is true.
"""

from collections.abc import Sequence
from typing import Any, Final

import trio

from hooks import routing
from hooks.control.explain import Place, Stage, is_settled, reaches, settled, why
from hooks.control.explanations import Published
from hooks.control.known import KnownHandler, find_handler, publish_topics
from hooks.control.places import (
    FAILED,
    Failures,
    deliveries,
    event_at,
    failures_of,
    may_be_skipped,
    places,
)
from hooks.delivery import Delivery
from hooks.execution.service import HookService
from pubsub.rejection import Rejection

LOOK_EVERY_S: Final = 0.005  # many entries are applied within it: they are looked at together
PENDING: Final = "pending"
# What decides about several groups of one handler: the worst of them.
_WORST: Final = (Stage.DEAD_LETTER, Stage.SKIPPED, Stage.BEFORE, Stage.DONE)


async def wait(
    service: HookService, name: str, revision: int, timeout_ms: int, published: Published
) -> dict[str, Any] | Rejection:
    """How a handler dealt with an event: `done`, `dead_letter`, `skipped`, `no_match`, or, when
    that is not known within the time, `pending`."""
    if revision < 1:
        return Rejection("malformed", "revision: an integer from 1 is needed")
    answer: dict[str, Any] | Rejection | None = None
    with trio.move_on_after(timeout_ms / 1000):
        await _until_applied(service, revision)
        answer = await _wait(service, name, revision, published)
    if answer is not None:
        return answer
    handler = find_handler(service, name)
    if isinstance(handler, Rejection):
        return handler
    return _answer(name, revision, PENDING, why_not_yet(handler))


def why_not_yet(handler: KnownHandler) -> str | None:
    """What keeps a handler from being done with anything, if something does."""
    if handler.is_removed:
        return "no node has this handler any more"
    if not handler.is_enabled:
        return "the handler is disabled"
    return None


async def _wait(
    service: HookService, name: str, revision: int, published: Published
) -> dict[str, Any] | Rejection:
    while True:
        handler = find_handler(service, name)
        if isinstance(handler, Rejection):
            return handler
        event = event_at(service, revision)
        if isinstance(event, Rejection):
            return event
        given = deliveries(service, handler, event)
        if not given:
            return Rejection("unknown_event", f"the event that {revision} hands out again is gone")
        concerned = [
            (delivery, own_groups)
            for delivery, own_groups in given
            if reaches(_decision(service, handler, delivery))
        ]
        if not concerned:
            delivery, _ = given[0]
            because = why(_decision(service, handler, delivery), delivery.topic)
            return _answer(name, revision, Stage.NO_MATCH.value, because)
        if (found := _places(service, handler, concerned)) and all(map(is_settled, found)):
            if may_be_skipped(handler.definition):
                given_up = failures_of(await published(FAILED, revision), revision)
                found = _places(service, handler, concerned, given_up)
            return _verdict(name, revision, found)
        await _applied(service)
        await trio.sleep(LOOK_EVERY_S)


def _decision(service: HookService, handler: KnownHandler, delivery: Delivery) -> routing.Decision:
    return routing.decide(handler.definition, delivery, publish_topics(service, delivery))


def _places(
    service: HookService,
    handler: KnownHandler,
    concerned: Sequence[tuple[Delivery, Sequence[str]]],
    given_up: Failures | None = None,
) -> list[Place]:
    """The event in every group of the handler that it is for."""
    return [
        place
        for delivery, own_groups in concerned
        for place in places(service, handler, delivery, own_groups, given_up)
    ]


def _verdict(name: str, revision: int, found: list[Place]) -> dict[str, Any]:
    """Of a handler with several groups, one for each node, the worst end is its end."""
    ends = [settled(place, revision, 0) for place in found]
    stage, because = min(ends, key=lambda end: _WORST.index(end[0]))
    return _answer(name, revision, stage.value, because)


def _answer(name: str, revision: int, state: str, because: str | None) -> dict[str, Any]:
    return {"handler": name, "revision": revision, "state": state, "because": because}


async def _until_applied(service: HookService, revision: int) -> None:
    while service.port.revision < revision:
        await _applied(service)


async def _applied(service: HookService) -> None:
    """Until this node has applied something more."""
    more = trio.Event()
    unwatch = service.port.watch_applied(more.set)
    try:
        await more.wait()
    finally:
        unwatch()
