"""Whether the packages that run are Tremula's own.

`cluster`, `hooks` and `pubsub` are common names (PyPubSub and Debian's python3-cluster use two of
them), so Tremula belongs in an environment of its own; docs/adr/0001. Two distributions that
share a name overwrite each other's files, and nobody says so. This does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

DISTRIBUTION: Final = "tremula"
PACKAGES: Final = ("cluster", "hooks", "pubsub", "simulation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Another distribution that owns one of our packages."""

    package: str
    distribution: str

    def __str__(self) -> str:
        return (
            f'the distribution "{self.distribution}" also owns the Python package "{self.package}" '
            f"in this environment: install Tremula into an environment of its own "
            f"(`pipx install {DISTRIBUTION}`), or uninstall {self.distribution}"
        )


def conflicts(owners: Mapping[str, Sequence[str]]) -> list[Conflict]:
    """Who else owns our packages; `owners` is `importlib.metadata.packages_distributions()`."""
    return [
        Conflict(package=package, distribution=distribution)
        for package in PACKAGES
        for distribution in dict.fromkeys(owners.get(package, ()))
        if distribution.lower() != DISTRIBUTION
    ]
