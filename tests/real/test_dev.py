"""`cluster dev` as a user runs it: three processes, found by other commands, stopped cleanly."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from cluster.cli.devfile import DevCluster, note_path, read_note
from tests.real.processes import eventually

CLUSTER = (sys.executable, "-m", "cluster.cli")
START_S = 60.0
STOP_S = 30.0


def _environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "XDG_STATE_HOME": str(tmp_path)}


def _run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLUSTER, *arguments],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


async def _noted(process: trio.Process, note: Path) -> DevCluster | None:
    assert process.poll() is None, "it ended"
    return read_note(note)


async def _shows(output: Path, text: str) -> bool:
    return text in _read(output)


def _read(output: Path) -> str:
    return output.read_text()


def test_hooks_that_are_not_there_are_told(tmp_path: Path) -> None:
    """A misspelt --hooks is wrong usage, before anything starts."""
    done = _run(tmp_path, "dev", "--data", str(tmp_path / "data"), "--hooks", "nowhere.toml")
    assert (done.returncode, done.stderr) == (
        2, "error: --hooks nowhere.toml: No such file or directory\n",
    )  # fmt: skip


def test_hooks_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    """The mistake is told with its place in the file that was named; what an earlier run left
    stays, also with --fresh, and of a new cluster nothing is begun."""
    bad, data = tmp_path / "bad.toml", tmp_path / "data"
    bad.write_text('[[hooks.handlers]]\nname = "h"\npatern = "x"\n')
    arguments = ("dev", "--data", str(data), "--hooks", str(bad))
    done = _run(tmp_path, *arguments)
    assert done.returncode == 2
    assert f"{bad}:3: hooks.handlers[0].patern: no such key" in done.stderr
    assert not data.exists()
    data.mkdir()
    for name in "abc":
        (data / f"{name}.toml").write_text(f'[node]\nname = "{name}"\ndata_dir = "{name}"\n')
    bad.write_text('[node]\nlabels = { zone = "a" }\n')
    before = {file.name: file.read_text() for file in data.iterdir()}
    for more in ((), ("--fresh",)):
        done = _run(tmp_path, *arguments, *more)
        assert done.returncode == 2, done.stderr
        assert "node" in done.stderr
        assert {file.name: file.read_text() for file in data.iterdir()} == before


def test_command_runs_against_a_cluster_with_tls_of_its_own(tmp_path: Path) -> None:
    """`cluster dev --tls -- COMMAND` runs the command, stops, and passes its exit code on."""
    put = ("--", *CLUSTER, "kv", "put", "a", "b", "--json")
    done = _run(tmp_path, "dev", "--tls", "--data", str(tmp_path / "data"), *put)
    assert (done.returncode, json.loads(done.stdout)["key"]) == (0, "a"), done.stderr
    again = ("--", *CLUSTER, "kv", "get", "missing")
    kept = _run(tmp_path, "dev", "--data", str(tmp_path / "data"), *again)
    assert (kept.returncode, "there is no key 'missing'" in kept.stderr) == (1, True)


async def test_dev_is_found_follows_events_and_stops_on_sigint(tmp_path: Path) -> None:
    """While it runs other commands find it; its output shows events; SIGINT ends all of it."""
    note = note_path(_environment(tmp_path))
    output = tmp_path / "output"
    with output.open("w") as stream:
        process = await trio.lowlevel.open_process(
            [*CLUSTER, "dev", "--data", str(tmp_path / "data")],
            env=_environment(tmp_path),
            stdout=stream,
            stderr=stream,
        )
    try:
        found = await eventually(partial(_noted, process, note), "the note of the cluster")
        put = await trio.to_thread.run_sync(_run, tmp_path, "kv", "put", "greeting", "hello")
        assert put.returncode == 0, put.stderr
        await eventually(partial(_shows, output, "write_committed  greeting"), "the event")
        second = await trio.to_thread.run_sync(_run, tmp_path, "dev")
        assert (second.returncode, "runs already" in second.stderr) == (1, True)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(STOP_S):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    assert len(found.endpoints) == 3
    assert not note.exists()
    for name in ("a", "b", "c"):
        assert "stopped" in (tmp_path / "data" / f"{name}.log").read_text()
