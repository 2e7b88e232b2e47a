"""`validate_path`: what is wrong with hooks, told before a node has them."""

import os
from pathlib import Path

import pytest

from cluster.config.validate import validate_path
from tests.hooks.test_discovery import HANDLER, HOOK, write
from tests.hooks.waiting import is_alive, until

NODE = '[node]\nname = "a"\ndata_dir = "data"\n'
PYTHON = (
    '[[hooks.handlers]]\nname = "{0}"\npattern = "x"\ntype = "in_process"\nhandler_id = "{0}"\n'
)


def told_in_full(path: Path, **environment: str) -> list[str]:
    problems = validate_path(path, {**os.environ, **environment})
    return [str(problem) for problem in problems]


def told(path: Path, **environment: str) -> list[str]:
    problems = told_in_full(path, **environment)
    return [problem.replace(f"{path.parent}/", "") for problem in problems]


def test_what_is_right_has_no_problems(tmp_path: Path) -> None:
    """A node's file with a directory and a module, each of them alone, and [hooks] alone."""
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    write(folder, a__toml=HANDLER, b__py=HOOK.format(name="of_the_file"))
    write(tmp_path, validated_module__py=HOOK.format(name="noted"))
    hooks = '[hooks]\nmodules = ["validated_module"]\ndirectory = "hooks.d"\n'
    hooks += PYTHON.format("noted")
    write(tmp_path, node__toml=NODE + hooks, hooks__toml=hooks)
    for path in ("node.toml", "hooks.toml", "hooks.d", "hooks.d/a.toml", "hooks.d/b.py"):
        assert told(tmp_path / path) == [], path


def test_the_problems_of_a_node_come_with_their_lines(tmp_path: Path) -> None:
    """Those of its file, of its directory and of its code, all at once."""
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    write(folder, a__toml=HANDLER + "priority = -1\n", b__toml=HANDLER, c__py="1 / 0")
    hooks = '[hooks]\nmodules = ["nobody_has_it"]\ndirectory = "hooks.d"\n'
    hooks += '[hooks.shell]\nallow_commands = ["/bin/echo"]\n' + PYTHON.format("missing")
    write(tmp_path, node__toml=NODE + hooks)
    problems = told(tmp_path / "node.toml")
    expected = [
        "node.toml:5: hooks.modules.nobody_has_it: ModuleNotFoundError",
        "node.toml:6: hooks.directory.c.py: ZeroDivisionError",
        "node.toml:13: hooks.handlers[0].handler_id: nothing that is loaded registers",
        "hooks.d/a.toml:5: a: priority: a whole number",
        'hooks.d/b.toml:1: b: command "true" is not in allow_commands',
    ]
    assert len(problems) == len(expected), problems
    for wanted, found in zip(expected, problems, strict=True):
        assert found.startswith(wanted), found


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none.toml", None, "none.toml: file: cannot be read: No such file"),
        ("a.toml", "a = = 1", "a.toml:1: file: is not TOML"),
        ("a.toml", "[hoks]\n", 'a.toml:1: hoks: there is no section [hoks]; did you mean "hooks"?'),
        ("a.toml", "[hooks]\nmodule = []\n", 'no such key; did you mean "modules"?'),
        ("a.toml", HANDLER.replace("shell", "shel"), 'did you mean "shell"?'),
        ("a.py", "def f(:", "a.py: file: SyntaxError"),
        ("a.py", "import os\nos._exit(0)", "a.py: file: the process in which it was imported"),
        ("a.py", "1 / 0", "a.py: file: ZeroDivisionError: division by zero [line 1 <module>]"),
        ("a.toml", HANDLER + "[x]\n", "a.toml:5: file: x: no such key"),
        ("a.py", HOOK.format(name="f").replace("'orders.*'", "'hooks.kv.*', priorty=1"), "priorty"),
        ("a.py", HOOK.format(name="f").replace("orders.*", "hooks.kv.wrote"), "no event type"),
    ],
)
def test_a_mistake_is_found_in_each_kind(
    tmp_path: Path, name: str, text: str | None, expected: str
) -> None:
    """One problem, with its place, whatever the file is."""
    if text is not None:
        (tmp_path / name).write_text(text)
    (problem,) = told_in_full(tmp_path / name)
    assert expected in problem
    assert problem.count(str(tmp_path)) <= 1


def test_what_others_bring_along_is_not_missing(tmp_path: Path) -> None:
    """A table whose function is elsewhere, a function whose table is, a handler to wait for."""
    table = PYTHON.format("elsewhere").replace("hooks.handlers", "handlers") + 'after = "other"\n'
    write(tmp_path, a__toml=table, b__py=HOOK.format(name="f").replace("'orders.*'", ""))
    assert told(tmp_path / "a.toml") == []
    assert told(tmp_path / "b.py") == []


def test_a_nearly_right_name_is_no_coincidence(tmp_path: Path) -> None:
    """In one folder, a function is misspelt rather than elsewhere."""
    table = PYTHON.format("adit").replace("hooks.handlers", "handlers")
    write(tmp_path, a__toml=table, b__py=HOOK.format(name="audit"))
    (problem,) = told(tmp_path)
    assert 'did you mean "audit"?' in problem


async def test_a_module_that_never_loads_is_given_up(tmp_path: Path) -> None:
    """The process that imports it is killed with what it started."""
    note = tmp_path / "child"
    text = "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\n"
    text += f"open({str(note)!r}, 'w').write(str(child.pid))\ntime.sleep(600)\n"
    write(tmp_path, slow__py=text)
    hooks = '[hooks]\nmodules = ["slow"]\n[limits.hooks]\nhost_start_ms_max = 1500\n'
    write(tmp_path, node__toml=NODE + hooks)
    (problem,) = told(tmp_path / "node.toml")
    assert problem.startswith("node.toml:5: hooks.modules.slow: did not load in 1500 ms")
    await until(lambda: not is_alive(int(note.read_text())))


def test_the_environment_counts_as_at_the_start_of_a_node(tmp_path: Path) -> None:
    """A key that a variable overrides is checked with that value."""
    write(tmp_path, node__toml=NODE)
    (problem,) = told(tmp_path / "node.toml", TREMULA__HOOKS__DIRECTORY="5")
    assert problem.startswith("environment variable TREMULA__HOOKS__DIRECTORY: hooks.directory")
