"""What the attempts of one node came to: the newest of each handler, and its counters.

Kept in memory, since it is for the person who looks why something failed; it outlives the services
of a node, so that a reload forgets nothing. What the cluster knows of an event is in its group.
What the cluster made of an attempt's effects, and which events newer ones stood for, is noted once
it is written down. Deciding code.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final

from hooks.control.metrics import HandlerMetrics
from hooks.execution.attempt import Attempt, Failed, Outcome, bounded
from hooks.limits import HookLimits

DONE: Final = "done"
CANCELLED: Final = "cancelled"  # stopped, because its partition or the session was lost
EFFECTS_REFUSED: Final = "effects_refused"  # it returned, and the cluster refused its effects


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """One attempt that has ended."""

    revisions: tuple[int, ...]  # of its events, in order: more than one in a batch
    attempt: int  # from 1
    started_ms: int  # on the wall clock
    duration_ms: int
    outcome: str  # DONE, CANCELLED, EFFECTS_REFUSED, or a FailureKind
    error: str | None
    output: str  # the end of what a command printed

    @property
    def revision(self) -> int:
        """By which it goes: of a batch, that of the newest event."""
        return self.revisions[-1]

    def as_dict(self) -> dict[str, Any]:
        """As answers carry it."""
        own = {name: getattr(self, name) for name in self.__slots__}
        return {"revision": self.revision, "events": len(self.revisions), **own}


class History:
    """The newest attempts of each handler on one node, and what it has counted of each."""

    def __init__(self, limits: HookLimits) -> None:
        self._limits = limits
        self._past: dict[str, deque[PastAttempt]] = {}
        self._coalesced: dict[str, dict[int, int]] = {}  # by handler: an event, and the newer one
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
                revisions=tuple(delivery.revision for delivery in attempt.deliveries),
                attempt=attempt.number,
                started_ms=started_ms,
                duration_ms=duration_ms,
                outcome=kind,
                error=None if failed is None else bounded(failed.error, limits.error_bytes_max),
                output="" if outcome is None else bounded(outcome.output, limits.error_bytes_max),
            )
        )

    def note_refused(self, handler: str, revision: int, reason: str) -> None:
        """The cluster refused what the newest attempt at an event had returned."""
        past = self._past.get(handler, deque())
        for place in range(len(past) - 1, -1, -1):
            if revision in past[place].revisions:
                if past[place].outcome == DONE:
                    error = bounded(reason, self._limits.error_bytes_max)
                    past[place] = replace(past[place], outcome=EFFECTS_REFUSED, error=error)
                return

    def note_coalesced(self, handler: str, revision: int, newer: int) -> None:
        """An event is written down as done that was not run: a newer one stands for it."""
        known = self._coalesced.setdefault(handler, {})
        known[revision] = newer
        if len(known) > self._limits.history_coalesced_max:
            del known[next(iter(known))]

    def stood_for_by(self, handler: str, revision: int) -> int | None:
        """The event that stands for one that was not run, or did until a still newer one that is
        in hand took its place; None when nothing like that is remembered."""
        known = self._coalesced.get(handler, {})
        newer = known.get(revision)
        while newer in known:
            newer = known[newer]
        return newer

    def of(self, handler: str) -> list[PastAttempt]:
        """The remembered attempts of a handler, the newest first."""
        return list(reversed(self._past.get(handler, ())))

    def forget_all_but(self, handlers: set[str]) -> None:
        """Let go of handlers that this node does not have any more."""
        for memory in (self._past, self._coalesced, self._metrics):
            for name in [name for name in memory if name not in handlers]:
                del memory[name]
