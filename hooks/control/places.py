"""Where an event is in the replicated state of a handler's groups: for `explain` and `wait`."""

from collections.abc import Mapping, Sequence
from functools import partial
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
from pubsub.consumer_groups.addressing import recipient
from pubsub.consumer_groups.assignment import partition_of
from pubsub.events import HOOK_FAILED, SYSTEM_TOPICS, Event
from pubsub.limits import READ_BYTES_MAX
from pubsub.rejection import Rejection

FAILED: Final = SYSTEM_TOPICS[HOOK_FAILED]
SKIPPED: Final = "skipped"  # the verdict of such an event about one that was given up so
Failures = Mapping[tuple[str, str | None], Mapping[str, Any]]  # by handler and node, or none


def read_event(service: HookService, revision: int) -> Event | None:
    """The event of a revision; None if it is not there, yet or any more."""
    found = service.port.read_events(revision, 1, READ_BYTES_MAX)
    return found[0] if found and found[0].revision == revision else None


def event_at(service: HookService, revision: int) -> Event | Rejection:
    """The event of a revision that somebody asks about."""
    event = read_event(service, revision)
    if event is None:
        state = "not there yet" if revision > service.port.revision else "gone: retention took it"
        return Rejection("unknown_event", f"event {revision} is {state}")
    return event


def again_or_plain(service: HookService, event: Event) -> Delivery:
    """What an event is about: of one that is handed out again the original, while it is there."""
    if recipient(event) is None:
        return deliver(event)
    return deliver_again(event, partial(read_event, service)) or deliver(event)


def deliveries(
    service: HookService, handler: KnownHandler, event: Event
) -> list[tuple[Delivery, list[str]]]:
    """What a handler gets of an event, and in which of its groups. What is handed out again to one
    group is for all others the plain fact; nothing at all for that one, once the original is gone.
    """
    own = [group for group in handler.groups if is_in_use(handler.definition, group)]
    meant = [group for group in own if group == recipient(event)]
    others = [group for group in own if group not in meant]
    found: list[tuple[Delivery, list[str]]] = []
    again = deliver_again(event, partial(read_event, service)) if meant else None
    if again is not None:
        found.append((again, meant))
    if others or not meant:
        found.append((deliver(event), others))
    return found


def places(
    service: HookService,
    handler: KnownHandler,
    delivery: Delivery,
    own_groups: Sequence[str],
    failures: Failures | None = None,
) -> list[Place]:
    """An event in some groups of a handler. `failures`: what was published about its giving up."""
    definition, connection = handler.definition, service.port.connection
    number = partition_number(definition, delivery)
    found: list[Place] = []
    for group in own_groups:
        described = groups.describe(connection, group)
        if described is None or number >= len(described["partitions"]):
            continue
        partition = described["partitions"][number]
        letters = groups.dead_letters(connection, group, delivery.revision - 1, 1)
        has_letter = bool(letters) and letters[0]["revision"] == delivery.revision
        # With scope node each node gives up for itself.
        node = group.partition(NODE_MARK)[2] or None
        found.append(
            Place(
                group=group,
                partition=number,
                owner=partition["owner"],
                is_completed=bool(
                    groups.is_completed(connection, group, number, delivery.revision)
                ),
                # An older release paused the groups of a handler that was disabled.
                is_paused=described["paused"] and (handler.is_enabled or described["held"]),
                letter=letters[0] if has_letter else None,
                failure=(failures or {}).get((handler.name, node)),
            )
        )
    return found


def partition_number(definition: HandlerDefinition, delivery: Delivery) -> int:
    """The partition of a handler's group that an event belongs to."""
    if definition.order_by is OrderBy.HANDLER:
        return 0
    return partition_of(delivery.order_key, definition.partitions)


def may_be_skipped(definition: HandlerDefinition) -> bool:
    """Whether an event that is done may have been given up without a trace in the state."""
    return definition.on_failure is OnFailure.SKIP


def failures_of(events: Sequence[Event], revision: int) -> Failures:
    """Of the events about what was skipped, those of one event: by handler and node, and the newest
    of each handler under no node."""
    found: dict[tuple[str, str | None], Mapping[str, Any]] = {}
    for event in events:
        handler, about, _, _, attempts, error, node, verdict = (*event.data, *[None] * 8)[:8]
        if event.topic == FAILED and about == revision and verdict == SKIPPED:
            failure = {"attempts": attempts, "error": error, "node": node}
            found[str(handler), node] = found[str(handler), None] = failure
    return found


def is_in_use(definition: HandlerDefinition, group: str) -> bool:
    """Whether a handler of this scope uses the group: an earlier scope may have left others."""
    return (NODE_MARK in group) == (definition.scope is Scope.NODE)
