"""The [hooks] section: what is accepted, what is refused, and how a mistake is explained."""

from typing import Any

import pytest

from hooks.configuration.config import (
    HooksConfig,
    RegisteredFunction,
    ShellRules,
    parse_handler,
    parse_hooks,
    with_registered,
)
from hooks.configuration.definition import HandlerType, OnFailure

SHELL = {"name": "h", "pattern": "hooks.kv.*", "type": "shell", "command": "notify"}
PYTHON = {"name": "h", "pattern": "hooks.kv.*", "type": "in_process", "handler_id": "f"}


def function(handler_id: str, pattern: str | None = None, **options: object) -> RegisteredFunction:
    return RegisteredFunction(
        handler_id=handler_id, where=f"m:{handler_id}", pattern=pattern, options=options
    )


def problems_of(table: dict[str, Any]) -> list[str]:
    definition, problems = parse_handler(table)
    assert (definition is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_the_keys_of_the_source_document_are_taken_as_they_are() -> None:
    """A section written for the ancestor parses, as far as its features exist."""
    config, problems = parse_hooks(
        {
            "enabled": True,
            "publish_topics": ["hooks.>"],
            "handlers": [
                {
                    "name": "cache-invalidation",
                    "pattern": "hooks.kv.write_committed",
                    "execution_mode": "direct",
                    "type": "in_process",
                    "handler_id": "cache_invalidator",
                },
                {
                    "name": "external-notification",
                    "pattern": "hooks.cluster.leader_elected",
                    "type": "shell",
                    "command": "/usr/local/bin/notify-leader-change.sh --now",
                    "timeout_ms": 30000,
                    "retry_count": 5,
                },
            ],
        }
    )
    assert problems == []
    assert config is not None
    first, second = config.handlers
    assert (first.timeout_ms, first.retry_count, first.group_of("a")) == (
        5000,
        3,
        "hook.cache-invalidation",
    )
    assert second.command == ("/usr/local/bin/notify-leader-change.sh", "--now")
    assert second.on_failure is OnFailure.DEAD_LETTER


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({**SHELL, "patern": "x"}, 'patern: no such key (did you mean "pattern"?)'),
        ({**SHELL, "type": "shel"}, '(did you mean "shell"?)'),
        ({**SHELL, "type": "forward"}, "forwarding to another cluster does not exist yet"),
        ({**SHELL, "type": "webhook"}, "webhooks do not exist yet"),
        ({**SHELL, "execution_mode": "job"}, "there are no jobs yet"),
        ({**SHELL, "job_priority": "high"}, "job_priority: there are no jobs yet"),
        ({**SHELL, "pattern": "hooks.kv.write_commited"}, 'mean "hooks.kv.write_committed"?'),
        ({**SHELL, "pattern": "hook.kv.*"}, '(did you mean "hooks.kv.*"?)'),
        ({**SHELL, "pattern": "hooks..kv"}, "segment 2 is empty"),
        ({**SHELL, "pattern": 5}, "pattern: a text is expected"),
        ({**SHELL, "name": "a b"}, "name: 1 to 128 of the characters"),
        ({**SHELL, "timeout_ms": 30_001}, "timeout_ms: a whole number from 1 to 30000"),
        ({**SHELL, "timeout_ms": True}, "timeout_ms: a whole number"),
        ({**SHELL, "retry_count": -1}, "retry_count: a whole number from 0 to 10"),
        ({**SHELL, "partitions": 12}, "partitions: a power of two"),
        ({**SHELL, "start": "lates"}, '(did you mean "latest"?)'),
        ({**SHELL, "start": 0}, 'start: "latest", "earliest" or a revision'),
        ({**SHELL, "on_failure": "drop"}, "on_failure: one of"),
        ({**SHELL, "enabled": "yes"}, "enabled: true or false"),
        ({**SHELL, "command": []}, "command: a text or a non-empty list"),
        ({**SHELL, "command": "a 'b"}, "command: cannot be split into arguments"),
        ({**SHELL, "command": "x" * 5000}, "bytes; at most 4096"),
        ({**SHELL, "command": ["x"] * 101}, "101 arguments; at most 100"),
        ({**SHELL, "command": ["a"], "shell": True}, "sh -c takes one text"),
        ({**SHELL, "env": ["A=1"]}, "env: a list of names"),
        ({**SHELL, "handler_id": "f"}, 'handler_id: only a handler of type "in_process"'),
        ({**PYTHON, "working_dir": "/"}, 'working_dir: only a handler of type "shell"'),
        ({"name": "h", "pattern": ">", "type": "shell"}, "command: is missing"),
        ({"name": "h", "pattern": ">", "type": "in_process"}, "handler_id: is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key(table: dict[str, Any], expected: str) -> None:
    """One wrong key gives one problem that says what was expected."""
    (problem,) = problems_of(table)
    assert expected in problem


def test_all_problems_come_at_once_with_their_paths() -> None:
    """Nobody has to fix a file one message at a time."""
    config, problems = parse_hooks(
        {
            "enable": True,
            "publish_topics": ["hooks.kv.written"],
            "modules": ["my-hooks"],
            "handlers": [{**SHELL, "timeout_ms": 0, "retries": 1}, "x", {**SHELL, "name": "h2"}],
        }
    )
    assert config is None
    assert [problem.path for problem in problems] == [
        ("hooks", "enable"),
        ("hooks", "publish_topics", 0),
        ("hooks", "modules", 0),
        ("hooks", "handlers", 0, "timeout_ms"),
        ("hooks", "handlers", 0, "retries"),
        ("hooks", "handlers", 1),
    ]


def test_what_is_published_are_topics_of_the_cluster() -> None:
    """A list that has none of them would keep all events of the cluster from handlers."""
    _, (problem,) = parse_hooks({"publish_topics": ["hooks.kv.*", "orders.>"]})
    assert problem.path == ("hooks", "publish_topics", 1)
    assert "matches no topic of the cluster" in problem.message
    assert parse_hooks({"publish_topics": ["*.kv.>"]})[1] == []


def test_two_handlers_cannot_share_a_name() -> None:
    """They would share a place in the log."""
    _, problems = parse_hooks({"handlers": [SHELL, SHELL]})
    assert [problem.path for problem in problems] == [("hooks", "handlers", 1, "name")]


def test_a_handler_that_publish_topics_silences_is_refused() -> None:
    """A handler that would never run is a mistake, not a preference."""
    _, problems = parse_hooks({"publish_topics": ["hooks.cluster.>"], "handlers": [SHELL]})
    assert "would never run" in str(problems[0])
    config, _ = parse_hooks({"publish_topics": ["hooks.cluster.>"]})
    assert config is not None
    assert config.routes("hooks.cluster.node_added")
    assert not config.routes("hooks.kv.write_committed")
    assert config.routes("orders.created"), "it is about the cluster's own topics"


def test_a_text_command_for_sh_stays_one_text() -> None:
    """With shell = true the command is one script."""
    definition, _ = parse_handler({**SHELL, "command": "a | b 'c", "shell": True})
    assert definition is not None
    assert definition.command == ("a | b 'c",)


def test_decorated_functions_become_handlers_unless_a_table_names_them() -> None:
    """The table wins over the decorator; what neither places is reported."""
    config, _ = parse_hooks({"handlers": [{**PYTHON, "name": "mine"}]})
    assert config is not None
    handlers, problems = with_registered(
        config, [function("f", "hooks.>"), function("g", "hooks.kv.*", priority=5)]
    )
    assert problems == []
    assert [(handler.name, handler.pattern.text) for handler in handlers] == [
        ("mine", "hooks.kv.*"),
        ("g", "hooks.kv.*"),
    ]
    assert handlers[1].priority == 5
    assert handlers[1].type is HandlerType.IN_PROCESS


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ([], 'nothing that is loaded registers a function "f"'),
        ([function("function")], '(did you mean "function"?)'),
        ([function("f"), function("g")], "hooks.modules.m:g: has no pattern"),
        ([function("f"), function("g", "hooks.kv.wrote")], "no event type matches"),
        ([function("f"), function("g", ">", priority=-1)], "priority: a whole number"),
        ([function("f"), function("h", ">")], 'a second handler has the name "h"'),
    ],
)
def test_a_mismatch_with_the_modules_is_refused(
    functions: list[RegisteredFunction], expected: str
) -> None:
    """A function without a handler, or a handler without a function, never stays silent."""
    wanted = "functoin" if functions and functions[0].handler_id == "function" else "f"
    config, _ = parse_hooks({"handlers": [{**PYTHON, "handler_id": wanted}]})
    assert config is not None
    _, problems = with_registered(config, functions)
    assert expected in str(problems[0])


def test_an_empty_section_is_valid() -> None:
    """No key is needed."""
    assert parse_hooks({}) == (HooksConfig(), [])


def test_every_key_of_the_section_is_taken() -> None:
    """What else stands in [hooks], with values that are not the defaults."""
    config, problems = parse_hooks(
        {
            "enabled": False,
            "directory": "hooks.d",
            "entry_points": ["audit"],
            "required": True,
            "watch_files": False,
            "shell": {"allow_commands": ["sh", "/bin/echo"], "allow_env": ["PATH"]},
        }
    )
    assert problems == []
    assert config == HooksConfig(
        enabled=False,
        directory="hooks.d",
        entry_points=("audit",),
        required=True,
        watch_files=False,
        shell=ShellRules(allow_commands=("sh", "/bin/echo"), allow_env=("PATH",)),
    )
    every, _ = parse_hooks({"entry_points": True})
    assert every is not None
    assert every.entry_points is True


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"directroy": "x"}, 'hooks.directroy: no such key (did you mean "directory"?)'),
        ({"directory": ""}, "hooks.directory: a non-empty text"),
        ({"entry_points": "audit"}, "hooks.entry_points: true, false or a list of names"),
        ({"entry_points": ["a", "a"]}, 'hooks.entry_points: "a" stands here twice'),
        ({"modules": "m"}, "hooks.modules: a list of non-empty texts"),
        ({"required": "yes"}, "hooks.required: true or false"),
        ({"watch_files": 1}, "hooks.watch_files: true or false"),
        ({"enabled": 0}, "hooks.enabled: true or false"),
        ({"shell": True}, "hooks.shell: a table is expected"),
        ({"shell": {"allow_command": []}}, 'no such key (did you mean "allow_commands"?)'),
        ({"shell": {"allow_commands": "sh"}}, "hooks.shell.allow_commands: a list"),
        ({"shell": {"allow_commands": ["bin/x"]}}, "allow_commands.0: an absolute path"),
        ({"shell": {"allow_env": ["A-B"]}}, "hooks.shell.allow_env: a list of names"),
        ({"handlers": {}}, "hooks.handlers: an array of tables"),
    ],
)
def test_a_mistake_in_the_section_is_named(table: dict[str, Any], expected: str) -> None:
    """One wrong key gives one problem that says what was expected."""
    config, problems = parse_hooks(table)
    assert config is None
    (problem,) = map(str, problems)
    assert expected in problem


@pytest.mark.parametrize(
    ("rules", "keys", "expected"),
    [
        ({}, {}, None),
        ({"allow_commands": ("notify",)}, {}, None),
        ({"allow_commands": ("/bin/notify",)}, {}, '"notify" is not in allow_commands'),
        ({"allow_commands": ("notify",)}, {"shell": True}, '"sh" is not in allow_commands'),
        ({"allow_commands": ("sh",)}, {"shell": True}, None),
        ({"allow_env": ("PATH",)}, {"env": ["PATH"]}, None),
        ({"allow_env": ("PATH",)}, {"env": ["HOME"]}, '"HOME" is not in allow_env'),
    ],
)
def test_a_node_says_what_its_commands_may_be(
    rules: dict[str, Any], keys: dict[str, Any], expected: str | None
) -> None:
    """By what stands in the handler, so that nothing else can be meant by it."""
    definition, _ = parse_handler({**SHELL, **keys})
    assert definition is not None
    refusal = ShellRules(**rules).refusal(definition)
    assert refusal == expected if expected is None else expected in str(refusal)


def test_a_handler_waits_for_one_that_exists() -> None:
    """A misspelt name is seen with the file, unless handlers come from elsewhere as well."""
    handlers = [{**SHELL, "name": "audit"}, {**SHELL, "name": "b", "after": "adit"}]
    _, problems = parse_hooks({"handlers": handlers})
    assert [str(problem) for problem in problems] == [
        'hooks.handlers.1.after: there is no handler "adit" to wait for (did you mean "audit"?)'
    ]
    for elsewhere in ({"modules": ["m"]}, {"directory": "d"}, {"entry_points": True}):
        config, problems = parse_hooks({**elsewhere, "handlers": handlers})
        assert config is not None, problems


def test_handlers_that_wait_for_each_other_are_refused() -> None:
    """None of them would ever start."""
    handlers = [
        {**SHELL, "name": "a"},
        {**SHELL, "name": "b", "after": ["a", "c"]},
        {**SHELL, "name": "c", "after": "b"},
    ]
    _, problems = parse_hooks({"handlers": handlers})
    assert [str(problem) for problem in problems] == [
        "hooks.handlers.1.after: would never start: b after c after b"
    ]
