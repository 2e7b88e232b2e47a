"""What a node counts about each of its handlers; plain integers, read when somebody asks.

The counters of the whole cluster (completed events, dead letters, floors) are replicated with the
group and do not stand here.
"""

from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from hooks.execution.attempt import Failed, FailureKind, Outcome

# Upper bounds in milliseconds; the last bucket has none. 30 s is the longest timeout by default.
DURATION_BUCKETS_MS: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)


@dataclass(slots=True, kw_only=True)
class HandlerMetrics:
    """Counters of one handler on one node since it started."""

    attempts: int = 0  # started
    succeeded: int = 0  # attempts that returned
    failures: int = 0  # attempts that raised, or ended with a code other than 0
    timeouts: int = 0  # attempts that were stopped
    crashes: int = 0  # attempts that took their process down
    cancelled: int = 0  # attempts stopped because their partition or the session was lost
    retries: int = 0  # attempts after the first of an event
    completed: int = 0  # events completed, as confirmed by the cluster
    skipped: int = 0  # of these: given up without a dead letter (on_failure = "skip")
    coalesced: int = 0  # events that a newer one of their key stands for: these are completed, too
    dead_letters: int = 0  # events given up into the dead letters, refused effects among them
    effects_refused: int = 0  # events whose effects the state refused
    checkpoints: int = 0  # confirmed
    checkpoints_fenced: int = 0  # refused, because a partition had another owner
    checkpoints_refused: int = 0  # refused for another reason, and repeated
    partitions_parked: int = 0  # times that one partition had too much unfinished to read on
    filtered: int = 0  # events that the handler's condition is false for
    filter_failures: int = 0  # times that it could not be evaluated
    throttled: int = 0  # times that an event was held by throttle_ms
    rate_limited: int = 0  # times that a start was held by a rate limit
    held_by_after: int = 0  # events held because another handler was not done with them
    breaker_opened: int = 0  # times that too many attempts in a row failed
    batches: int = 0  # attempts of a handler with batch_max, without those at an event alone
    batched: int = 0  # events in them
    batches_split: int = 0  # that failed, so that each of their events was tried alone
    compacted: int = 0  # revisions that retention took before they were read; must stay 0
    duration_ms_total: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_MS) + 1))

    def note(self, outcome: Outcome, duration_ms: int) -> None:
        """Count an attempt that ended by itself or at its timeout."""
        self.duration_ms_total += duration_ms
        self.durations[bisect_left(DURATION_BUCKETS_MS, duration_ms)] += 1
        if not isinstance(outcome, Failed):
            self.succeeded += 1
        elif outcome.kind is FailureKind.TIMEOUT:
            self.timeouts += 1
        elif outcome.kind is FailureKind.CRASH:
            self.crashes += 1
        else:
            self.failures += 1

    def snapshot(self) -> dict[str, Any]:
        """The counters as plain values; durations as [upper bound in ms or None, count] pairs."""
        plain = asdict(self)
        bounds = (*DURATION_BUCKETS_MS, None)
        plain["durations"] = [
            [bound, count] for bound, count in zip(bounds, self.durations, strict=True)
        ]
        return plain
