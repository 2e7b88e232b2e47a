"""Durations and sizes as people write them on the command line."""

from __future__ import annotations

import re
from typing import Final

import typer

_QUANTITY: Final = re.compile(r"([0-9]{1,15})([A-Za-z]*)")
_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_duration(text: str | None, option: str) -> int | None:
    """Milliseconds of `500ms`, `90s`, `10m`, `12h` or `7d`."""
    return _parse(text, option, _MS, "a duration like 90s, 10m, 12h or 7d")


def parse_size(text: str | None, option: str) -> int | None:
    """Bytes of `1000`, `10MiB` or `2GB`."""
    return _parse(text, option, _BYTES, "a size like 1000, 10MiB or 2GB")


def show_duration(ms: int | None) -> str | None:
    """The largest unit that fits without a rest."""
    return _shown(ms, [(factor, unit) for unit, factor in _MS.items()])


def show_size(size: int | None) -> str | None:
    """The same for bytes, in binary units."""
    units = [(factor, unit) for unit, factor in _BYTES.items() if unit == "B" or "i" in unit]
    return _shown(size, units)


def _parse(text: str | None, option: str, units: dict[str, int], needed: str) -> int | None:
    if text is None:
        return None
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units or not int(match[1]):
        raise typer.BadParameter(f"{option}: {needed} is needed, got {text!r}")
    return int(match[1]) * units[match[2]]


def _shown(value: int | None, units: list[tuple[int, str]]) -> str | None:
    if value is None:
        return None
    fitting = [(factor, unit) for factor, unit in units if value % factor == 0]
    factor, unit = max(fitting) if value else min(fitting)
    return f"{value // factor}{unit}"
