"""What a node runs of all that it finds, and what becomes of the rest."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from hooks.configuration.assembly import (
    Assembly,
    HandlersFile,
    as_problem,
    assemble,
    at_folder,
    handlers_file,
)
from hooks.configuration.config import HooksConfig, LoadProblem, RegisteredFunction, parse_hooks
from hooks.configuration.definition import Path
from hooks.configuration.relations import cycles_of_after
from hooks.limits import HookLimits

SHELL = {"pattern": "hooks.kv.*", "type": "shell", "command": "notify"}
PYTHON = {"pattern": "hooks.kv.*", "type": "in_process"}


def function(handler_id: str, pattern: str | None = None, **options: object) -> RegisteredFunction:
    return RegisteredFunction(
        handler_id=handler_id, where=f"m:{handler_id}", pattern=pattern, options=options
    )


def config(*handlers: Mapping[str, Any], **section: Any) -> HooksConfig:
    found, problems = parse_hooks({**section, "handlers": list(handlers)})
    assert found is not None, problems
    return found


def file(path: str, table: Mapping[str, Any]) -> HandlersFile:
    return handlers_file(path, table, lambda at: f"{path}:{_last_number(at)}")


def _last_number(path: Path) -> int:
    return next((part for part in reversed(path) if isinstance(part, int)), 0) + 1


def names(assembly: Assembly) -> list[str]:
    return [handler.name for handler in assembly.handlers]


def test_handlers_of_all_kinds_come_together_in_their_order() -> None:
    """Those of the file, of the directory and of the code, each with its definition."""
    first = {**PYTHON, "name": "first", "handler_id": "f"}
    second = file("/d/b.toml", {"handlers": [{**SHELL, "name": "second"}]})
    found = assemble(config(first), [function("f", ">"), function("third", ">")], [second])
    assert names(found) == ["first", "second", "third"]
    assert found.problems == ()
    assert found.handlers[0].pattern.text == "hooks.kv.*", "the table wins over the decorator"


def test_what_the_decorator_does_not_know_is_a_problem_of_its_function_alone() -> None:
    """With module, function, option and the nearest that @hook has, also where a table defines the
    handler; so is a bad value, and what is required is so nevertheless."""
    functions = [
        function("misspelt", ">", priorty=1, comand="x", required=True),
        function("bad", ">", priority=None),
        replace(function("odd"), options={"pattern": 5}),
        function("named", None, tiemout_ms=1),
        function("good", ">"),
    ]
    table = {**PYTHON, "name": "named", "handler_id": "named"}
    found = assemble(config(table), functions)
    assert names(found) == ["named", "good"]
    assert [str(problem) for problem in found.problems] == [
        'm:misspelt: priorty: @hook has no such option (did you mean "priority"?)',
        "m:misspelt: comand: @hook has no such option",
        "m:bad: priority: a whole number from 0 to 1000 is expected",
        "m:odd: pattern: a text is expected",
        'm:named: tiemout_ms: @hook has no such option (did you mean "timeout_ms"?)',
    ]
    assert [problem.name for problem in found.fatal] == ["misspelt", "misspelt"]


def test_a_command_that_a_node_may_not_run_is_left_out() -> None:
    """Its policy is still known, so that nodes that allow it can run it."""
    files = [file("/d/b.toml", {"handlers": [{**SHELL, "name": "second"}]})]
    rules = {"allow_commands": ["/bin/echo"]}
    found = assemble(config({**SHELL, "name": "first", "required": True}, shell=rules), [], files)
    assert names(found) == []
    refusal = 'command "notify" is not in allow_commands of [hooks.shell]'
    assert [str(problem) for problem in found.problems] == [
        f"first: {refusal}", f"/d/b.toml:1: {refusal}",
    ]  # fmt: skip
    assert [problem.handler is not None for problem in found.problems] == [True, True]
    assert [problem.name for problem in found.fatal] == ["first"]


def test_the_only_handler_of_a_file_is_called_like_it() -> None:
    """Of several, each needs a name."""
    assert file("/d/audit.toml", {"handlers": [SHELL]}).handlers[0].handler.name == "audit"
    assert file("/d/audit.toml", {"hooks": {"handlers": [SHELL]}}).handlers[0].place == (
        "/d/audit.toml:1"
    )
    two = file("/d/audit.toml", {"handlers": [SHELL, {**SHELL, "name": "b"}]})
    assert [candidate.handler.name for candidate in two.handlers] == ["b"]
    assert [str(problem) for problem in two.problems] == ["/d/audit.toml:1: name: is missing"]


def test_paths_of_a_handler_count_from_its_file() -> None:
    """A folder can be moved as a whole; what is absolute stays."""
    row = {**SHELL, "working_dir": "scripts"}
    assert file("/d/a.toml", {"handlers": [row]}).handlers[0].handler.working_dir == "/d/scripts"
    rendered = {"name": "f", "type": "file", "path": "/etc/x"}
    (handler,) = config(rendered).handlers
    assert at_folder(handler, "/d").path == "/etc/x"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, "/d/a.toml: has no [[handlers]]"),
        ({"handlers": {}}, "/d/a.toml:1: handlers: an array of tables is expected"),
        ({"handlers": [1]}, "/d/a.toml:1: handlers.0: a table is expected"),
        ({"handler": [SHELL]}, 'handler: no such key (did you mean "handlers"?)'),
        ({"hooks": 1}, "hooks: a table is expected"),
        ({"hooks": {"modules": ["m"]}}, "hooks.modules: only a node's own file says this"),
        ({"handlers": [{**SHELL, "timeout": 1}]}, "/d/a.toml:1: timeout: no such key"),
    ],
)
def test_a_broken_file_says_where(table: Mapping[str, Any], expected: str) -> None:
    """With its name, the line and the nearest spelling; it is no reason not to start."""
    found = assemble(HooksConfig(), [], [file("/d/a.toml", table)])
    assert expected in str(found.problems[0])
    assert found.fatal == ()


def test_the_good_handlers_of_a_broken_file_run() -> None:
    """Only the wrong one is left out, under its name."""
    rows = [{**SHELL, "name": "good"}, {**SHELL, "name": "bad", "priority": -1}]
    found = assemble(HooksConfig(), [], [file("/d/a.toml", {"handlers": rows})])
    assert names(found) == ["good"]
    assert [problem.name for problem in found.problems] == ["bad"]


@pytest.mark.parametrize(
    ("functions", "name", "expected"),
    [
        ([], "h", 'nothing that is loaded registers a function "f"'),
        ([function("audit")], "h", '(did you mean "audit"?)'),
        ([function("f"), function("g")], "g", "has no pattern"),
        ([function("f"), function("g", "hooks.kv.wrote")], "g", "pattern: no event type matches"),
        ([function("f"), function("g", ">", priority=-1)], "g", "priority: a whole number"),
        ([function("f"), function("g", ">", no=1)], "g", "no: @hook has no such option"),
        ([function("f"), function("h", ">")], "h", 'a second handler has the name "h"'),
        (
            [function("f"), function("g", ">", after="audti"), function("audit", ">")],
            "g",
            '"audti" to wait for (did you mean "audit"?)',
        ),
    ],
)
def test_what_does_not_fit_is_left_out_and_told(
    functions: list[RegisteredFunction], name: str, expected: str
) -> None:
    """Under the handler's name; the node goes on with the others."""
    wanted = "auidt" if [each.handler_id for each in functions] == ["audit"] else "f"
    found = assemble(config({**PYTHON, "name": "h", "handler_id": wanted}), functions)
    told = [str(problem) for problem in found.problems if problem.name == name]
    assert len(told) == 1
    assert expected in told[0]
    assert found.fatal == ()


def test_why_a_required_function_is_missing_is_told_with_it() -> None:
    """The module that did not load is a reason not to start, where its function is required."""
    row = {**PYTHON, "name": "h", "handler_id": "f"}
    unread = [LoadProblem(name="m", text="ValueError: no")]
    found = assemble(config({**row, "required": True}, modules=["m"]), [], problems=unread)
    assert [str(problem) for problem in found.fatal] == [
        "m: ValueError: no", 'h: nothing that is loaded registers a function "f"',
    ]  # fmt: skip
    assert assemble(config(row, modules=["m"]), [], problems=unread).fatal == ()


def test_a_handler_without_its_code_keeps_its_definition() -> None:
    """Its policy can be registered, so that the nodes that have the code run it."""
    found = assemble(config({**PYTHON, "name": "h", "handler_id": "f"}), [])
    (problem,) = found.problems
    assert problem.handler is not None
    assert problem.handler.name == "h"
    assert problem.path == ("hooks", "handlers", 0, "handler_id")


def test_of_two_handlers_of_one_name_the_first_runs() -> None:
    """And the second one says where the first stands."""
    first = file("/d/a.toml", {"handlers": [{**SHELL, "name": "x", "priority": 1}]})
    second = file("/d/b.toml", {"handlers": [{**SHELL, "name": "x", "priority": 2}]})
    found = assemble(HooksConfig(), [], [first, second])
    assert [handler.priority for handler in found.handlers] == [1]
    (problem,) = found.problems
    assert str(problem) == (
        '/d/b.toml:1: a second handler has the name "x"; the first is in /d/a.toml:1'
    )
    assert problem.handler is None, "or the cluster would take it for the first one's policy"


@pytest.mark.parametrize(("section", "row"), [({"required": True}, {}), ({}, {"required": True})])
def test_what_is_required_must_load(section: dict[str, Any], row: dict[str, Any]) -> None:
    """Said of everything or of one handler, whether its function or its table is what is wrong."""
    handler = {**PYTHON, "name": "h", "handler_id": "f", **row}
    found = assemble(config(handler, **section), [])
    assert found.fatal == found.problems != ()
    broken = file("/d/a.toml", {"handlers": [{**SHELL, "priority": -1, **row}]})
    assert len(assemble(config(**section), [], [broken]).fatal) == 1
    decorated = function("g", ">", priority=-1, **row)
    assert len(assemble(config(**section), [decorated]).fatal) == 1


def test_problems_of_code_lead_to_the_key_that_named_it() -> None:
    """As a problem of the node's file, each has a path in it."""
    here = config(modules=["m"], directory="/d", entry_points=True)
    told = [
        LoadProblem(name=name, text="broken")
        for name in ("m", "/d/a.py", "entry point p", "Python code")
    ]
    found = assemble(here, [], problems=told)
    assert [str(as_problem(problem)) for problem in found.problems] == [
        "hooks.modules.m: broken",
        "hooks.directory.a.py: broken",
        "hooks.entry_points.p: broken",
        "hooks: broken",
    ]


def test_a_handler_that_publish_topics_silences_is_left_out() -> None:
    """A handler of the directory that would never run is told like any other mistake."""
    table = {"handlers": [{**SHELL, "name": "h"}]}
    found = assemble(config(publish_topics=["hooks.cluster.>"]), [], [file("/d/a.toml", table)])
    assert names(found) == []
    assert "would never run" in str(found.problems[0])


def test_too_many_handlers_are_left_out() -> None:
    """The first ones run."""
    functions = [function(f"f{number}", ">") for number in range(4)]
    found = assemble(HooksConfig(), functions, limits=HookLimits(handlers_max=3))
    assert names(found) == ["f0", "f1", "f2"]
    assert "at most 3 handlers" in str(found.problems[0])


def test_rings_of_after_are_left_out_as_a_whole() -> None:
    """None of them would ever start; who waits for one of them does not wait for what is gone."""
    functions = [
        function("a", ">", after="b"),
        function("b", ">", after=["d", "c"]),
        function("c", ">", after="a"),
        function("d", ">"),
        function("e", ">", after="a"),
    ]
    found = assemble(HooksConfig(), functions)
    assert names(found) == ["d", "e"]
    assert [problem.name for problem in found.problems] == ["a", "b", "c"]
    assert "a after b after c after a" in str(found.problems[0])


def test_a_name_that_may_not_have_loaded_is_not_called_unknown() -> None:
    """While a module is broken, nobody knows what it would have registered."""
    functions = [function("a", ">", after="of_the_broken_module")]
    found = assemble(HooksConfig(), functions, problems=[LoadProblem(name="m", text="broken")])
    assert names(found) == ["a"]
    found = assemble(HooksConfig(), functions)
    assert names(found) == []


@pytest.mark.parametrize(
    ("waits", "rings"),
    [
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, []),
        ({"a": ["b"], "b": ["a"]}, [("a", "b")]),
        ({"a": ["x"], "b": ["c"], "c": ["d"], "d": ["b", "a"]}, [("b", "c", "d")]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, [("a", "b"), ("c", "d")]),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, []),
    ],
)
def test_rings_are_found(waits: dict[str, list[str]], rings: list[tuple[str, ...]]) -> None:
    """Each ring once, and none where two ways lead to the same handler."""
    functions = [function(name, ">", after=after) if after else function(name, ">")
                 for name, after in waits.items()]  # fmt: skip
    told = LoadProblem(name="m", text="")  # so that nothing is unknown
    everything = [
        handler
        for name in waits
        for handler in assemble(
            HooksConfig(), [f for f in functions if f.handler_id == name], problems=[told]
        ).handlers
    ]
    assert cycles_of_after(everything) == rings
