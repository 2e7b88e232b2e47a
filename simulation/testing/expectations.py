"""Exactly once, in order: what was found outside, held against the committed events.

Deciding code: says in words what is wrong, with the revisions of the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal

from hooks.delivery import event_id
from pubsub.events import Event
from pubsub.topics import closest

By = Literal["key", "revision", "event_id"] | Callable[[Event], Hashable]
"""How an event is recognised outside."""

LINES_MAX = 10
"""More of a kind are counted, not listed."""

Tell = Callable[[Event], Sequence[str]]
"""What else is known of an event: lines for people."""


def identify(by: By, cluster_id: str) -> Callable[[Event], Hashable]:
    """The function that `by` stands for."""
    if callable(by):
        return by
    named: dict[str, Callable[[Event], Hashable]] = {
        "key": lambda event: event.key,
        "revision": lambda event: event.revision,
        "event_id": lambda event: event_id(cluster_id, event.revision),
    }
    if by not in named:
        raise ValueError(
            f"by={by!r}: one of {', '.join(named)} is expected, or a function of an event"
        )
    return named[by]


def once(
    topic: str,
    events: Sequence[Event],
    found: Iterable[Hashable],
    of: Callable[[Event], Hashable],
    tell: Tell,
) -> str | None:
    """What is wrong, unless `found` has every event exactly once; None if it is right."""
    wanted: dict[Hashable, list[Event]] = {}
    for event in events:
        wanted.setdefault(of(event), []).append(event)
    counts = Counter(found)
    missing: list[str] = []
    repeated: list[str] = []
    for value, same in wanted.items():
        if counts[value] < len(same):
            missing += _about(f"{_times(counts[value], len(same))} {value!r}", same, tell)
        elif counts[value] > len(same):
            repeated += _about(f"{_times(counts[value], len(same))} {value!r}", same, tell)
    unknown = [
        f"{count} x {value!r}, of no event"
        for value, count in counts.items()
        if value not in wanted
    ]
    if not (missing or repeated or unknown):
        return None
    heads = (
        (missing, "missing"),
        (repeated, "too often"),
        (unknown, "not wanted"),
    )
    counted = ", ".join(f"{len(lines)} {head}" for lines, head in heads if lines)
    said = [f"of {len(events)} events on {topic}, each wanted exactly once: {counted}"]
    for lines, head in heads:
        said += _listed(head, lines)
    return "\n".join(said)


def order(
    topic: str,
    events: Sequence[Event],
    found: Iterable[Hashable],
    of: Callable[[Event], Hashable],
    *,
    per_key: bool,
) -> str | None:
    """What is wrong, unless what is in `found` came in the order of the log. Repetitions are
    another matter: the first time counts."""
    by_value: dict[Hashable, Event] = {}
    for event in events:
        other = by_value.setdefault(of(event), event)
        if other is not event:
            raise ValueError(
                f"the events of revisions {other.revision} and {event.revision} are both "
                f"{of(event)!r}: say with by= how to tell them apart"
            )
    newest: dict[Hashable, Event] = {}
    wrong: list[str] = []
    for value in dict.fromkeys(found):
        found_event = by_value.get(value)
        if found_event is None:
            continue
        event = found_event
        lane = _order_key(event) if per_key else None
        before = newest.setdefault(lane, event)
        if before.revision > event.revision:
            key = f"key {_order_key(event)!r}: " if per_key else ""
            wrong.append(
                f"{key}{value!r} (revision {event.revision}) came after {of(before)!r} "
                f"(revision {before.revision})"
            )
        else:
            newest[lane] = event
    if not wrong:
        return None
    how = "in order per key" if per_key else "in order"
    said = f"of {len(events)} events on {topic}, wanted {how}: {len(wrong)} out of order"
    return "\n".join([said, *_listed("out of order", wrong)])


def nothing_there(topic: str, log: Iterable[Event]) -> str:
    """Nothing was committed there: an assertion about it would hold whatever the hooks do."""
    topics = sorted({event.topic for event in log})
    nearest = closest(topic, topics)
    meant = f' (did you mean "{nearest}"?)' if nearest else ""
    listed = ", ".join(topics) or "none at all"
    return f'no event on "{topic}" was committed{meant}; the log has events on: {listed}'


def _order_key(event: Event) -> str:
    return event.topic if event.key is None else event.key


def _times(count: int, wanted: int) -> str:
    many = "never" if count == 0 else "once" if count == 1 else f"{count} times"
    return many if wanted == 1 else f"{many} instead of {wanted} times"


def _about(what: str, events: Sequence[Event], tell: Tell) -> list[str]:
    revisions = ", ".join(str(event.revision) for event in events)
    noun = "revision" if len(events) == 1 else "revisions"
    details = [f"    {line}" for event in events for line in tell(event)]
    return ["\n".join([f"{what} ({noun} {revisions})", *details])]


def _listed(head: str, lines: Sequence[str]) -> list[str]:
    shown = [f"  {head}: {line}" for line in lines[:LINES_MAX]]
    if len(lines) > LINES_MAX:
        shown.append(f"  {head}: {len(lines) - LINES_MAX} more")
    return shown
