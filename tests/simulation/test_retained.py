"""The checks of the workload `retained`: what a follower may miss, and what a rule may take."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.node import Node
from pubsub.events import Event
from simulation.node.workloads.retained import FREE, HELD, Follower, Rule
from simulation.violation import Violation

EVENTS = [
    Event(revision, topic, None, (b"",), None, None, None, 0, None, 100 * revision, 1, 0, 10)
    for revision, topic in enumerate([FREE, HELD, FREE, FREE], 1)
]


class _World:
    """Hears what a follower notes."""

    def note(self, who: str, what: str) -> None:
        """Nobody reads it here."""


def follower(seen: list[Event], newest: int) -> Follower:
    """One that saw these events and has come so far."""
    follows = Follower(cast(Any, _World()), 1, Random(0))
    follows._seen, follows.newest = seen, newest
    return follows


def kept(*revisions: int) -> dict[int, Event]:
    """What is left of the events."""
    return {event.revision: event for event in EVENTS if event.revision in revisions}


def test_what_a_follower_was_told_is_no_loss() -> None:
    """It goes on behind the gap, and has missed nothing that it was not told of."""
    follows = follower(EVENTS[:1], 1)
    follows._learn(4)
    follows._seen.append(EVENTS[3])
    follows.newest = 4
    follows.check(EVENTS, kept(2, 4))


def test_a_silent_gap_is_a_loss() -> None:
    """Retention took it, and nobody said so."""
    with pytest.raises(Violation, match="a follower missed"):
        follower([EVENTS[0], EVENTS[3]], 4).check(EVENTS, kept(4))


def test_a_gap_that_is_none_is_told_in_vain() -> None:
    """The event before which it was told to go on is still there."""
    follows = follower(EVENTS[:1], 1)
    follows._learn(4)
    with pytest.raises(Violation, match="told of gaps where none are"):
        follows.check(EVENTS[:3], kept(1, 2, 3))


@pytest.mark.parametrize(
    ("max_age_ms", "max_events", "taken"),
    [(None, 1, [1, 3]), (150, None, [1]), (150, 2, [1]), (50, 3, [1, 3]), (None, 9, [])],
)
def test_a_rule_may_take_what_is_old_or_too_much(
    max_age_ms: int | None, max_events: int | None, taken: list[int]
) -> None:
    """Its oldest events, and none of another topic."""
    node = cast(Node, SimpleNamespace(machine=SimpleNamespace(wall_ms=400)))
    rule = Rule(FREE, [FREE], max_age_ms, max_events)
    assert [event.revision for event in rule.over(EVENTS, node)] == taken
