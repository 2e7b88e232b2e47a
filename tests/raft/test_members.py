"""Changes of the members and of leadership, on a few nodes driven by hand."""

from __future__ import annotations

import pytest

from cluster.errors import NotLeader, Rejected
from cluster.raft.core import CATCH_UP_ENTRIES_MAX
from tests.raft.ensemble import TIMING, Ensemble, hold


def led(voters: str = "abc", learners: str = "", outsiders: str = "") -> Ensemble:
    nodes = Ensemble(voters, learners, outsiders)
    nodes.elect("a")
    nodes.advance(TIMING.heartbeat)
    nodes.traffic.clear()
    return nodes


def reason(answers: list[object]) -> str:
    (answer,) = answers
    assert isinstance(answer, Rejected)
    return answer.reason


# --- learners ---


def test_a_learner_does_not_count() -> None:
    """What only the leader and learners have is not committed."""
    nodes = led("ab", "cde")
    nodes.isolate("b")
    answered = nodes.propose("a", "x")
    nodes.settle()
    for learner in "cde":
        assert nodes.core(learner).log.last == nodes.core("a").log.last
    assert answered == []
    nodes.join("a", "b")
    nodes.settle()
    assert len(answered) == 1


def test_a_learner_keeps_no_leader_in_office() -> None:
    """Its answers are no quorum (check-quorum), nor do they confirm a read."""
    nodes = led("ab", "c")
    nodes.isolate("b")
    answered = nodes.read("a")
    nodes.pass_time(2 * TIMING.election_max)
    assert not nodes.core("a").is_leader
    assert [type(answer) for answer in answered] == [NotLeader]


def test_a_learner_never_stands_and_is_never_asked() -> None:
    """However long it hears of no leader."""
    nodes = led("ab", "c")
    nodes.crash("a")
    nodes.pass_time(10 * TIMING.election_max)
    assert nodes.core("c").role == "learner"
    assert nodes.sent("c", "pre_vote") == []
    assert nodes.core("c").deadline() == float("inf")
    assert {s.target for s in nodes.sent("b", "pre_vote")} == {"a"}
    assert not nodes.core("b").is_leader


def test_a_learner_applies_and_serves_like_the_others() -> None:
    """It hands proposals to the leader and asks it for reads."""
    nodes = led("ab", "c")
    answered = nodes.propose("c", "x")
    nodes.settle()
    assert len(answered) == 1
    read = nodes.read("c")
    nodes.settle()
    assert read == [None]
    assert "x" in nodes.values("c")


# --- changes ---


def test_a_node_is_added_learns_and_is_promoted() -> None:
    """From outsider to voter; then it counts."""
    nodes = led(outsiders="d")
    assert nodes.core("d").role == "outsider"
    answered = nodes.change("a", "added_learner", "d")
    nodes.advance(TIMING.heartbeat)
    assert len(answered) == 1
    assert nodes.core("d").role == "learner"
    promoted = nodes.change("a", "promoted", "d")
    nodes.advance(TIMING.heartbeat)
    assert len(promoted) == 1
    assert not isinstance(promoted[0], Exception)
    for name in "abcd":
        assert nodes.core(name).members.voters == ("a", "b", "c", "d")
    nodes.isolate("b")
    nodes.isolate("c")
    counts = nodes.propose("a", "x")
    nodes.settle()
    assert counts == []
    nodes.join("a", "c")
    nodes.settle()
    assert len(counts) == 1


def test_a_learner_that_lags_is_not_promoted() -> None:
    """As a voter it would count and have nothing; once it has caught up it may."""
    nodes = led(outsiders="d")
    nodes.change("a", "added_learner", "d")
    nodes.advance(TIMING.heartbeat)
    nodes.isolate("d")
    assert reason(nodes.change("a", "promoted", "d")) == "member_lags"
    for number in range(CATCH_UP_ENTRIES_MAX + 1):
        nodes.propose("a", str(number))
        nodes.settle()
    nodes.held.add(("d", "a"))
    nodes.join("a", "d")
    nodes.settle()
    assert reason(nodes.change("a", "promoted", "d")) == "member_lags"
    nodes.held.clear()
    nodes.advance(TIMING.heartbeat)
    promoted = nodes.change("a", "promoted", "d")
    nodes.advance(TIMING.heartbeat)
    assert not isinstance(promoted[0], Exception)
    assert nodes.core("d").role == "follower"


def test_one_change_at_a_time() -> None:
    """The next must wait until the last is committed and applied (thesis §4.1)."""
    nodes = led(outsiders="de")
    nodes.held |= {("b", "a"), ("c", "a"), ("d", "a")}
    first = nodes.change("a", "added_learner", "d")
    assert reason(nodes.change("a", "added_learner", "e")) == "membership_change_pending"
    nodes.held.clear()
    nodes.advance(TIMING.heartbeat)
    assert len(first) == 1
    second = nodes.change("a", "added_learner", "e")
    nodes.advance(TIMING.heartbeat)
    assert not isinstance(second[0], Exception)


def test_a_new_leader_changes_nothing_before_its_first_entry_is_committed() -> None:
    """Otherwise changes of two leaders could overlap, and with them two disjoint quorums."""
    nodes = Ensemble(outsiders="d")
    nodes.alter = hold(nodes, "append_reply")
    nodes.until(lambda: nodes.core("a").is_leader)
    assert reason(nodes.change("a", "added_learner", "d")) == "membership_change_pending"
    nodes.alter = lambda sent: sent.message
    nodes.held.clear()
    nodes.settle()
    added = nodes.change("a", "added_learner", "d")
    nodes.settle()
    assert len(added) == 1
    assert not isinstance(added[0], Exception)


def test_what_cannot_be_changed_is_refused_with_a_reason() -> None:
    """Nothing of it enters the log."""
    nodes = led("abc", "d")
    last = nodes.core("a").log.last
    assert reason(nodes.change("a", "added_learner", "b")) == "member_exists"
    assert reason(nodes.change("a", "promoted", "b")) == "member_exists"
    assert reason(nodes.change("a", "promoted", "z")) == "unknown_member"
    assert reason(nodes.change("a", "removed", "z")) == "unknown_member"
    assert reason(nodes.change("a", "removed", "a")) == "member_leads"
    assert [type(answer) for answer in nodes.change("b", "removed", "c")] == [NotLeader]
    assert nodes.core("a").log.last == last


def test_a_removed_node_disturbs_nobody() -> None:
    """It gets no entries any more, and its pre-votes are refused while the leader lives."""
    nodes = led()
    removed = nodes.change("a", "removed", "c")
    nodes.advance(TIMING.heartbeat)
    assert len(removed) == 1
    assert nodes.core("a").members.voters == ("a", "b")
    nodes.pass_time(5 * TIMING.election_max)
    assert nodes.core("a").is_leader
    assert nodes.core("a").term == 1
    nodes.isolate("b")
    answered = nodes.propose("a", "x")
    nodes.settle()
    assert answered == [], "the removed node does not count"


def test_a_change_that_was_not_committed_is_rolled_back() -> None:
    """With the entry goes the configuration, and the caller does not know (thesis §4.1)."""
    nodes = led(outsiders="d")
    nodes.favour("b")
    nodes.isolate("a")
    answered = nodes.change("a", "added_learner", "d")
    assert nodes.core("a").members.learners == ("d",)
    nodes.elect("b")
    for other in "bc":
        nodes.join("a", other)
    nodes.until(lambda: nodes.core("a").leader == "b" and nodes.core("a").members.learners == ())
    assert nodes.core("a").members == nodes.founders
    assert len(answered) == 1
    assert isinstance(answered[0], Exception)


def test_a_promotion_that_was_rolled_back_counts_no_more() -> None:
    """When that leader leads again, two of its three voters are a majority."""
    nodes = led("abc", "d")
    nodes.favour("b")
    for other in "bc":
        nodes.cut("a", other)
    nodes.change("a", "promoted", "d")
    assert nodes.core("a").members.quorum == 3
    nodes.cut("a", "d")
    nodes.elect("b")
    nodes.join("a", "b")
    nodes.until(lambda: nodes.core("a").applied_index == nodes.core("b").applied_index)
    assert nodes.core("a").members.learners == ("d",)
    for name in "cd":
        nodes.isolate(name)
    nodes.favour("a")
    nodes.core("b").transfer_leadership(nodes.now, "a", lambda result: None)
    nodes.until(lambda: nodes.core("a").ready_to_lead)
    answered = nodes.propose("a", "x")
    nodes.settle()
    assert len(answered) == 1


def test_a_configuration_is_found_again_in_the_log() -> None:
    """A new process counts from the newest membership entry, applied or not."""
    nodes = led(outsiders="d")
    nodes.change("a", "added_learner", "d")
    nodes.settle()
    nodes.crash("b")
    nodes.states["b"].lose_power()
    nodes.start("b")
    assert nodes.core("b").members.learners == ("d",)


# --- transfer of leadership ---


def transfer(nodes: Ensemble, target: str | None) -> list[object]:
    answers: list[object] = []
    nodes.core("a").transfer_leadership(nodes.now, target, answers.append)
    nodes.step("a")
    return answers


@pytest.mark.parametrize("target", ["b", None])
def test_leadership_goes_to_who_is_named_or_best(target: str | None) -> None:
    """At once, without waiting for an election timeout."""
    nodes = led()
    if target is None:
        nodes.isolate("c")
    answered = transfer(nodes, target)
    nodes.settle()
    nodes.advance(0.001)
    assert nodes.core("b").is_leader
    assert answered == [None]
    assert nodes.core("a").leader == "b"


def test_a_transfer_holds_proposals_and_gives_up() -> None:
    """While it is under way nothing new is appended; when it fails, everything goes on."""
    nodes = led()
    nodes.held.add(("b", "a"))
    nodes.propose("a", "before")
    nodes.settle()
    answered = transfer(nodes, "b")
    last = nodes.core("a").log.last
    held = nodes.propose("a", "held")
    nodes.pass_time(TIMING.election_max / 2)
    assert nodes.core("a").log.last == last
    assert (answered, held) == ([], [])
    nodes.pass_time(TIMING.election_max)
    assert reason(answered) == "transfer_failed"
    assert nodes.core("a").is_leader
    assert len(held) == 1
    assert isinstance(held[0], tuple)


def test_held_proposals_go_to_the_new_leader() -> None:
    """Each is answered once, with its result."""
    nodes = led()
    nodes.held.add(("a", "b"))
    transfer(nodes, "b")
    answers = [nodes.propose("a", "x"), nodes.propose("c", "y")]
    nodes.held.clear()
    nodes.pass_time(TIMING.election_max)
    assert nodes.core("b").is_leader
    assert nodes.values("b").keys() >= {"x"}
    assert [len(answer) for answer in answers] == [1, 1]
    assert isinstance(answers[0][0], tuple)


def test_a_transfer_that_cannot_be_is_refused() -> None:
    """To a learner, to a stranger, to one that is away, twice, or from a follower."""
    nodes = led("abc", "d")
    assert reason(transfer(nodes, "d")) == "unknown_member"
    assert reason(transfer(nodes, "z")) == "unknown_member"
    assert transfer(nodes, "a") == [None]
    nodes.isolate("c")
    assert reason(transfer(nodes, "c")) == "unknown_member"
    nodes.held.add(("a", "b"))
    assert transfer(nodes, "b") == []
    assert reason(transfer(nodes, "b")) == "transfer_pending"
    answers: list[object] = []
    nodes.core("b").transfer_leadership(nodes.now, None, answers.append)
    assert [type(answer) for answer in answers] == [NotLeader]


def test_only_the_leader_can_make_a_node_stand() -> None:
    """Of this term, and only a voter."""
    nodes = led("abc", "d")
    nodes.step("b", ("c", {"type": "timeout_now", "term": 1}))
    nodes.step("b", ("a", {"type": "timeout_now", "term": 0}))
    nodes.step("d", ("a", {"type": "timeout_now", "term": 1}))
    nodes.settle()
    assert nodes.core("a").is_leader
    assert {nodes.core(name).term for name in "abcd"} == {1}
    nodes.step("b", ("a", {"type": "timeout_now", "term": 1}))
    nodes.settle()
    assert nodes.core("b").is_leader


def test_a_removal_that_would_cost_the_quorum_is_refused() -> None:
    """With one voter of three silent the other is needed; the silent one may go. Seed 1113 found
    a cluster that had removed its last healthy follower."""
    nodes = led()
    nodes.isolate("c")
    nodes.pass_time(2 * TIMING.election_max)
    assert reason(nodes.change("a", "removed", "b")) == "quorum_at_risk"
    removed = nodes.change("a", "removed", "c")
    nodes.advance(TIMING.heartbeat)
    assert not isinstance(removed[0], Exception)
    assert nodes.core("a").members.voters == ("a", "b")


def test_a_new_leader_removes_no_voter_before_it_has_heard_enough_others() -> None:
    """It knows nothing of them yet: the last healthy one must not go. Seed 10110 found it."""
    nodes = led()
    nodes.isolate("c")
    nodes.until(lambda: nodes.core("a").ready_to_lead)
    nodes.core("a").transfer_leadership(nodes.now, "b", lambda result: None)
    nodes.until(lambda: nodes.core("b").ready_to_lead)
    assert reason(nodes.change("b", "removed", "a")) == "quorum_at_risk"
