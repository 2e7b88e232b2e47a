"""Bringing a copy of the state to a peer: chunks lost, repeated, garbled, or not needed at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.raft.core import Bounds
from cluster.raft.membership import Membership
from cluster.raft.snapshot import RESEND_S, Snapshots, SnapshotSink, SnapshotSource
from cluster.raft.stock import Message
from tests.raft.ensemble import Ensemble, Sent

KEYS = 12
BOUNDS = Bounds(snapshot_chunk_bytes=40)


def behind(name: str = "c") -> Ensemble:
    """`a` leads, and its log no longer has what `name`, just connected again, needs next."""
    nodes = Ensemble(bounds=BOUNDS)
    nodes.elect("a")
    nodes.isolate(name)
    for number in range(KEYS):
        nodes.propose("a", f"key-{number}")
        nodes.settle()
    compact(nodes, "a")
    for other in "ab":
        nodes.join(other, name)
    nodes.traffic.clear()
    return nodes


def compact(nodes: Ensemble, name: str) -> None:
    log = nodes.core(name).log
    log.compact(nodes.states[name].checkpoint())
    nodes.step(name)


def caught_up(nodes: Ensemble, name: str) -> bool:
    return nodes.core(name).applied_index == nodes.core("a").applied_index


def test_a_peer_gets_the_state_in_chunks() -> None:
    """One in flight, each answered; then it has the same values and follows the log again."""
    nodes = behind()
    nodes.until(lambda: caught_up(nodes, "c"))
    assert len(nodes.values("c")) == KEYS
    assert nodes.values("c") == nodes.values("a")
    assert len(nodes.sent("a", "snapshot_chunk")) > 3
    assert len(nodes.sent("c", "snapshot_reply")) == len(nodes.sent("a", "snapshot_chunk"))
    assert nodes.core("c").log.first.index > 1
    assert nodes.drivers["a"].snapshots.sent == 1
    assert nodes.drivers["c"].snapshots.installed == 1
    assert nodes.platters["c"].notes["installing"] is None

    answered = nodes.propose("c", "more")
    nodes.settle()
    assert len(answered) == 1
    assert "more" in nodes.values("c")


@pytest.mark.parametrize("kind", ["snapshot_chunk", "snapshot_reply"])
def test_a_lost_chunk_or_answer_is_made_up_for(kind: str) -> None:
    """After a while the chunk is sent again; the receiver takes it once."""
    nodes = behind()
    lost: list[int] = []

    def lose_some(sent: Sent) -> Message | None:
        if sent.message["type"] == kind and len(nodes.sent(sent.source, kind)) in (2, 4):
            lost.append(sent.message["offset"])
            return None
        return sent.message

    nodes.alter = lose_some
    nodes.until(lambda: len(lost) == 1)
    began = nodes.now
    nodes.until(lambda: caught_up(nodes, "c"))
    assert nodes.now - began > RESEND_S
    assert len(lost) == 2
    assert nodes.values("c") == nodes.values("a")
    assert nodes.drivers["c"].snapshots.installed == 1


def test_a_repeated_chunk_is_written_once() -> None:
    """A resent chunk may cross its answer."""
    nodes = behind()
    nodes.until(lambda: len(nodes.sent("a", "snapshot_chunk")) > 0)
    again = [("a", sent.message) for sent in nodes.sent("a", "snapshot_chunk")]
    nodes.step("c", *again, *again)
    nodes.until(lambda: caught_up(nodes, "c"))
    assert nodes.values("c") == nodes.values("a")


def test_a_copy_that_arrives_garbled_is_thrown_away() -> None:
    """The digest of the whole does not fit: nothing is touched, and the copy begins again."""
    nodes = behind()
    garbled: list[int] = []

    def garble(sent: Sent) -> Message:
        if sent.message["type"] == "snapshot_chunk" and not garbled and sent.message["offset"] > 0:
            garbled.append(sent.message["offset"])
            return {**sent.message, "data": bytes(len(sent.message["data"]))}
        return sent.message

    nodes.alter = garble
    nodes.until(lambda: bool(garbled) and len(nodes.sent("a", "snapshot_chunk")) > 3)
    nodes.until(lambda: caught_up(nodes, "c"))
    offsets = [sent.message["offset"] for sent in nodes.sent("a", "snapshot_chunk")]
    assert offsets.count(0) == 2
    assert nodes.values("c") == nodes.values("a")
    assert nodes.drivers["c"].snapshots.installed == 1


def test_a_receiver_that_restarts_is_sent_the_copy_anew() -> None:
    """It has the beginning no more, and says so; until the last chunk its log is untouched."""
    nodes = behind()
    log = nodes.core("c").log
    nodes.alter = lambda sent: (
        None
        if sent.message["type"] == "snapshot_chunk" and sent.message["digest"] is not None
        else sent.message
    )
    before = (log.first, log.last)
    nodes.until(lambda: any(s.message["digest"] for s in nodes.sent("a", "snapshot_chunk")))
    assert nodes.drivers["c"].snapshots.receiving
    assert (log.first, log.last) == before

    nodes.alter = lambda sent: sent.message
    nodes.crash("c")
    nodes.start("c")
    assert nodes.core("c").log.last == before[1]
    for other in "ab":
        nodes.join(other, "c")
    nodes.until(lambda: caught_up(nodes, "c"))
    assert nodes.values("c") == nodes.values("a")


def test_a_copy_that_the_log_covers_discards_nothing() -> None:
    """Entries acknowledged to an earlier leader may be the only second copy (Fig. 13, step 6)."""
    nodes = Ensemble()
    nodes.elect("a")
    for number in range(KEYS):
        nodes.propose("a", f"key-{number}")
        nodes.settle()
    nodes.held |= {("a", "c"), ("c", "a")}  # c has the entries and does not know of their commit
    core, source = nodes.core("c"), nodes.core("a")
    committed = core.log.get(core.commit_index)
    assert committed is not None
    for covered in (core.log.last, committed, committed):
        before = (core.log.first, core.log.last, core.commit_index, core.applied_index)
        chunk = {
            "type": "snapshot_chunk", "term": source.term, "id": 1, "index": covered.index,
            "log_term": covered.term, "members": core.members.encode(), "offset": 0, "data": b"x",
            "digest": None,
        }  # fmt: skip
        nodes.traffic.clear()
        nodes.step("c", ("a", chunk))
        assert before == (core.log.first, core.log.last, core.commit_index, core.applied_index)
        (reply,) = nodes.sent("c", "snapshot_reply")
        assert reply.message["installed"] == covered.index
        assert not nodes.drivers["c"].snapshots.receiving
        nodes.propose("a", "more")
        nodes.held.clear()
        nodes.settle()
        compact(nodes, "c")  # in the next round the entry is applied and cut


def test_only_the_leader_is_believed() -> None:
    """An earlier leader's copy, or a follower's, starts nothing and gets no answer."""
    nodes = behind()
    nodes.until(lambda: len(nodes.sent("a", "snapshot_chunk")) > 0)
    (first, *_) = nodes.sent("a", "snapshot_chunk")
    nodes.drivers["c"].snapshots.close()
    nodes.traffic.clear()
    nodes.step(
        "c", ("b", first.message), ("a", {**first.message, "term": first.message["term"] - 1})
    )
    assert nodes.sent("c", "snapshot_reply") == []
    assert not nodes.drivers["c"].snapshots.receiving


def test_a_leader_that_loses_its_term_lets_go_of_copies() -> None:
    """The next leader begins one of its own, which replaces the half-received one."""
    nodes = behind()
    nodes.alter = lambda sent: (
        None
        if sent.source == "a"
        and sent.message["type"] == "snapshot_chunk"
        and sent.message["offset"] > 0
        else sent.message
    )
    nodes.until(lambda: nodes.drivers["c"].snapshots.receiving)
    compact(nodes, "b")
    nodes.favour("b")
    nodes.crash("a")
    nodes.elect("b")
    nodes.until(lambda: nodes.core("c").applied_index == nodes.core("b").applied_index)
    assert nodes.values("c") == nodes.values("b")
    assert nodes.drivers["c"].snapshots.installed == 1


class Source:
    """A copy that knows whether it was closed."""

    size = 1

    def __init__(self, members: Membership) -> None:
        self.index, self.term, self.members = 5, 1, members
        self.closed = False

    def read(self, offset: int, size: int) -> bytes:
        return b"x"[offset : offset + size]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Copies:
    """A store whose copies are ready when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[SnapshotSource | None], None]] = []

    def copy(self, ready: Callable[[SnapshotSource | None], None]) -> None:
        self.asked.append(ready)

    def receive(self) -> SnapshotSink:
        raise AssertionError("a leader receives no copy")


def sending(nodes: Ensemble) -> tuple[Snapshots, Copies]:
    """The leader's side alone, once a peer needs a copy."""
    nodes.alter = lambda sent: None if sent.message["type"] == "snapshot_chunk" else sent.message
    nodes.until(lambda: bool(nodes.core("a").snapshots_due()))
    copies = Copies()
    snapshots = Snapshots(nodes.core("a"), copies, lambda peer, message: None)
    snapshots.drive(nodes.now)
    assert len(copies.asked) == 1
    return snapshots, copies


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_copy_that_nobody_needs_any_more_is_closed(moment: str) -> None:
    """Whether the peer went away before the copy was ready, or after."""
    nodes = behind()
    snapshots, copies = sending(nodes)
    source = Source(nodes.founders)
    if moment == "after":
        copies.asked[0](source)
    nodes.cut("a", "c")
    snapshots.drive(nodes.now)
    if moment == "before":
        copies.asked[0](source)
    assert source.closed


def test_one_copy_is_made_at_a_time() -> None:
    """However often the leader looks while it is being made."""
    nodes = behind()
    snapshots, copies = sending(nodes)
    for _ in range(3):
        snapshots.drive(nodes.now)
    assert len(copies.asked) == 1
    source = Source(nodes.founders)
    copies.asked[0](source)
    snapshots.close()
    assert source.closed


def test_without_room_for_a_copy_the_leader_asks_again_what_the_peer_needs() -> None:
    """The peer waits; nothing else is lost, and the next copy may succeed."""
    nodes = behind()
    snapshots, copies = sending(nodes)
    copies.asked[0](None)
    assert nodes.core("a").snapshots_due() == []
    nodes.alter = lambda sent: sent.message
    nodes.until(lambda: caught_up(nodes, "c"))
    snapshots.close()


def test_the_log_lasts_as_long_as_a_copy_is_on_its_way() -> None:
    """What follows the copy must still be there, or one copy would follow the other."""
    nodes = behind()
    began = nodes.core("a").applied_index
    nodes.until(lambda: len(nodes.sent("a", "snapshot_chunk")) > 0)
    nodes.held.add(("a", "c"))
    nodes.propose("a", "more")
    nodes.settle()
    assert nodes.core("a").needed_index() == began < nodes.core("a").applied_index
    nodes.held.clear()
    nodes.until(lambda: caught_up(nodes, "c"))
    nodes.settle()
    assert nodes.core("a").needed_index() == nodes.core("a").log.last.index
