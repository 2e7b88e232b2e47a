"""Simulated sessions do to a node what those of a real network do, and nothing else."""

from __future__ import annotations

from random import Random

import trio

from simulation.node.determinism import Scheduler
from simulation.node.links import Links


def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    """A node that was frozen past a deadline of its own hears all the same what came meanwhile."""

    async def main() -> bytes:
        near, far = Links(Random(0), Scheduler(), (0.0, 0.0)).pair("a", "b")
        near.send_nowait(b"hello")
        with trio.CancelScope() as scope:
            scope.cancel()
            await far.receive()
        with trio.move_on_after(1.0):
            return await far.receive()
        return b"lost"

    assert trio.run(main) == b"hello"
