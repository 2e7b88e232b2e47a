"""The leader proposes what time asks for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from cluster.errors import NotLeader
from cluster.operations import pack, unpack
from cluster.timekeeper import EXPIRED_KEYS_PER_PROPOSAL, LOOK_EVERY_S, Timekeeper
from pubsub.limits import DELAYED_PUBLISHED_MAX, MESSAGE_ID_WINDOW_MS
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver, put

Done = Callable[[object], None]


class Node:
    """A machine that applies what is proposed; `leads` says whether this node has the clocks."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.leads = True
        self.proposed: list[tuple[str, list[int]]] = []
        self.answer: Callable[[object], object] = lambda result: result
        self.holds = False
        self.lost: list[list[str]] = []

    def clocks(self) -> tuple[int, int] | None:
        return (self.driver.wall_ms, self.driver.elapsed_ms) if self.leads else None

    def submit(self, payload: bytes, done: Done) -> None:
        operation = unpack(payload)
        assert not isinstance(operation, Rejection)
        self.proposed.append((operation[2], operation[3]))
        if not self.holds:
            (result,) = self.driver.entry(payload).results
            done(self.answer(result))

    def keeper(self) -> Timekeeper:
        return Timekeeper(lambda: self.driver.machine, self.clocks, self.submit, self.lost.append)

    def names(self) -> list[str]:
        return [name for name, _ in self.proposed]

    def count(self, key: str) -> int:
        found = self.driver.connection.execute("SELECT count(*) FROM kv WHERE key = ?", (key,)).get
        assert isinstance(found, int)
        return found


async def look(node: Node, times: int = 1) -> None:
    """Let the timekeeper look so many times."""
    with trio.move_on_after(LOOK_EVERY_S * (times + 0.5)):
        await node.keeper().run()


async def test_nothing_is_proposed_while_nothing_is_due(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not for a key that lives, nor for one without an end."""
    node = Node()
    node.driver.entry(put("forever"), put("later", b"v", 60_000))
    await look(node, 5)
    assert node.proposed == []


async def test_a_key_goes_when_its_time_has_come(autojump_clock: trio.testing.MockClock) -> None:
    """By the cluster's wall clock, once."""
    node = Node()
    node.driver.entry(put("short", b"v", 500), put("later", b"v", 60_000))
    node.driver.wall_ms += 499
    await look(node)
    assert node.proposed == []
    node.driver.wall_ms += 1
    await look(node, 3)
    assert node.proposed == [("kv.expire", [node.driver.wall_ms, EXPIRED_KEYS_PER_PROPOSAL])]
    assert (node.count("short"), node.count("later")) == (0, 1)


async def test_a_follower_proposes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Its clocks are nobody's; when it leads it finds what is due."""
    node = Node()
    node.driver.entry(put("short", b"v", 500))
    node.driver.wall_ms += 1000
    node.leads = False
    await look(node, 5)
    assert node.proposed == []
    node.leads = True
    await look(node)
    assert node.names() == ["kv.expire"]


async def test_sessions_and_members_expire_on_the_elapsed_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However far the wall clock jumps, it is no reason to believe that somebody is gone."""
    node = Node()
    node.driver.do("session.open")
    node.driver.do("group.define", "g", "x.>", 1, "latest", 1)
    node.driver.do("group.join", "g", "m", 5_000)
    node.driver.wall_ms += 10 * 24 * 3_600_000
    await look(node, 3)
    assert node.proposed == []
    node.driver.elapsed_ms += 5_000
    await look(node, 2)
    assert node.names() == ["group.expire"]
    node.driver.elapsed_ms += 24 * 3_600_000
    await look(node, 2)
    assert node.names() == ["group.expire", "session.expire"]
    assert node.driver.machine.sessions_count == 0


async def test_more_keys_than_fit_go_in_several_looks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each entry is bounded."""
    node = Node()
    keys = EXPIRED_KEYS_PER_PROPOSAL + 10
    node.driver.entry(*(put(f"key-{number}", b"v", 500) for number in range(keys)))
    node.driver.wall_ms += 1000
    await look(node, 4)
    assert node.names() == ["kv.expire"] * 2
    assert node.count("key-0") == 0


async def test_one_proposal_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    """Without an answer there is no next look: it could only propose the same again."""
    node = Node()
    node.holds = True
    node.driver.entry(put("short", b"v", 500))
    node.driver.wall_ms += 1000
    await look(node, 10)
    assert len(node.proposed) == 1


async def test_an_error_of_the_cluster_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The next look decides anew; a refusal of what we proposed ourselves is our bug."""
    node = Node()
    node.answer = lambda result: NotLeader(None)
    node.driver.entry(put("one", b"v", 500), put("two", b"v", 2000))
    node.driver.wall_ms += 1000
    await look(node, 2)
    node.driver.wall_ms += 1000
    await look(node, 2)
    assert node.names() == ["kv.expire"] * 2
    node.driver.entry(put("three", b"v", 1))
    node.driver.wall_ms += 1
    node.answer = lambda result: Rejection("malformed", "")
    with pytest.raises(AssertionError, match=r"kv\.expire was refused"):
        await look(node)


async def test_a_delayed_event_comes_out_on_the_wall_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """When its time has come and not before, once."""
    node = Node()
    node.driver.do("publish_later", "t", None, b"", None, None, None, 500)
    node.driver.elapsed_ms += 10_000
    node.driver.wall_ms += 499
    await look(node)
    assert node.proposed == []
    node.driver.wall_ms += 1
    await look(node, 3)
    assert node.proposed == [("delayed.publish", [node.driver.wall_ms, DELAYED_PUBLISHED_MAX])]
    assert node.driver.machine.revision == 1


async def test_message_ids_go_on_the_elapsed_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """When none of those that came with them can be within its window any more."""
    node = Node()
    node.driver.do("publish", "t", None, b"", None, None, {"message_id": "m"})
    node.driver.wall_ms += 10**9
    node.driver.elapsed_ms += MESSAGE_ID_WINDOW_MS
    await look(node)
    assert node.proposed == []
    node.driver.elapsed_ms += MESSAGE_ID_WINDOW_MS
    await look(node, 3)
    assert node.names() == ["message.forget"]
    assert node.driver.rows()["message_ids"] == []


async def test_retention_keeps_up(autojump_clock: trio.testing.MockClock) -> None:
    """As many slices as one look may propose, then the rest at the next one; then silence."""
    node = Node()
    for _ in range(3):
        node.driver.entry(*(pack(0, 0, "publish", ["t", None, b""]) for _ in range(2)))
    await look(node, 3)
    assert node.proposed == []
    node.driver.do("retention.set", "t", 1_000, None, None)
    await look(node)
    assert node.proposed == []
    node.driver.wall_ms += 1_000
    await look(node, 5)
    assert node.names() == ["retention.trim"]
    assert [event.revision for event in node.driver.events()] == [6]


async def test_a_replay_goes_on_until_it_is_done(autojump_clock: trio.testing.MockClock) -> None:
    """Step by step, as fast as its rate allows by the elapsed clock."""
    node = Node()
    node.driver.do("group.define", "g", ">", 1, "earliest", 1)
    for _ in range(3):
        node.driver.do("publish", "t", None, b"")
    node.driver.do("replay.start", "g", 1, None, {"rate_per_s": 2})
    await look(node, 3)
    assert node.names() == ["replay.step"]
    node.driver.elapsed_ms += 60_000
    await look(node, 3)
    assert node.names() == ["replay.step"] * 2
    assert [event.data[1] for event in node.driver.events(4)] == [1, 2, 3]


async def test_a_group_that_the_cap_outweighs_is_told_of_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Loudly, and not again with every slice."""
    node = Node()
    node.driver.do("group.define", "g", "t", 1, "earliest", 1)
    for _ in range(20):
        node.driver.do("publish", "t", None, b"x")
    node.driver.do("retention.cap", 5, None)
    await look(node, 3)
    assert node.lost == [["g"]]
    assert "retention.trim" in node.names()
