"""Where a reader of the log begins, as people write it on the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Final

import typer

START_HELP: Final = '"latest", "earliest", a revision, a time (2026-01-31T12:00) or an age (10m).'

_AGE: Final = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_start(text: str, now_ms: int | None = None) -> int | str | list[object]:
    """A word, a revision, or `["time", wall_ms]`, as `subscribe` takes it. A time without a zone is
    the local one."""
    if text in ("latest", "earliest"):
        return text
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    wall_ms = parse_time(text, now_ms)
    if wall_ms is None:
        raise typer.BadParameter(
            '"latest", "earliest", a revision from 1, a time like 2026-01-31T12:00 or an age like '
            f"10m is needed, got {text!r}"
        )
    return ["time", wall_ms]


def parse_time(text: str, now_ms: int | None = None) -> int | None:
    """Milliseconds since 1970 of a time or of an age; None if it is neither."""
    if age := _AGE.fullmatch(text):
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        return max(0, now_ms - int(age[1]) * _SECONDS[age[2]] * 1_000)
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp() * 1_000))
    except (ValueError, OverflowError, OSError):
        return None
