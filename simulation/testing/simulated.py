"""What the fixture `simulated_cluster` is: one seed, and runs of scenarios under it."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from string import ascii_lowercase
from types import ModuleType
from typing import TypeVar

import apsw
import trio

from cluster.state import CHECKSUMS
from simulation.testing.cluster import Cluster
from simulation.testing.handlers import HookModules, HookSource
from simulation.testing.run import Run

T = TypeVar("T")

NODES_MAX = 9
LIMIT_S = 600.0


class SimulatedCluster:
    """Plays scenarios; the same seed gives the same runs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._runs = 0
        self._last: Run | None = None

    def run(
        self,
        scenario: Callable[[Cluster], Awaitable[T]],
        *,
        hooks: Sequence[HookSource],
        nodes: int | Sequence[str] = 3,
        outside: Mapping[str, object] | None = None,
        reload: Sequence[ModuleType] = (),
        within_s: float = LIMIT_S,
    ) -> T:
        """Play `scenario(cluster)` on a fresh cluster with these hooks; what it returned.

        `hooks`: modules with @hook functions, or their names. `nodes`: how many, or their names.
        `outside`: what stands in the place of names that the modules have, as seen from each node;
        a dead node reaches none of it. `reload`: modules that the hooks import and that keep what
        dies with a node. `within_s`: virtual seconds that the scenario may take.
        """
        __tracebackhide__ = True
        if not inspect.iscoroutinefunction(scenario):
            raise TypeError("scenario: an async function of one argument, the cluster, is expected")
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("run is called from an ordinary test: def, not async def")
        _refuse_open_states()
        names = _names(nodes)
        modules = HookModules(hooks, outside or {}, reload)
        self._runs += 1
        run = self._last = Run(f"{self.seed}/{self._runs}", names, modules, outside or {})
        return run.play(Cluster(run), scenario, within_s)

    def story(self) -> list[str]:
        """What happened in the last run; empty without one."""
        return [] if self._last is None else self._last.story.lines()


def _names(nodes: int | Sequence[str]) -> list[str]:
    if isinstance(nodes, int):
        if not 1 <= nodes <= NODES_MAX:
            raise ValueError(f"nodes={nodes}: 1 to {NODES_MAX} are expected")
        return list(ascii_lowercase[:nodes])
    names = list(nodes)
    if isinstance(nodes, str) or not names or len(set(names)) != len(names):
        raise ValueError(f"nodes={nodes!r}: a number or a list of different names is expected")
    return names


def _refuse_open_states() -> None:
    """A node's state that is open in this process would lose its VFS under its feet."""
    gc.collect()
    open_states = [c.filename for c in apsw.connections() if c.open_vfs == CHECKSUMS]
    if open_states:
        raise RuntimeError(
            f"close these states of nodes before a simulated run: {', '.join(open_states)}"
        )
