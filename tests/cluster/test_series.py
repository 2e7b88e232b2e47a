"""Requests that a client makes in one go are sent as one, and the node reads what was meant."""

from __future__ import annotations

from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.client.call import Call
from cluster.client.link import Link, Sink
from cluster.errors import LimitExceeded, Malformed
from cluster.limits import EACH_BYTES_MAX, EACH_CALLS_MAX
from cluster.protocol import SERIES, SERIES_NAMES, decode_meta
from cluster.server.series import Series

REQUEST_BYTES_MAX = EACH_BYTES_MAX + 66
Answers = list[tuple[int, Any]]


class Wire:
    """A session that keeps what is sent, and the owner of a link."""

    def __init__(self) -> None:
        self.sent = b""
        self.answers: Answers = []

    def send_nowait(self, data: bytes) -> None:
        self.sent += data

    def answered(self, call: Call, value: Any) -> None:
        self.answers.append((call.seq, value))

    def refused(self, call: Call, error: list[Any]) -> None:
        raise AssertionError(error)

    def take_end(self, error: list[Any] | None) -> None:
        """Of a subscription that cannot be asked for."""

    def requests(self) -> list[list[Any]]:
        """Everything that was sent, each request as if it had been sent alone."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.sent)
        found: list[list[Any]] = []
        for request_id, name, args, meta in unpacker:
            if name == SERIES:
                found += Series.of(request_id, args, meta).requests()
            else:
                found.append([request_id, name, args, meta])
        return found


def link_to(wire: Any, names: tuple[str, ...] = SERIES_NAMES) -> Link:
    facts = {"request_bytes_max": REQUEST_BYTES_MAX, "series": names}
    return Link(wire, facts, wire, 0.0)


def call_of(name: str, args: list[Any], seq: int, client_id: int = 3, trace: Any = None) -> Call:
    call = Call(name, args, lambda result: None, 1_000, 1.0, trace)
    call.client_id, call.seq = client_id, seq
    return call


values = st.binary(max_size=8) | st.integers(1, EACH_BYTES_MAX + 100).map(bytes)
calls = st.tuples(
    st.sampled_from(["put", "publish", "delete"]),
    st.tuples(st.text(max_size=3), values).map(list),
    st.integers(0, 1),  # the number goes on, or skips one
    st.sampled_from([3, 3, 3, 0, 4]),
    st.sampled_from([None, None, None, ["why"]]),
    st.sampled_from([500, 500, 500, 400]),
    st.sampled_from(["", "", "", "", "", "ping", "flush", "unpackable"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(calls, max_size=40), st.sampled_from([SERIES_NAMES, ("put",), ()]))
def test_a_node_reads_what_the_client_meant(every: list[Any], names: tuple[str, ...]) -> None:
    """Whatever is sent together: the same requests in the same order, under the same ids."""
    wire = Wire()
    link, sink = link_to(wire, names), cast("Sink", wire)
    link.corked = True
    meant: list[list[Any]] = []
    seq = 0
    for name, args, skip, client_id, trace, timeout_ms, between in every:
        seq += 1 + skip
        call = call_of(name, args, seq, client_id, trace)
        try:
            link.send(call, timeout_ms)
        except LimitExceeded:
            assert len(args[1]) > REQUEST_BYTES_MAX - 100
            continue
        request_id = next(reversed(link.pending))
        meant.append([request_id, name, args, [client_id, seq, timeout_ms, *(trace or [])]])
        if between == "ping":
            link.ping()
            meant.append([request_id + 1, "ping", [], None])
        elif between == "flush":
            link._flush()
        elif between == "unpackable":
            link.open_sink(sink, [1 << 70])
    link._flush()
    assert wire.requests() == meant


def test_neighbours_are_one_request() -> None:
    """As many as are allowed, and what is alone is sent as ever."""
    wire = Wire()
    link = link_to(wire)
    link.corked = True
    for seq in range(1, EACH_CALLS_MAX + 2):
        link.send(call_of("put", ["k", b"v"], seq), 500)
    link._flush()
    unpacker = msgpack.Unpacker()
    unpacker.feed(wire.sent)
    first, second = unpacker
    assert first[:2] == [1, SERIES]
    assert first[2][0] == "put"
    assert msgpack.unpackb(first[2][1]) == [["k", b"v"]] * EACH_CALLS_MAX
    assert first[3] == [3, 1, 500]
    following = EACH_CALLS_MAX + 1
    assert second == [following, "put", ["k", b"v"], [3, following, 500]]


def test_a_request_that_is_too_large_alone_is_refused_and_the_others_leave() -> None:
    """The bound of the node is that of the whole request."""
    wire = Wire()
    link = link_to(wire)
    link.corked = True
    link.send(call_of("put", ["k", b"1"], 1), 500)
    with pytest.raises(LimitExceeded):
        link.send(call_of("put", ["k", bytes(REQUEST_BYTES_MAX - 10)], 2), 500)
    link.send(call_of("put", ["k", b"3"], 3), 500)
    link._flush()
    assert [request[2][1] for request in wire.requests()] == [b"1", b"3"]


def test_an_id_that_is_taken_ends_a_series() -> None:
    """Also by what cannot be sent after all."""
    wire = Wire()
    link, sink = link_to(wire), cast("Sink", wire)
    link.corked = True
    link.send(call_of("put", ["k", b"1"], 1), 500)
    link.open_sink(sink, [1 << 70])
    link.send(call_of("put", ["k", b"3"], 2), 500)
    link._flush()
    assert [request[0] for request in wire.requests()] == list(link.pending) == [1, 3]


def test_results_of_a_series_reach_who_still_waits() -> None:
    """One that was given up meanwhile is passed over."""
    wire = Wire()
    link = link_to(wire)
    link.corked = True
    for seq in (1, 2, 3):
        link.send(call_of("put", ["k", b"v"], seq), 500)
    del link.pending[2]
    link._take_results(1, [7, 8, 9])
    assert wire.answers == [(1, 7), (3, 9)]
    assert not link.pending


META = [3, 20, 500]
CALLS = msgpack.packb([["k", b"v"], ["l", b"w"]])


def test_a_series_is_read() -> None:
    """Name, session, the numbers of the first, and the arguments of each."""
    series = Series.of(8, ["put", CALLS], META)
    assert list(series.ids) == [8, 9]
    assert series.requests() == [
        [8, "put", ["k", b"v"], [3, 20, 500]],
        [9, "put", ["l", b"w"], [3, 21, 500]],
    ]
    for request in series.requests():
        assert decode_meta(request[3])[:3] == tuple(request[3])


@pytest.mark.parametrize(
    ("args", "meta"),
    [
        (["delete", CALLS], META),
        ([None, CALLS], META),
        ([["put"], CALLS], META),
        (["put"], META),
        (["put", CALLS, None], META),
        (["put", [["k", b"v"]]], META),
        (["put", CALLS], None),
        (["put", CALLS], [0, 20, 500]),
        (["put", CALLS], [3, 20, 500, "why"]),
        (["put", CALLS], [3, -1, 500]),
        (["put", b""], META),
        (["put", CALLS[:-1]], META),
        (["put", CALLS + b"\xc0"], META),
        (["put", msgpack.packb([])], META),
        (["put", msgpack.packb({})], META),
        (["put", msgpack.packb([["k", b"v"], "kv"])], META),
        (["put", msgpack.packb([[]] * (EACH_CALLS_MAX + 1))], META),
        (["put", msgpack.packb([["k", bytes(EACH_BYTES_MAX)]])], META),
        (["put", b"\xdd\xff\xff\xff\xff"], META),
        (["put", b"\x91" * 5_000], META),
        (["put", b"\x91\x91\xd4\x05\x00"], META),  # an extension type
    ],
)
def test_what_is_no_series_is_refused(args: list[Any], meta: Any) -> None:
    """Before anything of it is started."""
    with pytest.raises(Malformed):
        Series.of(8, args, meta)
