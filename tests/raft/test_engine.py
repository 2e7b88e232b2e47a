"""The loop that drives a node: when it wakes, and how long it says that it could not listen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cluster.raft.engine import Engine
from cluster.raft.log import StorageFailed
from cluster.raft.proposals import Done
from cluster.raft.stock import Message

HEARTBEAT_S = 0.05


class _Log:
    persisted_index = 7


class _Core:
    """Wants a turn every heartbeat, like a leader."""

    applied_index = 1
    term = 3
    log = _Log()

    def __init__(self) -> None:
        self.due = float("inf")
        self.everybody = False

    def propose(self, payload: bytes, done: Done) -> None:
        pass

    def gathers(self, now: float) -> bool:
        return False

    def has_all(self) -> bool:
        return self.everybody

    def deadline(self) -> float:
        return self.due


class Steps:
    """Stands for the driver: each step takes as long as it is told, and is noted."""

    def __init__(self, clock: MockClock) -> None:
        self.core = _Core()
        self.noted: list[tuple[float, list[tuple[str, Message]], float]] = []
        self.takes_s = 0.0
        self.more = 0
        self._clock = clock

    def take_note(self, now: float, sender: str, message: Message) -> bool:
        return bool(message["type"] == "echo")

    def step(self, now: float, arrived: Iterable[tuple[str, Message]], stalled: float) -> bool:
        self.noted.append((now, list(arrived), stalled))
        self.core.due = now + HEARTBEAT_S
        self._clock.jump(self.takes_s)
        self.more -= 1
        return self.more >= 0


@asynccontextmanager
async def running(steps: Steps, mark: Callable[[int, int], None] = lambda term, index: None) -> Any:
    driver: Any = steps
    engine = Engine(driver, after_step=lambda applied: None, mark=mark)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        yield engine
        nursery.cancel_scope.cancel()


async def test_messages_are_worked_on_at_once(mock_clock: MockClock) -> None:
    """Not even the loop takes a turn, and what arrives together is one step."""
    steps = Steps(mock_clock)
    async with running(steps) as engine:
        assert steps.noted == []
        engine.received("b", [{"type": "one"}, {"type": "two"}])
        engine.received("c", [{"type": "three"}])
    assert [[message["type"] for _, message in arrived] for _, arrived, _ in steps.noted] == [
        ["one", "two"],
        ["three"],
    ]


@pytest.mark.parametrize(("is_alone", "everybody"), [(False, False), (True, False), (False, True)])
async def test_who_has_nobody_to_wait_for_is_served_at_once(
    is_alone: bool, everybody: bool, mock_clock: MockClock
) -> None:
    """Others may share the step if it comes with the next turn of the loop."""
    steps = Steps(mock_clock)
    async with running(steps) as engine:
        steps.core.everybody = everybody
        engine.hasten(is_alone)
        assert steps.noted == [], "nothing was proposed"
        engine.propose(b"", lambda result: None)
        engine.hasten(is_alone)
        assert len(steps.noted) == int(is_alone or everybody)
        await trio.testing.wait_all_tasks_blocked()
        assert len(steps.noted) == 1


async def test_a_mere_echo_needs_no_step_unless_it_comes_late(mock_clock: MockClock) -> None:
    """After a stall the peers are forgiven first, and that is a step's business."""
    steps = Steps(mock_clock)
    async with running(steps) as engine:
        engine.received("b", [{"type": "one"}])
        engine.received("c", [{"type": "echo"}])
        assert len(steps.noted) == 1
        mock_clock.jump(HEARTBEAT_S + 1.0)
        engine.received("c", [{"type": "echo"}])
        assert len(steps.noted) == 2
        assert steps.noted[1][2] == pytest.approx(1.0)


async def test_an_earlier_deadline_after_a_message_is_kept(autojump_clock: MockClock) -> None:
    """The loop slept until a later one."""
    steps = Steps(autojump_clock)
    async with running(steps) as engine:
        engine.received("b", [{"type": "one"}])
        await trio.sleep(HEARTBEAT_S * 1.5)
    assert len(steps.noted) == 2


@pytest.mark.parametrize("put_off_at", [0.2, 0.9])
async def test_a_step_that_is_put_off_comes_then_and_not_before(
    put_off_at: float, autojump_clock: MockClock
) -> None:
    """Whether the timer was moved for it, or wakes the loop for nothing."""
    steps = Steps(autojump_clock)
    async with running(steps) as engine:
        engine.received("b", [{"type": "one"}])
        await trio.sleep(HEARTBEAT_S * put_off_at)
        engine.received("b", [{"type": "two"}])
        await trio.sleep(HEARTBEAT_S * 1.5)
    began = steps.noted[0][0]
    heartbeats = [(now - began) / HEARTBEAT_S for now, _, _ in steps.noted]
    assert heartbeats == pytest.approx([0.0, put_off_at, put_off_at + 1.0])


async def test_a_step_that_fails_for_a_message_stops_the_engine(mock_clock: MockClock) -> None:
    """The task that received the message goes on; the engine's own raises."""
    steps = Steps(mock_clock)

    def fail(now: float, arrived: object, stalled: float) -> bool:
        raise StorageFailed("raft.db", "the disk is full")

    steps.step = fail  # type: ignore[method-assign]
    with pytest.RaisesGroup(StorageFailed):
        async with running(steps) as engine:
            engine.received("b", [{"type": "one"}])
            engine.received("b", [{"type": "two"}])
            await trio.testing.wait_all_tasks_blocked()


async def test_what_arrives_before_it_runs_waits(mock_clock: MockClock) -> None:
    """A peer never sends again what it believes to be under way."""
    steps: Any = Steps(mock_clock)
    engine = Engine(steps, after_step=lambda applied: None, mark=lambda term, index: None)
    engine.received("b", [{"type": "one"}])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [arrived for _, arrived, _ in steps.noted] == [[("b", {"type": "one"})]]


async def test_nothing_is_worked_on_once_it_has_ended(mock_clock: MockClock) -> None:
    """A message can still be on its way when the files are closed already."""
    steps = Steps(mock_clock)
    async with running(steps) as engine:
        pass
    engine.received("b", [{"type": "one"}])
    assert steps.noted == []


async def test_it_goes_on_while_there_is_work(mock_clock: MockClock) -> None:
    """Without waiting for anything."""
    steps = Steps(mock_clock)
    steps.more = 5
    async with running(steps) as engine:
        engine.wake()
        await trio.testing.wait_all_tasks_blocked()
    assert len(steps.noted) == 6


async def test_a_deadline_wakes_it(autojump_clock: MockClock) -> None:
    """Step after step, a heartbeat apart."""
    steps = Steps(autojump_clock)
    steps.core.due = trio.current_time() + HEARTBEAT_S
    async with running(steps):
        await trio.sleep(HEARTBEAT_S * 10.5)
    assert len(steps.noted) == 10
    assert [stalled for _, _, stalled in steps.noted] == pytest.approx([0.0] * 10)


async def test_a_slow_step_counts_once_as_a_stall(autojump_clock: MockClock) -> None:
    """The heartbeat that was due meanwhile is late for the same reason: a leader that forgave
    its peers twice the time would never notice that they are gone."""
    steps = Steps(autojump_clock)
    steps.takes_s = 0.3
    async with running(steps) as engine:
        engine.wake()
        await trio.sleep(2.0)
    assert [stalled for _, _, stalled in steps.noted][1:4] == pytest.approx([0.3] * 3)


async def test_oversleeping_is_a_stall(mock_clock: MockClock) -> None:
    """A process that was stopped heard nobody, and learns for how long."""
    steps = Steps(mock_clock)
    async with running(steps) as engine:
        engine.wake()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10.0)
        await trio.testing.wait_all_tasks_blocked()
        assert engine.statistics().stalled_s == pytest.approx(10.0 - HEARTBEAT_S)
    assert steps.noted[1][2] == pytest.approx(10.0 - HEARTBEAT_S)


async def test_it_notes_how_far_the_log_is_now_and_then(autojump_clock: MockClock) -> None:
    """Lazily: not with every step."""
    marks: list[tuple[int, int]] = []
    steps = Steps(autojump_clock)
    async with running(steps, lambda term, index: marks.append((term, index))) as engine:
        engine.wake()
        await trio.sleep(1.01)
    assert set(marks) == {(3, 7)}
    assert len(marks) < len(steps.noted) / 1.5
