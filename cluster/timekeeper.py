"""What time asks of the leader: proposing that expired keys, sessions and members go.

The leader proposes how far, by the cluster's clocks; applying decides, the same on every node.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cluster import kv, operations, sessions
from cluster.errors import TremulaError
from cluster.machine import Machine
from pubsub import retention
from pubsub.consumer_groups import competing, membership, replays
from pubsub.limits import (
    DELAYED_PUBLISHED_MAX,
    REPLAY_STEP_EVENTS_MAX,
    RETENTION_SLICE_BATCHES_MAX,
)
from pubsub.publishing import delayed, message_ids

LOOK_EVERY_S = 0.2
EXPIRED_KEYS_PER_PROPOSAL = 1000
SLICES_PER_LOOK = 20  # of retention, each a few milliseconds, with other work in between
ACTOR = "system"


class Timekeeper:
    """`clocks()` is `(wall_ms, elapsed_ms)` while this node leads, else None."""

    def __init__(
        self,
        machine: Callable[[], Machine],
        clocks: Callable[[], tuple[int, int] | None],
        submit: Callable[[bytes, Callable[[object], None]], None],
        tell_lost: Callable[[list[str]], None] = lambda groups: None,
    ) -> None:
        """`tell_lost` hears of groups that lost unread events to the cap of the whole log."""
        self._machine = machine
        self._clocks = clocks
        self._submit = submit
        self._tell_lost = tell_lost
        self._lost: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            clocks = self._clocks()
            if clocks is not None:
                for name, arguments in self._due(*clocks):
                    await self._propose(name, arguments)
                await self._trim(clocks[0])

    def _due(self, wall_ms: int, elapsed_ms: int) -> list[tuple[str, list[int]]]:
        connection = self._machine().connection
        due: list[tuple[str, list[int]]] = []
        if _past(kv.next_expiry(connection), wall_ms):
            due.append(("kv.expire", [wall_ms, EXPIRED_KEYS_PER_PROPOSAL]))
        if _past(sessions.next_expiry(connection), elapsed_ms):
            due.append(("session.expire", [elapsed_ms]))
        if _past(membership.next_deadline(connection), elapsed_ms):
            due.append(("group.expire", [elapsed_ms]))
        if _past(delayed.next_due(connection), wall_ms):
            due.append(("delayed.publish", [wall_ms, DELAYED_PUBLISHED_MAX]))
        if _past(message_ids.next_due(connection), elapsed_ms):
            due.append(("message.forget", [elapsed_ms]))
        if _past(membership.next_rebalance(connection), elapsed_ms):
            due.append(("group.rebalance", [elapsed_ms]))
        if _past(competing.next_due(connection), elapsed_ms):
            due.append(("lease.expire", [elapsed_ms]))
        for replay_id in replays.due(connection, elapsed_ms):
            due.append(("replay.step", [replay_id, REPLAY_STEP_EVENTS_MAX]))
        return due

    async def _trim(self, wall_ms: int) -> None:
        """Retention has to keep up with the log: several slices where one is not enough."""
        for _ in range(SLICES_PER_LOOK):
            if not retention.is_due(self._machine().connection, wall_ms):
                return
            await self._propose("retention.trim", [RETENTION_SLICE_BATCHES_MAX])
            known, self._lost = self._lost, retention.told_losers(self._machine().connection)
            if lost := [group for group in self._lost if group not in known]:
                self._tell_lost(lost)

    async def _propose(self, name: str, arguments: list[int]) -> None:
        """One at a time: the next look must see what this one did."""
        answered = trio.Event()
        outcome: list[object] = []

        def done(result: object) -> None:
            outcome.append(result)
            answered.set()

        self._submit(operations.pack(0, 0, name, arguments, ACTOR, None), done)
        await answered.wait()
        if not isinstance(outcome[0], (int, TremulaError)):
            raise AssertionError(f"{name} was refused: {outcome[0]}")


def _past(due: int | None, now: int) -> bool:
    return due is not None and due <= now
