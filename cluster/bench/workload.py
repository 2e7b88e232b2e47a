"""What is measured: each workload turns a number into one request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, cycle, repeat
from random import Random
from typing import Any, Final

from cluster.protocol import LINEARIZABLE, LOCAL

PREFIX: Final = "bench/"
TOPIC: Final = "bench.events"
MARK_BYTES: Final = 8
"""Of a value, which tell its reader which write it comes from."""
DRAWS: Final = 256
"""Random keys that are drawn at a time; some 20 us."""
CONSUMED: Final = "bench.consumed"
CONSUMED_KEYS: Final = 512
CONSUMED_BATCH: Final = 500
CONSUME: Final = ("partitioned", "competing")
"""The workloads in which the connections are members of a group and take what is there."""
READ: Final = ("watch", "deliver")
"""The workloads that measure how long an event takes to its reader."""
HANDLED: Final = "bench.hooks"
HANDLE, REACT = "handle", "react"
"""The workloads of `cluster bench hooks`, by the handler in `cluster.bench.hook`."""
REACT_RATE: Final = 20.0
"""Events a second, so that each finds an idle cluster."""
RATE_DEFAULT: Final = 200.0
"""Of those, writes a second."""

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
    events: int = 30_000  # there to be consumed
    warm_up_s: float = 1.0
    seconds: float = 5.0

    @property
    def name(self) -> str:
        """A short description for the table."""
        if self.workload == HANDLE:
            return f"handle {self.events:,} events"
        parts = [self.workload]
        if self.batch > 1:
            parts.append(f"x{self.batch}")
        if self.local:
            parts.append("local")
        if self.consumes:
            return f"consume {self.workload} by {self.connections} members"
        if self.rate:
            parts.append(f"at {self.rate:g}/s")
        else:
            parts.append(f"{self.connections * self.depth} in flight")
        parts.append(f"on {self.connections} connection{'s' if self.connections > 1 else ''}")
        return " ".join(parts)

    @property
    def hooks(self) -> bool:
        """Whether it needs the handler of the benchmark."""
        return self.workload in (HANDLE, REACT)

    @property
    def consumes(self) -> bool:
        """Whether members of a group take events, instead of requests that are sent."""
        return self.workload in CONSUME

    @property
    def reads(self) -> bool:
        """Whether it is the way of an event to a reader that is timed."""
        return self.workload in READ


# What a newcomer wants to know first, and what we compare with etcd.
SUITE: Final = (
    Plan(workload="put"),
    Plan(workload="put", depth=64),
    Plan(workload="put", depth=8, connections=8),
    Plan(workload="put", batch=100, depth=16),
    Plan(workload="get"),
    Plan(workload="get", depth=64),
    Plan(workload="publish", depth=64),
    Plan(workload="publish", batch=100, depth=16),
    Plan(workload="watch", rate=RATE_DEFAULT),
    Plan(workload="deliver", rate=RATE_DEFAULT),
    Plan(workload="partitioned", connections=3),
    Plan(workload="competing", connections=3),
)


HOOK_SUITE: Final = (Plan(workload=HANDLE), Plan(workload=REACT, rate=REACT_RATE))


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

    def marked(self) -> Callable[[bytes, int], Request]:
        """A function that makes write number n, whose value begins with a mark."""
        rest, keys = self.value[MARK_BYTES:], self.keys
        if self.plan.workload == "watch":
            return lambda mark, n: ("put", [keys[n % len(keys)], mark + rest, None, None])
        return lambda mark, n: ("publish", [TOPIC, None, mark + rest, None, None])

    def preload(self) -> list[Request]:
        """What must be in the store before the measurement."""
        if self.plan.consumes:
            return self._events(CONSUMED)
        if self.plan.workload == HANDLE:
            return self._events(HANDLED)
        if self.plan.workload != "get":
            return []
        puts = [["put", key, self.value, None, None] for key in self.keys]
        return [("batch", [puts[first : first + 500]]) for first in range(0, len(puts), 500)]

    def _events(self, topic: str) -> list[Request]:
        """What the members of a group will take, over enough keys that each gets its share."""
        events = [
            [topic, f"k{number % CONSUMED_KEYS}", self.value, None, None]
            for number in range(self.plan.events)
        ]
        starts = range(0, len(events), CONSUMED_BATCH)
        return [("publish_batch", [events[at : at + CONSUMED_BATCH]]) for at in starts]


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
    """Random keys, uniformly; drawing some at a time is half the price of one at a time."""
    keys, choices = requests.keys, requests.random.choices
    if requests.plan.in_turn:
        return cycle(keys).__next__
    return chain.from_iterable(choices(keys, k=DRAWS) for _ in repeat(None)).__next__


_MAKERS: Final = {
    "put": _put,
    "get": _get,
    "publish": _publish,
    "watch": _put,
    "deliver": _publish,
}
WORKLOADS: Final = (*_MAKERS, *CONSUME, HANDLE, REACT)
