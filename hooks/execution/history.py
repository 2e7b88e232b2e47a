"""What the attempts of one node came to: the newest of each handler, and its counters.

Kept in memory, since it is for the person who looks why something failed; it outlives the services
of a node, so that a reload forgets nothing. What the cluster knows of an event is in its group.
Deciding code.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from hooks.control.metrics import HandlerMetrics
from hooks.execution.attempt import Attempt, Failed, Outcome, bounded
from hooks.limits import HookLimits

DONE: Final = "done"
CANCELLED: Final = "cancelled"  # stopped, because its partition or the session was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """One attempt that has ended."""

    revision: int  # of a batch, the newest
    events: int  # more than one in a batch
    attempt: int  # from 1
    started_ms: int  # on the wall clock
    duration_ms: int
    outcome: str  # DONE, CANCELLED, or a FailureKind
    error: str | None
    output: str  # the end of what a command printed

    def as_dict(self) -> dict[str, Any]:
        """As answers carry it."""
        return {name: getattr(self, name) for name in self.__slots__}


class History:
    """The newest attempts of each handler on one node, and what it has counted of each."""

    def __init__(self, limits: HookLimits) -> None:
        self._limits = limits
        self._past: dict[str, deque[PastAttempt]] = {}
        self._metrics: dict[str, HandlerMetrics] = {}

    def metrics_of(self, handler: str) -> HandlerMetrics:
        """Its counters since the node started."""
        return self._metrics.setdefault(handler, HandlerMetrics())

    def note(
        self, attempt: Attempt, outcome: Outcome | None, started_ms: int, duration_ms: int
    ) -> None:
        """Remember an attempt; None: it was stopped through no fault of its own."""
        limits = self._limits
        failed = outcome if isinstance(outcome, Failed) else None
        kind = CANCELLED if outcome is None else DONE if failed is None else failed.kind.value
        past = self._past.get(attempt.handler.name)
        if past is None:
            past = self._past[attempt.handler.name] = deque(maxlen=limits.history_attempts_max)
        past.append(
            PastAttempt(
                revision=attempt.delivery.revision,
                events=len(attempt.deliveries),
                attempt=attempt.number,
                started_ms=started_ms,
                duration_ms=duration_ms,
                outcome=kind,
                error=None if failed is None else bounded(failed.error, limits.error_bytes_max),
                output="" if outcome is None else bounded(outcome.output, limits.error_bytes_max),
            )
        )

    def of(self, handler: str) -> list[PastAttempt]:
        """The remembered attempts of a handler, the newest first."""
        return list(reversed(self._past.get(handler, ())))

    def forget_all_but(self, handlers: set[str]) -> None:
        """Let go of handlers that this node does not have any more."""
        for name in [name for name in self._past if name not in handlers]:
            del self._past[name]
        for name in [name for name in self._metrics if name not in handlers]:
            del self._metrics[name]
