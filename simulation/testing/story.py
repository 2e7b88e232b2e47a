"""What a failed run tells: what was drawn, what happened last on each node, what they logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from simulation.trace import Kind, Moment, Trace

MOMENTS_KEPT = 2_000
MOMENTS_SHOWN = 100
LOG_LINES_SHOWN = 30
NODE_COLUMN = 28


class Story:
    """Of one run, for people."""

    def __init__(self, names: Sequence[str]) -> None:
        self.trace = Trace(MOMENTS_KEPT)
        self.drawn: list[str] = []
        self.ended_s = 0.0
        self._names = names

    def note(self, who: str, what: str) -> None:
        kind: Kind = "fault" if who == "fault" else "node" if who in self._names else "world"
        self.trace.add(trio.current_time(), who, kind, what)

    def lines(self) -> list[str]:
        moments = [moment for moment in self.trace.moments if moment.kind != "log"]
        logged = [m for m in self.trace.moments if m.kind == "log" and m.now_s < self.ended_s]
        return [
            *self.drawn,
            "",
            *_table(moments[-MOMENTS_SHOWN:], self._names),
            "",
            *(f"{moment.now_s:9.4f}  {moment.what}" for moment in logged[-LOG_LINES_SHOWN:]),
            "",
            f"ended at {self.ended_s:.4f} virtual s; trace {self.trace.fingerprint}",
        ]


def _table(moments: Iterable[Moment], names: Sequence[str]) -> list[str]:
    """A line per moment: its time, a column for each node, and last, at any length, what was of no
    node: the events of the log say most when they are whole."""
    lines = [f"{'time':>9}  " + "".join(f"{name:<{NODE_COLUMN}}" for name in names) + "log, faults"]
    for moment in moments:
        what = " ".join(moment.what.split())
        if moment.who in names:
            if len(what) >= NODE_COLUMN:
                what = f"{what[: NODE_COLUMN - 2]}…"
            place = names.index(moment.who)
        else:
            what, place = f"{moment.who}: {what}", len(names)
        lines.append(f"{moment.now_s:9.4f}  {' ' * NODE_COLUMN * place}{what}")
    return lines
