"""Events that are meant for one group: one that it gets again, by a replay or by a redrive.

To hand out an event again is itself something that happened, so it is an event of its own; the log
never says that an order was created twice. It names a group, and only that group takes it for the
event that it stands for (`resolve`): every other reader sees the plain fact, and no other group is
concerned. Where a group is in the log counts by the fact, what it handles is the original.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pubsub.events import (
    GROUP_EVENT_REDRIVEN,
    GROUP_EVENT_REPLAYED,
    SYSTEM_TOPICS,
    Event,
    Meta,
    compress,
    expand,
)
from pubsub.topics import Pattern

REPLAYED: Final = SYSTEM_TOPICS[GROUP_EVENT_REPLAYED]
REDRIVEN: Final = SYSTEM_TOPICS[GROUP_EVENT_REDRIVEN]
ADDRESSED: Final = frozenset((REPLAYED, REDRIVEN))


class Resolved(NamedTuple):
    """What a group gets to handle."""

    event: Event  # the original, under its own revision
    replayed: bool  # it was handed out before: by a replay or a redrive
    redrives: int  # how often it came back out of the dead letters


def recipient(event: Event) -> str | None:
    """The one group that an event is meant for; None for all others."""
    return str(event.data[0]) if event.topic in ADDRESSED else None


def concerns(event: Event, group: str, pattern: Pattern) -> bool:
    """Whether an event belongs to a group of that name and pattern."""
    if event.topic in ADDRESSED:
        return bool(event.data[0] == group)
    return pattern.matches(event.topic)


def original_revision(event: Event) -> int | None:
    """The revision of the event that this one stands for; None when it stands for itself."""
    return int(event.data[1]) if event.topic in ADDRESSED else None


def resolve(event: Event, read: Callable[[int], Event | None]) -> Resolved | None:
    """The event that `event` stands for; `read` gets one by its revision.

    None when retention took the original of a replay meanwhile: then there is nothing to handle.
    """
    if event.topic == REPLAYED:
        original = read(int(event.data[1]))
        return None if original is None else Resolved(original, True, 0)
    if event.topic != REDRIVEN:
        return Resolved(event, False, 0)
    _, revision, topic, data, redrives, wall_ms, meta = event.data[:7]
    return Resolved(rebuilt(event, revision, topic, data, wall_ms, meta), True, redrives)


def redriven_data(
    group: str, original: Event, redrives: int
) -> tuple[str, int, str, Sequence[Any], int, int, Meta | None]:
    """The data of the event by which `original` goes back to a group."""
    meta = compress(
        original.actor,
        original.correlation_id,
        original.causation_id,
        original.hops,
        original.traceparent,
    )
    return (
        group, original.revision, original.topic, original.data, redrives, original.wall_ms, meta,
    )  # fmt: skip


def meta_of_fact(meta: Meta | None, original: Event) -> Meta | None:
    """The meta of an event that hands out `original` again: who did that, and what it belongs to.
    It is no effect, so it is no further hop."""
    correlation_id = original.correlation_id
    return compress(
        expand(meta)[0],
        original.revision if correlation_id is None else correlation_id,
        original.revision,
        original.hops,
        original.traceparent,
    )


def rebuilt(
    carrier: Event, revision: int, topic: str, data: Any, wall_ms: int, meta: Meta | None
) -> Event:
    """An event as it was, from what another one carries of it."""
    actor, correlation_id, causation_id, hops, traceparent = expand(meta)
    return carrier._replace(
        revision=revision,
        topic=topic,
        data=tuple(data),
        actor=actor,
        correlation_id=correlation_id,
        causation_id=causation_id,
        hops=hops,
        traceparent=traceparent,
        wall_ms=wall_ms,
    )
