"""ReadIndex rounds, and the reads of a few nodes: nothing stale is ever confirmed."""

import pytest

from cluster.errors import NoLeader, NotLeader
from cluster.raft.reads import ReadRounds
from tests.raft.ensemble import TIMING, Ensemble, hold


def test_a_round_confirms_itself_and_all_before_it() -> None:
    """Each read gets the commit index of the moment in which its round began."""
    rounds = ReadRounds()
    told: list[tuple[str, int | None]] = []
    rounds.add(lambda index: told.append(("one", index)))
    rounds.open_round(5)
    rounds.add(lambda index: told.append(("two", index)))
    rounds.add(lambda index: told.append(("three", index)))
    rounds.open_round(7)
    rounds.add(lambda index: told.append(("four", index)))
    rounds.confirm(0)
    assert told == []
    rounds.confirm(1)
    assert told == [("one", 5)]
    rounds.confirm(2)
    assert told[1:] == [("two", 7), ("three", 7)]
    assert rounds.waiting


def test_lost_leadership_fails_every_read() -> None:
    """Those of open rounds and those that have none yet; once."""
    rounds = ReadRounds()
    told: list[int | None] = []
    rounds.add(told.append)
    rounds.open_round(5)
    rounds.add(told.append)
    rounds.fail()
    rounds.fail()
    rounds.confirm(9)
    assert told == [None, None]
    assert not rounds.waiting


@pytest.mark.parametrize("reader", ["a", "b"])
def test_a_read_sees_what_was_acknowledged_before(reader: str) -> None:
    """At the leader and at a follower, when it is answered the local state has the write."""
    nodes = Ensemble()
    nodes.elect("a")
    written = nodes.propose("a", "x")
    nodes.settle()
    assert len(written) == 1
    answered = nodes.read(reader)
    assert answered == []
    nodes.settle()
    assert answered == [None]
    assert "x" in nodes.values(reader)


def test_a_leader_that_is_cut_off_serves_no_read() -> None:
    """It cannot know whether it was replaced, and says so when it steps down."""
    nodes = Ensemble()
    nodes.elect("a")
    nodes.isolate("a")
    answered = nodes.read("a")
    nodes.until(lambda: not nodes.core("a").is_leader)
    assert [type(answer) for answer in answered] == [NotLeader]


def test_an_answer_of_an_earlier_round_confirms_nothing() -> None:
    """Only what a voter says after the read arrived proves that the leader still leads."""
    nodes = Ensemble()
    nodes.elect("a")
    nodes.held |= {("b", "a"), ("c", "a")}
    nodes.advance(TIMING.heartbeat)  # heartbeats that are answered, and the answers are under way
    answered = nodes.read("a")
    nodes.held |= {("a", "b"), ("a", "c")}
    nodes.held -= {("b", "a"), ("c", "a")}
    nodes.settle()
    assert answered == []
    nodes.held.clear()
    nodes.settle()
    assert answered == [None]


def test_a_new_leader_reads_only_after_its_first_entry_is_committed() -> None:
    """Before, it does not know how far the cluster has committed (thesis §6.4)."""
    nodes = Ensemble()
    nodes.alter = hold(nodes, "append_reply")
    nodes.until(lambda: nodes.core("a").is_leader)
    answered = nodes.read("a")
    nodes.settle()
    assert answered == []
    nodes.alter = lambda sent: sent.message
    nodes.held.clear()
    nodes.settle()
    assert answered == [None]


def test_a_new_leader_serves_nothing_older_than_its_predecessor() -> None:
    """It does not know yet that `x` is committed, and a voter that lacks it confirms the round."""
    nodes = Ensemble()
    nodes.elect("a")
    nodes.favour("b")
    nodes.isolate("c")
    written = nodes.propose("a", "x")
    nodes.settle()
    assert len(written) == 1
    assert "x" not in nodes.values("b")
    nodes.crash("a")
    nodes.join("b", "c")
    nodes.alter = hold(nodes, "response_vote")
    nodes.until(lambda: nodes.core("b").is_candidate)
    seen: list[tuple[object, bool]] = []
    nodes.core("b").read(lambda answer: seen.append((answer, "x" in nodes.values("b"))))
    nodes.held.clear()
    nodes.settle()
    assert seen == [(None, True)]


def test_reads_of_one_moment_share_a_round() -> None:
    """A hundred reads cost each follower one message."""
    nodes = Ensemble()
    nodes.elect("a")
    nodes.settle()
    nodes.traffic.clear()
    told: list[object] = []
    for _ in range(100):
        nodes.core("a").read(told.append)
    nodes.step("a")
    nodes.settle()
    assert told == [None] * 100
    assert len(nodes.sent("a", "append_entries")) == 2


def test_a_read_without_a_leader_fails_after_a_while() -> None:
    """Definitely, because nothing was asked of anybody."""
    nodes = Ensemble()
    answered = nodes.read("a")
    nodes.isolate("a")
    nodes.pass_time(2 * TIMING.election_max)
    assert [type(answer) for answer in answered] == [NoLeader]


def test_a_read_at_a_follower_fails_when_its_session_breaks() -> None:
    """The leader may still have answered, but a read that is asked again does no harm."""
    nodes = Ensemble()
    nodes.elect("a")
    nodes.held.add(("a", "b"))
    answered = nodes.read("b")
    nodes.cut("a", "b")
    assert [type(answer) for answer in answered] == [NotLeader]
