"""A node whose state differs from the majority's stops; one that agrees goes on."""

import pytest

from cluster.divergence import Diverged, Divergence

VOTERS = ("a", "b", "c")


def test_a_node_that_differs_from_a_quorum_stops() -> None:
    """Two of three voters with another digest than ours make us stop, whoever reports first."""
    divergence = Divergence()
    divergence.report("b", 64, b"other")
    divergence.check({64: b"mine"}, VOTERS, 2)
    divergence.report("c", 64, b"other")
    with pytest.raises(Diverged, match="at log index 64"):
        divergence.check({64: b"mine"}, VOTERS, 2)


def test_a_minority_that_differs_is_only_counted() -> None:
    """One voter that differs has to stop by itself; we count it and go on."""
    divergence = Divergence()
    divergence.report("b", 64, b"mine")
    divergence.report("c", 64, b"other")
    divergence.check({64: b"mine"}, VOTERS, 2)
    assert divergence.mismatches == 1


def test_reports_wait_until_this_node_has_applied_as_far() -> None:
    """A report for an index that is not applied here yet is compared later."""
    divergence = Divergence()
    divergence.report("b", 128, b"other")
    divergence.report("c", 128, b"other")
    divergence.check({64: b"mine"}, VOTERS, 2)
    with pytest.raises(Diverged):
        divergence.check({128: b"mine"}, VOTERS, 2)


def test_digests_are_told_once_per_round_index() -> None:
    """Every 64 entries there is something to tell, and never twice."""
    divergence = Divergence()
    assert divergence.due(70, {64: b"d"}) == (64, b"d")
    assert divergence.due(71, {64: b"d"}) is None
    assert divergence.due(140, {128: b"e"}) == (128, b"e")
