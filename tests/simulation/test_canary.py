"""The private switches of trio that the simulator turns: a new version is looked at before use."""

from __future__ import annotations

import inspect

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

READ_IN = "0.35"


def test_trio_is_the_version_that_was_read() -> None:
    """Who changes the version reads what the simulator rests on, then names the new one here."""
    assert trio.__version__.startswith(READ_IN), (
        f"simulation/node/determinism.py was written for trio {READ_IN}, this is "
        f"{trio.__version__}: read `unrolled_run` again, then name the version here"
    )


def test_a_batch_of_tasks_is_ordered_by_one_generator() -> None:
    """With the switch on, trio orders a batch of tasks by when they were made, and shuffles it with
    its own generator: that is what one seed has to decide."""
    source = inspect.getsource(trio_run.unrolled_run)
    assert "if _ALLOW_DETERMINISTIC_SCHEDULING:" in source
    assert "_r.shuffle(batch)" in source


def test_every_task_that_may_run_passes_through_the_queue() -> None:
    """A frozen host's tasks are kept back where they are appended, and a queue without others is
    an idle one."""
    source = inspect.getsource(trio_run.unrolled_run)
    for line in ("if runner.runq:", "batch = list(runner.runq)", "runner.runq.clear()"):
        assert line in source
    assert "self.runq.append(task)" in inspect.getsource(trio_run.Runner.reschedule)


def test_the_clock_stands_where_the_simulator_looks() -> None:
    """Virtual time is a number that jumps to the next deadline when nobody can run."""
    clock = MockClock(autojump_threshold=0)
    before = clock._virtual_base
    clock.jump(2.5)
    assert clock._virtual_base == before + 2.5
    assert "runner.clock._autojump()" in inspect.getsource(trio_run.unrolled_run)
    assert callable(trio_run.Deadlines.next_deadline)
