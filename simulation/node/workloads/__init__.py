"""What clients and handlers do in a run of whole nodes, and what must be true of it.

Each module is one workload; `simulation/node/world.py` draws some of them for a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from hooks.registry import Registry
from pubsub.events import Event
from simulation.node.machine import Machine


class Workload(Protocol):
    """Made with the world and a Random of its own."""

    def register(self, machine: Machine, registry: Registry) -> None:
        """Add the in-process handlers that it needs on this machine."""

    def begin(self, nursery: trio.Nursery) -> None:
        """Start its clients."""

    def stop(self) -> None:
        """The faults are over: finish what was begun, and begin nothing."""

    def is_done(self) -> bool:
        """Whether all is finished and everybody has caught up; asked now and then after `stop`."""

    def check(self, events: Sequence[Event]) -> None:
        """Hold what was seen against the whole log; raises Violation."""
