"""What nodes report: one event per fact, however often it is said."""

from __future__ import annotations

from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks.replicated import reports
from hooks.replicated.reports import HEALTHY, UNREACHABLE
from pubsub.apply import Apply
from pubsub.events import (
    SYSTEM_CONFIG_RELOADED,
    SYSTEM_HEALTH_CHANGED,
    SYSTEM_NODE_STARTED,
    SYSTEM_NODE_STOPPED,
    SYSTEM_SNAPSHOT_CREATED,
    SYSTEM_SNAPSHOT_INSTALLED,
    Event,
    array_header,
    decode,
)
from pubsub.limits import REPORT_TEXT_BYTES_MAX, REPORT_TEXTS_MAX, REPORTING_NODES_MAX
from pubsub.rejection import Rejection

STARTED = (SYSTEM_NODE_STARTED, "a", 77, 1, ["0.1.0", "00ff"])


def make_apply() -> Apply:
    connection = apsw.Connection(":memory:")
    connection.execute(reports.SCHEMA)
    return Apply(connection)


def events(apply: Apply) -> list[Event]:
    packed = apply.packed_events
    return decode(array_header(len(packed)) + b"".join(packed), 1, 1, 1, 0, 100)


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (SYSTEM_SNAPSHOT_CREATED, (900, 4, 65_536)),
        (SYSTEM_SNAPSHOT_INSTALLED, (900, 4, 65_536, None)),
        (SYSTEM_SNAPSHOT_INSTALLED, (900, 4, 65_536, "b")),
        (SYSTEM_NODE_STARTED, ("0.1.0", "00ff")),
        (SYSTEM_NODE_STOPPED, (None,)),
        (SYSTEM_CONFIG_RELOADED, (True, ("handler x",), ())),
    ],
)
def test_a_report_is_an_event(code: int, data: tuple[Any, ...]) -> None:
    """Its data begin with the node."""
    apply = make_apply()
    assert reports.report(apply, code, "a", 77, 1, data) == 1
    assert [event.data for event in events(apply)] == [("a", *data)]


def test_a_repeated_report_is_no_second_event() -> None:
    """Neither at once nor after a newer one: only a number that was never used says something."""
    apply = make_apply()
    assert reports.report(apply, *STARTED) == 1
    assert reports.report(apply, *STARTED) == 0
    assert reports.report(apply, SYSTEM_NODE_STOPPED, "a", 77, 2, ["asked"]) == 2
    assert reports.report(apply, *STARTED) == 0
    assert len(events(apply)) == 2


def test_each_start_and_each_node_counts_for_itself() -> None:
    """A restarted node begins at one again, and so does any other."""
    apply = make_apply()
    code, _, _, number, data = STARTED
    revisions = [
        reports.report(apply, code, node, start, number, data)
        for node, start in (("a", 77), ("a", 78), ("b", 77))
    ]
    assert revisions == [1, 2, 3]


@pytest.mark.parametrize(
    "arguments",
    [
        (99, "a", 77, 1, []),
        ("24", "a", 77, 1, ["0.1.0", "00ff"]),
        (SYSTEM_HEALTH_CHANGED, "a", 77, 1, ["healthy", "unreachable", None]),
        (SYSTEM_NODE_STARTED, "", 77, 1, ["0.1.0", "00ff"]),
        (SYSTEM_NODE_STARTED, "a" * 257, 77, 1, ["0.1.0", "00ff"]),
        (SYSTEM_NODE_STARTED, "a", -1, 1, ["0.1.0", "00ff"]),
        (SYSTEM_NODE_STARTED, "a", 77, 0, ["0.1.0", "00ff"]),
        (SYSTEM_NODE_STARTED, "a", 77, 1, ["0.1.0"]),
        (SYSTEM_NODE_STARTED, "a", 77, 1, None),
        (SYSTEM_NODE_STARTED, "a", 77, 1, ["0.1.0", 3]),
        (SYSTEM_NODE_STOPPED, "a", 77, 1, ["x" * (REPORT_TEXT_BYTES_MAX + 1)]),
        (SYSTEM_CONFIG_RELOADED, "a", 77, 1, [1, [], []]),
        (SYSTEM_CONFIG_RELOADED, "a", 77, 1, [True, ["x"] * (REPORT_TEXTS_MAX + 1), []]),
        (SYSTEM_CONFIG_RELOADED, "a", 77, 1, [True, [3], []]),
    ],
)
def test_a_report_of_another_shape_is_refused(arguments: tuple[Any, ...]) -> None:
    """It makes no event, and its number is not used up."""
    apply = make_apply()
    assert isinstance(reports.report(apply, *arguments), Rejection)
    assert reports.report(apply, *STARTED) == 1


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@given(st.tuples(*[any_value] * 5), st.tuples(*[any_value] * 3))
def test_garbage_is_refused_and_never_raises(
    report: tuple[Any, ...], health: tuple[Any, ...]
) -> None:
    """Whatever the arguments are: an answer, and an event only for what makes sense."""
    apply = make_apply()
    for result in (reports.report(apply, *report), reports.health(apply, *health)):
        assert isinstance(result, int | Rejection)


def test_only_a_change_of_health_is_an_event() -> None:
    """A node is healthy until somebody says otherwise; then it is so until the opposite is said."""
    apply = make_apply()
    said = [HEALTHY, UNREACHABLE, UNREACHABLE, HEALTHY, HEALTHY, UNREACHABLE]
    revisions = [reports.health(apply, "a", state, "why") for state in said]
    assert revisions == [0, 1, 0, 2, 0, 3]
    assert [event.data for event in events(apply)] == [
        ("a", HEALTHY, UNREACHABLE, "why"),
        ("a", UNREACHABLE, HEALTHY, "why"),
        ("a", HEALTHY, UNREACHABLE, "why"),
    ]
    assert reports.unhealthy(apply.connection) == {"a": UNREACHABLE}


@pytest.mark.parametrize("arguments", [("", HEALTHY), ("a", "ill"), ("a", 3), ("a", HEALTHY, 3)])
def test_health_of_another_shape_is_refused(arguments: tuple[Any, ...]) -> None:
    """A state that is not known is none."""
    assert isinstance(reports.health(make_apply(), *arguments), Rejection)


def test_a_removed_node_is_forgotten() -> None:
    """If it comes back it is healthy, and its numbers begin anew."""
    apply = make_apply()
    reports.report(apply, *STARTED)
    reports.health(apply, "a", UNREACHABLE)
    reports.forget(apply.connection, "a")
    assert reports.unhealthy(apply.connection) == {}
    assert reports.report(apply, *STARTED) == 3


def test_there_is_a_most_of_nodes() -> None:
    """The tables stay small even if every name in the world reported."""
    apply = make_apply()
    for number in range(REPORTING_NODES_MAX):
        reports.report(apply, SYSTEM_NODE_STOPPED, f"n{number}", 1, 1, [None])
        reports.health(apply, f"n{number}", UNREACHABLE)
    refused = [
        reports.report(apply, *STARTED),
        reports.health(apply, "a", UNREACHABLE),
    ]
    assert [isinstance(one, Rejection) and one.code for one in refused] == ["limit_exceeded"] * 2
    assert reports.report(apply, SYSTEM_NODE_STOPPED, "n0", 1, 2, [None]) != 0
