"""One attempt of a handler at an event: what it is given, and how it ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from hooks.configuration.definition import HandlerDefinition
from hooks.delivery import Delivery
from hooks.effects import Effect


class FailureKind(StrEnum):
    """How an attempt failed."""

    ERROR = "error"  # it raised, or said so by its exit code
    TIMEOUT = "timeout"  # it was stopped at its timeout
    CRASH = "crash"  # it took its process down
    FILTER = "filter"  # its condition could not be evaluated


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The attempt returned; its effects are not committed yet."""

    effects: tuple[Effect, ...] = ()
    output: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, by its own doing."""

    kind: FailureKind
    error: str  # for people; bounded by limits.error_bytes_max
    final: bool = False  # trying again cannot mend it
    output: str = ""  # the end of what a command printed, for the history


Outcome = Succeeded | Failed


DRY_RUN_TOKEN: Final = 0  # of an attempt whose effects go nowhere; owners have tokens from 1 on


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a runner needs to make one attempt."""

    handler: HandlerDefinition
    deliveries: tuple[Delivery, ...]  # several only where batch_max allows it; of one partition
    number: int  # from 1
    token: int  # fencing token of the partition that the event is in
    cluster_id: str
    coalesced: int = 0  # earlier events of its key that the newest stands for

    @property
    def delivery(self) -> Delivery:
        """The event that this attempt is about; of a batch, the newest."""
        return self.deliveries[-1]

    @property
    def is_dry_run(self) -> bool:
        """Whether it is only tried out: its effects are shown and thrown away."""
        return self.token == DRY_RUN_TOKEN

    @property
    def timeout_seconds(self) -> float:
        return self.handler.timeout_ms / 1000


class Runner(Protocol):
    """Something that makes attempts. Cancelling `execute` stops the attempt as far as its kind can
    be stopped; what other attempts do to it (a killed host) is repeated inside, never reported."""

    async def execute(self, attempt: Attempt) -> Outcome: ...


Function = Callable[..., object] | Callable[..., Awaitable[object]]


def bounded(text: str, bytes_max: int) -> str:
    """`text` with its end kept, since that is where the reason of a failure stands."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return "..." + encoded[3 - bytes_max :].decode(errors="ignore")
