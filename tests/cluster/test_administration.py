"""Changes of members and leadership, asked of any node and made by the leader."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from cluster.administration import Administration
from cluster.errors import DefiniteError, LeaderChanged, NoLeader, NotLeader, Rejected
from cluster.raft import messages
from cluster.raft.consensus import Timing
from cluster.raft.peers import GROUP, Hello
from cluster.raft.stock import Message
from tests.raft.ensemble import Ensemble


class Offices:
    """An administration for each of a few nodes that `a` leads, and the messages between them."""

    def __init__(self, voters: str = "abc", outsiders: str = "d") -> None:
        self.nodes = Ensemble(voters, "", outsiders)
        self.nodes.elect("a")
        self.nodes.advance(Timing().heartbeat)
        self.known: dict[str, Hello] = {}
        self.woken: list[str] = []
        self._mail: list[tuple[str, str, bytes]] = []
        self._offices = {name: self._open(name) for name in self.nodes.names}

    def __getitem__(self, name: str) -> Administration:
        return self._offices[name]

    def _open(self, name: str) -> Administration:
        def send(to: str, message: Message) -> None:
            self._mail.append((name, to, msgpack.packb([GROUP, message])))

        return Administration(
            self.nodes.core(name),
            known=self.known.get,
            send=send,
            wake=lambda: self.woken.append(name),
            clock=lambda: self.nodes.now,
        )

    def met(self, name: str) -> None:
        """`name` has contacted the leader."""
        self.known[name] = Hello(name, f"uid-{name}", f"{name}:1", None, [], [], 0)

    def ask(self, at: str, request: Any, name: str | None, address: str = "") -> list[object]:
        """What is answered appears in the list."""
        answers: list[object] = []
        self[at].request(request, name, address, answers.append)
        return answers

    def deliver(self) -> None:
        """Let messages arrive and the nodes work until nothing is under way."""
        for _ in range(5):
            mail, self._mail = self._mail, []
            for sender, to, data in mail:
                message = messages.check(msgpack.unpackb(data))
                assert message is not None
                assert self[to].receive(sender, message)
            self.nodes.advance(0.001)

    def lose_mail(self) -> None:
        self._mail.clear()


@pytest.mark.parametrize("at", ["a", "b"])
def test_a_member_is_added_promoted_and_removed(at: str) -> None:
    """At the leader or through a follower, with the result of the entry."""
    offices = Offices()
    offices.met("d")
    core = offices.nodes.core("a")
    for request, role in (("add", "learner"), ("promote", "voter"), ("remove", None)):
        answers = offices.ask(at, request, "d")
        assert answers == []
        offices.deliver()
        assert len(answers) == 1
        assert not isinstance(answers[0], Exception), request
        member = core.members.get("d")
        assert (None if member is None else member.role) == role
    assert offices.woken[0] == "a"


def test_a_leader_that_is_cut_off_refuses_nothing_for_certain() -> None:
    """What it knows of the members may be old: the others may have added the one that it lacks."""
    offices = Offices()
    answers = offices.ask("a", "remove", "x")
    assert answers == []  # not before a majority has confirmed that it leads
    offices.deliver()
    assert isinstance(answers[0], Rejected)
    offices.nodes.isolate("a")
    answers = offices.ask("a", "remove", "x")
    offices.nodes.pass_time(3 * Timing().election_max)
    assert len(answers) == 1
    assert isinstance(answers[0], NotLeader)


def test_an_address_that_is_given_wins() -> None:
    """Else it is what the node said of itself."""
    offices = Offices(outsiders="de")
    for name, given, expected in (("d", "", "d:1"), ("e", "elsewhere:9", "elsewhere:9")):
        offices.met(name)
        offices.ask("a", "add", name, given)
        offices.deliver()
        member = offices.nodes.core("a").members.get(name)
        assert member is not None
        assert (member.uid, member.address) == (f"uid-{name}", expected)


def test_a_node_that_nobody_has_heard_of_is_not_added() -> None:
    """Its uid is not known; the message says what to do."""
    offices = Offices()
    answers = offices.ask("b", "add", "d")
    offices.deliver()
    (answer,) = answers
    assert isinstance(answer, Rejected)
    assert answer.reason == "member_unreachable"
    assert "cluster.join" in answer.detail


@pytest.mark.parametrize(
    ("request_name", "name", "reason"),
    [
        ("promote", "z", "unknown_member"),
        ("remove", "a", "member_leads"),
        ("transfer", "z", "unknown_member"),
        ("promote", None, "unknown_member"),
        ("dance", "a", "unknown_operation"),
    ],
)
def test_a_refusal_keeps_its_reason_on_the_way(
    request_name: str, name: str | None, reason: str
) -> None:
    """The one who asked a follower hears what the leader said."""
    offices = Offices()
    for at in "ab":
        answers = offices.ask(at, request_name, name)
        offices.deliver()
        (answer,) = answers
        assert isinstance(answer, Rejected)
        assert answer.reason == reason


def test_leadership_moves_when_a_follower_is_asked() -> None:
    """To the node that is named; the answer comes from the node that led."""
    offices = Offices()
    answers = offices.ask("b", "transfer", "c")
    offices.deliver()
    offices.nodes.pass_time(0.1)
    offices.deliver()
    assert offices.nodes.core("c").is_leader
    assert answers == [None]


def test_without_a_leader_nothing_is_asked() -> None:
    """A definite error."""
    offices = Offices()
    offices.nodes.isolate("b")
    offices.nodes.pass_time(1.0)
    assert [type(answer) for answer in offices.ask("b", "remove", "c")] == [NoLeader]


def test_a_node_that_no_longer_leads_says_so() -> None:
    """Nothing was changed, for certain."""
    offices = Offices()
    answers = offices.ask("b", "remove", "c")
    offices.nodes.favour("c")
    transferred: list[object] = []
    offices.nodes.core("a").transfer_leadership(offices.nodes.now, "c", transferred.append)
    offices.nodes.pass_time(0.1)
    offices.deliver()
    (answer,) = answers
    assert isinstance(answer, NotLeader)
    assert isinstance(answer, DefiniteError)
    assert answer.leader == "c"


def test_a_broken_session_leaves_the_outcome_unknown() -> None:
    """Once; an answer that comes nevertheless is nobody's."""
    offices = Offices()
    answers = offices.ask("b", "remove", "c")
    offices["b"].link_down("c")
    assert answers == []
    offices["b"].link_down("a")
    assert [type(answer) for answer in answers] == [LeaderChanged]
    offices.deliver()
    assert len(answers) == 1
    assert offices.nodes.core("a").members.get("c") is None, "and it did happen"


def test_an_answer_that_was_not_asked_for_is_ignored() -> None:
    """So is any message that is not ours: it is for somebody else."""
    offices = Offices()
    assert offices["a"].receive("b", {"type": "admin_reply", "id": 99, "error": None, "result": 1})
    assert not offices["a"].receive("b", {"type": "timeout_now", "term": 1})
