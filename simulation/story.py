"""The last events of a run for people: one column per node, one line per moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

COLUMN = 26


class Event(NamedTuple):
    """Something that happened to a node, or to the world."""

    now: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.now:9.4f}  {self.who:<8}{self.what}"


def columns(events: Iterable[Event], nodes: Sequence[str]) -> list[str]:
    """A line per event: its time, what the world did, then a column for each node."""
    lines = [f"{'time':>9}  {'world':<{COLUMN}}" + "".join(f"{name:<{COLUMN}}" for name in nodes)]
    for event in events:
        place = nodes.index(event.who) + 1 if event.who in nodes else 0
        what = event.what if place else f"{event.who}: {event.what}"
        shown = what if len(what) < COLUMN else f"{what[: COLUMN - 2]}…"
        lines.append(f"{event.now:9.4f}  {' ' * COLUMN * place}{shown}")
    return lines
