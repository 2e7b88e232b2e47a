"""The attempts that a node is making: started in order, bounded, stopped when they must be."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from hooks.configuration.definition import HandlerType
from hooks.execution.attempt import Attempt, Failed, Outcome, Runner
from hooks.execution.history import History
from hooks.execution.partition import Item
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from hooks.ports import ClusterPort

Blocked = Callable[[Item], bool]


class Attempts:
    """Makes attempts for the works of one service."""

    def __init__(
        self,
        port: ClusterPort,
        runners: Mapping[HandlerType, Runner],
        limits: HookLimits,
        history: History,
        on_end: Callable[[], None],
    ) -> None:
        """`on_end`: an attempt has ended, and something else may start."""
        self.under_way = 0
        self._port = port
        self._runners = runners
        self._limits = limits
        self._history = history
        self._on_end = on_end
        self._items: dict[Item, HandlerWork] = {}

    def start(
        self,
        works: Sequence[HandlerWork],
        blocked: Mapping[str, Blocked],
        nursery: trio.Nursery,
    ) -> None:
        """Start what may start, one attempt per handler and round; `blocked` tells for handlers,
        by name, which events must wait for another handler."""
        now_ms = self._port.monotonic_ms()
        turn = trio.Event()
        turn.set()
        started = True
        while started:
            started = False
            for work in works:
                # A place for each handler, whatever the others do.
                if self.under_way >= self._limits.attempts_in_flight_max and work.running:
                    continue
                items = work.take(now_ms, blocked.get(work.definition.name))
                if items:
                    turn = self._start(work, items, turn, nursery)
                    started = True

    def stop(self, items: Iterable[Item]) -> None:
        """End the attempts at these events, which is not their failure."""
        for item in items:
            if item.scope is not None:
                item.scope.cancel()

    def stop_all(self) -> None:
        """End every attempt."""
        self.stop(list(self._items))

    def _start(
        self,
        work: HandlerWork,
        items: Sequence[Item],
        turn: trio.Event,
        nursery: trio.Nursery,
    ) -> trio.Event:
        """Start an attempt after those before it (trio starts tasks in no order, but priority is
        one); returns the turn of the next."""
        newest = items[-1]
        attempt = Attempt(
            handler=work.definition,
            deliveries=tuple(item.delivery for item in items if item.delivery is not None),
            number=newest.attempt,
            token=newest.partition.token,
            cluster_id=self._port.cluster_id,
            coalesced=newest.coalesced,
        )
        self.under_way += 1
        scope = trio.CancelScope()
        for item in items:
            item.scope = scope
            self._items[item] = work
        next_turn = trio.Event()
        nursery.start_soon(self._make, work, items, attempt, turn, next_turn)
        return next_turn

    async def _make(
        self,
        work: HandlerWork,
        items: Sequence[Item],
        attempt: Attempt,
        turn: trio.Event,
        next_turn: trio.Event,
    ) -> None:
        outcome: Outcome | None = None
        port = self._port
        started_ms, wall_ms = port.monotonic_ms(), port.wall_ms()
        scope = items[0].scope
        assert scope is not None
        await turn.wait()
        next_turn.set()
        with scope:
            outcome = items[-1].failure  # its condition has failed already
            if outcome is None:
                outcome = await self._runners[attempt.handler.type].execute(attempt)
        now_ms = port.monotonic_ms()
        took_ms = now_ms - started_ms
        self.under_way -= 1
        for item in items:
            del self._items[item]
        self._history.note(attempt, outcome, wall_ms, took_ms)
        if outcome is None:
            work.cancel(items)
        else:
            work.metrics.note(outcome, took_ms)
            work.end(items, outcome, now_ms, port.random(), took_ms)
        if isinstance(outcome, Failed):
            port.log.warning(
                "attempt failed",
                handler=attempt.handler.name,
                revision=attempt.delivery.revision,
                attempt=attempt.number,
                kind=outcome.kind.value,
                error=outcome.error,
            )
        self._on_end()
