"""`cluster group ...` against a real node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.cli.groups import COLUMNS
from tests.cluster.cli_node import Ran, run, running_node

BOUND_S = 30.0
Command = Callable[..., Ran]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node that runs for all tests of this file."""
    folder: Path = tmp_path_factory.mktemp("node")
    with running_node(folder) as address:
        yield address


@pytest.fixture
def cluster(endpoint: str) -> Command:
    """Runs a command against it."""
    return lambda *arguments: run(*arguments, "--endpoints", endpoint)


@pytest.mark.parametrize("mode", ["partitioned", "competing"])
def test_a_group_from_its_definition_to_its_end(cluster: Command, mode: str) -> None:
    """Create, consume, look at it, pause, seek, skip, delete."""
    made = cluster("group", "create", f"g-{mode}", f"{mode}.>", "--mode", mode, "--json")
    floor = made.json["floor"]
    for number in range(3):
        assert cluster("pub", f"{mode}.a", str(number), "--key", f"k{number}").code == 0
    ran = cluster("group", "consume", f"g-{mode}", "--count", "2", "--json")
    seen = [json.loads(line)["data"] for line in ran.out.splitlines()]
    assert (ran.code, len(seen)) == (0, 2)
    row = next(
        row for row in cluster("group", "list", "--json").json["groups"]
        if row["group"] == f"g-{mode}"
    )  # fmt: skip
    assert set(row) == set(COLUMNS)
    assert (row["mode"], row["completed"], row["members"], row["paused"]) == (mode, 2, 0, False)
    described = cluster("group", "describe", f"g-{mode}")
    assert f"pattern       {mode}.>" in described.out
    assert cluster("group", "pause", f"g-{mode}").out == f"g-{mode} is paused\n"
    assert "paused" in cluster("group", "describe", f"g-{mode}").out
    assert cluster("group", "resume", f"g-{mode}").code == 0
    sought = cluster("group", "seek", f"g-{mode}", str(floor + 1))
    assert sought.out == f"g-{mode} reads from revision {floor + 1}\n"
    assert cluster("group", "skip", f"g-{mode}", str(floor + 1)).code == 0
    ran = cluster("group", "consume", f"g-{mode}", "--count", "2", "--json")
    payloads = [json.loads(line)["data"] for line in ran.out.splitlines()]
    assert sorted(payloads) == [1, 2]
    assert cluster("group", "delete", f"g-{mode}").code == 0
    ran = cluster("group", "describe", f"g-{mode}")
    assert ran.code == 1
    assert "unknown_group" in ran.err


def test_what_makes_no_sense_is_refused_before_it_is_sent(cluster: Command) -> None:
    """A mode, a pattern, a name, a list of pauses, a start."""
    for arguments in (
        ("g", "a.>", "--mode", "shared"),
        ("g", "a..b"),
        ("g", "hooks.kv.write_commited"),
        ("a b", "a.>"),
        ("g", "a.>", "--backoff-ms", "1,x"),
        ("g", "a.>", "--from", "yesterday"),
    ):
        assert cluster("group", "create", *arguments).code == 2, arguments
    assert cluster("group", "describe", "nobody").code == 1


def test_ctrl_c_leaves_the_group_at_once(cluster: Command, endpoint: str) -> None:
    """Nobody waits for the end of a session: what was printed is acked, the member is gone."""
    assert cluster("group", "create", "c", "c.>").code == 0
    command = [sys.executable, "-m", "cluster.cli", "group", "consume", "c", "-e", endpoint]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Who runs the tests in the background has shells that ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            cluster("pub", "c.a", "one")
            cluster("pub", "c.a", "two")
            assert "payload=one" in process.stdout.readline()
            assert "payload=two" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(BOUND_S) == 130
        finally:
            process.kill()
    group = cluster("group", "describe", "c", "--json").json
    assert group["members"] == []
    assert group["completed"] >= 1


INTERRUPTED = """
import signal

import trio
import typer

from cluster.cli.session import online

app = typer.Typer()


@online(app, "wait")
async def wait(cli):
    async def of_the_client():
        signal.raise_signal(signal.SIGINT)
        print("lives on", flush=True)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(of_the_client)
        await trio.sleep_forever()


app()
"""


def test_ctrl_c_spares_the_tasks_of_the_client() -> None:
    """Wherever it strikes, the connection is still there for leaving in good order."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "-e", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ran.returncode, ran.stdout) == (130, "lives on\n"), ran.stderr
