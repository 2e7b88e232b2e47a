"""The documents are true where a machine can tell: links, names, commands, the README's tour."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from cluster import __version__
from cluster.cli.app import app
from cluster.config import NodeConfig, load
from hooks.configuration.config import with_registered
from hooks.execution.attempt import Succeeded
from hooks.handlers.inprocess import InlineRunner
from hooks.registry import Registry
from pubsub.events import Event
from tests.hooks.workbench import CLUSTER_ID, ListLog, attempt

ROOT = Path(__file__).parents[1]
README, ARCHITECTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md"
DOCUMENTS = (
    README, ARCHITECTURE, ROOT / "CHANGELOG.md", ROOT / "tests" / "peers" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)  # fmt: skip
DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
TOUR_S = 60.0  # three interpreters that start on two busy cores, and a dozen commands

# The words of the house (one meaning each); "planned" ones included, so that none is used up.
TERMS = """
    node, voter, learner, leader, follower, candidate, term, log index, commit, apply, snapshot,
    quorum, event, topic, pattern, revision, consumer group, member, generation, partition, cursor,
    ack, nack, redelivery, dead letter, retention, hook, handler, attempt, backoff, fencing token,
    effect, job, queue, claim, schedule, slot, endpoint, delivery, signature, floor, completion,
    checkpoint, operation, entry, client session, retry window, rejection, uid, founder, outsider,
    configuration, bookmark, credit, digest, wall clock, elapsed clock, handler host, hand-over
"""
# What looks like a path of the repository and is none: files that the README lets its reader make,
# a prefix of keys, a folder in a data directory.
NOT_OURS = ("my_hooks.py", "hooks.toml", "handled/", "forgotten-N/")

_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?<![\w./-])[\w.-]+(?:/[\w.{},-]+)*(?:\.(?:py|toml|md)\b|/(?=[\s`,|)]))")
_TEST = re.compile(r"\btest_\w+\b(?!\.py)")
_ATTRIBUTE = re.compile(r"`([A-Z]\w+)\.(\w+)`")


def _blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(document.read_text()) if kind == language]


def _anchors(document: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a document."""
    text = _BLOCK.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file that is there, and a heading that is in it."""
    broken: list[str] = []
    for link in _LINK.findall(document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def _spread(path: str) -> Iterator[str]:
    """`configs/three-node/{a,b,c}.toml` is three files."""
    match = re.search(r"\{([^}]*)\}", path)
    if match is None:
        yield path
        return
    for choice in match[1].split(","):
        yield from _spread(path[: match.start()] + choice + path[match.end() :])


def _is_there(name: str, document: Path) -> bool:
    """A path from the root, or in a picture a name below a folder that the picture names. An empty
    folder is not there: git does not keep it."""
    pictures = _pictures(document)
    folders = ["", *sorted({f"{found}/" for found in re.findall(r"\w+(?:/\w+)*(?=/)", pictures)})]
    paths = [ROOT / folder / name for folder in folders]
    files = (file for path in paths for file in (path, *path.rglob("*")) if file.is_file())
    return any(file.suffix != ".pyc" for file in files)


@cache
def _pictures(document: Path) -> str:
    return "\n".join(_blocks(document, "text"))


@pytest.mark.parametrize("document", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_every_file_that_is_named_exists(document: Path) -> None:
    """Whoever follows a name finds the file; one that is renamed takes its mention along."""
    text = re.sub(r"\]\([^)]*\)|https?://\S+", "", document.read_text())
    names = {name for match in _PATH.findall(text) for name in _spread(match)}
    assert len(names) > 10
    missing = [
        name
        for name in sorted(names)
        if name not in NOT_OURS and not name.startswith(".") and not _is_there(name, document)
    ]
    assert missing == []


@cache
def _definitions() -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """The names of all tests, and (class, method) of the packages."""
    tests: set[str] = set()
    methods: set[tuple[str, str]] = set()
    for folder in ("tests", "pubsub", "hooks", "cluster", "simulation"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    tests.add(node.name)
                elif isinstance(node, ast.ClassDef):
                    methods.update(
                        (node.name, item.name)
                        for item in node.body
                        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                    )
    return frozenset(tests), frozenset(methods)


def test_the_architecture_names_tests_and_methods_that_exist() -> None:
    """The table of the hardening leads to its code and to what would fail without it."""
    text = ARCHITECTURE.read_text()
    tests, methods = _definitions()
    assert [name for name in _TEST.findall(text) if name not in tests] == []
    named = _ATTRIBUTE.findall(text)
    assert len(named) > 10
    assert [name for name in named if name not in methods] == []


def _verbs(group: TyperGroup, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _verbs(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def _command_line() -> TyperGroup:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return root


def test_every_verb_of_the_command_line_is_documented() -> None:
    """Each command stands in a document with its whole name."""
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    assert [verb for verb in _verbs(_command_line(), "cluster") if verb not in text] == []


def _tour() -> list[list[list[str]]]:
    """The lines of the README's shell blocks that call `cluster`, block by block."""
    blocks = [
        [shlex.split(line, comments=True) for line in block.splitlines()]
        for block in _blocks(README, "sh")
    ]
    calls = [[line for line in block if line and line[0] == "cluster"] for block in blocks]
    return [block for block in calls if block]


def test_the_commands_of_the_readme_parse() -> None:
    """No command, option or argument in the README that the command line does not have."""
    lines = [line for block in _tour() for line in block]
    assert len(lines) > 10
    for line in lines:
        command: Any = _command_line()
        rest = line[1:]
        while isinstance(command, TyperGroup):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(" ".join(line), rest)  # raises on what it does not know


def test_the_scripts_verbs_are_those_of_the_readme() -> None:
    """`./dev` has the verbs that the documents use."""
    usage = subprocess.run(
        [ROOT / "dev", "help"], capture_output=True, text=True, check=True
    ).stdout
    text = README.read_text() + ARCHITECTURE.read_text()
    used = set(re.findall(r"\./dev (\w+)", text))
    assert {"up", "test"} <= used
    assert [verb for verb in sorted(used) if f"\n  {verb} " not in usage] == []


def _hook_module() -> ModuleType:
    """The README's Python hook, as the handler host would load it."""
    module = ModuleType("my_hooks")
    source = next(block for block in _blocks(README, "python") if "@hook" in block)
    exec(compile(source, "README.md", "exec"), module.__dict__)
    return module


def _hook_configuration(folder: Path) -> NodeConfig:
    """The README's hooks.toml in a node's file, as `cluster dev --hooks` puts it there."""
    (hooks,) = _blocks(README, "toml")
    file = folder / "a.toml"
    file.write_text(f'[node]\nname = "a"\ndata_dir = "a"\n\n{hooks}')
    return load(file, {})


def test_the_python_of_the_readme_compiles() -> None:
    """Every Python block is a program."""
    blocks = _blocks(README, "python")
    assert len(blocks) >= 2
    for block in blocks:
        ast.parse(block)


def test_the_configuration_of_the_readme_is_accepted(tmp_path: Path) -> None:
    """Its handlers and those of the module fit together without a problem."""
    config = _hook_configuration(tmp_path)
    registry = Registry().collect([_hook_module()])
    handlers, problems = with_registered(config.hooks, registry.found)
    assert problems == []
    assert [handler.name for handler in handlers] == ["audit", "note_order"]


async def test_the_hook_of_the_readme_returns_its_effect(tmp_path: Path) -> None:
    """The example handler does what the text around it says."""
    registry = Registry().collect([_hook_module()])
    handlers, _ = with_registered(_hook_configuration(tmp_path).hooks, registry.found)
    handler = next(handler for handler in handlers if handler.name == "note_order")
    data = (b'{"id": 2}', "application/json", None)
    event = Event(7, "orders.created", "order-2", data, None, None, None, 0, None, 0, 5, 0, 30)
    outcome = await InlineRunner(registry, ListLog()).execute(attempt(handler, event))
    assert isinstance(outcome, Succeeded)
    (effect,) = outcome.effects
    assert effect.to_wire() == ["put", ["handled/order-2", f"{CLUSTER_ID}-7".encode(), None, None]]


def test_the_tour_of_the_readme_works(tmp_path: Path) -> None:
    """Every `cluster` line against three real nodes, first without hooks, then with them."""
    source = next(block for block in _blocks(README, "python") if "@hook" in block)
    (tmp_path / "my_hooks.py").write_text(source)
    (tmp_path / "hooks.toml").write_text(_blocks(README, "toml")[0])
    command = tmp_path / "cluster"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cluster.cli "$@"\n')
    command.chmod(0o755)
    before, *after = _tour()
    assert "hello" in _dev(tmp_path, before)
    told = _dev(tmp_path, [line for block in after for line in block], "--hooks", "hooks.toml")
    assert "handled/order-2" in told
    # each write of the second part, and nothing of the first: handlers start at "latest"
    written = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert "handled/order-2" in [event["subject"] for event in written]
    assert "greeting" not in [event["subject"] for event in written]


def _dev(folder: Path, lines: list[list[str]], *options: str) -> str:
    """Run lines of the tour inside `cluster dev`; what they printed."""
    script = folder / "tour.sh"
    script.write_text("set -ex\n" + "\n".join(map(shlex.join, lines)))
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    tour = subprocess.run(
        ["cluster", "dev", "--data", "nodes", *options, "--", "sh", str(script)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=TOUR_S, check=False,
    )  # fmt: skip
    assert tour.returncode == 0, tour.stderr[-2000:]
    return tour.stdout


def test_the_glossary_has_the_words_of_the_house() -> None:
    """Each term has an entry, and none has two."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    heads = [line.split("|")[1] for line in text.splitlines() if line.startswith("| **")]
    entries = [term for head in heads for term in re.findall(r"\*\*([^*]+)\*\*", head)]
    assert [term for term in map(str.strip, TERMS.split(",")) if term not in entries] == []
    assert [term for term in entries if entries.count(term) > 1] == []


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_and_until_when(decision: Path) -> None:
    """Context, decision, consequences, what would reverse it; and the list of decisions has it."""
    text = decision.read_text()
    assert text.startswith((f"# {decision.stem[:4]}: ", f"# {decision.stem[:4]}. "))
    parts = ("Context", "Decision", "Consequences", "What would reverse it")
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert f"({decision.name})" in (decision.parent / "README.md").read_text()


def test_decisions_are_numbered_without_a_gap() -> None:
    """No number is missing or given twice."""
    numbers = [int(decision.stem[:4]) for decision in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))


def test_the_changelog_knows_this_version() -> None:
    """It has the standard form, and names the version that the packages have."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert __version__ in text


def test_nothing_is_left_for_later() -> None:
    """No marks of unfinished writing in any document."""
    marks = re.compile(r"\b(TODO|TBD|FIXME|XXX)\b|lorem ipsum", re.IGNORECASE)
    assert [d.name for d in DOCUMENTS if marks.search(d.read_text())] == []
