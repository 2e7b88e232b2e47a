"""A few nodes driven by hand: how followers hear of a commit."""

from __future__ import annotations

import pytest

from cluster.raft.leading import COMMIT_NOTICE_S, STREAM_S
from tests.raft.ensemble import Ensemble, led


def quiet_to(nodes: Ensemble) -> list[str]:
    """Whom the leader told of a commit in a message of its own."""
    return [s.target for s in nodes.sent("a", "append_entries") if "quiet" in s.message]


def test_the_next_entries_bring_the_commit() -> None:
    """While more is coming, nobody is woken only to hear of a commit."""
    nodes = led()
    nodes.propose("a", "x")
    nodes.settle()
    assert "x" in nodes.values("a")
    assert "x" not in nodes.values("b")
    nodes.propose("a", "y")
    nodes.settle()
    assert "x" in nodes.values("b")
    assert "y" not in nodes.values("b")
    assert quiet_to(nodes) == []


def test_a_commit_is_told_after_a_millisecond() -> None:
    """When nothing else comes; it needs no answer."""
    nodes = led()
    nodes.propose("a", "x")
    nodes.settle()
    assert nodes.core("a").deadline() == pytest.approx(nodes.now + COMMIT_NOTICE_S)
    nodes.advance(COMMIT_NOTICE_S / 2)
    assert quiet_to(nodes) == []
    nodes.traffic.clear()
    nodes.advance(COMMIT_NOTICE_S)
    assert sorted(quiet_to(nodes)) == ["b", "c"]
    assert nodes.sent("b", "append_reply") == []
    assert "x" in nodes.values("b")
    assert "x" in nodes.values("c")
    nodes.advance(COMMIT_NOTICE_S)
    assert len(quiet_to(nodes)) == 2


def test_where_entries_follow_each_other_a_commit_is_told_later() -> None:
    """Only when the next entry is overdue: twice the time that the last one took to come."""
    nodes = led()
    for value in ("x", "y"):
        nodes.propose("a", value)
        nodes.settle()
        nodes.advance(0.8 * STREAM_S)
    assert quiet_to(nodes).count("b") == 1, "of the first, which none had come before"
    assert "y" not in nodes.values("b")
    nodes.advance(0.8 * STREAM_S)
    assert "y" in nodes.values("b")
    nodes.advance(STREAM_S)
    nodes.propose("a", "z")
    nodes.settle()
    nodes.advance(COMMIT_NOTICE_S)
    assert "z" in nodes.values("b"), "after a longer pause it is a lone entry"


def test_a_caller_at_a_follower_does_not_wait_for_the_millisecond() -> None:
    """The follower where it waits is told at once, and no other."""
    nodes = led()
    answered = nodes.propose("b", "x")
    nodes.settle()
    assert answered == [(nodes.values("a")["x"][0], 0)]
    assert set(quiet_to(nodes)) == {"b"}
    assert "x" not in nodes.values("c")
