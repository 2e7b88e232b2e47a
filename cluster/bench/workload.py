"""What is measured: each workload turns a number into one request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any, Final

from cluster.protocol import LINEARIZABLE, LOCAL

PREFIX: Final = "bench/"
TOPIC: Final = "bench.events"

Request = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One measurement: what, how much at a time, for how long."""

    workload: str = "put"
    connections: int = 1
    depth: int = 1  # requests in flight on each connection (closed loop)
    batch: int = 1  # operations in one request
    rate: float | None = None  # requests a second over all connections (open loop)
    value_bytes: int = 100
    keys: int = 10_000
    local: bool = False
    in_turn: bool = False  # the keys one after the other instead of at random
    warm_up_s: float = 1.0
    seconds: float = 5.0

    @property
    def name(self) -> str:
        """A short description for the table."""
        parts = [self.workload]
        if self.batch > 1:
            parts.append(f"x{self.batch}")
        if self.local:
            parts.append("local")
        if self.rate:
            parts.append(f"at {self.rate:g}/s")
        else:
            parts.append(f"{self.connections * self.depth} in flight")
        parts.append(f"on {self.connections} connection{'s' if self.connections > 1 else ''}")
        return " ".join(parts)


# What a newcomer wants to know first, and what we compare with etcd.
SUITE: Final = (
    Plan(workload="put"),
    Plan(workload="put", depth=64),
    Plan(workload="put", depth=8, connections=8),
    Plan(workload="put", batch=100, depth=16),
    Plan(workload="get"),
    Plan(workload="get", depth=64),
    Plan(workload="publish", depth=64),
    Plan(workload="watch", rate=200.0),
)


@dataclass(slots=True)
class Requests:
    """The requests of a plan: keys and values made beforehand, so that little is measured of us."""

    plan: Plan
    random: Random
    keys: list[str] = field(init=False)
    value: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [f"{PREFIX}{number:08d}" for number in range(self.plan.keys)]
        self.value = self.random.randbytes(self.plan.value_bytes)

    def maker(self) -> Callable[[], Request]:
        """A function that makes the next request. HOT."""
        return _MAKERS[self.plan.workload](self)

    def preload(self) -> list[Request]:
        """What must be in the store before the measurement."""
        if self.plan.workload != "get":
            return []
        puts = [["put", key, self.value, None, None] for key in self.keys]
        return [("batch", [puts[first : first + 500]]) for first in range(0, len(puts), 500)]


def _put(requests: Requests) -> Callable[[], Request]:
    choose, value = _chooser(requests), requests.value
    batch = requests.plan.batch
    if batch == 1:
        return lambda: ("put", [choose(), value, None, None])
    return lambda: ("batch", [[["put", choose(), value, None, None] for _ in range(batch)]])


def _get(requests: Requests) -> Callable[[], Request]:
    choose = _chooser(requests)
    level = LOCAL if requests.plan.local else LINEARIZABLE
    return lambda: ("get", [choose(), level])


def _publish(requests: Requests) -> Callable[[], Request]:
    value, batch = requests.value, requests.plan.batch
    if batch == 1:
        return lambda: ("publish", [TOPIC, None, value, None, None])
    events = [[TOPIC, None, value, None, None]] * batch
    return lambda: ("publish_batch", [events])


def _chooser(requests: Requests) -> Callable[[], str]:
    """Random keys, uniformly; drawing an index is half the price of `random.choice`."""
    if requests.plan.in_turn:
        return cycle(requests.keys).__next__
    keys, draw, count = requests.keys, requests.random.random, len(requests.keys)
    return lambda: keys[int(draw() * count)]


_MAKERS: Final = {"put": _put, "get": _get, "publish": _publish, "watch": _put}
WORKLOADS: Final = tuple(_MAKERS)
