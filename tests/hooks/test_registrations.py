"""What nodes register, what is in force after it, and what that does to groups and to the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import operations
from cluster.operations import REGULAR
from hooks.configuration.definition import HandlerDefinition, HandlerType, Scope
from hooks.limits import HOOKS_MAX, POLICY_BYTES_MAX, PROBLEM_BYTES_MAX, REASON_BYTES_MAX
from hooks.replicated import registrations
from hooks.replicated.registrations import LoadProblem, Registration
from hooks.replicated.trigger import matching_handlers
from pubsub import groups
from pubsub.topics import Pattern
from tests.cluster.entries import Driver

MEMBERS = [[name, f"uid-{name}", f"{name}:1", "voter"] for name in "abc"]


def policy(name: str = "audit", **keys: Any) -> dict[str, Any]:
    """The policy of a handler of orders."""
    pattern = Pattern(keys.pop("pattern", "orders.>"))
    given = {"name": name, "pattern": pattern, "type": HandlerType.IN_PROCESS, **keys}
    return HandlerDefinition(**given).policy()


def register(driver: Driver, node: str, *policies: dict[str, Any]) -> Any:
    """What a node has, all of it, enabled and without a problem."""
    return driver.do("hook.register", node, [[item, True, None] for item in policies])


def known(driver: Driver, name: str = "audit") -> Registration:
    """A handler as it is registered."""
    return registrations.load(driver.connection)[name]


def told(driver: Driver) -> list[tuple[Any, ...]]:
    """The events about hooks: the last word of the topic, and the data."""
    return [
        (event.topic.removeprefix("hooks.hook."), *event.data)
        for event in driver.events()
        if event.topic.startswith("hooks.hook.")
    ]


def define(driver: Driver, group: str, partitions: int = 16) -> None:
    """The group of a handler, as the service of a node defines it."""
    floor = driver.do("group.define", group, "orders.>", partitions, "latest", 0)
    assert isinstance(floor, int)


def is_protected(driver: Driver, group: str) -> bool:
    """Whether retention waits for a group."""
    return group in [name for name, _, _ in groups.protected_floors(driver.connection)]


def is_held(driver: Driver, group: str) -> bool:
    """Whether a group hands out nothing."""
    described = groups.describe(driver.connection, group)
    assert described is not None
    return bool(described["held"])


def test_a_handler_is_registered_once() -> None:
    """The first node brings it and the others have the same: one event, and the policy as given."""
    driver = Driver()
    assert register(driver, "a", policy()) == [["audit", 1, "registered", None]]
    assert register(driver, "b", policy()) == [["audit", 1, "same", None]]
    assert register(driver, "b", policy()) == [["audit", 1, "same", None]]
    found = known(driver)
    assert found.policy == policy()
    assert (found.version, found.enabled, found.removed, found.revision) == (1, True, False, 1)
    assert found.nodes == {"a": (True, None), "b": (True, None)}
    assert told(driver) == [("registered", "audit", 1, "a", "registered")]


def test_a_registered_policy_makes_the_definition() -> None:
    """Whoever has other code, or none, gets the policy in force from the map alone."""
    driver = Driver()
    mine = HandlerDefinition(
        name="audit", pattern=Pattern("orders.>"), type=HandlerType.SHELL, after=("other",),
        scope=Scope.SELECTOR, selector=(("zone", "a"),), command=("true",),
    )  # fmt: skip
    register(driver, "a", mine.policy())
    other = HandlerDefinition(name="audit", pattern=Pattern("x"), type=HandlerType.SHELL)
    assert other.with_policy(known(driver).policy).policy() == mine.policy()
    assert HandlerDefinition.of_policy(known(driver).policy).policy() == mine.policy()


def test_changes_rise_with_what_changed_and_with_nothing_else() -> None:
    """Whoever polls them reads everything only when there is something new."""
    driver = Driver()
    seen = [registrations.changes(driver.connection)]

    def look() -> bool:
        seen.append(registrations.changes(driver.connection))
        return seen[-1] > seen[-2]

    register(driver, "a", policy())
    assert look()
    register(driver, "a", policy())
    assert not look()
    register(driver, "b", policy(timeout_ms=7))
    assert look()
    driver.do("hook.register", "b", [[policy(timeout_ms=7), True, "no module"]])
    assert look()
    assert driver.do("hook.disable", "audit")
    assert look()
    assert driver.do("hook.settings", {"publish_topics": ["orders.>"]})
    assert look()
    driver.do("put", "key", b"value")
    assert not look()


def test_the_last_policy_of_a_version_wins_and_an_older_version_does_not() -> None:
    """A node that differs is seen as such, on either side."""
    driver = Driver()
    register(driver, "a", policy(version=2))
    changed = register(driver, "b", policy(version=2, timeout_ms=900))
    assert changed == [["audit", 2, "registered", None]]
    assert known(driver).policy["timeout_ms"] == 900
    assert known(driver).nodes == {"a": (False, None), "b": (True, None)}
    ((name, version, status, reason),) = register(driver, "c", policy(version=1, retry_count=0))
    assert (name, version, status) == ("audit", 2, "kept")
    assert reason == "version 2 is in force; this node has version 1"
    assert known(driver).policy["retry_count"] == 3
    assert not known(driver).nodes["c"].same
    register(driver, "a", policy(version=3))
    assert told(driver)[1:] == [
        ("registered", "audit", 2, "b", "changed"),
        ("registered", "audit", 3, "a", "changed"),
    ]
    assert known(driver).revision == 3


def test_a_node_that_knows_fewer_keys_takes_none_away() -> None:
    """During an upgrade the nodes of both releases agree, in either order of their starts."""
    driver = Driver()
    newer = {**policy(), "key_of_a_newer_release": {"deep": [1, 2]}}
    register(driver, "a", policy())
    assert register(driver, "b", newer) == [["audit", 1, "registered", None]]
    assert register(driver, "a", policy()) == [["audit", 1, "same", None]]
    assert known(driver).policy == newer
    assert known(driver).nodes == {"a": (True, None), "b": (True, None)}


def test_true_is_not_one() -> None:
    """Values that Python holds to be equal are different policies where msgpack says so."""
    driver = Driver()
    register(driver, "a", {**policy(), "newer": 1})
    assert register(driver, "b", {**policy(), "newer": True})[0][2] == "registered"


def test_the_order_of_keys_means_nothing() -> None:
    """A policy that another program packed is the same."""
    driver = Driver()
    register(driver, "a", {**policy(), "selector": {"x": "1", "y": "2"}})
    backwards = dict(reversed(policy().items())) | {"selector": {"y": "2", "x": "1"}}
    assert register(driver, "b", backwards)[0][2] == "same"


def test_the_partitions_of_a_group_stay() -> None:
    """A policy with others is kept out as long as the group is there: it could not run."""
    driver = Driver()
    register(driver, "a", policy())
    define(driver, "hook.audit")
    ((_, _, status, reason),) = register(driver, "b", policy(partitions=8, timeout_ms=7))
    assert (status, reason) == ("kept", 'partitions: group "hook.audit" has 16 for ever')
    assert known(driver).policy == policy()
    driver.do("group.remove", "hook.audit")
    assert register(driver, "b", policy(partitions=8))[0][2] == "registered"


def test_a_handler_that_no_node_has_lets_go_of_retention_until_it_is_back() -> None:
    """Its place and its dead letters stay, and it is protected again."""
    driver = Driver()
    register(driver, "a", policy())
    register(driver, "b", policy())
    define(driver, "hook.audit")
    register(driver, "a")
    assert not known(driver).removed
    register(driver, "b", policy("other"))
    assert known(driver).removed
    assert known(driver).nodes == {}
    assert not is_protected(driver, "hook.audit")
    define(driver, "hook.audit")
    assert not is_protected(driver, "hook.audit")
    assert register(driver, "a", policy()) == [["audit", 1, "registered", None]]
    assert not known(driver).removed
    assert is_protected(driver, "hook.audit")
    assert [item for item in told(driver) if item[1] == "audit"] == [
        ("registered", "audit", 1, "a", "registered"),
        ("removed", "audit", "b"),
        ("registered", "audit", 1, "a", "back"),
    ]


def test_an_older_version_brings_a_removed_handler_back_as_it_was() -> None:
    """Somebody has it again, so retention waits; what is in force is still the newest version."""
    driver = Driver()
    register(driver, "a", policy(version=2))
    define(driver, "hook.audit")
    register(driver, "a")
    ((_, version, status, _),) = register(driver, "a", policy(version=1))
    assert (version, status) == (2, "kept")
    assert is_protected(driver, "hook.audit")
    assert told(driver)[-1] == ("registered", "audit", 2, "a", "back")


def test_what_an_operator_said_of_retention_stands() -> None:
    """Only a removal and its end change whether a group is protected."""
    driver = Driver()
    register(driver, "a", policy())
    driver.do("group.define", "hook.audit", "orders.>", 16, "latest", 1, {"protected": False})
    register(driver, "b", policy(version=2))
    assert not is_protected(driver, "hook.audit")


def test_a_change_of_scope_changes_which_groups_count() -> None:
    """Nobody completes anything in a group that the handler no longer uses."""
    driver = Driver()
    register(driver, "a", policy())
    define(driver, "hook.audit")
    register(driver, "a", policy(scope=Scope.NODE, version=2))
    for node in "ab":
        define(driver, f"hook.audit@{node}")
    assert not is_protected(driver, "hook.audit")
    assert is_protected(driver, "hook.audit@a")
    register(driver, "a", policy(version=3))
    assert is_protected(driver, "hook.audit")
    assert not is_protected(driver, "hook.audit@a")
    assert not is_protected(driver, "hook.audit@b")


def test_retention_waits_for_no_node_that_does_not_have_the_handler() -> None:
    """With scope node: a node that has it, and one that never said, but none that dropped it."""
    driver = Driver()
    each = policy(scope=Scope.NODE)
    for node in "abc":
        define(driver, f"hook.audit@{node}")
    register(driver, "a", each)
    register(driver, "b", each)
    assert is_protected(driver, "hook.audit@c")
    register(driver, "b")
    assert not known(driver).removed
    assert is_protected(driver, "hook.audit@a")
    assert not is_protected(driver, "hook.audit@b")
    register(driver, "c")
    assert not is_protected(driver, "hook.audit@c")
    register(driver, "b", each)
    assert is_protected(driver, "hook.audit@b")


def test_a_disabled_handler_keeps_its_place_and_waits() -> None:
    """Groups that are there and groups that come are held; enabling goes on where it was."""
    driver = Driver()
    register(driver, "a", policy(scope=Scope.NODE))
    define(driver, "hook.audit@a")
    assert driver.do("hook.disable", "audit", "too loud", actor="alice") is True
    assert driver.do("hook.disable", "audit", "again") is False
    define(driver, "hook.audit@b")
    assert is_held(driver, "hook.audit@a")
    assert is_held(driver, "hook.audit@b")
    assert (known(driver).enabled, known(driver).disabled_reason) == (False, "too loud")
    refused = driver.do("group.resume", "hook.audit@a")
    assert refused.code == "handler_disabled"
    driver.do("publish", "orders.created", "k", b"")
    before = groups.describe(driver.connection, "hook.audit@a")
    assert driver.do("hook.enable", "audit") is True
    assert driver.do("hook.enable", "audit") is False
    after = groups.describe(driver.connection, "hook.audit@a")
    assert before is not None
    assert after is not None
    assert before["partitions"] == after["partitions"]
    assert (after["paused"], after["held"]) == (False, False)
    assert not is_held(driver, "hook.audit@b")
    assert (known(driver).enabled, known(driver).disabled_reason) == (True, None)
    assert told(driver)[1:] == [("disabled", "audit", "too loud"), ("enabled", "audit")]
    assert driver.events()[1].actor == "alice"


def test_a_disabled_handler_stays_disabled_when_it_is_changed_or_back() -> None:
    """`enabled` in a file is what a new handler begins with, and nothing else."""
    driver = Driver()
    driver.do("hook.register", "a", [[policy(), False, None]])
    assert not known(driver).enabled
    define(driver, "hook.audit")
    assert is_held(driver, "hook.audit")
    register(driver, "a", policy(version=2))
    register(driver, "a")
    register(driver, "a", policy(version=2))
    assert not known(driver).enabled
    assert is_held(driver, "hook.audit")


@pytest.mark.parametrize(("start", "floor"), [("earliest", 0), (3, 2), ("latest", 3)])
def test_a_handler_can_go_on_elsewhere(start: Any, floor: int) -> None:
    """Enabling with a start moves every partition there first, the first time only."""
    driver = Driver()
    register(driver, "a", policy())
    define(driver, "hook.audit")
    driver.do("hook.disable", "audit")
    driver.do("publish", "orders.created", "k", b"")
    assert driver.do("hook.enable", "audit", start) is True
    described = groups.describe(driver.connection, "hook.audit")
    assert described is not None
    assert {row["floor"] for row in described["partitions"]} == {floor}
    token = described["token"]
    assert driver.do("hook.enable", "audit", "earliest") is False
    again = groups.describe(driver.connection, "hook.audit")
    assert again is not None
    assert again["token"] == token


def test_a_start_that_cannot_be_leaves_the_handler_disabled() -> None:
    """All of it or nothing, and no start for a handler that has no place."""
    driver = Driver()
    register(driver, "a", policy(), policy("placeless"))
    define(driver, "hook.audit")
    for name in ("audit", "placeless"):
        driver.do("hook.disable", name)
    before = driver.rows()
    assert driver.do("hook.enable", "audit", 99).code == "malformed"
    assert driver.do("hook.enable", "placeless", "earliest").code == "unknown_group"
    assert driver.rows() == before
    assert driver.do("hook.enable", "placeless") is True


def test_a_removed_handler_can_be_forgotten() -> None:
    """With its groups and their letters; one that a node has is refused."""
    driver = Driver()
    register(driver, "a", policy(), policy("audit.more"))
    define(driver, "hook.audit")
    define(driver, "hook.audit.more")
    refused = driver.do("hook.forget", "audit")
    assert refused.code == "handler_in_use"
    assert refused.detail == 'node "a" has handler "audit"'
    register(driver, "a", policy("audit.more"))
    assert driver.do("hook.forget", "audit") is True
    assert sorted(registrations.load(driver.connection)) == ["audit.more"]
    assert groups.names(driver.connection) == ["hook.audit.more"]
    for name in ("hook.enable", "hook.disable", "hook.forget"):
        assert driver.do(name, "audit").code == "unknown_handler"
    assert register(driver, "a", policy(version=0))[0][1:3] == [0, "registered"]


def test_a_removed_member_takes_what_was_its_own_along() -> None:
    """Its word, its groups, and the handlers that nobody else has."""
    driver = Driver()
    driver.membership("added_voter", "c", "c:1", MEMBERS)
    shared, own = policy("shared", scope=Scope.NODE), policy("own")
    register(driver, "b", shared)
    register(driver, "c", shared, own)
    driver.do("hook.settings", {"publish_topics": ["x"]}, "c")
    for group in ("hook.shared@b", "hook.shared@c", "hook.own", "readers@c"):
        define(driver, group)
    driver.membership("removed", "c", "c:1", MEMBERS[:2])
    assert groups.names(driver.connection) == ["hook.own", "hook.shared@b", "readers@c"]
    assert known(driver, "own").removed
    assert known(driver, "shared").nodes == {"b": (True, None)}
    assert told(driver)[-1] == ("removed", "own", "c")
    late = register(driver, "c", own)
    assert late.code == "unknown_member"
    assert driver.do("hook.settings", {}, "c").code == "unknown_member"
    assert driver.do("hook.settings", {"publish_topics": ["x"]}) == [
        ["publish_topics", ["x"], "same"]
    ]
    assert known(driver, "own").removed


def test_a_problem_is_told_once_and_kept() -> None:
    """As long as it lasts; a node whose code does not load still has the handler."""
    driver = Driver()
    for _ in range(2):
        driver.do("hook.register", "a", [[policy(), True, "no module named audit"]])
    assert known(driver).nodes == {"a": (True, "no module named audit")}
    driver.do("hook.register", "a", [[policy(), True, None]])
    driver.do("hook.register", "a", [[policy(), True, "é" * PROBLEM_BYTES_MAX]])
    assert known(driver).nodes["a"].problem == "é" * (PROBLEM_BYTES_MAX // 2)
    problems = [item[1:] for item in told(driver) if item[0] == "load_failed"]
    assert problems == [
        ("audit", "a", "no module named audit"),
        ("audit", "a", "é" * (PROBLEM_BYTES_MAX // 2)),
    ]


def test_what_could_not_be_read_is_reported_by_name() -> None:
    """A handler that is known that way is not removed; a module is a problem of its node."""
    driver = Driver()
    register(driver, "a", policy())
    items = [["audit", True, "line 3: no value"], ["my hooks/broken.py", True, "SyntaxError"]]
    assert driver.do("hook.register", "a", items) == [
        ["audit", 1, "kept", "line 3: no value"],
        ["my hooks/broken.py", 0, "kept", "SyntaxError"],
    ]
    assert not known(driver).removed
    assert known(driver).nodes == {"a": (False, "line 3: no value")}
    found = registrations.load_problems(driver.connection)
    assert found == [LoadProblem("a", "my hooks/broken.py", "SyntaxError")]
    assert [item[0] for item in told(driver)] == ["registered", "load_failed", "load_failed"]
    register(driver, "a")
    assert registrations.load_problems(driver.connection) == []
    driver.do("hook.register", "a", [["audit", True, "line 3: no value"]])
    assert not known(driver).removed


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "arguments",
    [
        [None, []],
        ["", []],
        ["a b", []],
        ["a", None],
        ["a", [[policy(), True]]],
        ["a", [[policy(), 1, None]]],
        ["a", [[policy(), True, 5]]],
        ["a", [[7, True, None]]],
        ["a", [["name alone", True, None]]],
        ["a", [["module.py", True, None]]],
        ["a", [["module.py", True, ""]]],
        ["a", [["", True, "no name"]]],
        ["a", [["m" * (PROBLEM_BYTES_MAX + 1), True, "no name"]]],
        ["a", [[policy(), True, None], [policy(), True, None]]],
        ["a", [[{}, True, None]]],
        ["a", [[{**policy(), 5: 1}, True, None]]],
        ["a", [[{**policy(), "name": "with@node"}, True, None]]],
        ["a", [[{**policy(), "name": "n" * 252}, True, None]]],
        ["a", [[{**policy(), "name": None}, True, None]]],
        ["a", [[{**policy(), "pattern": "a..b"}, True, None]]],
        ["a", [[{**policy(), "version": -1}, True, None]]],
        ["a", [[{**policy(), "version": True}, True, None]]],
        ["a", [[{**policy(), "partitions": 0}, True, None]]],
        ["a", [[{**policy(), "partitions": 512}, True, None]]],
        ["a", [[{**policy(), "scope": None}, True, None]]],
        ["a", [[{**policy(), "type": 1}, True, None]]],
        ["a", [[{**policy(), "more": 0.5}, True, None]]],
        ["a", [[{**policy(), "more": nested(5)}, True, None]]],
        ["a", [[{**policy(), "more": nested(500)}, True, None]]],
        ["a", [[{**policy(), "more": {"deep": {5: 1}}}, True, None]]],
        ["a", [[policy(f"h{n}"), True, None] for n in range(HOOKS_MAX + 1)]],
    ],
)
def test_garbage_registers_nothing(arguments: list[Any]) -> None:
    """It is refused as a whole, and changes nothing, whatever stands beside it."""
    driver = Driver()
    register(driver, "a", policy())
    before = driver.rows()
    assert driver.do("hook.register", *arguments).code == "malformed"
    assert driver.rows() == before


def test_what_is_too_large_registers_nothing() -> None:
    """A policy by its bytes, and the handlers of the whole cluster, the removed ones too."""
    driver = Driver()
    long = policy(filter="x" * POLICY_BYTES_MAX)
    assert driver.do("hook.register", "a", [[long, True, None]]).code == "limit_exceeded"
    many = [[policy(f"h{number}"), True, None] for number in range(HOOKS_MAX)]
    assert len(driver.do("hook.register", "a", many)) == HOOKS_MAX
    before = driver.rows()
    assert register(driver, "b", policy("h0"), policy("more")).code == "limit_exceeded"
    assert driver.rows() == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hook.enable", [None]),
        ("hook.enable", [["audit"]]),
        ("hook.enable", ["nobody"]),
        ("hook.disable", [7]),
        ("hook.disable", ["nobody", "reason"]),
        ("hook.forget", [None]),
        ("hook.forget", ["nobody"]),
    ],
)
def test_a_handler_that_is_not_there_cannot_be_switched(name: str, arguments: list[Any]) -> None:
    """Said with its name, if it is one."""
    driver = Driver()
    register(driver, "a", policy())
    assert driver.do(name, *arguments).code == "unknown_handler"


@pytest.mark.parametrize("reason", [5, "r" * (REASON_BYTES_MAX + 1)])
def test_a_reason_is_a_sentence(reason: Any) -> None:
    """Or nothing; and the handler stays enabled otherwise."""
    driver = Driver()
    register(driver, "a", policy())
    assert driver.do("hook.disable", "audit", reason).code == "malformed"
    assert known(driver).enabled


def test_triggering_goes_by_what_is_registered() -> None:
    """Once by name, disabled ones too, removed ones not; groups without a registration as well."""
    driver = Driver()
    define(driver, "hook.older")
    define(driver, "hook.older@a")
    register(driver, "a", policy(scope=Scope.NODE), policy("gone"), policy("cut", pattern="x.*"))
    for group in ("hook.audit@a", "hook.audit@b", "hook.gone", "hook.cut"):
        define(driver, group)
    register(driver, "a", policy(scope=Scope.NODE), policy("cut", pattern="x.*"))
    driver.do("hook.disable", "audit")
    assert matching_handlers(driver.connection, "orders.created") == ["audit", "older"]
    assert matching_handlers(driver.connection, "x.y") == ["cut"]
    revision, names = driver.do("hook.trigger", "orders.created", None, b"{}")
    assert names == ["audit", "older"]
    assert driver.events(revision)[0].topic == "hooks.hook.triggered"


def older_entry(driver: Driver, name: str, *args: Any, version: int = 1) -> Any:
    """One operation in an entry of an older version; its result."""
    body = operations.seal([operations.pack(0, 0, name, args)], 1, 1, version)
    (result,) = driver.apply(bytes((REGULAR,)) + body).results
    return result


def test_an_entry_of_the_older_version_knows_nothing_of_it() -> None:
    """Operations are unknown, groups are defined and triggered by as they were."""
    driver = Driver()
    for name in ("hook.register", "hook.enable", "hook.disable", "hook.forget", "hook.settings"):
        assert older_entry(driver, name, "a", []).code == "unknown_operation"
    for group in ("hook.audit", "hook.audit@a"):
        assert isinstance(older_entry(driver, "group.define", group, "orders.>", 1, 1, 0), int)
    _, names = older_entry(driver, "hook.trigger", "orders.created", None, b"{}")
    assert names == ["audit", "audit@a"]


def test_a_restart_finds_what_was_registered(tmp_path: Path) -> None:
    """It is part of the state."""
    driver = Driver(tmp_path / "state.db")
    register(driver, "a", policy(filter='event.topic == "orders.created"'))
    driver.do("hook.disable", "audit", "for now")
    before = registrations.load(driver.connection)
    driver.reopen()
    assert registrations.load(driver.connection) == before
