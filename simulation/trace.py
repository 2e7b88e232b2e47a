"""What happened in a run: a hash over all of it, and the moments that people look at.

Equal runs have equal hashes, in any process. The last moments are read as a table (`columns`), or
all of them as a page (timeline.py), for which `spans` finds what lasted. `spans` reads texts; `who`
is a node unless said otherwise:

- one that begins like one of `DEATHS`: dead, until one that begins with "start". Of somebody who is
  no node, and ending in "of all": all are dead.
- an election's "leads term N": leads until somebody leads a newer term, until its own death or next
  election, or `until_s`. It may have believed in itself for longer than that.
- a fault "X": lasts until a fault "healed: X" of the same `who`, or `until_s`.
- a client's "X" and its next text that begins with X: one operation, and the rest is its outcome.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Style = Literal["dead", "leads", "fault", "ok", "failed", "unknown"]
Kind = Literal["message", "fault", "election", "commit", "client", "node", "log", "world"]

LINE = 160
TIME = 11  # of the line: the time and two blanks
COLUMNS = (16, 26)  # narrowest and widest

DEATHS = (
    "kill -9", "power loss", "power cut", "dies", "stops", "SIGTERM", "is wiped", "ends by itself",
)  # fmt: skip
HEALED = "healed: "

_LEADS = re.compile(r"leads term (\d+)")


class Moment(NamedTuple):
    """Something that a node, a client, the links or the world did."""

    now_s: float
    who: str
    kind: Kind
    what: str
    to: str | None = None
    """Who a message goes to."""
    until_s: float | None = None
    """When the message arrives, when the fault or the operation ends, if it is known by now. A
    fault with infinity lasts until it is said to be healed; a message with None never arrives."""


class Span(NamedTuple):
    """Something that lasted, in the lane of `who`."""

    who: str
    style: Style
    begin_s: float
    end_s: float
    what: str


class Trace:
    """The hash of every moment of a run, and its last `kept` moments; None keeps all.

    Messages are only for looking at. They are never in the hash, so a run that keeps them has the
    fingerprint of one that does not; whoever sends asks `keeps_messages` before it adds one.
    """

    def __init__(self, kept: int | None = 400) -> None:
        self.moments: deque[Moment] = deque(maxlen=kept)
        self.keeps_messages = False
        self.is_over = False  # what the end of the simulated world itself causes is left out
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def fingerprint(self) -> str:
        """In hex, of what has been added so far."""
        return self._hash.hexdigest()

    def add(
        self,
        now_s: float,
        who: str,
        kind: Kind,
        what: str,
        to: str | None = None,
        until_s: float | None = None,
    ) -> None:
        """Note a moment, in two microseconds at most: a run has tens of thousands."""
        if self.is_over:
            return
        self.moments.append(Moment(now_s, who, kind, what, to, until_s))
        if kind != "message":
            # repr() of a tuple costs half as much again, and a batch of lines saves nothing.
            self._hash.update(
                f"{now_s!r} {who} {kind} {what} {to} {until_s}\n".encode(errors="backslashreplace")
            )


def kind_of(who: str, what: str, is_node: bool) -> Kind:
    """The kind of a moment that was noted in words."""
    if is_node:
        begins = what.partition(" ")[0]
        return "election" if begins == "leads" else "commit" if begins == "apply" else "node"
    if who == "fault":
        return "fault"
    return "client" if who.startswith(("client-", "operator")) else "world"


def columns(moments: Iterable[Moment], nodes: Sequence[str]) -> list[str]:
    """A line per moment: its time, what was of no node, then a column for each node.

    The more nodes, the narrower the columns; what does not fit ends in an ellipsis.
    """
    narrowest, widest = COLUMNS
    width = max(narrowest, min(widest, (LINE - TIME) // (len(nodes) + 1)))
    place = {name: number for number, name in enumerate(nodes, 1)}
    heads = "".join(f"{name:<{width}}" for name in ("world", *nodes))
    lines = [f"{'time':>{TIME - 2}}  {heads}".rstrip()]
    for moment in moments:
        column = place.get(moment.who, 0)
        what = moment.what if moment.to is None else f"→ {moment.to} {moment.what}"
        what = " ".join((what if column else f"{moment.who}: {what}").split())
        shown = what if len(what) < width else f"{what[: width - 2]}…"
        lines.append(f"{moment.now_s:{TIME - 2}.4f}  {' ' * width * column}{shown}")
    return lines


def spans(moments: Sequence[Moment], nodes: Sequence[str], end_s: float) -> list[Span]:
    """Whatever lasted; what had no end by `end_s` lasts until then."""
    return [
        *_deaths(moments, nodes, end_s),
        *_leaderships(moments, nodes, end_s),
        *_faults(moments, end_s),
        *_operations(moments, nodes, end_s),
    ]


def _deaths(moments: Sequence[Moment], nodes: Sequence[str], end_s: float) -> Iterator[Span]:
    dead: dict[str, Moment] = {}
    seen: set[str] = set()
    for moment in moments:
        for name in _killed(moment, nodes):
            dead.setdefault(name, moment)
        if _starts(moment, nodes):
            died = dead.pop(moment.who, None)
            if died is not None:
                yield Span(moment.who, "dead", died.now_s, moment.now_s, died.what)
            elif moment.who not in seen and moment.now_s > moments[0].now_s:
                yield Span(moment.who, "dead", moments[0].now_s, moment.now_s, "not started")
        seen.add(moment.who)
    for name, died in dead.items():
        yield Span(name, "dead", died.now_s, end_s, died.what)


def _killed(moment: Moment, nodes: Sequence[str]) -> Sequence[str]:
    if moment.kind not in ("fault", "node", "world") or not moment.what.startswith(DEATHS):
        return ()
    if moment.who in nodes:
        return (moment.who,)
    return nodes if moment.what.endswith("of all") else ()


def _starts(moment: Moment, nodes: Sequence[str]) -> bool:
    return (
        moment.kind in ("fault", "node") and moment.who in nodes and moment.what.startswith("start")
    )


def _leaderships(moments: Sequence[Moment], nodes: Sequence[str], end_s: float) -> Iterator[Span]:
    """More than one may be going on, if somebody leads an older term than is known already."""
    leading: dict[str, tuple[int, Moment]] = {}
    for moment in moments:
        found = _LEADS.search(moment.what) if moment.kind == "election" else None
        term = int(found[1]) if found else None
        ended = [*_killed(moment, nodes)]
        if moment.kind == "election":
            ended.append(moment.who)
        if term is not None:
            ended += [name for name, (older, _) in leading.items() if older < term]
        for name in ended:
            if name in leading:
                yield _leadership(*leading.pop(name), moment.now_s)
        if term is not None:
            leading[moment.who] = (term, moment)
    for term, began in leading.values():
        yield _leadership(term, began, end_s)


def _leadership(term: int, began: Moment, end_s: float) -> Span:
    end_s = end_s if began.until_s is None else min(began.until_s, end_s)
    return Span(began.who, "leads", began.now_s, end_s, f"leads term {term}")


def _faults(moments: Sequence[Moment], end_s: float) -> Iterator[Span]:
    """One whose end nobody knows is a moment and no span."""
    healed: dict[tuple[str, str], float] = {}
    found: list[Span] = []
    for moment in reversed(moments):
        if moment.kind != "fault":
            continue
        if moment.what.startswith(HEALED):
            healed[moment.who, moment.what.removeprefix(HEALED)] = moment.now_s
            continue
        until_s = healed.pop((moment.who, moment.what), moment.until_s)
        if until_s is not None:
            until_s = min(until_s, end_s)
            found.append(Span(moment.who, "fault", moment.now_s, until_s, moment.what))
    yield from reversed(found)


def _operations(moments: Sequence[Moment], nodes: Sequence[str], end_s: float) -> Iterator[Span]:
    """What a node answered is a moment of the node; only clients have lanes for operations."""
    asked: dict[tuple[str, str], Moment] = {}
    verbs: set[str] = set()  # what is an operation, and no remark
    for moment in moments:
        if moment.kind != "client" or moment.who in nodes:
            continue
        if moment.until_s is not None:
            end = min(moment.until_s, end_s)
            yield Span(moment.who, _outcome(moment.what), moment.now_s, end, moment.what)
            continue
        words = moment.what.split()
        beginnings = ((moment.who, " ".join(words[:n])) for n in range(len(words) - 1, 0, -1))
        begun = next((beginning for beginning in beginnings if beginning in asked), None)
        if begun is None:
            asked[moment.who, " ".join(words)] = moment
        else:
            verbs.add(words[0])
            outcome = _outcome(" ".join(words).removeprefix(begun[1]))
            yield Span(moment.who, outcome, asked.pop(begun).now_s, moment.now_s, moment.what)
    for (who, what), moment in asked.items():
        if what.partition(" ")[0] in verbs:
            yield Span(who, "unknown", moment.now_s, end_s, f"{what} (no answer)")


def _outcome(text: str) -> Style:
    words = text.lower().split()
    if any(word.startswith(("fail", "refused", "reject")) for word in words):
        return "failed"
    unknown = any(word in ("info", "unknown", "timeout", "open") for word in words)
    return "unknown" if unknown else "ok"
