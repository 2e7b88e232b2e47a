"""Backoff between attempts."""

import pytest

from hooks.execution.retry import backoff_ms, is_last
from hooks.limits import HookLimits

LIMITS = HookLimits(backoff_first_ms=100, backoff_ms_max=1000)


@pytest.mark.parametrize(
    ("attempt", "ceiling"), [(1, 100), (2, 200), (4, 800), (5, 1000), (1_000, 1000)]
)
def test_pauses_double_up_to_a_bound_and_their_upper_half_is_random(
    attempt: int, ceiling: int
) -> None:
    """Never below half of the ceiling, never above it, whatever the random number."""
    assert backoff_ms(attempt, 0.0, LIMITS) == ceiling // 2
    assert backoff_ms(attempt, 0.999_999, LIMITS) == ceiling


def test_the_last_attempt_is_the_first_and_all_retries() -> None:
    """A retry count of 3 means four attempts."""
    assert [is_last(attempt, 3) for attempt in (1, 3, 4)] == [False, False, True]
    assert is_last(1, 0)
