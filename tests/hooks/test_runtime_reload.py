"""Reloading a configuration with its modules: real handler hosts, real time, a fake cluster."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from hooks.configuration.config import HooksConfig, parse_hooks
from hooks.execution import watched
from hooks.execution.runtime import HookRuntime, HooksRefused
from hooks.limits import HookLimits
from tests.hooks.fake_cluster import FakeCluster, FakePort
from tests.hooks.waiting import is_alive, until

LIMITS = HookLimits(
    host_grace_ms=100, checkpoint_ms=20, floor_checkpoint_ms=50, assignments_poll_ms=10
)
MODULE = """
from hooks.registry import hook
from hooks import effects

@hook("orders.*", start="earliest", {more})
def note(context):
    return [effects.put("seen/" + context.key, b"{edition}")]
"""


def config(table: dict[str, Any]) -> HooksConfig:
    found, problems = parse_hooks(table)
    assert found is not None, problems
    return found


def write_module(folder: Path, edition: str, more: str = "") -> None:
    (folder / "reloaded_handlers.py").write_text(MODULE.format(edition=edition, more=more))


def runtime(cluster: FakeCluster, first: HooksConfig, folder: Path) -> HookRuntime:
    """The hooks of node a, whose modules lie in the folder."""
    return HookRuntime(
        FakePort(cluster, "a"),
        first,
        boot_id="1",
        environment=os.environ,
        module_paths=(str(folder),),
        limits=LIMITS,
    )


def order(cluster: FakeCluster, key: str) -> None:
    cluster.do("publish", "orders.created", key, b"", None, None)


async def test_only_what_loads_takes_the_place_of_what_runs(tmp_path: Path) -> None:
    """A broken module refuses the reload and the old code goes on; a good one has a new host, and
    the old host ends with the old service."""
    cluster = FakeCluster()
    write_module(tmp_path, "first")
    modules = config({"modules": ["reloaded_handlers"]})
    hooks = runtime(cluster, modules, tmp_path)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            await hooks.serve()
            assert hooks.host is not None
            assert hooks.host.files == [str(tmp_path / "reloaded_handlers.py")]
            first_pid = hooks.host.pid
            order(cluster, "k1")
            await until(lambda: cluster.value("seen/k1") == b"first")

            (tmp_path / "reloaded_handlers.py").write_text("raise RuntimeError('half-written')")
            with pytest.raises(HooksRefused, match="half-written"):
                await hooks.reload(modules)
            write_module(tmp_path, "bad", more='retry_count="many"')
            with pytest.raises(HooksRefused, match="retry_count"):
                await hooks.reload(modules)
            assert hooks.host.pid == first_pid
            order(cluster, "k2")
            await until(lambda: cluster.value("seen/k2") == b"first")

            write_module(tmp_path, "second")
            await hooks.reload(modules)
            assert hooks.host is not None
            assert hooks.host.pid != first_pid
            assert first_pid is not None
            await until(lambda: not is_alive(first_pid))
            order(cluster, "k3")
            await until(lambda: cluster.value("seen/k3") == b"second")
            assert cluster.value("seen/k1") == b"first", "nothing is handled again"
            await hooks.stop()
    members = cluster.described("note")["members"]
    assert members == []


async def test_hooks_that_are_switched_off_and_on_again_go_on(tmp_path: Path) -> None:
    """With enabled = false everything ends in order; with true it goes on where it was."""
    cluster = FakeCluster()
    write_module(tmp_path, "first")
    table = {"modules": ["reloaded_handlers"]}
    hooks = runtime(cluster, config(table), tmp_path)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            await hooks.serve()
            order(cluster, "k1")
            await until(lambda: cluster.value("seen/k1") == b"first")
            await hooks.reload(config({**table, "enabled": False}))
            assert hooks.host is None
            order(cluster, "k2")
            write_module(tmp_path, "second")
            await hooks.reload(config(table))
            await until(lambda: cluster.value("seen/k2") == b"second")
            assert cluster.value("seen/k1") == b"first"
            await hooks.stop()


async def test_a_stop_does_not_wait_for_a_reload(tmp_path: Path) -> None:
    """A node that stops while a module takes its time to load ends nevertheless."""
    cluster = FakeCluster()
    write_module(tmp_path, "first")
    modules = config({"modules": ["reloaded_handlers"]})
    hooks = runtime(cluster, modules, tmp_path)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            await hooks.serve()
            (tmp_path / "reloaded_handlers.py").write_text(
                f"import time\nopen({str(tmp_path / 'loading')!r}, 'w')\ntime.sleep(3600)"
            )
            nursery.start_soon(hooks.reload, modules)
            await until((tmp_path / "loading").exists)
            await hooks.stop()
    assert cluster.described("note")["members"] == []


def test_a_change_is_seen_in_stamps_and_told_by_contents(tmp_path: Path) -> None:
    """A file that is touched looks different and is the same; one that goes is a change."""
    first, second = tmp_path / "first.py", tmp_path / "second.toml"
    first.write_text("1")
    (tmp_path / "notes.txt").write_text("none of ours")
    before = watched.stamps([], str(tmp_path))
    assert list(before) == [str(first)]
    contents = watched.contents(before)
    os.utime(first, ns=(1, 1))
    touched = watched.stamps([], str(tmp_path))
    assert touched != before
    assert watched.contents(touched) == contents
    second.write_text("2")
    assert list(watched.stamps([], str(tmp_path))) == [str(first), str(second)]
    first.write_text("3")
    assert watched.contents(before) != contents
    first.unlink()
    assert watched.contents([str(first)]) == {str(first): None}
    gone = watched.stamps([str(first)], None)
    assert gone[str(first)] == watched.Stamp()
