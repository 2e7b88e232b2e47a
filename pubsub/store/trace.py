"""What caused what: events of one correlation as a tree, by their causation ids.

An event's cause comes before it in the log, so that there are no circles. One whose cause is not
among the events (it is of another cluster, or gone, or the id means nothing to us) is a root.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pubsub.events import Event


class Branch(NamedTuple):
    """An event and what it caused, in the order of the log."""

    event: Event
    children: list["Branch"]


class Line(NamedTuple):
    """One event of a drawn tree."""

    prefix: str
    depth: int
    event: Event


def tree(events: Iterable[Event]) -> list[Branch]:
    """The roots, in the order of the log."""
    branches: dict[int, Branch] = {}
    roots: list[Branch] = []
    for event in sorted(events, key=lambda event: event.revision):
        if event.revision in branches:
            continue
        branch = Branch(event, [])
        cause = event.causation_id
        parent = branches.get(cause) if isinstance(cause, int) else None
        (roots if parent is None else parent.children).append(branch)
        branches[event.revision] = branch
    return roots


def lines(roots: list[Branch]) -> Iterator[Line]:
    """The tree as lines, each event below its cause. A chain may be of any length."""
    waiting = [(branch, 0, "", "") for branch in reversed(roots)]
    while waiting:
        branch, depth, prefix, below = waiting.pop()
        yield Line(prefix, depth, branch.event)
        for number, child in enumerate(reversed(branch.children)):
            is_last = number == 0
            mark, rest = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            waiting.append((child, depth + 1, below + mark, below + rest))
