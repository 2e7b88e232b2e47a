"""Packed operations and entries: what goes in comes out, and garbage is told from it."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import operations
from cluster.limits import ACTOR_BYTES_MAX, CLOCK_MS_MAX, INTEGER_MAX
from pubsub.rejection import Rejection


def test_an_operation_survives_packing() -> None:
    """What was packed is unpacked, with actor and trace as the meta of its events."""
    trace = ["corr", 7, 2, "00-abc-def-01"]
    packed = operations.pack(3, 9, "put", ["key", b"value", None, 5], "alice", trace)
    assert operations.unpack(packed) == (
        3,
        9,
        "put",
        ["key", b"value", None, 5],
        ["alice", "corr", 7, 2, "00-abc-def-01"],
    )


@pytest.mark.parametrize(
    ("actor", "meta", "expected"),
    [
        (None, None, None),
        ("alice", None, ["alice"]),
        (None, ["c"], [None, "c"]),
        ("alice", [None, None, None, None], ["alice"]),
        (None, [None, None, 0], None),
        ("alice", [None, 5], ["alice", None, 5]),
    ],
)
def test_meta_is_cut_to_what_is_known(actor: Any, meta: Any, expected: Any) -> None:
    """Trailing unknowns cost no byte of any event."""
    unpacked = operations.unpack(operations.pack(0, 0, "put", [], actor, meta))
    assert not isinstance(unpacked, Rejection)
    assert unpacked[4] == expected


@pytest.mark.parametrize(
    "items",
    [
        [0, 0, "put", [], None],
        [0, 0, "put", [], None, None, None],
        [-1, 0, "put", [], None, None],
        [True, 0, "put", [], None, None],
        [INTEGER_MAX + 1, 0, "put", [], None, None],
        [0, "1", "put", [], None, None],
        [0, 0, b"put", [], None, None],
        [0, 0, "put", {}, None, None],
        [0, 0, "put", [], 5, None],
        [0, 0, "put", [], "a" * (ACTOR_BYTES_MAX + 1), None],
        [0, 0, "put", [], None, "c"],
        [0, 0, "put", [], None, [None] * 5],
        [0, 0, "put", [], None, [1.5]],
        [0, 0, "put", [], None, [None, None, -1]],
        [0, 0, "put", [], None, [None, None, None, 3]],
        "sixteen",
        b"sixsix",
        {str(number): number for number in range(6)},
        None,
    ],
)
def test_a_malformed_operation_is_rejected(items: Any) -> None:
    """Every wrong shape is told, and none is taken for something else."""
    unpacked = operations.unpack(msgpack.packb(items))
    assert isinstance(unpacked, Rejection)
    assert unpacked.code == "malformed"


@given(st.binary(max_size=64))
def test_unpacking_is_total(payload: bytes) -> None:
    """No bytes make it raise."""
    operations.unpack(payload)


@given(st.binary(max_size=64))
def test_unsealing_is_total(body: bytes) -> None:
    """No bytes make it raise, but the announcement of a newer version."""
    with contextlib.suppress(operations.UnsupportedEntry):
        operations.unseal(body)


def test_an_entry_survives_sealing() -> None:
    """Version, clocks and the operations as they were packed."""
    payloads = [operations.pack(0, 0, "put", ["k", b"v"]), b"garbage", b""]
    newest = [operations.VERSION, 12, 34, payloads]
    assert operations.unseal(operations.seal(payloads, 12, 34)) == newest
    assert operations.unseal(operations.seal(payloads, 12, 34, 1)) == [1, 12, 34, payloads]


def test_the_bytes_of_an_entry_are_fixed() -> None:
    """A log written by any release must mean the same for ever."""
    payload = operations.pack(1, 2, "put", ["k", b"v", None, None], "me", None)
    assert payload.hex() == "960102a370757494a16bc40176c0c0a26d65c0"
    assert operations.seal([payload], 1_000, 5, 2).hex() == "9402cd03e80591c413" + payload.hex()


def test_an_entry_of_a_newer_release_stops_the_node() -> None:
    """Guessing would let the states of two nodes drift apart."""
    body = msgpack.packb([operations.VERSION + 1, 0, 0, []])
    with pytest.raises(operations.UnsupportedEntry, match="upgrade this node"):
        operations.unseal(body)


@pytest.mark.parametrize("clock", [-1, CLOCK_MS_MAX + 1, 1.5, "now", None])
def test_an_entry_needs_sane_clocks(clock: Any) -> None:
    """A time from which no deadline can be counted is not taken over."""
    assert operations.unseal(msgpack.packb([1, clock, 0, []])) is None
    assert operations.unseal(msgpack.packb([1, 0, clock, []])) is None
