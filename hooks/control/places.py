"""Where an event is in the replicated state of a handler's groups: for `explain` and `wait`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hooks.configuration.definition import (
    NODE_MARK,
    HandlerDefinition,
    OnFailure,
    OrderBy,
    Scope,
)
from hooks.control.explain import Place
from hooks.control.known import KnownHandler
from hooks.delivery import Delivery, deliver, deliver_again
from hooks.execution.service import HookService
from pubsub import groups
from pubsub.consumer_groups.addressing import ADDRESSED, recipient
from pubsub.consumer_groups.assignment import partition_of
from pubsub.events import HOOK_FAILED, SYSTEM_TOPICS, Event
from pubsub.limits import READ_BYTES_MAX
from pubsub.rejection import Rejection

FAILED: Final = SYSTEM_TOPICS[HOOK_FAILED]
SKIPPED: Final = "skipped"  # the verdict of such an event about one that was given up so


def read_event(service: HookService, revision: int) -> Event | None:
    """The event of a revision; None if it is not there, yet or any more."""
    found = service.port.read_events(revision, 1, READ_BYTES_MAX)
    return found[0] if found and found[0].revision == revision else None


def delivery_at(service: HookService, revision: int) -> Delivery | Rejection:
    """What handlers get for the event of a revision."""
    event = read_event(service, revision)
    if event is None:
        state = "not there yet" if revision > service.port.revision else "gone: retention took it"
        return Rejection("unknown_event", f"event {revision} is {state}")
    if event.topic not in ADDRESSED:
        return deliver(event)
    again = deliver_again(event, lambda original: read_event(service, original))
    if again is None:
        return Rejection("unknown_event", f"the event that {revision} hands out again is gone")
    return again


def places(
    service: HookService,
    handler: KnownHandler,
    delivery: Delivery,
    failures: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Place]:
    """The event in each group of a handler. `failures`: what was published about its giving up,
    by handler."""
    definition, connection = handler.definition, service.port.connection
    number = partition_number(definition, delivery)
    found: list[Place] = []
    for group in handler.groups:
        if not is_in_use(definition, group):
            continue
        described = groups.describe(connection, group)
        if described is None or number >= len(described["partitions"]):
            continue
        partition = described["partitions"][number]
        letters = groups.dead_letters(connection, group, delivery.revision - 1, 1)
        has_letter = bool(letters) and letters[0]["revision"] == delivery.revision
        found.append(
            Place(
                group=group,
                partition=number,
                owner=partition["owner"],
                is_completed=bool(
                    groups.is_completed(connection, group, number, delivery.revision)
                ),
                is_paused=described["paused"],
                letter=letters[0] if has_letter else None,
                failure=(failures or {}).get(handler.name),
            )
        )
    return found


def partition_number(definition: HandlerDefinition, delivery: Delivery) -> int:
    """The partition of a handler's group that an event belongs to."""
    if definition.order_by is OrderBy.HANDLER:
        return 0
    return partition_of(delivery.order_key, definition.partitions)


def given_to(
    service: HookService, groups: Sequence[str], delivery: Delivery
) -> tuple[Delivery, str | None]:
    """What a handler with these groups gets of an event, and the one group that it is meant for, if
    it is. What is handed out again to another handler is for this one the plain fact."""
    event = read_event(service, delivery.revision)
    only = None if event is None else recipient(event)
    if event is None or only is None or only in groups:
        return delivery, only
    return deliver(event), None


def may_be_skipped(definition: HandlerDefinition) -> bool:
    """Whether an event that is done may have been given up without a trace in the state."""
    return definition.on_failure is OnFailure.SKIP


def failures_of(events: Sequence[Event], revision: int) -> dict[str, Mapping[str, Any]]:
    """Of the events about what was skipped, those of one event by handler."""
    found: dict[str, Mapping[str, Any]] = {}
    for event in events:
        handler, about, _, _, attempts, error, node, verdict = (*event.data, *[None] * 8)[:8]
        if event.topic == FAILED and about == revision and verdict == SKIPPED:
            found[str(handler)] = {"attempts": attempts, "error": error, "node": node}
    return found


def is_in_use(definition: HandlerDefinition, group: str) -> bool:
    """Whether a handler of this scope uses the group: an earlier scope may have left others."""
    return (NODE_MARK in group) == (definition.scope is Scope.NODE)
