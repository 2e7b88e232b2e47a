"""Forming a cluster or joining one: all founders agree, and nobody founds a second one."""

from __future__ import annotations

from cluster.belonging import Belonging, Gathering
from cluster.raft.peers import Hello

PEERS = {name: f"{name}:1" for name in "abc"}


def hello(name: str, uid: str | None = None, belongs: Belonging | None = None) -> Hello:
    cluster_id, founders = (None, []) if belongs is None else belongs
    return Hello(name, uid or f"uid-{name}", f"{name}:1", cluster_id, founders, [], 0)


def gathering(name: str, *met: Hello, peers: dict[str, str] | None = None) -> Gathering:
    gathered = Gathering(name, f"uid-{name}", f"{name}:1", PEERS if peers is None else peers)
    for other in met:
        gathered.meet(other)
    return gathered


def formed(peers: dict[str, str] | None = None) -> Belonging:
    belonging = gathering("a", hello("b"), hello("c"), peers=peers).decide(joins=False)
    assert belonging is not None
    return belonging


def test_founders_that_met_all_others_agree() -> None:
    """In whatever order they met, they compute the same cluster with the same founders."""
    found = formed()
    assert gathering("b", hello("c"), hello("a")).decide(joins=False) == found
    assert gathering("c", hello("b"), hello("a")).decide(joins=False) == found
    assert found.founders == [[name, f"uid-{name}", f"{name}:1", "voter"] for name in "abc"]


def test_a_founder_waits_for_all_others() -> None:
    """A majority is not enough: the third may know a cluster."""
    waiting = gathering("a", hello("c"))
    assert waiting.missing == ["b"]
    assert waiting.decide(joins=False) is None
    waiting.meet(hello("z"))
    assert waiting.decide(joins=False) is None
    waiting.meet(hello("b"))
    assert waiting.missing == []
    assert waiting.decide(joins=False) is not None


def test_a_node_alone_founds_its_own_cluster() -> None:
    """Its peer list names itself, or nobody."""
    for peers in ({}, {"a": "a:1"}):
        belonging = gathering("a", peers=peers).decide(joins=False)
        assert belonging is not None
        assert belonging.founders == [["a", "uid-a", "a:1", "voter"]]


def test_another_directory_founds_another_cluster() -> None:
    """The id is a digest of names and uids: wiping all nodes does not bring the old one back."""
    again = gathering("a", hello("b"), hello("c", "wiped")).decide(joins=False)
    assert again is not None
    assert again.cluster_id != formed().cluster_id


def test_a_peer_that_has_a_cluster_decides() -> None:
    """Whoever comes later joins what is there, founder or not; the others need not be met."""
    found = formed()
    late = gathering("c", hello("b", belongs=found))
    assert late.decide(joins=False) == found
    wiped = Gathering("c", "wiped", "c:1", PEERS)
    wiped.meet(hello("a"))
    wiped.meet(hello("b", belongs=found))
    assert wiped.decide(joins=False) == found


def test_who_joins_never_forms() -> None:
    """Not even when everybody was met; a wiped cluster stays without one until a person looks."""
    joining = gathering("a", hello("b"), hello("c"))
    assert joining.decide(joins=True) is None
    joining.meet(hello("b", belongs=formed()))
    assert joining.decide(joins=True) == formed()


def test_with_a_peer_list_only_its_nodes_are_believed() -> None:
    """Another cluster's node that happens to call does not take this one over."""
    other = Belonging("other", [["z", "uid-z", "z:1", "voter"]])
    called = gathering("a", hello("z", belongs=other))
    assert called.decide(joins=False) is None
    called.meet(hello("b"))
    called.meet(hello("c"))
    assert called.decide(joins=False) == formed()
    assert gathering("d", hello("z", belongs=other), peers={}).decide(joins=True) == other
