"""Encoding and decoding of the native protocol, and what it refuses from strangers."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import protocol
from cluster.errors import LimitExceeded, Malformed, Stopping, VersionMismatch
from cluster.protocol import ProtocolViolation, Reader

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(VALUES, max_size=8), st.integers(1, 40))
def test_values_survive_any_chunking(values: list[Any], size: int) -> None:
    """However the bytes arrive, the same values come out in the same order."""
    data = b"".join(protocol.encode(value) for value in values)
    reader = Reader(1_000_000)
    decoded = []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        decoded += reader.take(1_000)
    assert decoded == values


def test_take_leaves_the_rest() -> None:
    """A reader gives no more values than there is room for, and keeps the others."""
    reader = Reader(1_000)
    reader.feed(bytes([1, 2, 3]))
    assert reader.take(2) == [1, 2]
    assert reader.take(2) == [3]
    assert reader.take(2) == []


def test_a_value_over_the_bound_is_refused_while_it_arrives() -> None:
    """The bytes of an endless value are not collected: the limit is named."""
    reader = Reader(1_000)
    reader.feed(msgpack.packb(bytes(1_000_000))[:50_000])
    assert reader.take(10) == []
    with pytest.raises(ProtocolViolation) as raised:
        reader.feed(bytes(50_000))
    error = raised.value.error
    assert isinstance(error, LimitExceeded)
    assert error.maximum == 1_000


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",  # never used in msgpack
        b"\xdd\xff\xff\xff\xff",  # an array that claims four billion items
        b"\xdf\xff\xff\xff\xff",  # a map of that size
        b"\xa2\xff\xfe",  # text that is no UTF-8
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp: extension types have no meaning here
        b"\xc7\x01\x05\x00",  # another extension
        b"\x91" * 5_000,  # nested deeper than any request
        b"\x81\x90\x01",  # a map whose key is an array
    ],
    ids=["unused", "array", "map", "text", "timestamp", "extension", "nesting", "key"],
)
def test_hostile_bytes_are_a_violation(data: bytes) -> None:
    """What no client of ours sends ends the connection, without memory for what it claims."""
    reader = Reader(100_000, protocol.REQUEST_ITEMS_MAX)
    reader.feed(data)
    with pytest.raises(ProtocolViolation):
        reader.take(10)


def test_the_newest_common_version_is_chosen() -> None:
    """A client may list versions that this node does not know."""
    assert protocol.choose_version([protocol.MAGIC, [9, 1], {}]) == 1


@pytest.mark.parametrize(
    "greeting",
    [None, 5, "GET / HTTP/1.1", [], ["tremula"], ["tremulo", [1], {}], ["tremula", ["1"], {}]],
    ids=str,
)
def test_what_is_no_greeting_is_malformed(greeting: Any) -> None:
    """Somebody else's first words are recognised as such."""
    with pytest.raises(ProtocolViolation) as raised:
        protocol.choose_version(greeting)
    assert isinstance(raised.value.error, Malformed)


def test_no_common_version_says_which_there_are() -> None:
    """Both sides' versions are in the error."""
    with pytest.raises(ProtocolViolation) as raised:
        protocol.choose_version([protocol.MAGIC, [7, 8], {}])
    error = raised.value.error
    assert isinstance(error, VersionMismatch)
    assert (error.ours, error.theirs) == ([1], [7, 8])


def test_a_node_can_refuse_in_its_greeting() -> None:
    """The client raises the node's own reason."""
    greeting = msgpack.unpackb(protocol.server_refusal(Stopping()))
    with pytest.raises(Stopping):
        protocol.accepted_greeting(greeting)


def test_a_greeting_carries_facts() -> None:
    """What the node says about itself arrives as it was."""
    greeting = msgpack.unpackb(protocol.server_greeting(1, {"node": "a"}))
    assert protocol.accepted_greeting(greeting) == {"node": "a"}


@pytest.mark.parametrize(
    ("meta", "decoded"),
    [
        (None, (0, 0, None, None)),
        ([], (0, 0, None, None)),
        ([7, 1], (7, 1, None, None)),
        ([7, 1, 3_000], (7, 1, 3_000, None)),
        ([7, 1, None], (7, 1, None, None)),
        ([7, 1, 50, "order-5"], (7, 1, 50, ["order-5", None, None, None])),
        ([0, 0, None, None, 12, 3, TRACEPARENT, 0], (0, 0, None, [None, 12, 3, TRACEPARENT])),
        ([0, 0, 9, None, None, None, None, 0], (0, 0, 9, None)),
    ],
    ids=str,
)
def test_meta_has_defaults(meta: Any, decoded: Any) -> None:
    """Trailing defaults may be left out, and nil is the default everywhere."""
    assert protocol.decode_meta(meta) == decoded


@pytest.mark.parametrize(
    "meta",
    [
        5, "x", {}, [-1, 0, 1], [1, -1, 1], [1, 1, -1], [True, 1, 1], [1, 1, 1.5], ["a", 1, 1],
        [1, 1, 1, b"x"], [1, 1, 1, "x" * 257], [1, 1, 1, None, 1.5], [1, 1, 1, None, None, "3"],
        [1, 1, 1, None, None, None, 5], [1, 1, 1, None, None, None, None, 1], [None] * 9,
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_meta_is_malformed(meta: Any) -> None:
    """Nothing is accepted and then ignored, the reserved namespace included."""
    with pytest.raises(Malformed):
        protocol.decode_meta(meta)
