"""What happens after a failed attempt: again after a pause, or given up.

Deciding code: the randomness is an argument.
"""

from hooks.limits import HookLimits


def backoff_ms(attempt: int, random: float, limits: HookLimits) -> int:
    """The pause after the failed `attempt` (from 1): doubles up to a bound, its upper half random.

    `random` is in [0, 1). Half of the pause is fixed so that a burst of failures is spread without
    any retry coming at once (full jitter may return 0).
    """
    doublings = min(attempt - 1, 32)
    ceiling = min(limits.backoff_first_ms << doublings, limits.backoff_ms_max)
    return ceiling // 2 + int(random * (ceiling - ceiling // 2 + 1))


def is_last(attempt: int, retry_count: int) -> bool:
    """Whether `attempt` (from 1) was the last: the first one and `retry_count` more."""
    return attempt > retry_count
