"""Commands that need no cluster, and what holds for all commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from cluster.cli import devfile
from cluster.cli.app import app
from cluster.cli.devfile import DevCluster
from cluster.cli.hooks import CLUSTER_COUNTERS, LOCAL_COUNTERS, summed
from cluster.cli.outcome import Exit, failure_of
from cluster.cli.output import Brief, Output, cell, readable, value_fields
from cluster.errors import (
    REGISTRY,
    ConnectionLost,
    OutcomeUnknown,
    Rejected,
    TremulaError,
    field_names,
)
from tests.cluster.cli_node import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def _commands(group: TyperGroup, path: str = "cluster") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{path} {name}")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{path} {name}", command


def _all() -> dict[str, TyperCommand]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(_commands(root))


def test_every_command_is_documented() -> None:
    """docs/cli.md names each command, and no command that does not exist."""
    text = DOCUMENT.read_text()
    documented = {
        line.split("`")[1].split(" --")[0].split(" [")[0]
        for line in text.splitlines()
        if line.startswith("| `cluster ")
    }
    assert set(_all()) == {" ".join(w for w in d.split() if w.islower()) for d in documented}


def test_every_command_has_help_and_json() -> None:
    """Each command explains itself, and each one with a result offers --json."""
    for name, command in _all().items():
        assert command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options or name == "cluster node start", name


def test_no_cluster_is_a_usage_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    """Without endpoints and without a dev cluster a command says what to do, with exit code 2."""
    refused = run("kv", "get", "x", environment={"XDG_STATE_HOME": str(tmp_path)})
    assert refused.code == 2
    assert "`cluster dev`" in refused.err
    assert "TREMULA_ENDPOINTS" in refused.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("kv", "get", "x", "--endpoints", "nowhere"), "expected host:port, got 'nowhere'"),
        (("kv", "put", "x", "--endpoints", "a:1"), "give a value"),
        (("kv", "gte", "x"), "Did you mean 'get'"),
        (("certs", "issue", "a"), "a node needs --host"),
        (("certs", "issue", "a", "--client", "--host", "b"), "a client has no --host"),
        (("status", "--endpoints", "a:1", "--key-file", "k"), "need --ca beside them"),
    ],
)
def test_usage_errors_are_exit_code_2(arguments: tuple[str, ...], reason: str) -> None:
    """What makes no sense is refused before anything is sent."""
    refused = run(*arguments)
    assert refused.code == 2
    assert reason in refused.err


def _sample(error: type[TremulaError]) -> TremulaError:
    """An error with something in each field."""
    return error(*["1" for _ in field_names(error)])


def test_exit_codes_say_what_may_be_concluded() -> None:
    """Every error has an exit code: unknown outcomes 3, unavailable 4, other definite ones 1."""
    for kind, error in REGISTRY.items():
        failure = failure_of(_sample(error))
        assert failure is not None
        assert (failure.code is Exit.UNKNOWN_OUTCOME) == issubclass(error, OutcomeUnknown), kind
    rejected = failure_of(Rejected("revision_mismatch", "x"))
    lost = failure_of(ConnectionLost())
    assert rejected is not None
    assert lost is not None
    assert (rejected.code, lost.code) == (1, 3)
    assert "read before you repeat" in lost.hint


def test_certificates_from_the_command_line(tmp_path: Path) -> None:
    """`certs init` and `certs issue` write files and say which; a second init refuses."""
    made = run("certs", "init", str(tmp_path), "--json")
    assert Path(made.json["certificate"]).exists()
    issued = run("certs", "issue", "a", "--host", "127.0.0.1", "--dir", str(tmp_path), "--json")
    assert Path(issued.json["key"]).stat().st_mode & 0o777 == 0o600
    again = run("certs", "init", str(tmp_path))
    assert (again.code, "exists already" in again.err) == (2, True)


def test_config_check_lists_all_problems(tmp_path: Path) -> None:
    """`config check` prints every problem and ends with 2; --files also looks at the machine."""
    file = tmp_path / "node.toml"
    file.write_text('[node]\nname = "a"\ndata_dri = "d"\n[raft]\nheartbeat_ms = "x"\n')
    refused = run("config", "check", str(file))
    assert (refused.code, len(refused.out.splitlines())) == (2, 3)
    file.write_text(
        '[node]\nname = "a"\ndata_dir = "d"\n[[hooks.handlers]]\nname = "h"\n'
        'pattern = "hooks.>"\ntype = "shell"\ncommand = "no-such-program"\n'
    )
    assert run("config", "check", str(file)).code == 0
    missing = run("config", "check", str(file), "--files", "--json")
    assert missing.code == 2
    assert missing.json["problems"] == [
        f"{file}: handler h: command no-such-program is not there or not executable"
    ]


def test_config_check_looks_into_the_directory_of_hooks(tmp_path: Path) -> None:
    """With --files: handlers and modules in hooks.d that would not load, and what they lack."""
    file, folder = tmp_path / "node.toml", tmp_path / "hooks.d"
    folder.mkdir()
    file.write_text('[node]\nname = "a"\ndata_dir = "d"\n[hooks]\ndirectory = "hooks.d"\n')
    handler = '[[handlers]]\npattern = "x"\ntype = "shell"\ncommand = "no-such-program"\n'
    (folder / "a.toml").write_text(handler)
    (folder / "b.toml").write_text(handler.replace("pattern", "patern"))
    (folder / "c.py").write_text("1 / 0")
    assert run("config", "check", str(file)).code == 0
    problems = run("config", "check", str(file), "--files", "--json").json["problems"]
    assert [problem.replace(f"{tmp_path}/", "").partition(": ")[0] for problem in problems] == [
        "node.toml:5", "hooks.d/b.toml:2", "hooks.d/b.toml:1", "node.toml",
    ]  # fmt: skip
    assert "patern" in problems[1]
    assert "handler a: command no-such-program" in problems[-1]


def test_dev_note_counts_only_while_its_process_lives(tmp_path: Path) -> None:
    """Commands find a running dev cluster, and forget one whose process is gone."""
    path = devfile.note_path({"XDG_STATE_HOME": str(tmp_path)})
    own = DevCluster(pid=os.getpid(), data="d", endpoints=["127.0.0.1:1"], http=[])
    assert devfile.read_note(path) is None
    devfile.write_note(path, own)
    assert devfile.read_note(path) == own
    devfile.remove_note(path, own.pid + 1)
    assert path.exists()
    devfile.remove_note(path, own.pid)
    assert not path.exists()
    path.write_text(json.dumps({"pid": 2**22 + 1, "data": "d", "endpoints": [], "http": []}))
    assert devfile.read_note(path) is None
    path.write_text("not json")
    assert devfile.read_note(path) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1.5, "1.5"),
        (0.0004, "0"),
        ([], "-"),
        (["a", "b"], "a, b"),
        ("a\x1b[31m\n", "a\\u001b[31m\\n"),
        (b"\xff\xff", "(2 bytes)"),
    ],
)
def test_cells_are_readable_and_harmless(value: object, text: str) -> None:
    """Whatever a key holds, a terminal gets one printable line."""
    assert cell(value) == text


def test_a_table_is_cut_at_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pipe gets the whole text, on one line, and the whole value; people get the beginning."""
    text, value = "it failed\n" + "x" * 300, b"y" * 300
    rows = [("key", Brief(text), Brief(value, 60), value, [value])]
    out = Output(as_json=False)
    out.table(("key", "error", "value", "other", "list"), rows)
    whole = "it failed\\n" + "x" * 300
    line = "\t".join(["key", whole, *["y" * 300] * 3])
    assert capsys.readouterr().out.splitlines()[1] == line
    out.people = True
    out.table(("key", "error"), [row[:2] for row in rows])
    assert capsys.readouterr().out.split() == ["key", "error", "key", "it", "failed…"]
    assert cell(Brief(value, 60)) == "y" * 60 + "… (300 bytes)"
    assert cell(Brief("z" * 101)) == "z" * 100 + "…"
    assert [cell(Brief(None)), cell(Brief(""))] == ["-", ""]


def test_long_values_are_cut_for_people_and_whole_for_programs() -> None:
    """A table shows the beginning of a long value and its size; JSON has all of it."""
    assert readable(b"x" * 300, characters_max=10) == "xxxxxxxxxx… (300 bytes)"
    assert value_fields(b"x" * 300) == {"value": "x" * 300}


def test_metrics_of_handlers_are_summed_over_nodes() -> None:
    """Attempts add up over the nodes; what the cluster counts is taken from the newest answer."""

    def row(completed: int, attempts: int) -> dict[str, object]:
        local = {**dict.fromkeys(LOCAL_COUNTERS, 0), "attempts": attempts, "succeeded": attempts,
                 "duration_ms_total": 10 * attempts}  # fmt: skip
        return {"handler": "h", **dict.fromkeys(CLUSTER_COUNTERS, completed), "local": local}

    idle = {"handler": "h", **dict.fromkeys(CLUSTER_COUNTERS, 7), "local": None}
    (total,) = summed([[row(7, 3)], [row(6, 4)], [idle]])
    assert (total["completed"], total["attempts"], total["average_ms"]) == (7, 7, 10.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
def test_an_output_that_takes_nothing_is_told_in_a_sentence() -> None:
    """A full disk behind `>`: what was asked for may be done, and nobody could read its end."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "cluster.cli", "hook", "events"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ran.returncode, ran.stderr) == (3, "error: cannot write: No space left on device\n")
