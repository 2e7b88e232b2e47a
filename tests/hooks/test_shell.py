"""Shell handlers with real commands: what they are given, and how they are stopped."""

import json
import os
import signal
from pathlib import Path

import trio

from hooks.configuration.sections import ShellRules
from hooks.delivery import TRIGGER_HEADER, TRIGGER_TOPIC, deliver
from hooks.execution.attempt import Failed, FailureKind, Outcome, Succeeded
from hooks.handlers.shell import BASE_ENVIRONMENT, ShellRunner
from hooks.limits import HookLimits
from pubsub.events import Event
from tests.hooks.waiting import is_alive, until
from tests.hooks.workbench import CLUSTER_ID, ListLog, attempt, definition, write_event

LIMITS = HookLimits(shell_grace_ms=200)


async def run(
    command: str | list[str], event: Event | None = None, log: ListLog | None = None, **keys: object
) -> Outcome:
    handler = definition(type="shell", command=command, **keys)
    runner = ShellRunner({"PASSED": "yes", "HELD": "no"}, log or ListLog(), limits=LIMITS)
    with trio.fail_after(20):
        return await runner.execute(attempt(handler, event, number=2))


async def test_a_command_gets_the_event_on_stdin_and_facts_in_the_environment(
    tmp_path: Path,
) -> None:
    """The event is one CloudEvent on stdin; the environment is the base, the allow list, facts."""
    script = f"cat > {tmp_path}/event; env > {tmp_path}/env; pwd > {tmp_path}/pwd"
    outcome = await run(
        script, write_event(5, "a key", b"\xff"), shell=True, env=["PASSED", "MISSING"],
        working_dir=str(tmp_path),
    )  # fmt: skip
    assert outcome == Succeeded()
    document = json.loads((tmp_path / "event").read_text())
    assert document["id"] == f"{CLUSTER_ID}-5"
    assert document["data"]["value_encoding"] == "base64"
    variables = dict(
        line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines()
    )
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # the shell's own
        variables.pop(name, None)
    assert variables == {
        **BASE_ENVIRONMENT,
        "PASSED": "yes",
        "TREMULA_HOOK_HANDLER": "h",
        "TREMULA_HOOK_TOPIC": "hooks.kv.write_committed",
        "TREMULA_HOOK_EVENT_ID": f"{CLUSTER_ID}-5",
        "TREMULA_HOOK_REVISION": "5",
        "TREMULA_HOOK_KEY": "a key",
        "TREMULA_HOOK_ATTEMPT": "2",
        "TREMULA_HOOK_FENCING_TOKEN": "7",
    }
    assert (tmp_path / "pwd").read_text().strip() == str(tmp_path)


async def test_a_text_is_split_and_never_given_to_a_shell(tmp_path: Path) -> None:
    """Without `shell = true` nothing is expanded: a key or a command cannot inject."""
    assert await run(f"touch '{tmp_path}/$(id)' {tmp_path}/a;b") == Succeeded()
    assert sorted(os.listdir(tmp_path)) == ["$(id)", "a;b"]


async def test_a_triggered_event_says_so() -> None:
    """The command sees the imitated topic, the given payload and the mark."""
    headers = {TRIGGER_HEADER: "hooks.kv.write_committed"}
    event = write_event(topic=TRIGGER_TOPIC, data=(b'{"key": "x"}', "application/json", headers))
    check = (
        'import json, os, sys; e = json.load(sys.stdin); assert e["triggered"] is True;'
        'assert e["type"] == os.environ["TREMULA_HOOK_TOPIC"] == "hooks.kv.write_committed";'
        'assert e["data"] == {"key": "x"}; assert os.environ["TREMULA_HOOK_TRIGGERED"] == "1"'
    )
    assert await run(["python3", "-c", check], event) == Succeeded()


async def test_the_exit_code_decides_and_stderr_explains() -> None:
    """A code other than 0 fails the attempt with the end of what it wrote to stderr."""
    outcome = await run("echo half done; echo no space left >&2; exit 3", shell=True)
    output = "--- stdout\nhalf done\n--- stderr\nno space left"
    assert outcome == Failed(FailureKind.ERROR, "exit status 3: no space left", output=output)


async def test_some_exit_codes_are_final() -> None:
    """What the handler lists as such is not tried again; every other failure is."""
    for status, final in ((64, True), (1, False)):
        outcome = await run(f"exit {status}", shell=True, final_exit_codes=[64, 65])
        assert outcome == Failed(FailureKind.ERROR, f"exit status {status}", final)


async def test_a_command_that_is_not_there_fails_with_its_name() -> None:
    """A missing command or folder is an error of the attempt, not of the service."""
    outcome = await run(["/no/such/command"])
    assert isinstance(outcome, Failed)
    assert "/no/such/command" in outcome.error
    outcome = await run(["true"], working_dir="/no/such/folder")
    assert isinstance(outcome, Failed)
    assert "/no/such/folder" in outcome.error


async def test_a_chatty_command_is_drained_and_its_output_capped() -> None:
    """A megabyte on both pipes neither blocks the command nor is kept."""
    log = ListLog()
    script = "head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero | tr '\\0' y >&2"
    outcome = await run(script, shell=True, log=log, output_bytes_max=1000)
    assert isinstance(outcome, Succeeded)
    out, err = "(999000 bytes cut) " + 1000 * "x", "(999000 bytes cut) " + 1000 * "y"
    assert outcome.output == f"--- stdout\n{out}\n--- stderr\n{err}"
    (_, _, fields) = log.lines[-1]
    assert (fields["stdout"], fields["stderr"]) == (out, err)
    outcome = await run("head -c 9000 /dev/zero | tr '\\0' x", shell=True)
    assert isinstance(outcome, Succeeded)
    assert len(outcome.output) == LIMITS.output_shown_bytes_max, "the history keeps less"


async def test_each_command_leaves_an_audit_record() -> None:
    """What was run, for what, how it ended and how long it took, whether or not it succeeded."""
    log = ListLog()
    await run(["sh", "-c", "echo hello; exit 4"], write_event(9), log=log)
    level, message, fields = log.lines[0]
    assert (level, message) == ("info", "command ended")
    assert int(str(fields.pop("pid"))) > 0
    assert int(str(fields.pop("duration_ms"))) >= 0
    assert fields == {
        "handler": "h",
        "revision": 9,
        "attempt": 2,
        "command": ["sh", "-c", "echo hello; exit 4"],
        "events": 1,
        "status": "exit status 4",
        "stopped": None,
        "stdout_bytes": 6,
        "stderr_bytes": 0,
    }


async def test_a_batch_is_a_line_for_each_event() -> None:
    """The command of a handler with batches reads NDJSON, and finds their number beforehand."""
    check = (
        "import json, os, sys; events = [json.loads(line) for line in sys.stdin];"
        'assert [e["sequence"][-1] for e in events] == ["3", "4", "6"], events;'
        'assert os.environ["TREMULA_HOOK_EVENTS"] == "3";'
        'assert os.environ["TREMULA_HOOK_REVISION"] == "6"'
    )
    handler = definition(type="shell", command=["python3", "-c", check], batch_max=10)
    made = attempt(handler, deliveries=tuple(deliver(write_event(n)) for n in (3, 4, 6)))
    assert await ShellRunner({}, ListLog(), limits=LIMITS).execute(made) == Succeeded()


async def test_a_command_that_is_not_allowed_never_starts(tmp_path: Path) -> None:
    """With lists in [hooks.shell], any other command or variable is a final failure."""
    rules = ShellRules(allow_commands=("touch", "/bin/echo"), allow_env=("LANG",))
    runner = ShellRunner({"SECRET": "x"}, ListLog(), rules=rules, limits=LIMITS)

    async def fails(**keys: object) -> str:
        handler = definition(type="shell", **keys)
        outcome = await runner.execute(attempt(handler))
        assert isinstance(outcome, Failed)
        assert outcome.final
        return outcome.error

    made = tmp_path / "made"
    allowed = definition(type="shell", command=["touch", str(made)], env=["LANG"])
    assert await runner.execute(attempt(allowed)) == Succeeded()
    made.unlink()
    for command in (["/bin/touch", str(made)], [f"{tmp_path}/touch"], ["sh", "-c", "exit"]):
        assert "allow_commands" in await fails(command=command)
    assert "allow_commands" in await fails(command=f"touch {made}", shell=True)
    assert "allow_env" in await fails(command=["touch", str(made)], env=["SECRET"])
    assert not made.exists()


async def test_a_command_runs_within_its_limits(tmp_path: Path) -> None:
    """Memory, processor time, open files and the size of a file end where the handler says."""
    allocate = "x = bytearray(400 * 1024 * 1024)"
    outcome = await run(["python3", "-c", allocate], memory_bytes_max=200 * 1024 * 1024)
    assert isinstance(outcome, Failed)
    assert "MemoryError" in outcome.error
    outcome = await run(["python3", "-c", "while True: pass"], cpu_seconds_max=1, timeout_ms=20_000)
    assert isinstance(outcome, Failed)
    assert outcome.error == "killed by SIGXCPU"
    assert await run('test "$(ulimit -n)" = 40', shell=True, open_files_max=40) == Succeeded()
    big = tmp_path / "big"
    outcome = await run(f"head -c 100000 /dev/zero > {big}", shell=True, file_bytes_max=20_480)
    assert isinstance(outcome, Failed)
    assert big.stat().st_size == 20_480


async def test_limits_do_not_touch_the_arguments() -> None:
    """The shell that sets the limits passes the command on as it is, spaces and quotes included."""
    words = ["a b", "$(id)", "'", '"', ";", ""]
    check = f"import sys; assert sys.argv[1:] == {words!r}"
    assert await run(["python3", "-c", check, *words], open_files_max=64) == Succeeded()


async def test_a_command_need_not_read_its_event() -> None:
    """An event larger than the pipe is no reason to wait for a command that does not read."""
    assert await run(["true"], write_event(value=bytes(1_000_000))) == Succeeded()


async def test_a_command_past_its_timeout_is_told_to_stop() -> None:
    """TERM comes first, so that a command can clean up; it is a timeout all the same."""
    script = "trap 'echo cleaned up >&2; exit 0' TERM; sleep 60 & wait"
    outcome = await run(script, shell=True, timeout_ms=1000)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.TIMEOUT
    assert outcome.error.endswith("cleaned up")


async def test_a_command_that_ignores_term_is_killed_with_its_children(tmp_path: Path) -> None:
    """After the grace the whole process group gets KILL."""
    script = f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; while :; do sleep 600; done"
    outcome = await run(script, shell=True, timeout_ms=1000)
    assert isinstance(outcome, Failed)
    assert "killed by SIGKILL" in outcome.error
    await until(lambda: not is_alive(int((tmp_path / "child").read_text())))


async def test_nothing_outlives_a_command_that_left_it_behind(tmp_path: Path) -> None:
    """A background process that holds the pipes open delays nobody and is killed."""
    script = f"sleep 600 & echo $! > {tmp_path}/child"
    with trio.fail_after(5):
        assert await run(script, shell=True) == Succeeded()
    await until(lambda: not is_alive(int((tmp_path / "child").read_text())))


async def test_a_cancelled_attempt_kills_its_command(tmp_path: Path) -> None:
    """A member that lost its partition does not leave the command running."""
    note = tmp_path / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(f"echo $$ > {note}; sleep 600", shell=True))
        await until(lambda: note.exists() and note.read_text())
        pid = int(note.read_text())
        nursery.cancel_scope.cancel()
    assert not is_alive(pid)


async def test_a_key_with_a_nul_has_no_variable() -> None:
    """What the environment cannot hold is only in the event."""
    outcome = await run('test -z "${TREMULA_HOOK_KEY+x}"', write_event(key="a\0b"), shell=True)
    assert outcome == Succeeded()


async def test_death_by_a_signal_is_named() -> None:
    """A command killed by a signal fails and says which."""
    outcome = await run(f"kill -{signal.SIGSEGV.value} $$", shell=True)
    assert outcome == Failed(FailureKind.ERROR, "killed by SIGSEGV")
