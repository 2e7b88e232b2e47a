"""Writing progress down: checkpoints sent, repeated until answered, and what a refusal means."""

from collections.abc import Callable, Sequence
from typing import Any

import trio

from hooks.execution.history import History
from hooks.execution.lane import Lane
from hooks.execution.progress import Checkpoint, Progress
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from hooks.ports import ClusterPort, Unavailable
from pubsub import groups
from pubsub.consumer_groups.checkpoint import REFUSED
from pubsub.rejection import Rejection


class Checkpoints:
    """Sends the checkpoints of one member."""

    def __init__(
        self,
        port: ClusterPort,
        member: str,
        limits: HookLimits,
        history: History,
        *,
        on_fenced: Callable[[], None],
        on_answer: Callable[[], None],
    ) -> None:
        """`on_fenced`: read the assignments at once. `on_answer`: look at everything again."""
        self._port = port
        self._member = member
        self._limits = limits
        self._history = history
        self._on_fenced = on_fenced
        self._on_answer = on_answer

    def send(self, lanes: Sequence[Lane], nursery: trio.Nursery, *, flush: bool) -> int | None:
        """Send what is due, and with `flush` everything; returns when the next one will be due."""
        now_ms = self._port.monotonic_ms()
        due: list[int] = []
        for lane in lanes:
            progress = lane.progress
            checkpoint = progress.build(now_ms, flush=flush or lane.is_draining)
            if checkpoint is not None:
                nursery.start_soon(self._send, lane, checkpoint)
            elif progress.under_way is None:
                if lane.is_draining:
                    lane.is_flushed = progress.is_settled and not lane.work.running
                if lane.work.partitions:
                    due.append(progress.due_ms(now_ms))
        return min(due, default=None)

    async def _send(self, lane: Lane, checkpoint: Checkpoint) -> None:
        progress, work = lane.progress, lane.work
        arguments = [lane.place.group, self._member, checkpoint.rows, checkpoint.effects]
        result, is_repeated = await self._submit(arguments)
        if isinstance(result, Rejection):
            await self._on_refusal(work, result)
            progress.refused()
        else:
            refused = [(revision, f"{code}: {detail}") for _, revision, code, detail in result]
            if is_repeated:
                refused += self._refused_before(lane.place.group, checkpoint)
            self._confirm(progress, checkpoint, refused)
        self._on_answer()

    def _refused_before(self, group: str, checkpoint: Checkpoint) -> list[tuple[int, str]]:
        """What was refused when a checkpoint was applied whose answer was lost: applied again it
        says nothing of that, and the dead letters do."""
        found: list[tuple[int, str]] = []
        unit: Any
        for unit in checkpoint.effects:
            for revision in (unit[1], *(unit[3] if len(unit) > 3 else ())):  # with its batch
                for letter in groups.dead_letters(self._port.connection, group, revision - 1, 1):
                    error = str(letter["error"])
                    if letter["revision"] == revision and error.startswith(REFUSED):
                        found.append((revision, error.removeprefix(REFUSED)))
        return found

    def _confirm(
        self, progress: Progress, checkpoint: Checkpoint, refused: Sequence[tuple[int, str]]
    ) -> None:
        handler = progress.work.definition.name
        for revision, reason in refused:
            self._port.log.warning(
                "effects refused", handler=handler, revision=revision, reason=reason
            )
            self._history.note_refused(handler, revision, reason)
        for item in checkpoint.items:
            if item.newer is not None:
                self._history.note_coalesced(handler, item.revision, item.newer)
        progress.confirmed(len(refused))

    async def _submit(self, arguments: Sequence[object]) -> tuple[Any, bool]:
        """The answer, and whether it was asked for more than once."""
        is_repeated = False
        while True:
            try:
                return await self._port.submit("group.checkpoint", arguments), is_repeated
            except Unavailable:
                is_repeated = True
                await trio.sleep(self._limits.rejected_pause_ms / 1000)

    async def _on_refusal(self, work: HandlerWork, refusal: Rejection) -> None:
        """Stop partitions that have another owner; pause, so that nothing is refused in a loop."""
        if refusal.code == "fenced":
            work.metrics.checkpoints_fenced += 1
            self._on_fenced()
            await trio.sleep(self._limits.assignments_poll_ms / 1000)
            return
        work.metrics.checkpoints_refused += 1
        self._port.log.error(
            "checkpoint refused",
            handler=work.definition.name,
            code=refusal.code,
            reason=refusal.detail,
        )
        await trio.sleep(self._limits.rejected_pause_ms / 1000)
