"""Exact percentiles of measured times."""

from array import array
from collections.abc import Mapping
from math import ceil
from typing import Final

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """Times in seconds, all of them kept: eight bytes each, exact, and cheap to add. HOT."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self.add = self._seconds.append

    def __len__(self) -> int:
        return len(self._seconds)

    def summary_ms(self) -> Mapping[str, float]:
        """Mean, percentiles and maximum in milliseconds; empty without any time."""
        ordered = sorted(self._seconds)
        if not ordered:
            return {}
        summary = {"mean": sum(ordered) / len(ordered)}
        for percent in PERCENTILES:
            summary[f"p{percent:g}"] = percentile(ordered, percent)
        summary["max"] = ordered[-1]
        return {name: round(seconds * 1000, 3) for name, seconds in summary.items()}


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest time that at least `percent` of all are not above (nearest rank)."""
    rank = ceil(round(percent * len(ordered) / 100.0, 9))
    return ordered[max(rank, 1) - 1]
