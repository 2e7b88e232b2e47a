"""The handler host with real processes: containment, blame, and what survives it."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hooks.effects import put
from hooks.execution.attempt import Failed, FailureKind, Outcome, Succeeded
from hooks.handlers.host import Host, HostNotStarted
from hooks.limits import HookLimits
from tests.hooks.waiting import is_alive, until
from tests.hooks.workbench import ListLog, attempt, definition, write_event

LIMITS = HookLimits(host_grace_ms=100, host_restart_ms_first=10)
SAMPLES = "tests.hooks.sample_handlers"


@asynccontextmanager
async def running(*modules: str, log: ListLog | None = None) -> AsyncIterator[Host]:
    host = Host(modules, log or ListLog(), environment=os.environ, limits=LIMITS)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            await nursery.start(host.run)
        with trio.fail_after(60):
            yield host
        nursery.cancel_scope.cancel()


async def run(host: Host, name: str, value: str = "0", timeout_ms: int = 5000) -> Outcome:
    handler = definition(name=name, timeout_ms=timeout_ms)
    return await host.execute(attempt(handler, write_event(value=value.encode())))


async def test_handlers_return_their_effects() -> None:
    """What a sync and an async handler return arrives as effects, and decorators are reported."""
    async with running(SAMPLES) as host:
        assert await run(host, "returns_effects") == Succeeded((put("seen/k", "1"),))
        outcome = await run(host, "is_async", "hello")
        assert isinstance(outcome, Succeeded)
        assert outcome.effects[0].arguments[:3] == ("seen", None, b"hello")
        found = {function.handler_id: function for function in host.functions}
        assert found["returns_effects"].pattern == "hooks.kv.*"
        assert dict(found["returns_effects"].options) == {"priority": 10}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raises", "ValueError: no such customer"),
        ("leaves", "SystemExit: enough"),
        ("returns_rubbish", "returned int"),
        ("returns_a_list_with_rubbish", "list with str in it"),
        ("returns_too_much", "effects of"),
        ("not_there", 'no function "not_there"'),
    ],
)
async def test_a_misbehaving_handler_fails_alone(name: str, error: str) -> None:
    """An exception, an exit or a wrong return value is the failure of that attempt only."""
    async with running(SAMPLES) as host:
        outcome = await run(host, name)
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.ERROR
        assert error in outcome.error
        assert host.restarts == 0


async def test_what_handlers_print_is_logged_and_bounded() -> None:
    """A megabyte on stdout does not block anything and becomes one cut line of the log."""
    log = ListLog()
    async with running(SAMPLES, log=log) as host:
        assert await run(host, "prints_a_megabyte") == Succeeded()
        assert await run(host, "logs") == Succeeded()
        assert await run(host, "reads_stdin") == Succeeded((put("stdin", b""),))
        await until(lambda: any(fields.get("line") == "line 999" for _, _, fields in log.lines))
        lines = [str(fields["line"]) for _, _, fields in log.lines if "line" in fields]
        assert max(len(line) for line in lines) == LIMITS.host_log_line_bytes_max
        assert ("warning", "seen", {"revision": "1", "handler": "logs"}) in log.lines


async def test_an_async_handler_is_cancelled_at_its_timeout() -> None:
    """The timeout of an async handler costs nobody else anything."""
    async with running(SAMPLES) as host:
        outcome = await run(host, "sleeps", "600", timeout_ms=50)
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.TIMEOUT
        assert host.restarts == 0


@pytest.mark.parametrize(
    "name", ["blocks", "blocks_its_loop", "ignores_cancellation", "holds_the_interpreter"]
)
async def test_a_hanging_handler_is_killed_and_the_others_are_not_blamed(name: str) -> None:
    """Whatever way a handler hangs, it times out, and the others in its process succeed."""
    outcomes: dict[str, Outcome] = {}

    async def note(handler: str, value: str, timeout_ms: int) -> None:
        outcomes[handler] = await run(host, handler, value, timeout_ms)

    async with running(SAMPLES) as host, trio.open_nursery() as nursery:
        nursery.start_soon(note, "sleeps", "0.4", 5000)
        nursery.start_soon(note, name, "0", 150)
    assert outcomes["sleeps"] == Succeeded()
    hanging = outcomes[name]
    assert isinstance(hanging, Failed)
    assert hanging.kind is FailureKind.TIMEOUT
    assert host.restarts >= 1


async def test_a_handler_that_kills_its_process_is_the_one_that_failed() -> None:
    """With several attempts in a dying process, only the guilty one fails."""
    outcomes: list[tuple[str, Outcome]] = []

    async def note(handler: str, value: str) -> None:
        outcomes.append((handler, await run(host, handler, value)))

    async with running(SAMPLES) as host, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(note, "sleeps", f"0.{number}")
        nursery.start_soon(note, "kills_its_process", "0")
    assert [outcome for name, outcome in outcomes if name == "sleeps"] == [Succeeded()] * 5
    (guilty,) = [outcome for name, outcome in outcomes if name != "sleeps"]
    assert isinstance(guilty, Failed)
    assert guilty.kind is FailureKind.CRASH
    assert "SIGKILL" in guilty.error


async def test_a_guilty_handler_stays_apart_until_it_behaves() -> None:
    """After a crash, a handler runs in the isolation process, and comes back after a success."""
    async with running(SAMPLES) as host:
        handler = definition(name="crashes_until_the_third_attempt")
        first = await host.execute(attempt(handler, number=1))
        assert isinstance(first, Failed)
        main_pid = await ready_pid(host)
        second = await host.execute(attempt(handler, number=2))
        assert isinstance(second, Failed)
        assert host.pid == main_pid, "the second crash did not touch the main process"
        assert await host.execute(attempt(handler, number=3)) == Succeeded()
        assert await host.execute(attempt(handler, number=4)) == Succeeded()


async def ready_pid(host: Host) -> int:
    outcome = await run(host, "tells_its_process")
    assert isinstance(outcome, Succeeded)
    return int(bytes(outcome.effects[0].arguments[1]))  # type: ignore[call-overload]


async def test_children_of_a_killed_handler_die_with_it(tmp_path: Path) -> None:
    """The host is a process group of its own and is killed as one."""
    note = tmp_path / "child"
    async with running(SAMPLES) as host:
        outcome = await run(host, "starts_a_child_and_blocks", str(note), timeout_ms=1500)
        assert isinstance(outcome, Failed)
        child = int(note.read_text())
        await until(lambda: not is_alive(child))


async def test_a_cancelled_attempt_leaves_the_others_alone() -> None:
    """Cancelling an async attempt ends it in the host without a restart."""
    async with running(SAMPLES) as host:
        with trio.move_on_after(0.1) as scope:
            await run(host, "sleeps", "600")
        assert scope.cancelled_caught
        assert await run(host, "sleeps", "0") == Succeeded()
        assert host.restarts == 0


async def test_a_cancelled_sync_attempt_is_killed_soon() -> None:
    """What cannot be cancelled does not run on beside its successor, and nobody else is blamed."""
    async with running(SAMPLES) as host:
        pid = await ready_pid(host)
        with trio.move_on_after(0.1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, host, "blocks", "0", 30_000)
        with trio.fail_after(15):  # and not after the 30 seconds of the other one
            assert await run(host, "sleeps", "0.4") == Succeeded()
        assert not is_alive(pid)
        assert host.restarts == 1


async def test_a_host_killed_from_outside_is_started_again() -> None:
    """An idle host that dies is replaced, and the next attempt just works."""
    async with running(SAMPLES) as host:
        first = await ready_pid(host)
        os.kill(first, signal.SIGKILL)
        await until(lambda: host.pid not in (None, first))
        assert await ready_pid(host) != first
        assert host.restarts == 1


async def test_a_host_leaves_with_its_node() -> None:
    """When nobody reads its pipe any more, the host is gone, whatever its handlers do."""
    spawned: list[trio.Process] = []

    async def spawn(*args: object, **options: object) -> trio.Process:
        spawned.append(await trio.lowlevel.open_process(*args, **options))  # type: ignore[call-overload]
        return spawned[-1]

    host = Host([SAMPLES], ListLog(), environment=os.environ, limits=LIMITS, spawn=spawn)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        nursery.start_soon(run, host, "blocks_its_loop", "0", 30_000)
        await trio.sleep(0.1)
        (process,) = spawned
        assert process.stdin is not None
        await process.stdin.aclose()  # what the death of the node does
        await until(lambda: not is_alive(process.pid))
        nursery.cancel_scope.cancel()


async def test_a_module_that_does_not_load_is_reported_and_the_others_serve() -> None:
    """A missing module is told in the interpreter's own words, and takes nothing along."""
    modules = ["tests.hooks.no_such_module", SAMPLES]
    async with running(*modules) as host:
        (problem,) = host.problems
        assert problem.name == "tests.hooks.no_such_module"
        assert "No module named 'tests.hooks.no_such_module'" in problem.text
        assert any(file.endswith("sample_handlers.py") for file in host.files)
        assert await run(host, "sleeps", "0") == Succeeded()


async def test_a_module_that_takes_the_process_along_refuses_the_start(tmp_path: Path) -> None:
    """Then no handler has a host, and nobody could tell which of them is meant."""
    file = tmp_path / "leaves.py"
    file.write_text("import os\nos._exit(3)\n")
    host = Host([], ListLog(), files=[str(file)], environment=os.environ, limits=LIMITS)
    with trio.fail_after(20), pytest.raises(HostNotStarted, match=r"a word: it was at .*leaves"):
        await host.run()


async def test_options_that_no_message_carries_take_nothing_along(tmp_path: Path) -> None:
    """They are given to whoever checks options as something that no key takes."""
    file = tmp_path / "odd.py"
    file.write_text(
        "from hooks.registry import hook\n"
        "@hook('x', priority=object(), retry_count=2**70, timeout_ms=5)\ndef odd(context): ...\n"
        "@hook(5, name=[])\ndef odder(context): ...\n"
        "@hook('x')\ndef good(context): ...\n"
    )
    host = Host([], ListLog(), files=[str(file)], environment=os.environ, limits=LIMITS)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            assert [(f.handler_id, f.pattern, f.options) for f in host.functions] == [
                ("odd", "x", {"priority": None, "retry_count": None, "timeout_ms": 5}),
                ("odder", None, {"name": (), "pattern": 5}),
                ("good", "x", {}),
            ]
            nursery.cancel_scope.cancel()


async def test_who_has_answered_is_not_run_again_for_who_blocks(tmp_path: Path) -> None:
    """Answers leave a host together, but one that ended before another blocked the loop is out
    before the host is killed for that: each handler ran once."""
    note = tmp_path / "note"
    async with running(SAMPLES) as host, trio.open_nursery() as nursery:
        handler = definition(name="leaves_a_note")
        for revision in range(1, 31):
            event = write_event(revision, value=str(note).encode())
            nursery.start_soon(host.execute, attempt(handler, event))
            if revision == 15:
                nursery.start_soon(run, host, "blocks_its_loop", "0", 2_000)
    assert sorted(map(int, note.read_text().split())) == list(range(1, 31))
