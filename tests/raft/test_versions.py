"""Entries of a new version are written only once every member can apply them."""

from __future__ import annotations

from cluster import operations
from cluster.operations import VERSION
from cluster.raft.stock import Message
from cluster.raft.versions import EntryVersions
from tests.raft.ensemble import Ensemble, Sent


class Mixed(Ensemble):
    """An ensemble in which the nodes named in `old` are of a release that knows version 1 only."""

    old = ""


def written(nodes: Ensemble, value: str) -> int:
    """The version of the entry that the leader makes of a proposal."""
    nodes.propose("a", value)
    nodes.settle()
    entry = nodes.core("a").log.last
    assert entry.command[0] == operations.REGULAR
    items = operations.unseal(entry.command[1:])
    assert items is not None
    return int(items[0])


def mixed(old: str) -> Mixed:
    """Three nodes under the leader `a`, some of an older release, which says nothing of it."""
    nodes = Mixed("abc")

    def silent(sent: Sent) -> Message | None:
        is_old = sent.message["type"] == "release" and sent.source in nodes.old
        return None if is_old else sent.message

    nodes.old = old
    nodes.alter = silent
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        nodes.cut(one, other)
        nodes.join(one, other)
    nodes.elect("a")
    return nodes


def test_one_member_of_an_older_release_holds_the_version_back() -> None:
    """Until it comes back as a newer one; then for good, whoever goes."""
    nodes = mixed("c")
    assert written(nodes, "x") == 1
    nodes.old = ""
    nodes.cut("a", "c")
    assert written(nodes, "y") == 1
    nodes.join("a", "c")
    nodes.settle()
    assert written(nodes, "z") == VERSION
    nodes.cut("a", "c")
    assert written(nodes, "w") == VERSION


def test_a_later_leader_knows_the_version_from_its_state() -> None:
    """Even if it never met one of the members."""
    versions = EntryVersions()
    assert versions.newest(["b", "c"]) == 1
    versions.agreed = VERSION
    assert versions.newest(["b", "c"]) == VERSION


def test_a_node_alone_writes_the_newest_version() -> None:
    """There is nobody to wait for."""
    assert EntryVersions().newest([]) == VERSION


def test_a_peer_of_a_release_to_come_asks_for_nothing_that_this_one_does_not_know() -> None:
    """The version written is one of ours."""
    versions = EntryVersions()
    versions.told("b", VERSION + 5)
    assert versions.newest(["b"]) == VERSION
    versions.forget("b")
    assert versions.newest(["b"]) == 1
