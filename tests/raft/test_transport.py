"""Sessions between nodes: links of two halves, greetings, strangers, and names that are reused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgpack
import trio
from trio.testing import MockClock

from cluster.raft import peers
from cluster.raft.membership import Membership
from cluster.raft.peers import GROUP, Hello, Refusal
from cluster.raft.stock import Message
from cluster.raft.transport import GREETING_S, HALF_LINK_S, HELD_MAX, REDIAL_MAX_S, Transport
from cluster.security.tls import Subject
from tests.raft.memory_network import MemoryNetwork, MemorySession

PING: Message = {"type": "ping"}


class Node:
    """A transport and its host, which notes what it is told."""

    def __init__(self, network: MemoryNetwork, name: str, uid: str | None = None) -> None:
        self.name = name
        self.uid = uid or f"uid-{name}"
        self.told: list[tuple[str, Any]] = []
        self.received_messages: list[tuple[str, Message]] = []
        self.refusal: Refusal | None = None
        self.transport = Transport(self, network, Random(1), server_tls=None, client_tls=None)
        self.answers = False
        self.members_index = 0
        self.dials_back_at: int | None = None  # whom it knows of such an index

    def hello(self) -> Hello:
        return Hello(self.name, self.uid, f"{self.name}:1", "cluster", [], [], self.members_index)

    def objection(self, other: Hello, subject: Subject | None) -> Refusal | None:
        return self.refusal or peers.objection(self.hello(), Membership([]), other, subject)

    def stands_in(self, other: Hello) -> bool:
        return False

    def met(self, other: Hello) -> None:
        self.told.append(("met", other.name))
        if self.dials_back_at is not None and other.members_index >= self.dials_back_at:
            self.transport.dial({other.address: other.name})

    def refused(self, address: str, refusal: Refusal) -> None:
        self.told.append(("refused", refusal.code))

    def stranger(self, port: str, reason: str) -> None:
        self.told.append(("stranger", reason))

    def received(self, sender: str, messages: Sequence[Message]) -> None:
        self.received_messages += [(sender, message) for message in messages]
        if self.answers and PING in messages:
            self.transport.send(sender, {"type": "pong"})

    def link_up(self, name: str) -> None:
        self.told.append(("up", name))

    def link_down(self, name: str) -> None:
        self.told.append(("down", name))

    def links(self) -> list[tuple[str, Any]]:
        return [event for event in self.told if event[0] in ("up", "down")]


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await node.transport.serve((node.name, 1), nursery)
        yield nursery
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let virtual time pass until it holds: there is nothing else to wait for."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - on virtual time
            await trio.sleep(0.01)


async def linked(a: Node, b: Node) -> None:
    a.transport.dial({"b:1": "b"})
    b.transport.dial({"a:1": "a"})
    await until(lambda: a.transport.is_up("b") and b.transport.is_up("a"))


async def test_a_link_is_up_when_both_have_dialled(autojump_clock: MockClock) -> None:
    """One direction alone carries nothing; both are told once."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        a.transport.dial({"b:1": "b"})
        await trio.sleep(1.0)
        assert not a.transport.is_up("b")
        b.transport.dial({"a:1": "a"})
        await until(lambda: a.transport.is_up("b") and b.transport.is_up("a"))
        for number in range(100):
            a.transport.send("b", {"type": "ping", "number": number})
        await until(lambda: len(b.received_messages) == 100)
    assert [message["number"] for _, message in b.received_messages] == list(range(100))
    assert a.links()[0] == ("up", "b")
    assert b.links()[0] == ("up", "a")


async def test_what_arrives_before_the_link_is_up_waits_for_it(autojump_clock: MockClock) -> None:
    """Its answer would go nowhere: a probe of the leader would never be answered, nor repeated."""
    network = MemoryNetwork()
    network.answers_held.add("a:1")  # a has greeted b, and b does not know it yet
    a, b = Node(network, "a"), Node(network, "b")
    b.answers = True
    async with running(a, b):
        a.transport.dial({"b:1": "b"})
        b.transport.dial({"a:1": "a"})
        await until(lambda: a.transport.is_up("b"))
        a.transport.send("b", PING)
        await trio.sleep(0.1)
        assert not b.transport.is_up("a")
        assert b.received_messages == []
        network.dialled("a:1")[0].let_go()
        await until(lambda: a.received_messages == [("b", {"type": "pong"})])
    assert b.received_messages == [("a", PING)]


async def test_what_waits_for_a_link_is_bounded(autojump_clock: MockClock) -> None:
    """A peer that goes on sending to half a link is hung up on."""
    network = MemoryNetwork()
    network.answers_held.add("a:1")
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        a.transport.dial({"b:1": "b"})
        b.transport.dial({"a:1": "a"})
        await until(lambda: a.transport.is_up("b"))
        for _ in range(HELD_MAX + 1):
            a.transport.send("b", PING)
        await until(lambda: ("down", "b") in a.told)
    assert b.received_messages == []


async def test_a_break_of_either_half_is_told_and_healed(autojump_clock: MockClock) -> None:
    """Raft must know that what was under way is lost."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        await linked(a, b)
        for address in ("a:1", "b:1"):
            before = len(a.links()), len(b.links())
            network.dialled(address)[0].close("cut")
            await until(lambda then=before: len(a.links()) > then[0] + 1)  # type: ignore[misc]
            await until(lambda then=before: len(b.links()) > then[1] + 1)  # type: ignore[misc]
            assert a.links()[-2:] == [("down", "b"), ("up", "b")]
            assert b.links()[-2:] == [("down", "a"), ("up", "a")]


async def test_half_a_link_is_greeted_anew(autojump_clock: MockClock) -> None:
    """Who was greeted before there was a reason to dial back hears of the reason later."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    b.dials_back_at = 7
    async with running(a, b):
        a.transport.dial({"b:1": "b"})
        await until(lambda: ("met", "a") in b.told)
        a.members_index = 7
        await until(lambda: a.transport.is_up("b") and b.transport.is_up("a"))
        before = len(a.told)
        await trio.sleep(10 * HALF_LINK_S)
        assert len(a.told) == before, "a whole link is left alone"


async def test_nothing_is_sent_on_a_link_that_is_down(autojump_clock: MockClock) -> None:
    """It is lost, as the sender was told."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        a.transport.send("b", PING)
        await linked(a, b)
        await trio.sleep(0.1)
    assert b.received_messages == []


async def greet(network: MemoryNetwork, data: bytes) -> MemorySession:
    session = await network.connect("a", 1)
    assert isinstance(session, MemorySession)
    session.send_nowait(data)
    return session


async def test_strangers_are_turned_away_and_counted(autojump_clock: MockClock) -> None:
    """No greeting, silence, a greeting that is none: a closed connection each."""
    network = MemoryNetwork()
    a = Node(network, "a")
    async with running(a):
        sessions = [
            await greet(network, b"GET / HTTP/1.1\r\n\r\n"),
            await greet(network, b""),
            await greet(network, msgpack.packb(["tremula-peer", 99, []])),
        ]
        await trio.sleep(GREETING_S * 2)
        assert all(session.ended for session in sessions)
    assert [event for event, _ in a.told] == ["stranger"] * 3


async def test_a_malformed_frame_ends_the_session(autojump_clock: MockClock) -> None:
    """And nothing else."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        await linked(a, b)
        network.dialled("b:1")[0].send_nowait(msgpack.packb([GROUP, "no message"]))
        await until(lambda: a.links()[-2:] == [("down", "b"), ("up", "b")])
        network.dialled("b:1")[0].send_nowait(b"\xc1")
        await until(lambda: len(a.links()) == 5)
        a.transport.send("b", PING)
        await until(lambda: b.received_messages == [("a", PING)])
    assert [event for event, _ in b.told].count("stranger") == 2


async def test_who_is_refused_is_told_why(autojump_clock: MockClock) -> None:
    """On both sides the same word, and no link."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    b.refusal = Refusal("wrong_cluster", "b belongs to another cluster")
    async with running(a, b):
        a.transport.dial({"b:1": "b"})
        await until(lambda: ("refused", "wrong_cluster") in a.told)
    assert ("refused", "wrong_cluster") in b.told
    assert a.links() == b.links() == []


async def test_a_node_does_not_talk_to_itself(autojump_clock: MockClock) -> None:
    """Its own address among the addresses to join is found out."""
    network = MemoryNetwork()
    a = Node(network, "a")
    async with running(a):
        a.transport.dial({"a:1": None})
        await until(lambda: ("refused", "self") in a.told)
    assert a.links() == []


async def test_two_addresses_of_one_node_do_not_take_turns(autojump_clock: MockClock) -> None:
    """The second is left alone while the first is up."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b) as nursery:
        await b.transport.serve(("alias", 1), nursery)
        await linked(a, b)
        a.transport.dial({"b:1": "b", "alias:1": None})
        await trio.sleep(10 * REDIAL_MAX_S)
        settled = len(a.links())
        assert settled <= 3
        await trio.sleep(20 * REDIAL_MAX_S)
        assert len(a.links()) == settled
        assert a.transport.is_up("b")


async def test_another_node_of_the_same_name_takes_the_whole_link(
    autojump_clock: MockClock,
) -> None:
    """The halves of a link are never of two nodes; and the member's uid can be insisted on."""
    network = MemoryNetwork()
    a, b = Node(network, "a"), Node(network, "b")
    async with running(a, b):
        await linked(a, b)
        wiped = Node(network, "b", uid="uid-new")
        session = await greet(network, msgpack.packb(wiped.hello().encode()))
        await until(lambda: not a.transport.is_up("b"))
        assert a.transport.uid_of("b") == "uid-new"
        a.transport.insist("b", "uid-b")
        await until(lambda: session.ended)
        await until(lambda: a.transport.is_up("b"))
        assert a.transport.uid_of("b") == "uid-b"
