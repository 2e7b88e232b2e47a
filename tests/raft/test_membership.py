"""Configurations: who counts, and the single-server changes between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.membership import Member, Membership, cluster_id
from tests.raft.ensemble import member

ABC = Membership(member(name) for name in "abc")


def test_members_are_ordered_by_name_whatever_their_order_was() -> None:
    """Two nodes that read the same rows in another order agree on every decision."""
    backwards = Membership(member(name) for name in "cba")
    assert backwards == ABC
    assert hash(backwards) == hash(ABC)
    assert backwards.voters == ("a", "b", "c")
    assert backwards.encode() == ABC.encode()


def test_only_voters_make_a_quorum() -> None:
    """A learner, a stranger or the same voter twice is no vote."""
    members = ABC.with_learner("d", "uid-d", "d:1")
    assert members.quorum == 2
    assert members.is_quorum(["a", "c"])
    assert not members.is_quorum(["a", "a", "d", "z"])


@given(st.sets(st.sampled_from("abcdefg"), min_size=1), st.data())
def test_two_quorums_always_share_a_voter(names: set[str], data: st.DataObject) -> None:
    """Also across a single-server change: the quorums of before and after overlap."""
    before = Membership(member(name) for name in names)
    changed = data.draw(st.sampled_from("abcdefg"))
    after = (
        before.without(changed)
        if changed in names
        else Membership([*before.members, member(changed)])
    )
    one = data.draw(st.sets(st.sampled_from("abcdefg")))
    other = data.draw(st.sets(st.sampled_from("abcdefg")))
    if before.is_quorum(one) and after.voters and after.is_quorum(other):
        assert one & other


def test_a_new_node_learns_then_votes_then_goes() -> None:
    """Each change gives a new configuration and leaves the old one as it was."""
    learning = ABC.with_learner("d", "uid-d", "d:1")
    assert (learning.voters, learning.learners) == (("a", "b", "c"), ("d",))
    voting = learning.with_voter("d")
    assert (voting.voters, voting.learners, voting.quorum) == (("a", "b", "c", "d"), (), 3)
    assert voting.without("d") == ABC
    assert learning.learners == ("d",)


def test_a_name_stands_for_one_directory() -> None:
    """The uid tells a directory that was wiped from the one that had the name before."""
    assert ABC.has("a", "uid-a")
    assert not ABC.has("a", "another")
    assert not ABC.has("d", "uid-d")
    assert ABC.get("d") is None
    with pytest.raises(ValueError, match="same name"):
        ABC.with_learner("a", "another", "a:2")


def test_decoding_gives_back_what_was_encoded() -> None:
    """And refuses a role that it does not know instead of guessing."""
    members = ABC.with_learner("d", "uid-d", "d:1")
    assert Membership.decode(members.encode()) == members
    with pytest.raises(ValueError, match="witness"):
        Membership.decode([["a", "uid-a", "a:1", "witness"]])


def test_the_clusters_id_is_its_founders() -> None:
    """Every founder computes the same; another directory under a name founds another cluster."""
    assert cluster_id(ABC) == cluster_id(Membership(member(name) for name in "cab"))
    assert len(cluster_id(ABC)) == 32
    elsewhere = [m._replace(address="elsewhere:1") for m in ABC.members]
    assert cluster_id(Membership(elsewhere)) == cluster_id(ABC)
    wiped = Membership([*ABC.without("c").members, Member("c", "new", "c:1", "voter")])
    assert cluster_id(wiped) != cluster_id(ABC)
