"""Modules, the directory and entry points: what is found, and that nothing broken is in the way."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooks.configuration.discovery import load_code, read_directory
from hooks.configuration.sections import CodeSources
from hooks.limits import HookLimits

HOOK = "from hooks.registry import hook\n\n@hook('orders.*')\ndef {name}(context): ...\n"
HANDLER = '[[handlers]]\npattern = "orders.*"\ntype = "shell"\ncommand = "true"\n'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What a test imports is forgotten after it."""
    path, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def installed(folder: Path, points: str) -> None:
    """A package with these entry points, as an installer leaves it."""
    info = folder / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tremula.hooks]\n{points}\n")
    sys.path.insert(0, str(folder))


def test_the_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    """Modules and files of handlers; what is hidden, private or something else is left alone."""
    write(tmp_path, b__py="", a__py="", _shared__py="", c__toml=HANDLER, notes__txt="", d__tom="")
    write(tmp_path, **{"__hidden.toml": "="})
    found = read_directory(str(tmp_path))
    assert [Path(path).name for path in found.modules] == ["a.py", "b.py"]
    assert [table.path for table in found.tables] == [str(tmp_path / "c.toml")]
    assert found.tables[0].handlers[0].handler.name == "c"
    assert found.tables[0].handlers[0].place == f"{tmp_path}/c.toml:1"
    assert found.problems == ()


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """No directory in the configuration is none to miss."""
    (problem,) = read_directory(str(tmp_path / "none")).problems
    assert "cannot be read: No such file" in str(problem)
    assert read_directory(None).problems == ()


def test_a_pipe_in_the_directory_is_not_waited_for(tmp_path: Path) -> None:
    """To open one would block the node until somebody writes into it."""
    os.mkfifo(tmp_path / "a.toml")
    (table,) = read_directory(str(tmp_path)).tables
    assert [problem.text for problem in table.problems] == ["is no plain file"]


def test_too_many_files_are_some_other_folder(tmp_path: Path) -> None:
    """Then none of them is taken."""
    write(tmp_path, a__py="", b__py="", c__toml=HANDLER)
    found = read_directory(str(tmp_path), HookLimits(directory_files_max=2))
    assert (found.modules, found.tables) == ((), ())
    assert "3 files; at most 2" in str(found.problems[0])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = = 1", "a.toml:1: is not TOML"),
        (b"\xff", "is not UTF-8 text"),
        (b"#" * (2**20 + 1), "is larger than 1048576 bytes"),
        (b'[[handlers]]\npattern = "x"\ntype = "shel"', 'a.toml:3: type: one of "in_process"'),
    ],
)
def test_a_broken_file_says_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    """And does not hide the others."""
    (tmp_path / "a.toml").write_bytes(content)
    write(tmp_path, b__toml=HANDLER)
    broken, good = read_directory(str(tmp_path)).tables
    assert expected in str(broken.problems[0])
    assert [candidate.handler.name for candidate in good.handlers] == ["b"]


def test_functions_are_found_in_modules_and_files(tmp_path: Path) -> None:
    """A file is its own module, whatever else has its name, and finds its private neighbours."""
    write(tmp_path, my_hooks_module__py=HOOK.format(name="of_module"))
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    write(folder, _neighbour__py="NAME = 'x'\n")
    write(folder, json__py="import _neighbour\n" + HOOK.format(name="of_file"))
    sys.path.append(str(tmp_path))
    found = load_code(CodeSources(("my_hooks_module",), (str(folder / "json.py"),)))
    assert found.problems == []
    assert list(found.registry.functions) == ["of_module", "of_file"]
    assert {Path(path).name for path in found.files} >= {
        "my_hooks_module.py", "json.py", "_neighbour.py"
    }  # fmt: skip
    assert not any("site-packages" in path for path in found.files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all' ["),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero ["),
        ("raise BaseException('no')", "BaseException: no"),
        ("x = 1", "has no function with @hook"),
        (HOOK.format(name="good"), 'both register a handler "good"'),
    ],
)
def test_a_broken_module_takes_nothing_along(tmp_path: Path, text: str, expected: str) -> None:
    """Whatever it raises is its problem, with the place; the others load, and it is watched."""
    write(tmp_path, a__py=HOOK.format(name="good"), b__py=text)
    write(tmp_path, c__py=HOOK.format(name="other"))
    files = tuple(str(tmp_path / f"{name}.py") for name in "abc")
    found = load_code(CodeSources(files=files))
    assert list(found.registry.functions) == ["good", "other"]
    (problem,) = found.problems
    assert problem.name == files[1]
    assert expected in problem.text
    assert set(files) <= set(found.files)


def test_a_module_that_is_not_there_or_broken_is_told_by_its_name(tmp_path: Path) -> None:
    """The file of a broken one is known all the same, so that mending it can be noticed."""
    write(tmp_path, broken_hooks_module__py="1 / 0")
    sys.path.append(str(tmp_path))
    found = load_code(CodeSources(("no_such_module.at.all", "broken_hooks_module")))
    assert [problem.name for problem in found.problems] == [
        "no_such_module.at.all", "broken_hooks_module"
    ]  # fmt: skip
    assert found.files == [str(tmp_path / "broken_hooks_module.py")]


def test_entry_points_are_found_by_their_group(tmp_path: Path) -> None:
    """All of them, or those that are named; a module or one function."""
    write(tmp_path, sample_entry_module__py=HOOK.format(name="one") + HOOK.format(name="two"))
    installed(tmp_path, "all = sample_entry_module\nsingle = sample_entry_module:two")
    found = load_code(CodeSources(entry_points=True))
    assert list(found.registry.functions) == ["one", "two"]
    assert found.problems == []
    found = load_code(CodeSources(entry_points=("single",)))
    assert list(found.registry.functions) == ["two"]
    assert load_code(CodeSources()).registry.functions == {}


def test_entry_points_that_are_none_are_told(tmp_path: Path) -> None:
    """A name that nobody has, with the nearest; and something that is no handler."""
    write(tmp_path, sample_entry_module__py="x = 1")
    installed(tmp_path, "number = sample_entry_module:x\nmissing = sample_entry_module:y")
    found = load_code(CodeSources(entry_points=("nubmer", "number", "missing")))
    misspelt, number, missing = map(str, found.problems)
    assert '(did you mean "number"?)' in misspelt
    assert "entry point number: is neither a module nor a function with @hook" in number
    assert "has no attribute 'y'" in missing
