"""Two reasons for a handler to stand still, and in whose name an operator does what."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub import groups
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver
from tests.hooks.test_registrations import define, older_entry, policy, register


def reasons(driver: Driver, group: str = "hook.audit") -> tuple[bool, bool]:
    """Whether a group is paused, and whether it is held."""
    described = groups.describe(driver.connection, group)
    assert described is not None
    return described["paused"], described["held"]


def works(driver: Driver) -> bool:
    """Whether the member of the handler's group may start anything."""
    return not any(own.paused for own in groups.assignments(driver.connection, "a/1"))


def a_working_handler() -> Driver:
    """One handler with a group and a member."""
    driver = Driver()
    register(driver, "a", policy())
    define(driver, "hook.audit")
    driver.do("group.join", "hook.audit", "a/1", 60_000)
    assert groups.assignments(driver.connection, "a/1")
    assert works(driver)
    return driver


@pytest.mark.parametrize("paused_first", [True, False])
@pytest.mark.parametrize("resumed_first", [True, False])
def test_a_pause_and_a_disabled_handler_are_two_reasons(
    paused_first: bool, resumed_first: bool
) -> None:
    """In any order: its group runs when neither is there any more."""
    driver = a_working_handler()
    stops = [("group.pause", "hook.audit"), ("hook.disable", "audit")]
    goes_on = [("group.resume", "hook.audit"), ("hook.enable", "audit")]
    for stop in stops if paused_first else reversed(stops):
        assert driver.do(*stop) is True
        assert not works(driver)
    assert reasons(driver) == (True, True)
    first, second = goes_on if resumed_first else reversed(goes_on)
    assert driver.do(*first) is True
    assert reasons(driver) == ((False, True) if resumed_first else (True, False))
    assert not works(driver)
    assert driver.do(*second) is True
    assert works(driver)


def test_what_an_older_entry_disabled_goes_on_when_it_is_enabled() -> None:
    """It paused the groups then, and a group that nobody else paused must not stay so for ever."""
    driver = a_working_handler()
    assert older_entry(driver, "hook.disable", "audit", version=2) is True
    assert reasons(driver) == (True, False)
    assert driver.do("group.resume", "hook.audit").code == "handler_disabled"
    assert driver.do("hook.enable", "audit") is True
    assert works(driver)


def test_what_an_older_entry_disabled_is_held_once_a_node_defines_it_again() -> None:
    """As each does when it starts with the new release; what somebody paused stays paused."""
    driver = a_working_handler()
    older_entry(driver, "hook.disable", "audit", version=2)
    define(driver, "hook.audit")
    assert reasons(driver) == (False, True)
    define(driver, "hook.audit")
    driver.do("group.pause", "hook.audit")
    define(driver, "hook.audit")
    assert reasons(driver) == (True, True)
    driver.do("group.resume", "hook.audit")
    assert driver.do("hook.enable", "audit") is True
    assert works(driver)


def test_what_an_older_entry_disabled_can_be_paused_as_well() -> None:
    """From then on they are two reasons there, too."""
    driver = a_working_handler()
    older_entry(driver, "hook.disable", "audit", version=2)
    assert driver.do("group.pause", "hook.audit") is True
    assert driver.do("group.pause", "hook.audit") is False
    assert reasons(driver) == (True, True)
    assert driver.do("hook.enable", "audit") is True
    assert reasons(driver) == (True, False)
    assert driver.do("group.resume", "hook.audit") is True
    assert works(driver)


def test_an_older_entry_does_what_it_did() -> None:
    """A release before holds comes to the same state by it: one pause for both reasons."""
    driver = a_working_handler()
    assert older_entry(driver, "group.pause", "hook.audit", version=2) is True
    assert older_entry(driver, "hook.disable", "audit", version=2) is True
    assert reasons(driver) == (True, False)
    assert older_entry(driver, "hook.enable", "audit", version=2) is True
    assert works(driver)


def test_a_hold_is_forgotten_with_its_group() -> None:
    """A group that comes later under a number of the state begins without it."""
    driver = a_working_handler()
    driver.do("hook.disable", "audit")
    driver.do("group.leave", "a/1")
    assert driver.do("group.remove", "hook.audit") is True
    assert not driver.rows()["group_holds"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hook.disable", ["audit", "loud"]),
        ("hook.enable", ["audit"]),
        ("hook.settings", [{"publish_topics": ["hooks.kv.*"]}]),
        ("hook.trigger", ["orders.created", None, b"{}"]),
        ("capture.set", ["a/", "none"]),
        ("capture.delete", ["a/"]),
        ("replay.step", [1, 10]),
    ],
)
def test_what_a_client_changes_is_told_in_its_name(name: str, arguments: list[Any]) -> None:
    """The actor of every event of it is whoever asked, as that of a write."""
    driver = a_working_handler()
    driver.do("publish", "orders.created", "k", b"")
    if name == "hook.enable":
        driver.do("hook.disable", "audit")
    if name == "capture.delete":
        driver.do("capture.set", "a/", "none")
    asked_by = "alice"
    if name == "replay.step":  # which the leader does on behalf of whoever started the replay
        driver.do("replay.start", "hook.audit", 1, actor="alice")
        asked_by = "the leader"
    before = driver.machine.revision
    result = driver.do(name, *arguments, actor=asked_by)
    assert not isinstance(result, Rejection), result
    assert {event.actor for event in driver.events(before + 1)} == {"alice"}
