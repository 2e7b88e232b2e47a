"""A configuration running as a whole: real processes, real time, a fake cluster."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from hooks.configuration.config import LoadProblem, parse_hooks
from hooks.control.answers import list_handlers
from hooks.execution.generation import by_name
from hooks.execution.runtime import HookRuntime, HooksRefused
from hooks.limits import HookLimits
from hooks.registry import HookContext, Registry, hook
from pubsub import groups
from tests.hooks.fake_cluster import FakeCluster, FakePort
from tests.hooks.waiting import is_alive, until

SAMPLES = "tests.hooks.sample_handlers"
LIMITS = HookLimits(
    host_grace_ms=100, checkpoint_ms=20, floor_checkpoint_ms=50, assignments_poll_ms=10
)


def runtime(cluster: FakeCluster, table: dict[str, Any], **options: Any) -> HookRuntime:
    config, problems = parse_hooks(table)
    assert config is not None, problems
    options = {"boot_id": "1", "environment": os.environ, "limits": LIMITS, **options}
    return HookRuntime(FakePort(cluster, "a"), config, **options)


@asynccontextmanager
async def running(hooks: HookRuntime) -> AsyncIterator[HookRuntime]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            await hooks.serve()
            yield hooks
            await hooks.stop()


def floor(cluster: FakeCluster, handler: str) -> int:
    return int(cluster.described(handler)["floor"])


async def test_both_kinds_of_handlers_see_real_events(tmp_path: Path) -> None:
    """A function and a command get every event; a stop writes everything down and ends the host."""
    cluster = FakeCluster()
    script = f'cat >> {tmp_path}/events; echo "$TREMULA_HOOK_KEY" >> {tmp_path}/keys'
    orders = {"pattern": "orders.*", "start": "earliest"}
    python = {"name": "python", "type": "in_process", "handler_id": "returns_effects", **orders}
    one_at_a_time = {"shell": True, "partitions": 1, "concurrency": 1}
    command = {"name": "command", "type": "shell", "command": script, **one_at_a_time, **orders}
    others = [
        {"name": name, "pattern": "orders.none", "type": "in_process", "handler_id": name}
        for name in _unplaced()
    ]
    table = {"modules": [SAMPLES], "handlers": [python, command, *others]}
    for number in range(10):
        cluster.do("publish", "orders.created", f"k{number}", b"", None, None)
    async with running(runtime(cluster, table)) as hooks:
        await until(lambda: floor(cluster, "python") >= 10 and floor(cluster, "command") >= 10)
        assert hooks.host is not None
        pid = hooks.host.pid
        assert pid is not None
        assert hooks.service is not None
        stopped = {each.definition.name: each.metrics.completed for each in hooks.service.works}
        assert (stopped["python"], stopped["command"]) == (10, 10)
    assert not is_alive(pid)
    assert [cluster.value(f"seen/k{number}") for number in range(10)] == [b"1"] * 10
    keys = (tmp_path / "keys").read_text().split()
    assert sorted(keys) == sorted(f"k{number}" for number in range(10))
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert sorted(int(event["sequence"]) for event in events) == list(range(1, 11))
    assert groups.describe(cluster.connection, "hook.python")["members"] == []  # type: ignore[index]


def _unplaced() -> list[str]:
    """The samples that have no pattern: every one needs a table."""
    from tests.hooks import sample_handlers

    found = Registry().collect([sample_handlers]).found
    return [function.handler_id for function in found if function.pattern is None]


async def test_handlers_that_do_not_fit_their_modules_refuse_the_start() -> None:
    """A required handler without a function is an error at the start, and so is a module that does
    not load where everything is required."""
    handler = {"name": "h", "pattern": ">", "type": "in_process", "handler_id": "lonley"}
    table = {
        "modules": ["tests.hooks.lonely_handler"],
        "handlers": [{**handler, "required": True}],
    }
    with pytest.raises(HooksRefused) as refused:
        await runtime(FakeCluster(), table).run()
    assert refused.value.problems[0].suggestion == "lonely"
    with pytest.raises(HooksRefused, match="No module named 'no_such_module'"):
        await runtime(FakeCluster(), {"modules": ["no_such_module"], "required": True}).run()


async def test_a_node_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    """A missing function, a broken module and a broken file are told, and the rest runs."""
    (tmp_path / "good.toml").write_text(
        '[[handlers]]\npattern = "x"\ntype = "shell"\ncommand = "true"\n'
    )
    (tmp_path / "bad.toml").write_text("[[handlers]]\ntype = 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    handler = {"name": "h", "pattern": ">", "type": "in_process", "handler_id": "nobody"}
    table = {"directory": str(tmp_path), "handlers": [handler]}
    hooks = runtime(FakeCluster(), table)
    async with running(hooks):
        assert hooks.service is not None
        assert "good" in [work.definition.name for work in hooks.service.works]
    assert {problem.name for problem in hooks.problems} == {
        "h", "bad", str(tmp_path / "broken.py")
    }  # fmt: skip


async def test_decorated_functions_run_inline_when_a_registry_is_given() -> None:
    """An embedding program needs no process and no table."""
    seen: list[int] = []

    @hook("orders.*", start="earliest")
    def note(context: HookContext) -> None:
        seen.append(context.revision)

    registry = Registry()
    registry.add(note)
    cluster = FakeCluster()
    cluster.do("publish", "orders.created", "k", b"", None, None)
    async with running(runtime(cluster, {}, registry=registry)) as hooks:
        assert hooks.host is None
        await until(lambda: seen == [1])


async def test_a_command_that_is_not_there_is_warned_about_at_the_start() -> None:
    """The handler is accepted, since the command may come later, but not in silence."""
    table = {
        "handlers": [
            {"name": "h", "pattern": ">", "type": "shell", "command": "/no/such/command"},
            {"name": "g", "pattern": ">", "type": "shell", "command": "true", "working_dir": "/no"},
            {"name": "f", "pattern": ">", "type": "shell", "command": "true"},
        ]
    }
    hooks = runtime(FakeCluster(), table)
    async with running(hooks):
        pass
    log: Any = hooks.port.log
    warned = [fields["handler"] for level, _, fields in log.lines if level == "warning"]
    assert warned == ["h", "g"]


async def test_what_does_not_work_on_a_node_is_a_problem_until_it_does(tmp_path: Path) -> None:
    """A file that cannot be rendered and a command that may not run: in `list`, in the state that
    is replicated, in an event, and no longer once there is a folder and the command is allowed."""
    cluster = FakeCluster()
    cluster.tells_registrations = True
    folder = tmp_path / "later"
    made = {"name": "made", "type": "file", "path": str(folder / "made")}
    told = {"name": "told", "type": "shell", "pattern": "x", "command": "true"}
    rules = {"allow_commands": ["/bin/echo"]}
    hooks = runtime(
        cluster,
        {"handlers": [made, told], "shell": rules},
        limits=replace(LIMITS, backoff_ms_max=100),
    )
    reasons = {
        "made": f"not rendered at the start: {folder}/made cannot be written: No such file or"
        " directory",
        "told": 'told: command "true" is not in allow_commands of [hooks.shell]',
    }
    async with running(hooks):
        await until(lambda: problems(hooks) == {name: f"a: {why}" for name, why in reasons.items()})
        assert hooks.service is not None
        assert hooks.service.problems == reasons
        failed = [
            event.data[:3]
            for event in cluster.read(1, 100, 1 << 20)
            if event.topic == "hooks.hook.load_failed"
        ]
        assert sorted(failed) == [(name, "a", why) for name, why in reasons.items()]
        assert "members" not in cluster.described("told"), "its events are for a node that may"
        folder.mkdir()
        await until(lambda: problems(hooks)["made"] is None)
        config, _ = parse_hooks({"handlers": [made, told]})
        assert config is not None
        await hooks.reload(config)
        await until(lambda: problems(hooks) == {"made": None, "told": None})


def test_all_that_is_wrong_with_a_handler_is_told() -> None:
    """Not the last of it alone; what stands beside a handler that did load does not stop it."""
    found = [
        LoadProblem(name="h", text="patern: no such key", place="/d/h.toml:2"),
        LoadProblem(name="h", text="pattern: is missing", place="/d/h.toml:1"),
        LoadProblem(name="g", text="a second one", place="/d/g.toml:1"),
    ]
    assert by_name(found, ["g"]) == {
        "h": "/d/h.toml:2: patern: no such key; /d/h.toml:1: pattern: is missing",
        "/d/g.toml:1": "/d/g.toml:1: a second one",
    }


def problems(hooks: HookRuntime) -> dict[str, str | None]:
    """By handler, as people see them."""
    if hooks.service is None:
        return {}
    return {row["handler"]: row["problem"] for row in list_handlers(hooks.service)}


async def test_disabled_hooks_do_nothing() -> None:
    """With enabled = false no group is defined and no process started."""
    cluster = FakeCluster()
    table = {
        "enabled": False,
        "handlers": [{"name": "h", "pattern": ">", "type": "shell", "command": "true"}],
    }
    async with running(runtime(cluster, table)) as hooks:
        assert hooks.host is None
    assert groups.names(cluster.connection) == []
