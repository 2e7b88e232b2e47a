"""Settings of the hooks of the whole cluster: who decides, and which node's file says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from hooks.limits import PUBLISH_TOPICS_MAX
from hooks.replicated import settings
from tests.cluster.entries import Driver


def changed(driver: Driver) -> list[tuple[Any, ...]]:
    """The data of the events about settings."""
    return [
        event.data for event in driver.events() if event.topic == "hooks.system.settings_changed"
    ]


def test_without_a_word_every_topic_is_published() -> None:
    """The default of a new cluster."""
    driver = Driver()
    assert settings.publish_topics(driver.connection) == ()
    assert settings.load(driver.connection) == {"publish_topics": []}


def test_the_first_node_decides_and_the_others_are_reported() -> None:
    """Until an operator sets it; a node that says nothing has nothing to differ in."""
    driver = Driver()
    assert driver.do("hook.settings", {}, "a") == []
    first = driver.do("hook.settings", {"publish_topics": ["b.>", "a.*", "b.>"]}, "b")
    assert first == [["publish_topics", ["a.*", "b.>"], "set"]]
    assert driver.do("hook.settings", {"publish_topics": ["b.>", "a.*"]}, "c")[0][2] == "same"
    kept = driver.do("hook.settings", {"publish_topics": ["x"]}, "d")
    assert kept == [["publish_topics", ["a.*", "b.>"], "kept"]]
    assert settings.publish_topics(driver.connection) == ("a.*", "b.>")
    assert settings.differing(driver.connection) == [("d", "publish_topics", ["x"])]
    set_by_hand = driver.do("hook.settings", {"publish_topics": ["x"]}, actor="alice")
    assert set_by_hand == [["publish_topics", ["x"], "set"]]
    assert [item.node for item in settings.differing(driver.connection)] == ["b", "c"]
    assert changed(driver) == [
        ("publish_topics", ("a.*", "b.>"), None),
        ("publish_topics", ("x",), "alice"),
    ]


def test_an_operator_who_says_all_topics_has_decided() -> None:
    """No node takes it back, and nothing has changed that would be an event."""
    driver = Driver()
    assert driver.do("hook.settings", {"publish_topics": []})[0][2] == "same"
    assert driver.do("hook.settings", {"publish_topics": ["x"]}, "a")[0][2] == "kept"
    assert settings.publish_topics(driver.connection) == ()
    assert changed(driver) == []


def test_what_a_node_says_replaces_what_it_said() -> None:
    """A file that no longer differs is no longer reported."""
    driver = Driver()
    driver.do("hook.settings", {"publish_topics": ["x"]})
    driver.do("hook.settings", {"publish_topics": ["y"]}, "a")
    assert settings.differing(driver.connection)
    driver.do("hook.settings", {}, "a")
    assert settings.differing(driver.connection) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [None],
        [[]],
        [{"publish_topic": []}],
        [{"publish_topics": []}, ""],
        [{"publish_topics": []}, 7],
        [{"publish_topics": None}],
        [{"publish_topics": "x"}],
        [{"publish_topics": ["a..b"]}],
        [{"publish_topics": [5]}],
        [{"publish_topics": ["x"] * (PUBLISH_TOPICS_MAX + 1)}],
        [{"publish_topics": ["x" * 250 + f".{n}" for n in range(PUBLISH_TOPICS_MAX)]}],
    ],
)
def test_garbage_sets_nothing(arguments: list[Any]) -> None:
    """Unknown names, and what is no list of patterns."""
    driver = Driver()
    driver.do("put", "key", b"value")
    before = driver.rows()
    assert driver.do("hook.settings", *arguments).code == "malformed"
    assert driver.rows() == before
