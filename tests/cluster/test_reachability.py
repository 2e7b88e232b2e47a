"""When the leader reports a member: after some time, and once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.reachability import HEALTHY_AFTER_S, UNREACHABLE_AFTER_S, Reachability
from hooks.replicated.reports import HEALTHY, UNREACHABLE


def states(seen: Reachability, now: float, connected: bool, unhealthy: tuple[str, ...] = ()) -> str:
    """What is due for the one peer `b`."""
    return " ".join(change.state for change in seen.due(now, "a", {"b": connected}, unhealthy))


def test_a_connection_that_is_gone_for_long_is_reported() -> None:
    """Not before, and again until the log says it."""
    seen = Reachability()
    assert states(seen, 10.0, True) == ""
    assert states(seen, 11.0, False) == ""
    assert states(seen, 11.0 + UNREACHABLE_AFTER_S - 0.1, False) == ""
    assert states(seen, 11.0 + UNREACHABLE_AFTER_S, False) == UNREACHABLE
    assert states(seen, 20.0, False) == UNREACHABLE
    assert states(seen, 21.0, False, ("b",)) == ""


def test_a_moment_without_a_connection_is_no_news() -> None:
    """Each loss counts from its own beginning."""
    seen = Reachability()
    for second in range(20):
        assert states(seen, float(second), second % 3 > 0) == ""


def test_a_member_that_is_back_is_reported_once_it_stays() -> None:
    """Also by a leader that was not there when it was lost."""
    seen = Reachability()
    assert states(seen, 5.0, True, ("b",)) == ""
    assert states(seen, 5.0 + HEALTHY_AFTER_S, True, ("b",)) == HEALTHY
    assert states(seen, 7.0, True) == ""


def test_a_new_leader_begins_to_count_when_it_leads() -> None:
    """It cannot know how long a connection that it did not look at has been gone."""
    seen = Reachability()
    assert states(seen, 5.0, False) == ""
    seen.forget()
    assert states(seen, 8.5, False) == ""
    assert states(seen, 8.5 + UNREACHABLE_AFTER_S, False) == UNREACHABLE


def test_the_leader_is_well() -> None:
    """Who was lost and leads now was found by a majority."""
    seen = Reachability()
    (change,) = seen.due(1.0, "a", {"b": True}, ["a"])
    assert (change.node, change.state) == ("a", HEALTHY)


def test_a_member_that_was_removed_is_forgotten() -> None:
    """One of the same name that is added later has its own time."""
    seen = Reachability()
    states(seen, 1.0, False)
    assert seen.due(2.0, "a", {}, []) == []
    assert states(seen, 2.0 + UNREACHABLE_AFTER_S - 0.5, False) == ""


@given(st.lists(st.tuples(st.floats(0.1, 5.0), st.booleans()), max_size=30))
def test_reports_alternate_and_are_true(steps: list[tuple[float, bool]]) -> None:
    """With every report applied at once, states alternate, and each was so for its whole time."""
    seen, now, unhealthy, since, was = Reachability(), 0.0, False, 0.0, None
    for step, connected in steps:
        now += step
        if connected is not was:
            was, since = connected, now
        for change in seen.due(now, "a", {"b": connected}, ["b"] if unhealthy else []):
            assert connected is (change.state == HEALTHY)
            assert unhealthy is (change.state == HEALTHY)
            needed = HEALTHY_AFTER_S if connected else UNREACHABLE_AFTER_S
            assert now - since >= needed
            unhealthy = not unhealthy
