"""What the tests of the simulator share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

Hunt = Callable[[str], str | None]


@pytest.fixture(scope="module")
def hunted(request: pytest.FixtureRequest) -> Iterator[Hunt]:
    """What the file's function `hunt(name)` says for each `name` that its tests are about: found
    on all processors at once, while each test waits for its own."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))
    futures = {name: pool.submit(request.module.hunt, name) for name in names}
    yield lambda name: futures[name].result()
    pool.shutdown(cancel_futures=True)
