"""What a node takes for the files that it has started with."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from cluster.hookreload import HookReload

BEGAN_MS = 1_700_000_000_000


async def test_a_file_that_is_written_while_its_node_starts_counts_as_changed(
    tmp_path: Path,
) -> None:
    """The handler host may have read it before that, and nobody would look again."""
    file, module = tmp_path / "node.toml", tmp_path / "mine.py"
    for path, written_ms in ((file, BEGAN_MS - 1), (module, BEGAN_MS + 1)):
        path.write_text("")
        os.utime(path, ns=(written_ms * 1_000_000,) * 2)
    node = SimpleNamespace(
        config=SimpleNamespace(file=file),
        wall_ms=lambda: BEGAN_MS,
        blocking=trio.to_thread.run_sync,
    )
    runtime = SimpleNamespace(
        host=SimpleNamespace(files=[str(module)]),
        config=SimpleNamespace(enabled=True, directory=None),
    )
    reload = HookReload(cast(Any, node), cast(Any, runtime))
    assert list((await reload._loaded()).contents) == [str(file)]
