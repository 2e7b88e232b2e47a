"""The node's side of reports: sent once each, whatever becomes of the first attempts."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from cluster.errors import LeaderChanged, NoLeader
from cluster.logs import NodeLog
from cluster.reachability import HEALTHY_AFTER_S, UNREACHABLE_AFTER_S
from cluster.reporting import ATTEMPT_S, LOOK_EVERY_S, SNAPSHOT_EVERY_S, STOP_S, Reporting
from hooks.events.publisher import payload
from hooks.replicated import capture
from hooks.replicated.capture import Rule
from pubsub.limits import REPORT_TEXT_BYTES_MAX, REPORT_TEXTS_MAX
from tests.cluster.entries import Driver

Done = Callable[[object], None]


class Peer:
    """What the leader knows of one."""

    connected = True


class Core:
    """As much of Raft as reporting looks at."""

    def __init__(self) -> None:
        self.leader: str | None = "a"
        self.role = "leader"
        self.ready_to_lead = True
        self.peers = {"b": Peer(), "c": Peer()}

    def progress(self) -> dict[str, Peer]:
        return self.peers


class Node:
    """A machine that applies what is proposed, and answers as `answers` says, one for each."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.driver.do("put", "k", b"v")  # of this release
        self.core = Core()
        self.proposed = 0
        self.answers: list[Callable[[bytes, Done], None]] = []
        self.text = io.StringIO()
        log = NodeLog(self.text, node="a", level="info", format="text", wall_ms=lambda: 0)
        self.reporting = Reporting(
            "a", 7, core=lambda: self.core, machine=lambda: self.driver.machine,  # type: ignore[arg-type,return-value]
            propose=self.propose, log=log,
        )  # fmt: skip

    def propose(self, operation: bytes, done: Done) -> None:
        self.proposed += 1
        if self.answers:
            self.answers.pop(0)(operation, done)
        else:
            done(self.driver.entry(operation).results[0])

    def lost(self, operation: bytes, done: Done) -> None:
        """Applied, and nobody knows."""
        self.driver.entry(operation)
        done(LeaderChanged())

    def silent(self, operation: bytes, done: Done) -> None:
        """Applied, and no answer comes."""
        self.driver.entry(operation)

    def without_leader(self, operation: bytes, done: Done) -> None:
        """Not applied."""
        done(NoLeader())

    async def run(self, seconds: float, *rules: Rule) -> None:
        with trio.move_on_after(seconds):
            self.reporting.seed_capture(rules)
            await self.reporting.run()

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """The reports in the log: last segment of the topic, and payload."""
        return [
            (event.topic.rpartition(".")[2], payload(event))
            for event in self.driver.events()
            if event.topic.startswith("hooks.system.")
        ]

    def names(self) -> list[str]:
        return [name for name, _ in self.told()]


async def test_a_start_is_reported_once(autojump_clock: trio.testing.MockClock) -> None:
    """As soon as there is somebody to tell."""
    node = Node()
    node.core.leader = None
    node.reporting.node_started("0.1.0", "00ff")
    await node.run(5.0)
    assert node.proposed == 0
    node.core.leader = "b"
    await node.run(20.0)
    assert node.told() == [("node_started", {"node": "a", "version": "0.1.0", "uid": "00ff"})]
    assert node.proposed == 1


@pytest.mark.parametrize("attempts", [["lost"], ["silent", "lost"], ["without_leader", "silent"]])
async def test_a_report_whose_outcome_is_unknown_is_repeated(
    autojump_clock: trio.testing.MockClock, attempts: list[str]
) -> None:
    """Under its number, so it is one event; the next report comes after it."""
    node = Node()
    node.answers = [getattr(node, name) for name in attempts]
    node.reporting.node_started("0.1.0", "00ff")
    node.reporting.config_reloaded(False, [], ["hooks: no such key"])
    await node.run(3 * ATTEMPT_S)
    assert node.names() == ["node_started", "config_reloaded"]
    assert node.proposed == len(attempts) + 2


async def test_nothing_is_sent_in_entries_of_an_older_release(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Reports wait until every member can apply them."""
    node = Node()
    node.driver = Driver()
    node.reporting.node_started("0.1.0", "00ff")
    await node.run(5.0)
    assert node.proposed == 0
    node.driver.do("put", "k", b"v")
    await node.run(1.0)
    assert node.names() == ["node_started"]


async def test_an_outsider_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Before it is added, and after it was removed."""
    node = Node()
    node.core.role = "outsider"
    node.reporting.node_started("0.1.0", "00ff")
    await node.run(5.0)
    await node.reporting.node_stopped("asked to stop")
    assert node.proposed == 0


async def test_of_many_snapshots_the_newest_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The first at once, then one in a while: a report must not lead to the next snapshot."""
    node = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run, 3 * SNAPSHOT_EVERY_S)
        for index in range(100, 105):
            node.reporting.snapshot_created(index, 2, 4096)
            await trio.sleep(LOOK_EVERY_S * 2)
    assert [facts["index"] for _, facts in node.told()] == [100, 104]


async def test_an_installed_snapshot_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    """With the node that sent it."""
    node = Node()
    node.reporting.snapshot_installed(900, 4, 65_536, "b")
    await node.run(1.0)
    expected = {"node": "a", "index": 900, "term": 4, "size_bytes": 65_536, "from": "b"}
    assert node.told() == [("snapshot_installed", expected)]


async def test_a_stop_is_said_before_anything_ends(autojump_clock: trio.testing.MockClock) -> None:
    """The event is in the log when the call returns."""
    node = Node()
    await node.reporting.node_stopped("asked to stop")
    assert node.told() == [("node_stopped", {"node": "a", "reason": "asked to stop"})]


async def test_a_stop_does_not_wait_for_a_cluster_that_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A second at most, and none when there is no leader."""
    node = Node()
    node.answers = [node.without_leader] * 100
    began = trio.current_time()
    await node.reporting.node_stopped("asked to stop")
    assert trio.current_time() - began == pytest.approx(STOP_S)
    node.core.leader = None
    await node.reporting.node_stopped("asked to stop")
    assert trio.current_time() - began == pytest.approx(STOP_S)


async def test_long_texts_are_cut(autojump_clock: trio.testing.MockClock) -> None:
    """What a parser says about a file may be long; a report that is refused would say nothing."""
    node = Node()
    node.reporting.config_reloaded(False, ["ü" * 2_000], ["x"] * 1_000)
    await node.run(1.0)
    ((_, facts),) = node.told()
    assert len(facts["changes"][0].encode()) == REPORT_TEXT_BYTES_MAX
    assert len(facts["problems"]) == REPORT_TEXTS_MAX


async def test_a_member_that_is_lost_and_back_is_two_events(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However long each takes, and whatever becomes of the first attempt to say it."""
    node = Node()
    node.answers = [node.silent]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run, 40.0)
        await trio.sleep(1.0)
        node.core.peers["c"].connected = False
        await trio.sleep(UNREACHABLE_AFTER_S + ATTEMPT_S + 10.0)
        node.core.peers["c"].connected = True
        await trio.sleep(HEALTHY_AFTER_S + 10.0)
    assert [(facts["node"], facts["current"]) for _, facts in node.told()] == [
        ("c", "unreachable"),
        ("c", "healthy"),
    ]


async def test_only_a_leader_judges_others(autojump_clock: trio.testing.MockClock) -> None:
    """A node that is cut off does not report the rest of the cluster."""
    node = Node()
    node.core.ready_to_lead = False
    node.core.peers["c"].connected = False
    await node.run(10 * UNREACHABLE_AFTER_S)
    assert node.told() == []


async def test_the_rules_of_a_file_are_what_the_cluster_begins_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Once; a node whose file says something else says so in its log, and changes nothing."""
    node = Node()
    node.answers = [node.without_leader, node.lost]
    await node.run(5.0, Rule("s/", "none"))
    assert capture.listing(node.driver.connection) == [Rule("s/", "none")]
    assert node.text.getvalue() == ""
    proposed = node.proposed
    await node.run(5.0, Rule("s/", "hash"))
    assert capture.listing(node.driver.connection) == [Rule("s/", "none")]
    assert node.proposed == proposed
    assert "other rules of capture" in node.text.getvalue()


async def test_rules_that_a_file_has_later_count_like_those_of_a_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A node that had none and is told some while it runs seeds them."""
    node = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.reporting.run)
        await trio.sleep(5.0)
        node.reporting.seed_capture([Rule("s/", "none")])
        await trio.sleep(5.0)
        assert capture.listing(node.driver.connection) == [Rule("s/", "none")]
        nursery.cancel_scope.cancel()
