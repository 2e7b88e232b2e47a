"""A few nodes driven by hand: what is sent and when, and a leader that lives is left in peace."""

from __future__ import annotations

import pytest

from cluster import operations
from cluster.errors import LeaderChanged, NoLeader, NotLeader
from cluster.raft.core import UNAPPLIED_ENTRIES_MAX, Bounds
from cluster.raft.gathering import GATHER_S
from cluster.raft.leading import COMMIT_NOTICE_S
from cluster.raft.log import ForgottenEntries
from tests.raft.ensemble import TIMING, Ensemble, led


def propose_apart(nodes: Ensemble, count: int) -> list[list[object]]:
    """At the leader; each is an entry of its own while there may be more. What they are told."""
    told = []
    for number in range(count):
        told.append(nodes.propose("a", str(number)))
        if nodes.core("a").gathers(nodes.now):
            nodes.advance(GATHER_S)  # in vain, and therefore seldom
    return told


# --- what is sent ---


def test_followers_that_are_equally_far_get_the_very_same_message() -> None:
    """It is made and packed once. One whose session began anew is on a flight of its own."""
    nodes = led()
    nodes.propose("a", "x")
    to_b, to_c = nodes.sent("a", "append_entries")
    assert to_b.message is to_c.message
    nodes.settle()
    nodes.cut("a", "c")
    nodes.join("a", "c")
    nodes.settle()
    nodes.traffic.clear()
    nodes.propose("a", "y")
    to_b, to_c = nodes.sent("a", "append_entries")
    assert to_c.message["flight"] == to_b.message["flight"] + 1
    assert to_c.message["entries"] == to_b.message["entries"]
    nodes.settle()
    nodes.advance(COMMIT_NOTICE_S)
    assert nodes.values("b").keys() == nodes.values("c").keys() == {"x", "y"}


# --- what becomes an entry ---


def test_what_waits_together_becomes_one_entry() -> None:
    """Group commit: one entry for callers anywhere, and one message per follower."""
    nodes = led()
    index = nodes.core("a").log.last.index + 1
    answers: list[list[object]] = []
    nodes.held.add(("b", "a"))
    for number in range(20):
        answers.append(nodes.propose("b", str(number)))
    arrived = [("b", sent.message) for sent in nodes.sent("b", "forward")]
    nodes.cut("a", "b")
    nodes.join("a", "b")
    nodes.held.clear()
    assert [type(answer) for told in answers for answer in told] == [LeaderChanged] * 20

    told: list[object] = []
    for number in range(20):
        nodes.core("a").propose(operations.pack(0, 0, "set", [f"own-{number}", "v"]), told.append)
    nodes.step("a", *arrived)
    nodes.settle()
    assert told == [(index, position) for position in range(20)]
    assert [nodes.values("a")[str(number)][0] for number in range(20)] == [index] * 20


def test_a_leader_with_much_under_way_lets_proposals_gather() -> None:
    """The log runs ahead of the state by a bound; what waits becomes fewer, larger entries."""
    nodes = led()
    nodes.held |= {("b", "a"), ("c", "a")}
    last = nodes.core("a").log.last.index
    answers = propose_apart(nodes, 3 * UNAPPLIED_ENTRIES_MAX)
    assert nodes.core("a").log.last.index == last + UNAPPLIED_ENTRIES_MAX
    nodes.held.clear()
    nodes.settle()
    assert all(len(answer) == 1 for answer in answers)
    assert nodes.core("a").log.last.index < last + 2 * UNAPPLIED_ENTRIES_MAX


def test_callers_that_come_back_together_share_an_entry() -> None:
    """The first of them waits for the others, and for a millisecond at most."""
    nodes = led()
    core = nodes.core("a")
    told: list[object] = []

    def come(*names: str) -> None:
        for name in names:
            core.propose(operations.pack(0, 0, "set", [name, "v"]), told.append)
        nodes.step("a")

    come("x", "y", "z")
    nodes.settle()
    last = core.log.last.index
    come("x")
    assert core.deadline() == pytest.approx(nodes.now + GATHER_S)
    come("y")
    assert (core.log.last.index, core.has_work()) == (last, False)
    come("z")
    assert core.log.last.index == last + 1
    nodes.settle()
    assert told[3:] == [(last + 1, 0), (last + 1, 1), (last + 1, 2)]

    come("x")
    nodes.advance(GATHER_S / 2)
    assert core.log.last.index == last + 1
    nodes.advance(GATHER_S)
    assert core.log.last.index == last + 2
    nodes.settle()
    come("x")  # whoever waited in vain expects nobody
    assert core.log.last.index == last + 3


def test_what_waits_for_another_reason_keeps_nobody_awake() -> None:
    """Time to wait for others is over, and yet nothing may be appended: the loop sleeps."""
    nodes = led()
    core = nodes.core("a")
    for value in ("x", "y"):
        core.propose(operations.pack(0, 0, "set", [value, "v"]), lambda result: None)
    nodes.step("a")
    nodes.settle()
    nodes.propose("a", "x")
    nodes.held |= {("a", "b"), ("a", "c")}
    core.transfer_leadership(nodes.now, "b", lambda result: None)
    nodes.advance(2 * GATHER_S)
    assert core.proposals.pending
    assert core.deadline() > nodes.now


def test_what_fills_an_entry_waits_for_nobody() -> None:
    """There is no room for those who are missing."""
    nodes = led(bounds=Bounds(entry_bytes_max=100))
    core = nodes.core("a")
    for value in ("x", "y"):
        core.propose(operations.pack(0, 0, "set", [value, value]), lambda result: None)
    nodes.step("a")
    nodes.settle()
    last = core.log.last.index
    nodes.propose("a", "x" * 100)
    assert core.log.last.index == last + 1


def test_an_entry_is_bounded() -> None:
    """In operations: what exceeds it becomes the next entry of the same tick."""
    nodes = led(bounds=Bounds(entry_operations_max=4))
    last = nodes.core("a").log.last.index
    payloads = [operations.pack(0, 0, "set", [str(n), "v"]) for n in range(10)]
    answers: list[object] = []
    for payload in payloads:
        nodes.core("a").propose(payload, answers.append)
    nodes.step("a")
    nodes.settle()
    assert answers == [(last + 1 + n // 4, n % 4) for n in range(10)]


# --- before and after the fsync ---


def test_entries_leave_before_the_fsync_and_acknowledgements_after() -> None:
    """The leader's own copy counts only when it is on its disk (thesis §10.2.1)."""
    nodes = led()
    core = nodes.core("a")
    core.propose(operations.pack(0, 0, "set", ["x", "v"]), lambda result: None)
    core.tick(nodes.now)
    early = core.take_early()
    assert [message["type"] for _, message in early] == ["append_entries"] * 2
    assert core.log.persisted_index < core.log.last.index

    target, message = early[0]
    follower = nodes.core(target)
    follower.receive(nodes.now, "a", message)
    follower.tick(nodes.now)
    assert follower.take_early() == []
    assert follower.log.dirty
    follower.log.commit()
    ((_, reply),) = follower.take_messages()
    assert reply["match"] == core.log.last.index

    commit = core.commit_index
    core.receive(nodes.now, target, reply)
    core.tick(nodes.now)
    assert core.commit_index == commit, "one durable copy of three is no quorum"
    core.log.commit()
    core.tick(nodes.now)
    assert core.commit_index == core.log.last.index


def test_what_is_committed_is_applied_when_it_is_on_the_own_disk() -> None:
    """A follower that lagged may hear of an entry and of its commit at once."""
    nodes = led()
    nodes.isolate("c")
    nodes.propose("a", "x")
    nodes.settle()
    core = nodes.core("c")
    previous, entry = core.log.last, nodes.core("a").log.last
    message = {
        "type": "append_entries", "term": 1, "commit_index": entry.index, "flight": 0, "round": 0,
        "stall": 0.0, "wall": 0, "entries": [list(entry)], "prevLogIdx": previous.index,
        "prevLogTerm": previous.term,
    }  # fmt: skip
    core.receive(nodes.now, "a", message)
    core.tick(nodes.now)
    assert core.commit_index == entry.index
    assert core.take_committed(10, 1 << 20) == []
    core.log.commit()
    assert core.take_committed(10, 1 << 20) == [entry]


def test_a_term_is_on_disk_before_its_entries_leave() -> None:
    """A single voter leads at once: what it sends its learner waits for the fsync nevertheless."""
    nodes = Ensemble("a", "b")
    core = nodes.core("a")
    nodes.now += TIMING.election_max
    core.tick(nodes.now)
    assert core.is_leader
    assert core.log.term_dirty
    assert core.take_early() == []
    assert [message["type"] for _, message in core.take_messages()] == ["append_entries"]


# --- losing and keeping leadership ---


def test_a_leader_without_a_quorum_steps_down() -> None:
    """After an election timeout without answers; its callers hear that the outcome is unknown."""
    nodes = led()
    answered = nodes.propose("a", "before")
    nodes.settle()
    nodes.isolate("a")
    lost = nodes.propose("a", "after")
    nodes.pass_time(TIMING.election_max / 2)
    assert nodes.core("a").is_leader
    nodes.pass_time(TIMING.election_max)
    assert nodes.core("a").role == "follower"
    assert nodes.core("a").leader is None
    assert len(answered) == 1
    assert [type(answer) for answer in lost] == [LeaderChanged]


def test_a_leader_with_a_quorum_stays() -> None:
    """One follower that is away changes nothing."""
    nodes = led()
    nodes.isolate("c")
    nodes.pass_time(5 * TIMING.election_max)
    assert nodes.core("a").is_leader
    assert nodes.core("a").term == 1


def test_a_node_that_cannot_hear_the_leader_deposes_nobody() -> None:
    """Its pre-votes are refused by who hears the leader, so that no term rises (thesis §9.6)."""
    nodes = led()
    nodes.cut("a", "c")
    nodes.pass_time(5 * TIMING.election_max)
    assert nodes.sent("c", "pre_vote")
    granted = [s.message["granted"] for s in nodes.sent("b", "pre_vote_reply")]
    assert granted
    assert not any(granted)
    assert nodes.core("a").is_leader
    assert {nodes.core(name).term for name in "abc"} == {1}
    nodes.join("a", "c")
    nodes.pass_time(TIMING.election_max)
    assert nodes.core("c").leader == "a"
    assert nodes.core("c").term == 1


def test_a_stray_request_for_votes_moves_no_term() -> None:
    """Who hears a leader does not even look at it, unless the leader itself asked for it."""
    nodes = led()
    last = nodes.core("a").log.last
    request = {
        "type": "request_vote", "term": 9, "last_log_index": last.index + 9,
        "last_log_term": 9, "transfer": False,
    }  # fmt: skip
    for name in "ab":
        nodes.step(name, ("c", request))
        assert nodes.core(name).term == 1
    nodes.step("b", ("c", {**request, "transfer": True}))
    assert nodes.core("b").term == 9


def test_an_outdated_log_wins_no_pre_vote() -> None:
    """Whoever lacks a committed entry is not even encouraged to stand (§5.4.1)."""
    nodes = led()
    nodes.isolate("c")
    nodes.propose("a", "x")
    nodes.settle()
    nodes.advance(COMMIT_NOTICE_S)
    nodes.join("b", "c")
    nodes.favour("c")
    nodes.crash("a")
    nodes.pass_time(2 * TIMING.election_max)
    granted = [s.message["granted"] for s in nodes.sent("b", "pre_vote_reply")]
    assert granted
    assert not any(granted)
    nodes.elect("b")
    assert "x" in nodes.values("b")


def test_a_vote_counts_once_and_from_a_voter() -> None:
    """A repeated vote, a learner's or a stranger's makes nobody a leader."""
    nodes = Ensemble("abcde", "f")
    nodes.alter = lambda sent: None if sent.message["type"] == "response_vote" else sent.message
    nodes.until(lambda: nodes.core("a").is_candidate)
    term = nodes.core("a").term
    vote = {"type": "response_vote", "term": term, "wall": 0}
    for voter in ("b", "b", "f", "z", "b"):
        nodes.step("a", (voter, vote))
    assert nodes.core("a").is_candidate
    nodes.step("a", ("c", {**vote, "term": term - 1}))
    assert nodes.core("a").is_candidate
    nodes.step("a", ("c", vote))
    assert nodes.core("a").is_leader


def test_a_proposal_without_a_leader_fails_after_a_while() -> None:
    """Definitely: it was handed to nobody."""
    nodes = Ensemble()
    nodes.isolate("a")
    answered = nodes.propose("a", "x")
    nodes.pass_time(TIMING.election_min)
    assert answered == []
    nodes.pass_time(TIMING.election_max)
    assert [type(answer) for answer in answered] == [NoLeader]


def test_an_old_leaders_entries_are_replaced() -> None:
    """What it appended alone goes when it comes back, and its caller never hears a result."""
    nodes = led()
    nodes.favour("b")
    nodes.isolate("a")
    lost = nodes.propose("a", "lost")
    nodes.elect("b")
    kept = nodes.propose("b", "kept")
    nodes.settle()
    nodes.join("a", "b")
    nodes.join("a", "c")
    nodes.until(lambda: "kept" in nodes.values("a"))
    assert nodes.values("a") == nodes.values("b")
    assert "lost" not in nodes.values("a")
    assert [type(answer) for answer in lost] == [LeaderChanged]
    assert len(kept) == 1


def test_the_rounds_of_a_former_leadership_confirm_nothing() -> None:
    """A heartbeat of a's first term reaches b late, and its answer reaches a when a leads again: it
    must not stand for a round of reads that began since. Seed 48 with three whole nodes, a frozen
    leader that was elected again, served a read that way."""
    nodes = led()
    first = nodes.core("a").term
    for cut_off, leader in (("a", "b"), ("b", "a")):
        nodes.isolate(cut_off)
        nodes.elect(leader)
        for other in "abc".replace(cut_off, ""):
            nodes.join(cut_off, other)
        nodes.pass_time(0.2)
    assert nodes.core("a").term > first
    late = {
        "type": "append_entries", "term": first, "commit_index": 1, "flight": 0, "round": 99,
        "stall": 0.0, "wall": 0,
    }  # fmt: skip
    nodes.step("b", ("a", late))
    nodes.settle()
    nodes.isolate("a")
    assert nodes.read("a") == []


def test_a_node_that_forgot_what_it_acknowledged_stops() -> None:
    """A heartbeat commits what the leader knows that it has: a shorter log was put back."""
    nodes = led()
    last = nodes.core("b").log.last.index
    heartbeat = {
        "type": "append_entries", "term": 1, "commit_index": last + 1, "flight": 0, "round": 0,
        "stall": 0.0,
        "wall": 0,
    }  # fmt: skip
    with pytest.raises(ForgottenEntries, match=f"ends at index {last}"):
        nodes.step("b", ("a", heartbeat))


# --- forwarded proposals ---


@pytest.mark.parametrize("delivered", range(0, 40, 2))
def test_forwarded_proposals_are_answered_once_when_the_leader_dies(delivered: int) -> None:
    """At whatever moment: a result means that it is there, a definite error that it never will be,
    and anything else may be either."""
    nodes = led()
    nodes.favour("b")
    answers: dict[str, list[object]] = {}
    for number in range(6):
        answers[f"c{number}"] = nodes.propose("c", f"c{number}")
        answers[f"b{number}"] = nodes.propose("b", f"b{number}")
        nodes.deliver(delivered // 6)
    nodes.crash("a")
    nodes.until(lambda: any(nodes.core(name).ready_to_lead for name in "bc"))
    answers["late"] = nodes.propose("c", "late")
    nodes.pass_time(2 * TIMING.election_max)

    values = nodes.values("b")
    assert values == nodes.values("c")
    for key, told in answers.items():
        assert len(told) == 1, key
        if isinstance(told[0], tuple):
            assert values[key][0] == told[0][0]
        elif isinstance(told[0], NotLeader | NoLeader):
            assert key not in values
        else:
            assert isinstance(told[0], LeaderChanged)
    assert isinstance(answers["late"][0], tuple)


def test_a_deposed_leader_refuses_what_it_did_not_place() -> None:
    """A bundle that waits at a leader that steps down goes back: it was certainly not done."""
    nodes = led()
    nodes.alter = lambda sent: None if sent.message["type"] == "append_reply" else sent.message
    propose_apart(nodes, UNAPPLIED_ENTRIES_MAX)
    answered = nodes.propose("b", "x")
    nodes.until(lambda: not nodes.core("a").is_leader)
    assert [type(answer) for answer in answered] == [NotLeader]


def test_a_follower_that_hears_of_no_place_says_that_it_does_not_know() -> None:
    """The session broke with the bundle under way: it may be in the leader's log."""
    nodes = led()
    nodes.held.add(("a", "b"))
    answered = nodes.propose("b", "x")
    nodes.settle()
    assert answered == []
    nodes.cut("a", "b")
    assert [type(answer) for answer in answered] == [LeaderChanged]
    nodes.advance(TIMING.heartbeat)
    assert "x" in nodes.values("c")


def test_proposals_wait_at_a_follower_for_a_session_with_the_leader() -> None:
    """Known but not connected is not enough to hand anything on."""
    nodes = led()
    nodes.cut("a", "b")
    answered = nodes.propose("b", "x")
    nodes.advance(TIMING.heartbeat)
    assert answered == []
    nodes.join("a", "b")
    nodes.advance(TIMING.heartbeat)
    assert len(answered) == 1
    assert "x" in nodes.values("b")


def test_a_slow_disk_makes_its_peers_patient() -> None:
    """A leader that says that an fsync took a second is not deposed in that time."""
    nodes = led()
    nodes.core("a").persisted(1.0)
    nodes.advance(TIMING.heartbeat)
    nodes.held |= {("a", "b"), ("a", "c")}
    nodes.pass_time(1.0)
    assert not nodes.sent("b", "pre_vote")
    nodes.pass_time(1.0)
    assert nodes.sent("b", "pre_vote")


def test_a_leader_is_patient_with_slow_disks_of_its_followers() -> None:
    """Their silence may be an fsync: check-quorum waits as much longer."""
    nodes = led()
    for name in "bc":
        nodes.core(name).persisted(1.0)
    nodes.advance(TIMING.heartbeat)
    nodes.isolate("a")
    nodes.pass_time(TIMING.election_max + 0.5)
    assert nodes.core("a").is_leader
    nodes.pass_time(1.0)
    assert not nodes.core("a").is_leader


def test_a_node_that_was_paused_does_not_blame_the_others() -> None:
    """It could not have heard anybody: neither leader nor follower gives up for its own stall."""
    nodes = led()
    nodes.now += 10.0
    for name in "ab":
        nodes.drivers[name].step(nodes.now, (), stalled=10.0)
    assert nodes.core("a").is_leader
    assert not nodes.sent("b", "pre_vote")
    nodes.drivers["c"].step(nodes.now, ())
    assert nodes.sent("c", "pre_vote")
    nodes.held.add(("a", "b"))
    nodes.settle()
    assert [s.message["granted"] for s in nodes.sent("b", "pre_vote_reply")] == [False]
    assert nodes.core("a").is_leader


def test_a_pause_is_forgiven_before_anything_that_arrived_in_it() -> None:
    """Who asks first hears that the leader lives, though its heartbeats are read only then."""
    nodes = led()
    last = nodes.core("b").log.last
    position = {"last_log_index": last.index, "last_log_term": last.term}
    nodes.now += 10.0
    asked = [("c", {"type": "pre_vote", "term": 2, **position})]
    nodes.drivers["b"].step(nodes.now, asked, stalled=10.0)
    assert [s.message["granted"] for s in nodes.sent("b", "pre_vote_reply")] == [False]


def test_a_pause_buys_the_leader_no_time_beyond_it() -> None:
    """A heartbeat that waited is as good as one that is heard now, and no better: when the leader
    dies after a pause of ten seconds, the others do not wait ten seconds more."""
    nodes = led()
    nodes.favour("c")
    nodes.held |= {("a", "b"), ("a", "c")}
    nodes.advance(TIMING.heartbeat)
    waiting = nodes.sent("a", "append_entries")[-2:]
    nodes.now += 10.0
    for sent in waiting:
        nodes.drivers[sent.target].step(nodes.now, [("a", sent.message)], stalled=10.0)
    died = nodes.now
    nodes.crash("a")
    nodes.until(lambda: any(nodes.core(name).ready_to_lead for name in "bc"))
    assert nodes.now - died < 2 * TIMING.election_max


def test_a_pause_of_the_leader_buys_itself_no_time_beyond_it() -> None:
    """Answers that waited count as of now: without any more of them it steps down as usual."""
    nodes = led()
    nodes.held |= {("b", "a"), ("c", "a")}
    nodes.advance(TIMING.heartbeat)
    replies = [(name, nodes.sent(name, "append_reply")[-1].message) for name in "bc"]
    nodes.now += 10.0
    nodes.drivers["a"].step(nodes.now, replies, stalled=10.0)
    assert nodes.core("a").is_leader
    nodes.isolate("a")
    nodes.pass_time(2 * TIMING.election_max)
    assert not nodes.core("a").is_leader
