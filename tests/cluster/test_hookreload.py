"""What a node takes for the files that it has started with."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from cluster.config import load
from cluster.hookreload import HookReload
from hooks.replicated.capture import Rule
from tests.hooks.workbench import ListLog

NODE = '[node]\nname = "a"\ndata_dir = "d"\n'
RULE = '[[hooks.capture]]\nprefix = "s/"\nmode = "none"\n'
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


async def test_a_reload_says_what_the_log_should_keep_of_values(tmp_path: Path) -> None:
    """A rule that the file has only now is one that the cluster may begin with, as at a start; a
    reload that is refused says nothing."""
    file = tmp_path / "node.toml"
    file.write_text(NODE)
    config = load(file, {})
    said: list[object] = []

    async def reload_hooks(config: object) -> None: ...

    node = SimpleNamespace(
        config=config,
        environment={},
        log=ListLog(),
        wall_ms=lambda: BEGAN_MS,
        reporting=SimpleNamespace(seed_capture=said.append, config_reloaded=lambda *_: None),
    )
    runtime = SimpleNamespace(service=None, reload=reload_hooks)
    reload = HookReload(cast(Any, node), cast(Any, runtime))
    file.write_text(NODE + RULE)
    await reload._reload([])
    assert said == [(Rule("s/", "none"),)]
    file.write_text(NODE + RULE + "[hoks]\n")
    await reload._reload([])
    assert len(said) == 1
