"""Waiting for what other processes do, with a bound."""

from collections.abc import Callable
from pathlib import Path

import trio


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, ten seconds at most."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await trio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
