"""The keys of a handler: what each takes, what it refuses, and what two of them say together."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path as FilePath
from typing import Any

import pytest
import tomli

from hooks.conditions import Condition, condition
from hooks.configuration.config import SECTION_KEYS, parse_handler
from hooks.configuration.definition import (
    LOCAL_KEYS,
    HandlerDefinition,
    OnFailure,
    OrderBy,
    Rate,
    Renderer,
    Scope,
)
from hooks.configuration.keys import KEYS, NOT_YET
from hooks.delivery import TRIGGER_HEADER, TRIGGER_TOPIC, deliver
from hooks.limits import HookLimits
from tests.hooks.workbench import write_event

SHELL = {"name": "h", "pattern": "hooks.kv.*", "type": "shell", "command": "notify"}
PYTHON = {"name": "h", "pattern": "hooks.kv.*", "type": "in_process", "handler_id": "f"}
FILE = {"name": "h", "type": "file", "path": "/etc/hosts.d/cluster"}

# Key, a value, what the definition has then, other keys that it needs. Each key stands here.
GOOD: list[tuple[str, Any, Any, Mapping[str, Any]]] = [
    ("name", "a.b-c_1", "a.b-c_1", SHELL),
    ("execution_mode", "direct", None, SHELL),
    ("type", "shell", "shell", SHELL),
    ("version", 3, 3, SHELL),
    ("filter", 'event.key == "a"', 'event.key == "a"', SHELL),
    ("scope", "node", Scope.NODE, SHELL),
    ("scope", "leader", Scope.LEADER, SHELL),
    ("selector", {"b": "2", "a": "1"}, (("a", "1"), ("b", "2")), {**SHELL, "scope": "selector"}),
    ("partitions", 1, 1, SHELL),
    ("order_by", "handler", OrderBy.HANDLER, SHELL),
    ("start", "earliest", "earliest", SHELL),
    ("start", 7, 7, SHELL),
    ("priority", 0, 0, SHELL),
    ("after", "audit", ("audit",), SHELL),
    ("after", ["b", "a"], ("b", "a"), SHELL),
    ("concurrency", 1, 1, SHELL),
    ("rate_limit", "10/s", Rate(10, 1_000), SHELL),
    ("rate_limit", "5/h", Rate(5, 3_600_000), SHELL),
    ("rate_limit", "360000000/h", Rate(360_000_000, 3_600_000), SHELL),
    ("rate_limit_per_key", "100/m", Rate(100, 60_000), SHELL),
    ("debounce_ms", 500, 500, SHELL),
    ("debounce_ms_max", 900, 900, {**SHELL, "debounce_ms": 500}),
    ("throttle_ms", 86_400_000, 86_400_000, SHELL),
    ("batch_max", 128, 128, SHELL),
    ("batch_wait_ms", 50, 50, {**SHELL, "batch_max": 2}),
    ("timeout_ms", 1, 1, SHELL),
    ("retry_count", 0, 0, SHELL),
    ("on_failure", "block", OnFailure.BLOCK, SHELL),
    ("breaker_failures", 5, 5, SHELL),
    ("breaker_open_ms", 100, 100, {**SHELL, "breaker_failures": 5}),
    ("report_executions", True, True, SHELL),
    ("enabled", False, False, SHELL),
    ("required", True, True, SHELL),
    ("handler_id", "g", "g", PYTHON),
    ("command", "a 'b c'", ("a", "b c"), SHELL),
    ("command", ["a", "b c"], ("a", "b c"), SHELL),
    ("shell", True, True, SHELL),
    ("working_dir", "/tmp", "/tmp", SHELL),
    ("env", ["PATH", "_x1"], ("PATH", "_x1"), SHELL),
    ("output_bytes_max", 0, 0, SHELL),
    ("final_exit_codes", [65, 64, 65], (64, 65), SHELL),
    ("cpu_seconds_max", 1, 1, SHELL),
    ("memory_bytes_max", 1 << 20, 1 << 20, SHELL),
    ("open_files_max", 8, 8, SHELL),
    ("file_bytes_max", 0, 0, SHELL),
    ("path", "/a/b", "/a/b", FILE),
    ("renderer", "file_sd", Renderer.FILE_SD, FILE),
    ("source", "targets/", "targets/", FILE),
    ("source", "members", "members", FILE),
    ("domain", "cluster.internal", "cluster.internal", FILE),
    ("port", 65_535, 65_535, {**FILE, "renderer": "file_sd"}),
    ("labels", {"b": "", "a": "x"}, (("a", "x"), ("b", "")), {**FILE, "renderer": "file_sd"}),
    ("mode", 0o600, 0o600, FILE),
    ("mode", 0o444, 0o444, FILE),
]

# Key, a value that it refuses, what the problem says, other keys.
BAD: list[tuple[str, Any, str, Mapping[str, Any]]] = [
    ("name", "", "name: 1 to 128 of the characters", SHELL),
    ("name", "a@b", "name: 1 to 128 of the characters", SHELL),
    ("execution_mode", "dircet", 'did you mean "direct"?', SHELL),
    ("type", "job", '"job": there are no jobs yet', PYTHON),
    ("version", 0, "version: a whole number from 1", SHELL),
    ("version", "1", "version: a whole number from 1", SHELL),
    ("filter", "", "filter: a non-empty text", SHELL),
    ("filter", 5, "filter: a non-empty text", SHELL),
    ("filter", "event.key ==", "filter: ", SHELL),
    ("scope", "nodes", 'did you mean "node"?', SHELL),
    ("selector", "zone", "selector: a table of texts", {**SHELL, "scope": "selector"}),
    ("selector", {}, "0 labels; 1 to 32 are expected", {**SHELL, "scope": "selector"}),
    ("selector", {"zone": 1}, "selector: 1: 1 to 63", {**SHELL, "scope": "selector"}),
    ("selector", {"a b": "c"}, "selector: 'a b': 1 to 63", {**SHELL, "scope": "selector"}),
    ("partitions", 12, "partitions: a power of two", SHELL),
    ("partitions", 0, "partitions: a whole number from 1", SHELL),
    ("order_by", "keys", 'did you mean "key"?', SHELL),
    ("start", "earlest", 'did you mean "earliest"?', SHELL),
    ("start", True, 'start: "latest", "earliest" or a revision', SHELL),
    ("priority", 1_001, "priority: a whole number from 0 to 1000", SHELL),
    ("after", [], "after: the name of a handler", SHELL),
    ("after", ["a", "a"], '"a" stands here twice', SHELL),
    ("after", ["a b"], "after: 1 to 128 of the characters", SHELL),
    ("after", [f"h{n}" for n in range(17)], "after: 17 names; at most 16", SHELL),
    ("concurrency", 0, "concurrency: a whole number from 1 to 256", SHELL),
    ("rate_limit", "10", 'rate_limit: "10" is no rate', SHELL),
    ("rate_limit", 10, 'rate_limit: "10" is no rate', SHELL),
    ("rate_limit", "0/s", "is no rate", SHELL),
    ("rate_limit", "100001/s", "rate_limit: at most 100000 starts a second", SHELL),
    ("rate_limit_per_key", "99999999999/h", "at most 100000 starts a second", SHELL),
    ("rate_limit_per_key", "1/d", 'rate_limit_per_key: "1/d" is no rate', SHELL),
    ("debounce_ms", -1, "debounce_ms: a whole number from 0 to 86400000", SHELL),
    ("debounce_ms_max", "1s", "debounce_ms_max: a whole number", {**SHELL, "debounce_ms": 1}),
    ("throttle_ms", 86_400_001, "throttle_ms: a whole number from 0 to 86400000", SHELL),
    ("batch_max", 129, "batch_max: a whole number from 1 to 128", SHELL),
    ("batch_wait_ms", 1.5, "batch_wait_ms: a whole number", {**SHELL, "batch_max": 2}),
    ("timeout_ms", 0, "timeout_ms: a whole number from 1 to 30000", SHELL),
    ("retry_count", 11, "retry_count: a whole number from 0 to 10", SHELL),
    ("on_failure", "dead-letter", 'did you mean "dead_letter"?', SHELL),
    ("breaker_failures", 1_001, "breaker_failures: a whole number from 0 to 1000", SHELL),
    ("breaker_open_ms", 0, "breaker_open_ms: a whole number", {**SHELL, "breaker_failures": 1}),
    ("report_executions", "all", "report_executions: true or false", SHELL),
    ("enabled", 1, "enabled: true or false", SHELL),
    ("required", "yes", "required: true or false", SHELL),
    ("handler_id", "", "handler_id: a non-empty text", PYTHON),
    ("command", ["a", 1], "command: every argument must be a text", SHELL),
    ("shell", "sh", "shell: true or false", SHELL),
    ("working_dir", "", "working_dir: a non-empty text", SHELL),
    ("env", "PATH", "env: a list of names", SHELL),
    ("env", [f"A{n}" for n in range(101)], "env: at most 100 names", SHELL),
    ("output_bytes_max", 2**20 + 1, "output_bytes_max: a whole number from 0 to 1048576", SHELL),
    ("final_exit_codes", [0], "final_exit_codes: a list of exit codes from 1 to 255", SHELL),
    ("final_exit_codes", 64, "final_exit_codes: a list of exit codes", SHELL),
    ("cpu_seconds_max", 0, "cpu_seconds_max: a whole number from 1 to 86400", SHELL),
    ("memory_bytes_max", 1, "memory_bytes_max: a whole number from 1048576", SHELL),
    ("open_files_max", 3, "open_files_max: a whole number from 8", SHELL),
    ("file_bytes_max", -1, "file_bytes_max: a whole number from 0", SHELL),
    ("path", "/etc/", "path: the path of a file is expected, not of a folder", FILE),
    ("renderer", "host", 'did you mean "hosts"?', FILE),
    ("source", "member", 'did you mean "members"?', FILE),
    ("source", "k" * 1025, "source: longer than 1024 bytes", FILE),
    ("domain", "a..b", "domain: a domain name is expected", FILE),
    ("domain", ".a", "domain: a domain name is expected", FILE),
    ("port", 0, "port: a whole number from 1 to 65535", {**FILE, "renderer": "file_sd"}),
    ("labels", {"a-b": "x"}, "'a-b' is no label name", {**FILE, "renderer": "file_sd"}),
    ("labels", {"a": 1}, "labels: a table of texts", {**FILE, "renderer": "file_sd"}),
    ("mode", 644, "mode: permissions like 0o644", FILE),
    ("mode", 400, "mode: permissions like 0o644", FILE),
    ("mode", 0o755, "mode: permissions like 0o644", FILE),
    ("mode", True, "mode: permissions like 0o644", FILE),
]

CONTRADICTIONS: list[tuple[Mapping[str, Any], str]] = [
    ({**SHELL, "order_by": "handler", "partitions": 4}, "partitions: order_by"),
    ({**SHELL, "order_by": "handler", "concurrency": 2}, "concurrency: order_by"),
    ({**SHELL, "debounce_ms": 5, "throttle_ms": 5}, "throttle_ms: debounce_ms already"),
    ({**SHELL, "debounce_ms": 5, "batch_max": 2}, "debounce_ms: keeps only the newest"),
    ({**SHELL, "throttle_ms": 5, "batch_max": 2}, "throttle_ms: keeps only the newest"),
    ({**SHELL, "debounce_ms_max": 5}, "debounce_ms_max: without debounce_ms"),
    ({**SHELL, "debounce_ms": 5, "debounce_ms_max": 4}, "must not be below debounce_ms (5)"),
    ({**SHELL, "batch_wait_ms": 5}, "batch_wait_ms: without batch_max"),
    ({**SHELL, "breaker_open_ms": 5}, "breaker_open_ms: without breaker_failures"),
    (
        {**SHELL, "pattern": "hooks.hook.*", "report_executions": True},
        "report_executions: of events below hooks.hook. nothing is reported",
    ),
    ({**SHELL, "scope": "selector"}, "selector: is missing"),
    ({**SHELL, "selector": {"a": "b"}}, 'selector: only the scope "selector"'),
    ({**SHELL, "scope": "node", "selector": {"a": "b"}}, 'only the scope "selector"'),
    ({**SHELL, "after": "h"}, "after: a handler cannot wait for itself"),
    ({**SHELL, "after": ["a", "h"]}, "after: a handler cannot wait for itself"),
    ({**SHELL, "path": "/x"}, 'path: only a handler of type "file"'),
    ({**PYTHON, "final_exit_codes": [1]}, 'only a handler of type "shell"'),
    ({**PYTHON, "mode": 0o600}, 'mode: only a handler of type "file"'),
    ({**FILE, "command": "x"}, 'command: only a handler of type "shell"'),
    ({**FILE, "handler_id": "x"}, 'handler_id: only a handler of type "in_process"'),
    ({**FILE, "scope": "cluster"}, 'scope: a file is rendered on every node: "node"'),
    ({**FILE, "order_by": "key"}, 'order_by: a file is one thing: "handler"'),
    ({**FILE, "partitions": 2}, "partitions: order_by"),
    ({**FILE, "port": 1}, 'port: only the renderer "file_sd"'),
    ({**FILE, "labels": {"a": "b"}}, 'labels: only the renderer "file_sd"'),
    ({**FILE, "renderer": "file_sd", "domain": "a"}, 'domain: only the renderer "hosts"'),
    ({"name": "h", "type": "file"}, "path: is missing"),
    ({"type": "shell", "pattern": ">", "command": "x"}, "name: is missing"),
    ({"name": "h", "type": "shell", "command": "x"}, "pattern: is missing"),
    ({"name": "h", "pattern": ">"}, "type: is missing"),
]


def problems_of(table: Mapping[str, Any]) -> list[str]:
    definition, problems = parse_handler(table)
    assert (definition is None) == bool(problems)
    return [str(problem) for problem in problems]


def parsed(table: Mapping[str, Any]) -> HandlerDefinition:
    definition, problems = parse_handler(table)
    assert definition is not None, problems
    return definition


@pytest.mark.parametrize(("key", "value", "expected", "others"), GOOD)
def test_a_key_takes_what_it_is_for(
    key: str, value: Any, expected: Any, others: Mapping[str, Any]
) -> None:
    """The definition has the value in its own form."""
    definition = parsed({**others, key: value})
    if key != "execution_mode":  # so far there is one, and nothing of it to remember
        assert getattr(definition, key) == expected


@pytest.mark.parametrize(("key", "value", "expected", "others"), BAD)
def test_a_key_refuses_what_it_is_not_for(
    key: str, value: Any, expected: str, others: Mapping[str, Any]
) -> None:
    """With one problem, that names the key and what it takes."""
    (problem,) = problems_of({**others, key: value})
    assert expected in problem
    assert problem.startswith(f"{key}: ")


@pytest.mark.parametrize(("table", "expected"), CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(
    table: Mapping[str, Any], expected: str
) -> None:
    """Nothing is accepted and then ignored; and one contradiction is one problem."""
    (problem,) = problems_of(table)
    assert expected in problem


def test_every_key_is_tried_and_every_field_has_a_key() -> None:
    """No key is without a good and a bad value above, and no field can be set by none."""
    assert {key for key, *_ in GOOD} | {"pattern"} == set(KEYS)
    assert {key for key, *_ in BAD} | {"pattern"} == set(KEYS)
    defined = {field.name for field in fields(HandlerDefinition)}
    assert defined == set(KEYS) - {"execution_mode"}


@pytest.mark.parametrize("key", [key for key in KEYS if len(key) > 4])
def test_a_misspelt_key_is_recognized(key: str) -> None:
    """Two letters that changed places lead to the key that was meant."""
    misspelt = key[:2] + key[3] + key[2] + key[4:]
    wrong = misspelt if misspelt != key else key + "x"
    (problem,) = problems_of({**SHELL, wrong: 1})
    assert f'{wrong}: no such key (did you mean "{key}"?)' in problem


@pytest.mark.parametrize("key", NOT_YET)
def test_a_key_whose_feature_is_missing_is_refused_by_name(key: str) -> None:
    """It is known, and refused until something reads it."""
    (problem,) = problems_of({**SHELL, key: "x"})
    assert problem.startswith(f"{key}: ")
    assert "yet" in problem


def test_a_condition_that_comes_by_itself_says_yes_or_no_of_every_event() -> None:
    """Also of one that somebody triggered without a key: to fail is not to answer."""
    keys = parsed({**FILE, "source": "targets/"})
    assert keys.filter is not None
    asked = condition(keys.filter)
    assert isinstance(asked, Condition)
    for key, expected in (("targets/a", True), ("other", False), ("", False), (None, False)):
        data = (b"{}", "application/json", {TRIGGER_HEADER: "hooks.kv.write_committed"})
        triggered = deliver(write_event(7, "k", topic=TRIGGER_TOPIC, data=data)._replace(key=key))
        assert asked.decide(triggered) is expected


def test_one_order_of_all_events_has_one_partition() -> None:
    """It need not be said, nor may the leader's handler be divided among nobody."""
    assert parsed({**SHELL, "order_by": "handler"}).partitions == 1
    assert parsed({**SHELL, "scope": "leader"}).partitions == 1
    assert parsed({**SHELL, "scope": "leader", "partitions": 4}).partitions == 4
    assert parsed(SHELL).partitions == 16


def test_a_file_handler_completes_itself() -> None:
    """A name, a path and a type are enough: it follows what the file is made from."""
    members = parsed(FILE)
    assert (members.scope, members.order_by, members.partitions) == (Scope.NODE, "handler", 1)
    assert (members.pattern.text, members.filter) == ("hooks.cluster.>", None)
    assert members.debounce_ms == 200
    keys = parsed({**FILE, "source": 'tar"gets/', "debounce_ms": 7})
    assert keys.pattern.text == "hooks.kv.*"
    assert keys.filter == 'event.key != null && event.key.startsWith("tar\\"gets/")'
    assert keys.debounce_ms == 7
    chosen = parsed({**FILE, "source": "a/", "pattern": "hooks.kv.write_committed"})
    assert (chosen.pattern.text, chosen.filter) == ("hooks.kv.write_committed", None)
    throttled = parsed({**FILE, "throttle_ms": 50})
    assert (throttled.throttle_ms, throttled.debounce_ms) == (50, 0)


def test_bounds_are_those_of_the_node() -> None:
    """A node with other limits takes other values."""
    limits = HookLimits(retry_count_max=20, labels_max=1)
    definition, problems = parse_handler({**SHELL, "retry_count": 20}, limits=limits)
    assert definition is not None, problems
    selector = {**SHELL, "scope": "selector", "selector": {"a": "1", "b": "2"}}
    _, problems = parse_handler(selector, limits=limits)
    assert [problem.message for problem in problems] == ["2 labels; 1 to 1 are expected"]


@pytest.mark.parametrize(
    "table",
    [{**others, key: value} for key, value, _, others in GOOD],
    ids=[f"{key}={value}" for key, value, _, _ in GOOD],
)
def test_a_policy_survives_its_registration(table: Mapping[str, Any]) -> None:
    """What the cluster stores of a definition gives the same definition back."""
    definition = parsed(table)
    assert definition.with_policy(definition.policy()) == definition
    assert HandlerDefinition.of_policy(definition.policy()).policy() == definition.policy()


def test_the_page_of_hooks_lists_every_key() -> None:
    """With its default, and whether it is part of the registered policy."""
    page = (FilePath(__file__).parents[2] / "docs" / "hooks.md").read_text()
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = [[cells[0].strip("`"), *cells[1:]] for cells in tables if cells and "`" in cells[0]]
    of_handlers = {key: (default, policy) for key, default, _, policy in _long(rows, 4)}
    assert set(of_handlers) == set(KEYS)
    defaults = {field.name: field.default for field in fields(HandlerDefinition)}
    for key, (default, policy) in of_handlers.items():
        assert (policy == "yes") == (key in defaults and key not in LOCAL_KEYS), key
        if default.startswith("`") and key in defaults:
            assert tomli.loads(f"value = {default[1:-1]}")["value"] == _as_written(defaults[key])
    assert {key for key, *_ in _long(rows, 3)} >= set(SECTION_KEYS)


def _long(rows: list[list[str]], cells: int) -> list[list[str]]:
    return [row for row in rows if len(row) == cells]


def _as_written(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
