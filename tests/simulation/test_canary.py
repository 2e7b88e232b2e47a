"""The private switches of trio that the simulator turns: a new version is looked at before use."""

from __future__ import annotations

import inspect

import trio
import trio._core._run as trio_run

READ_IN = "0.35"


def test_trio_is_the_version_that_was_read() -> None:
    """With the switch on, trio orders a batch of tasks by when they were made, and shuffles it with
    its own generator: that is what one seed has to decide."""
    assert trio.__version__.startswith(READ_IN), (
        f"simulation/node/determinism.py was written for trio {READ_IN}, this is "
        f"{trio.__version__}: read `unrolled_run` again, then name the version here"
    )
    source = inspect.getsource(trio_run.unrolled_run)
    assert "if _ALLOW_DETERMINISTIC_SCHEDULING:" in source
    assert "_r.shuffle(batch)" in source
