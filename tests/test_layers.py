"""The shape of the house: who imports whom, and what deciding code must not know.

What ARCHITECTURE.md draws is checked here on the source itself, without importing it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("simulation", "cluster", "hooks", "pubsub")  # each may import those behind it
LINES_MAX = 600
FUNCTION_LINES_MAX = 70

DECIDING = (
    "pubsub/*.py",
    "hooks/execution/attempt.py",
    "hooks/events/catalogue.py",
    "hooks/events/schema.py",
    "hooks/configuration/capture.py",
    "hooks/configuration/assembly.py",
    "hooks/configuration/config.py",
    "hooks/configuration/definition.py",
    "hooks/configuration/handlers.py",
    "hooks/clauses.py",
    "hooks/conditions.py",
    "hooks/delivery.py",
    "hooks/effects.py",
    "hooks/handlers/frames.py",
    "hooks/handlers/renderers.py",
    "hooks/configuration/keys.py",
    "hooks/configuration/locate.py",
    "hooks/configuration/parsers.py",
    "hooks/configuration/relations.py",
    "hooks/configuration/sections.py",
    "hooks/expression.py",
    "hooks/facts.py",
    "hooks/limits.py",
    "hooks/routing.py",
    "hooks/control/explain.py",
    "hooks/control/metrics.py",
    "hooks/control/whereabouts.py",
    "hooks/execution/batches.py",
    "hooks/execution/breaker.py",
    "hooks/execution/coalescing.py",
    "hooks/execution/history.py",
    "hooks/execution/lane.py",
    "hooks/execution/partition.py",
    "hooks/execution/placement.py",
    "hooks/execution/progress.py",
    "hooks/events/publisher.py",
    "hooks/execution/rates.py",
    "hooks/execution/retry.py",
    "hooks/execution/shaping.py",
    "hooks/execution/starts.py",
    "hooks/replicated/*.py",
    "hooks/execution/waiting_for.py",
    "hooks/execution/work.py",
    "cluster/administration.py",
    "cluster/belonging.py",
    "cluster/divergence.py",
    "cluster/entry.py",
    "cluster/errors.py",
    "cluster/kv.py",
    "cluster/letters.py",
    "cluster/limits.py",
    "cluster/machine.py",
    "cluster/operations.py",
    "cluster/protocol.py",
    "cluster/publishing.py",
    "cluster/reachability.py",
    "cluster/registry.py",
    "cluster/sessions.py",
    "cluster/transactions.py",
    "cluster/client/call.py",
    "cluster/client/window.py",
    "cluster/config/address.py",
    "cluster/config/models.py",
    "cluster/config/relations.py",
    "cluster/raft/clock.py",
    "cluster/raft/consensus.py",
    "cluster/raft/core.py",
    "cluster/raft/driver.py",
    "cluster/raft/gathering.py",
    "cluster/raft/membership.py",
    "cluster/raft/messages.py",
    "cluster/raft/peers.py",
    "cluster/raft/proposals.py",
    "cluster/raft/reads.py",
    "cluster/raft/replication.py",
    "cluster/raft/snapshot.py",
    "cluster/transfer/records.py",
)
OUTSIDE_WORLD = frozenset(
    (
        "asyncio", "logging", "multiprocessing", "os", "random", "secrets", "selectors", "signal",
        "socket", "ssl", "subprocess", "tempfile", "threading", "time", "trio", "uuid",
    )
)  # fmt: skip
EXCEPTIONS = {
    ("cluster/raft/consensus.py", "random"): "the type of the generator that it is given",
    ("hooks/execution/partition.py", "trio"): "the type of the scope that the service keeps there",
}

# What the Raft package may know of the node around it: no state machine, no server, no node.
RAFT_KNOWS = ("cluster.errors", "cluster.net", "cluster.operations", "cluster.security.tls")

# Who may look at the environment: the entry points, which hand it on.
READS_ENVIRONMENT = ("cluster/cli/", "cluster/daemon.py")


def _sources(*packages: str) -> list[Path]:
    return sorted(path for name in packages for path in (ROOT / name).rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, for types alone or not."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{_name(path)}: imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    """simulation -> cluster -> hooks -> pubsub, never back, and nothing imports the tests."""
    above = (*PACKAGES[: PACKAGES.index(package)], "tests")
    wrong = [
        f"{_name(path)} imports {module}"
        for path in _sources(package)
        for module in _imports(path)
        if module.partition(".")[0] in above
    ]
    assert wrong == []


def test_raft_knows_no_state_machine() -> None:
    """cluster/raft declares what it needs of the state; only the node composes the two."""
    wrong = [
        f"{_name(path)} imports {module}"
        for path in _sources("cluster/raft")
        for module in _imports(path)
        if module.partition(".")[0] in PACKAGES
        and not module.startswith(("cluster.raft", *RAFT_KNOWS))
    ]
    assert wrong == []


@pytest.mark.parametrize("pattern", DECIDING)
def test_deciding_code_does_not_know_the_outside_world(pattern: str) -> None:
    """No clock, no randomness, no sockets, no files, no tasks where decisions are made."""
    paths = sorted(ROOT.glob(pattern))
    assert paths, f"{pattern} names no file any more"
    for path in paths:
        known = {module.partition(".")[0] for module in _imports(path)} & OUTSIDE_WORLD
        excused = {module for name, module in EXCEPTIONS if name == _name(path)}
        assert known == excused, _name(path)


def test_one_module_knows_pysyncobj() -> None:
    """Its private names, and the name of its module, stand in consensus.py alone."""
    knowing = [
        _name(path)
        for path in _sources(*PACKAGES)
        if "_SyncObj__" in path.read_text()
        or "pysyncobj" in {module.partition(".")[0] for module in _imports(path)}
    ]
    assert knowing == ["cluster/raft/consensus.py"]


def test_nobody_knows_trios_private_names() -> None:
    """Whatever begins with an underscore in trio may change with any release: one file of the
    simulator turns such switches, and tests/simulation/test_canary.py looks at them."""
    pattern = re.compile(r"\btrio(\.\w+)*\._\w")
    knowing = [_name(p) for p in _sources(*PACKAGES) if pattern.search(p.read_text())]
    assert knowing == ["simulation/node/determinism.py"]


def test_nothing_turns_data_into_code() -> None:
    """No pickle, no eval, no shell that is not asked for by its argument vector."""
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    calls = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    wrong: list[str] = []
    for path in _sources(*PACKAGES):
        wrong += [f"{_name(path)}: {m}" for m in _imports(path) if m.partition(".")[0] in modules]
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in calls:
                wrong.append(f"{_name(path)}:{node.lineno} calls {ast.unparse(node.func)}")
            if ast.unparse(node.func) == "HooksConfig":
                continue  # whose `shell` is the section [hooks.shell]
            for keyword in node.keywords:
                if keyword.arg == "shell" and ast.unparse(keyword.value) != "False":
                    wrong.append(f"{_name(path)}:{node.lineno} passes shell=")
    assert wrong == []


def test_only_entry_points_read_the_environment() -> None:
    """Everything else is given what it needs of it."""
    reading = [
        f"{_name(path)}:{node.lineno}"
        for path in _sources(*PACKAGES)
        if not _name(path).startswith(READS_ENVIRONMENT)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    ]
    assert reading == []


def test_every_module_says_what_it_is_for() -> None:
    """A docstring first, in tests too; only empty files have none."""
    silent = [
        _name(path)
        for path in _sources(*PACKAGES, "tests")
        if path.read_text().strip() and not ast.get_docstring(_tree(path))
    ]
    assert silent == []


def test_every_test_says_what_it_shows() -> None:
    """One sentence of behaviour in each test's docstring."""
    silent = [
        f"{_name(path)}: {function.name}"
        for path in _sources("tests")
        for function in _functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_files_and_functions_stay_small() -> None:
    """A file of 600 lines wants to be two, and a function fits on a screen."""
    large: list[str] = []
    for path in _sources(*PACKAGES, "tests"):
        lines = len(path.read_text().splitlines())
        if lines > LINES_MAX:
            large.append(f"{_name(path)}: {lines} lines")
        for function in _functions(path):
            size = (function.end_lineno or function.lineno) - function.lineno + 1
            if size > FUNCTION_LINES_MAX:
                large.append(f"{_name(path)}: {function.name} has {size} lines")
    assert large == []


def test_no_file_is_named_for_everything() -> None:
    """A file is named by its noun; these names say that nobody knew it."""
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert [_name(p) for p in _sources(*PACKAGES, "tests") if p.stem in vague] == []
