"""What the faults may do to a world, the same at both levels.

Whoever has a name is a node. Nothing here waits: what takes time is arranged with `after`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Stage(Protocol):
    """A world as its faults see it."""

    @property
    def now(self) -> float: ...

    @property
    def names(self) -> Sequence[str]:
        """All nodes that there are, alive or not."""

    def after(self, delay_s: float, action: Callable[[], None]) -> None: ...

    def note(self, what: str, seconds: float | None = None) -> None:
        """Tell the trace of a fault, and how long it will last if that is known."""

    def leader(self) -> str | None:
        """The living leader of the newest term."""

    def leads(self, name: str) -> bool: ...

    # --- processes ---

    def start(self, name: str) -> None:
        """Unless it runs."""

    def crash(self, name: str, *, power: bool = False) -> None:
        """kill -9, or a power cut: what was not synced is lost."""

    def crash_soon(self, name: str, calls: int | None) -> None:
        """kill -9 after so many calls to a port; None: no more."""

    def crash_now(self, name: str, *, power: bool) -> None:
        """In the very call to a port that is in progress; it may raise."""

    def stop(self, name: str) -> None:
        """SIGTERM, where there is such a thing."""

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`; 0: now."""

    def when_sent(self, name: str, action: Callable[[], None]) -> None:
        """Do it when what the node is just sending has left."""

    # --- links ---

    def cut(self, one: str, other: str) -> None:
        """Nothing gets from `one` to `other`."""

    def heal(self, one: str, other: str) -> None: ...

    def disconnect(self, one: str, other: str) -> None:
        """Break their sessions."""

    def delay(self, one: str, other: str, seconds: float) -> None:
        """What goes from `one` to `other` takes so much longer."""

    # --- disks and clocks ---

    def slow_disk(self, name: str, sync_s: tuple[float, float] | None) -> None:
        """How long a sync takes, at least and at random more; None: as drawn for the run."""

    def wrong_clock(self, off_ms: int) -> None:
        """Set the one wrong wall clock of the cluster."""

    # --- requests ---

    def transfer(self, target: str | None) -> None:
        """Ask the leader to hand over."""

    def favour(self, name: str | None) -> None:
        """Let most clients ask this node, while it lives."""
