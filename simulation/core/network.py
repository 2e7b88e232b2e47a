"""Simulated links: FIFO sessions between pairs of nodes that are delayed, cut and broken.

A session loses nothing while it lasts; when it breaks, what was on the way is gone and both ends
are told. A cut in one direction only holds messages back: the ends do not notice. What a node sent
just before it died may still arrive: the machine that it ran on delivers it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

Deliver = Callable[[str, str, Any], None]
Pair = tuple[str, str]


class Timeline(Protocol):
    """Virtual time."""

    now: float

    def after(self, delay: float, action: Callable[[], None]) -> None: ...


class Network:
    """The world gives `deliver(to, sender, message)`, `connected(a, b)`, `disconnected(a, b)`."""

    def __init__(
        self,
        timeline: Timeline,
        random: Random,
        latency: tuple[float, float],
        deliver: Deliver,
        connected: Callable[[str, str], None],
        disconnected: Callable[[str, str], None],
    ) -> None:
        self._timeline = timeline
        self._random = random
        self.latency = latency
        self.on_message: Callable[[str, str, Any, float], None] | None = None  # and its arrival
        self.delay_s: dict[Pair, float] = {}  # ordered pair -> what a slow way adds
        self._deliver = deliver
        self._connected = connected
        self._disconnected = disconnected
        self._session: dict[Pair, int] = {}  # pair in order -> number, 0 = down
        self._dying: dict[Pair, int] = {}  # (dead, survivor) -> number of their last session
        self._wanted: dict[Pair, bool] = {}  # a new session waits for the end of a dying one
        self._numbers = 0
        self._arrival: dict[Pair, float] = {}
        self._held: dict[Pair, list[Any]] = {}
        self._cut: dict[Pair, bool] = {}  # ordered pair -> its messages are held

    def connect(self, one: str, other: str) -> None:
        """Open a session, unless one is up or the path is cut in either direction."""
        if self.is_up(one, other) or self.is_cut(one, other):
            return
        if (one, other) in self._dying or (other, one) in self._dying:
            self._wanted[_pair(one, other)] = True  # what was sent before arrives before
            return
        self._numbers += 1
        self._session[_pair(one, other)] = self._numbers
        for direction in ((one, other), (other, one)):
            self._arrival[direction] = self._timeline.now
            self._held.pop(direction, None)
        self._connected(one, other)

    def disconnect(self, one: str, other: str) -> None:
        """Break a session: what is on the way is lost."""
        if self.is_up(one, other):
            self._session[_pair(one, other)] = 0
            self._disconnected(one, other)

    def hang_up(self, dead: str, survivor: str) -> None:
        """`dead` is no more: what it sent arrives for a moment, then the survivor is told."""
        pair = _pair(dead, survivor)
        self._wanted.pop(pair, None)  # whoever wanted it is dead, and dials when it is back
        number = self._session.get(pair)
        if number:
            self._session[pair] = 0
            self._dying[(dead, survivor)] = number
            base, jitter = self.latency
            linger = self._random.random() * (base + jitter) * 1.5
            self._timeline.after(linger, lambda: self._bury(dead, survivor, number))

    def _bury(self, dead: str, survivor: str, number: int) -> None:
        if self._dying.get((dead, survivor)) == number:
            del self._dying[(dead, survivor)]
            self._disconnected(dead, survivor)
            if self._wanted.pop(_pair(dead, survivor), False):
                self.connect(dead, survivor)

    def send(self, sender: str, to: str, message: Any) -> None:
        """Messages of one direction arrive in order; without a session they are gone."""
        number = self._session.get(_pair(sender, to))
        if not number:
            return
        direction = (sender, to)
        if self._cut.get(direction):
            self._held.setdefault(direction, []).append((number, message))
            return
        base, jitter = self.latency
        arrival = self._timeline.now + base + self._random.random() * jitter
        arrival += self.delay_s.get(direction, 0.0)
        arrival = max(arrival, self._arrival[direction] + 1e-6)
        self._arrival[direction] = arrival
        if self.on_message is not None:
            self.on_message(sender, to, message, arrival)
        self._timeline.after(
            arrival - self._timeline.now, lambda: self._arrive(sender, to, number, message)
        )

    def _arrive(self, sender: str, to: str, number: int, message: Any) -> None:
        if number in (self._session.get(_pair(sender, to)), self._dying.get((sender, to))):
            self._deliver(to, sender, message)

    def cut(self, sender: str, to: str) -> None:
        """Hold everything from `sender` to `to`."""
        self._cut[(sender, to)] = True

    def heal(self, sender: str, to: str) -> None:
        """Let what was held go on its way."""
        self._cut[(sender, to)] = False
        for number, message in self._held.pop((sender, to), []):
            if self._session.get(_pair(sender, to)) == number:
                self.send(sender, to, message)

    def is_up(self, one: str, other: str) -> bool:
        return bool(self._session.get(_pair(one, other)))

    def is_cut(self, one: str, other: str) -> bool:
        return bool(self._cut.get((one, other)) or self._cut.get((other, one)))


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)
