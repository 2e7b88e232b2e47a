"""Greetings between nodes: who is believed, who is refused, and with which word."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.membership import Membership
from cluster.raft.peers import MAGIC, VERSION, Hello, Refusal, decode, objection, stands_in
from cluster.security.certs import Kind
from cluster.security.tls import Subject
from tests.raft.ensemble import member

CLUSTER = "c1"
MEMBERS = Membership(member(name) for name in "abc")
ROWS = MEMBERS.encode()


def hello(name: str, uid: str | None = None, **changes: Any) -> Hello:
    """What a member of the cluster says of itself, with changes."""
    known = Hello(name, uid or f"uid-{name}", f"{name}:1", CLUSTER, ROWS, ROWS, 10)
    return known._replace(**changes)


def code(own: Hello, other: Hello, subject: Subject | None = None) -> str | None:
    refusal = objection(own, MEMBERS, other, subject)
    return None if refusal is None else refusal.code


@pytest.mark.parametrize(
    "value", [hello("a"), hello("a", cluster_id=None, founders=[], members=[], members_index=0)]
)
def test_a_greeting_arrives_as_it_left(value: Hello) -> None:
    """Through msgpack, where tuples become lists."""
    assert decode(msgpack.unpackb(msgpack.packb(value.encode()))) == value
    refusal = Refusal("wrong_cluster", "for people")
    assert decode(msgpack.unpackb(msgpack.packb(refusal.encode()))) == refusal


GARBAGE = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.sampled_from((MAGIC, VERSION, "refused")),
    lambda inner: st.lists(inner, max_size=7),
    max_leaves=20,
)


@given(GARBAGE)
def test_a_strangers_first_words_break_nothing(value: Any) -> None:
    """Anything may be said to an open port."""
    assert decode(value) is None or isinstance(decode(value), Hello | Refusal)


@given(st.integers(0, 6), GARBAGE)
def test_a_greeting_with_one_wrong_field_is_none(position: int, value: Any) -> None:
    """Each field is checked; what remains can be used without further questions."""
    fields: list[Any] = list(hello("a"))
    fields[position] = value
    decoded = decode([MAGIC, VERSION, fields])
    if decoded is not None:
        assert isinstance(decoded, Hello)
        assert all(isinstance(text, str) for text in decoded[:3])
        assert all(len(row) == 4 for row in decoded.founders + decoded.members)


def test_another_version_or_magic_is_no_greeting() -> None:
    """There is one version today."""
    assert decode([MAGIC, VERSION + 1, list(hello("a"))]) is None
    assert decode(["else", VERSION, list(hello("a"))]) is None


def test_members_talk() -> None:
    """Also one that belongs to no cluster yet, and one that is no member (it waits to be added)."""
    assert code(hello("a"), hello("b")) is None
    assert code(hello("a"), hello("d")) is None
    assert code(hello("a"), hello("b", cluster_id=None)) is None
    assert code(hello("a", cluster_id=None), hello("b", cluster_id="another")) is None


def test_another_cluster_is_refused() -> None:
    """However its members are called."""
    assert code(hello("a"), hello("b", cluster_id="another")) == "wrong_cluster"


def test_a_second_node_of_the_own_name_is_refused() -> None:
    """The own uid under the own name is this node itself, which is harmless."""
    assert code(hello("a"), hello("a", "else")) == "duplicate_name"
    assert code(hello("a"), hello("a")) is None


def test_a_certificate_speaks_for_its_node_only() -> None:
    """Neither another node's nor a client's certificate will do."""
    node = Subject(name="b", kind=Kind.NODE)
    assert code(hello("a"), hello("b"), node) is None
    assert code(hello("a"), hello("c"), node) == "wrong_certificate"
    client = Subject(name="b", kind=Kind.CLIENT)
    assert code(hello("a"), hello("b"), client) == "wrong_certificate"


def test_a_member_with_another_directory_is_refused() -> None:
    """It has forgotten what the member acknowledged; without a cluster it is told to wait."""
    assert code(hello("a"), hello("b", "wiped")) == "forgotten_data"
    waiting = hello("b", "wiped", cluster_id=None)
    assert code(hello("a"), waiting) is None
    assert stands_in(MEMBERS, waiting)
    assert not stands_in(MEMBERS, hello("b"))
    assert not stands_in(MEMBERS, hello("d", cluster_id=None))


def test_a_newer_configuration_may_know_better() -> None:
    """Who was removed and added again may be the one that brings us up to date."""
    again = [["b", "again", "b:1", "voter"]]
    assert code(hello("a"), hello("b", "again", members=again, members_index=11)) is None
    assert code(hello("a"), hello("b", "again", members=again, members_index=9)) == "forgotten_data"
    assert code(hello("a"), hello("b", "again", members_index=11)) == "forgotten_data"


def test_an_outsider_does_not_judge() -> None:
    """Its view of the members may be years old."""
    assert code(hello("a", "outsider"), hello("b", "again")) is None
