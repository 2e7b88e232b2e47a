"""Registrations against a dumb model: which policy is in force, what is removed, what was said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooks.configuration.definition import group_name
from hooks.replicated import handler_groups, registrations
from pubsub import groups
from tests.cluster.entries import Driver

NODES = ("a", "b", "c")
NAMES = ("one", "two")
MEMBERS = [[name, f"uid-{name}", f"{name}:1", "voter"] for name in NODES]

# What an event says: which item of [version, removed, enabled] is what from now on.
KINDS: dict[str, tuple[int, bool]] = {
    "removed": (1, True),
    "enabled": (2, True),
    "disabled": (2, False),
}


class Said(NamedTuple):
    """A policy, as far as it matters here."""

    version: int
    pattern: str
    scope: str = "cluster"

    def packed(self, name: str) -> dict[str, Any]:
        more = {"partitions": 1, "type": "shell"}
        return {"name": name, **self._asdict(), **more}


class Model:
    """What the documentation says: everything that was ever said, and who has what now."""

    def __init__(self) -> None:
        self.said: dict[str, list[Said]] = {}  # of each handler, ever
        self.has: dict[str, dict[str, Said]] = {node: {} for node in NODES}
        self.disabled: dict[str, bool] = {}
        self.groups: dict[tuple[str, str | None], None] = {}  # handler, and node if it has one
        self.members = dict.fromkeys(NODES)
        self.heard: dict[str, None] = {}  # nodes that said what they have

    def in_force(self, name: str) -> Said:
        """The last of those with the highest version."""
        said = self.said[name]
        highest = max(each.version for each in said)
        return [each for each in said if each.version == highest][-1]

    def is_removed(self, name: str) -> bool:
        return not any(name in has for has in self.has.values())

    def is_used(self, name: str, node: str | None) -> bool:
        """Whether retention waits for a group."""
        if name not in self.said:
            return True
        if self.is_removed(name) or (node is not None) != (self.in_force(name).scope == "node"):
            return False
        return node is None or name in self.has[node] or node not in self.heard

    def register(self, node: str, handlers: dict[str, Said]) -> str | None:
        if node not in self.members:
            return "unknown_member"
        for name, said in handlers.items():
            self.disabled.setdefault(name, False)
            self.said.setdefault(name, []).append(said)
        self.has[node] = handlers
        self.heard[node] = None
        return None

    def leave(self, node: str) -> None:
        self.members.pop(node, None)
        self.has[node] = {}
        self.heard.pop(node, None)
        self.groups = {group: None for group in self.groups if group[1] != node}

    def come(self, node: str) -> None:
        self.members[node] = None

    def switch(self, name: str, disabled: bool) -> str | None:
        if name not in self.said:
            return "unknown_handler"
        self.disabled[name] = disabled
        return None

    def forget(self, name: str) -> str | None:
        if name not in self.said:
            return "unknown_handler"
        if not self.is_removed(name):
            return "handler_in_use"
        del self.said[name], self.disabled[name]
        self.groups = {group: None for group in self.groups if group[0] != name}
        return None

    def define(self, name: str, node: str | None) -> None:
        self.groups[name, node] = None


def do(driver: Driver, model: Model, step: tuple[Any, ...]) -> tuple[str | None, str | None]:
    """One step in both; the refusals, if any."""
    name, *args = step
    if name == "leave" and list(model.members) == args:
        return None, None  # a cluster has a member
    expected = getattr(model, name)(*args)
    if name == "register":
        node, handlers = args
        items = [[said.packed(handler), True, None] for handler, said in handlers.items()]
        result = driver.do("hook.register", node, items)
    elif name in ("leave", "come"):
        change = {"leave": "removed", "come": "added_voter"}[name]
        left = [member for member in MEMBERS if member[0] in model.members]
        result = driver.membership(change, args[0], "x:1", left).results[0]
    elif name == "switch":
        result = driver.do("hook.disable" if args[1] else "hook.enable", args[0])
    elif name == "forget":
        result = driver.do("hook.forget", *args)
    else:
        result = driver.do("group.define", group_name(*args), "x", 1, "latest", 0)
    return getattr(result, "code", None), expected


def check(driver: Driver, model: Model) -> None:
    """The state says what the model says."""
    found = registrations.load(driver.connection)
    assert list(found) == sorted(model.said)
    for name, handler in found.items():
        in_force = model.in_force(name)
        assert handler.policy == in_force.packed(name)
        assert handler.version == in_force.version
        assert handler.removed == model.is_removed(name)
        assert handler.enabled == (not model.disabled[name])
        reports = {
            node: (has[name] == in_force, None) for node, has in model.has.items() if name in has
        }
        assert handler.nodes == reports
    protected = [name for name, _, _ in groups.protected_floors(driver.connection)]
    assert groups.names(driver.connection) == sorted(group_name(*each) for each in model.groups)
    for name, node in model.groups:
        group = groups.describe(driver.connection, group_name(name, node))
        assert group is not None
        assert group["held"] == (name in model.said and model.disabled[name])
        assert not group["paused"]
        assert (group["name"] in protected) == model.is_used(name, node)


said = st.builds(
    Said, st.integers(1, 3), st.sampled_from("xyz"), st.sampled_from(("cluster", "node"))
)
steps = st.one_of(
    st.tuples(
        st.just("register"),
        st.sampled_from(NODES),
        st.dictionaries(st.sampled_from(NAMES), said),
    ),
    st.tuples(st.sampled_from(("leave", "come")), st.sampled_from(NODES)),
    st.tuples(st.just("switch"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.just("define"), st.sampled_from(NAMES), st.sampled_from((None, *NODES))),
)


def run(script: list[tuple[Any, ...]]) -> Driver:
    """The steps, with a look at everything after each."""
    driver, model = Driver(), Model()
    driver.membership("added_voter", "c", "c:1", MEMBERS)
    for step in script:
        refused, expected = do(driver, model, step)
        assert refused == expected
        check(driver, model)
    return driver


@given(st.lists(steps, max_size=30))
@settings(max_examples=150, deadline=None)
def test_the_state_is_what_the_model_says(script: list[tuple[Any, ...]]) -> None:
    """After every step: the policy in force, who differs, what is removed, paused and protected.
    Another machine comes to the same by the same entries."""
    driver = run(script)
    again = Driver()
    for entry in driver.entries:
        again.machine.apply(*entry)
    assert again.machine.digest == driver.machine.digest
    assert registrations.load(again.connection) == registrations.load(driver.connection)


@given(st.lists(steps, max_size=30))
@settings(max_examples=100, deadline=None)
def test_the_log_alone_tells_what_there_is(script: list[tuple[Any, ...]]) -> None:
    """Who follows the events knows every version in force, and what is removed or disabled; and
    an event says what the one before it of the same handler did not say."""
    driver, model = Driver(), Model()
    driver.membership("added_voter", "c", "c:1", MEMBERS)
    for step in script:
        do(driver, model, step)
    followed: dict[str, list[Any]] = {}  # handler -> [version, removed, enabled]
    for event in driver.events():
        kind, (name, *rest) = event.topic.rpartition(".")[2], event.data or (None,)
        known = followed.get(name)
        if kind == "registered" and rest[2] == "registered":
            followed[name] = [rest[0], False, True]
        elif kind == "registered" and known is not None:
            assert known[1] == (rest[2] == "back")
            known[:2] = [rest[0], False]
        elif event.topic.startswith("hooks.hook.") and known is not None:
            place, value = KINDS[kind]
            assert known[place] != value
            known[place] = value
    for name, handler in registrations.load(driver.connection).items():
        assert followed[name] == [handler.version, handler.removed, handler.enabled]


def nothing(*arguments: Any) -> None:
    """A rule that was forgotten."""


# Rules that are nearly right: what to put in the place of which function, and where it shows.
MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], list[tuple[Any, ...]]]] = {
    "a version is needed": (
        registrations,
        "_why_kept",
        lambda connection, row, policy, own: policy["version"] <= row.version or None,
        [("register", "a", {"one": Said(1, "x")}), ("register", "b", {"one": Said(1, "y")})],
    ),
    "the last one wins": (
        registrations,
        "_why_kept",
        nothing,
        [("register", "a", {"one": Said(2, "x")}), ("register", "b", {"one": Said(1, "y")})],
    ),
    "retention waits for removed ones": (
        handler_groups,
        "settle",
        nothing,
        [("register", "a", {"one": Said(1, "x")}), ("define", "one", None), ("register", "a", {})],
    ),
    "a removed member keeps its word": (
        registrations,
        "_remove_unreported",
        nothing,
        [("register", "a", {"one": Said(1, "x")}), ("leave", "a")],
    ),
    "a node's own group is protected as long as any has the handler": (
        handler_groups,
        "_may_have",
        lambda connection, node, handler: True,
        [
            ("register", "a", {"one": Said(1, "x", "node")}),
            ("define", "one", "b"),
            ("register", "b", {}),
        ],
    ),
    "only groups that are there are paused": (
        handler_groups,
        "_is_disabled",
        nothing,
        [
            ("register", "a", {"one": Said(1, "x")}),
            ("switch", "one", True),
            ("define", "one", None),
        ],
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_refuses_rules_that_are_nearly_right(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checker that never fails is none; with the rules as they are these scripts pass."""
    module, name, rule, script = MUTANTS[mutant]
    run(script)
    monkeypatch.setattr(module, name, rule)
    with pytest.raises(AssertionError):
        run(script)
