"""Waiting for a condition, with a bound: the only kind of sleep that our tests do."""

from __future__ import annotations

from collections.abc import Callable

import trio

BOUND_S = 10.0
POLL_S = 0.001


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true; trio.TooSlowError after `BOUND_S`."""
    with trio.fail_after(BOUND_S):
        while True:
            if condition():
                return
            await trio.sleep(POLL_S)
