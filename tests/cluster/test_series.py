"""Requests of one chunk that are one series are seen at a glance; nothing else is taken for one."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import Malformed
from cluster.protocol import decode_meta
from cluster.server import series
from cluster.server.series import Series

LAST_ID = 6
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 1.0, -1, 0, 7, 8, 1 << 40, "", "put", b"", [], ["a", b"x"], {}, "abcd"]
)


def one_by_one(requests: list[Any]) -> Series | None:
    """The series that a loop over the requests finds, if it is one and of all of them."""
    several: Series | None = None
    last_id = LAST_ID
    for request in requests:
        if type(request) is not list or len(request) != 4:
            return None
        request_id, name, args, meta = request
        if type(request_id) is not int or type(name) is not str or type(args) is not list:
            return None
        try:
            client_id, seq, timeout_ms, trace = decode_meta(meta)
        except Malformed:
            return None
        alike = request_id > last_id and client_id and trace is None and name in series.VALUE_AT
        if not alike or timeout_ms != requests[0][3][2]:
            return None
        size = series.value_bytes(name, args)
        several = several or Series(name, client_id, seq)
        if not several.takes(name, client_id, seq, size):
            return None
        several.add(request_id, args, size)
        last_id = request_id
    return several if several is not None and len(several.ids) > 1 else None


@st.composite
def chunks(draw: st.DrawFn) -> list[Any]:
    """Requests of one series, some of them spoilt."""
    name = draw(st.sampled_from(["put", "publish"]))
    first = draw(st.integers(5, 9))
    requests: list[Any] = [
        [first + n, name, ["t", b"v", b"w", None, None], [3, 20 + n, 1_000]]
        for n in range(draw(st.integers(0, 8)))
    ]
    for _ in range(draw(st.integers(0, 2)) if requests else 0):
        spoilt = requests[draw(st.integers(0, len(requests) - 1))]
        if draw(st.booleans()) and type(spoilt[3]) is list and spoilt[3]:
            spoilt = spoilt[3]
        spoilt[draw(st.integers(0, len(spoilt) - 1))] = draw(odd_values)
        if draw(st.integers(0, 9)) == 0:
            spoilt.append(draw(odd_values))
    return requests


@settings(max_examples=1_000, deadline=None)
@given(chunks())
def test_a_whole_series_is_what_a_loop_finds(requests: list[Any]) -> None:
    """Whatever a client sends: what is taken as a whole is what would be taken one by one."""
    found, expected = series.whole(requests, LAST_ID), one_by_one(requests)
    if found is not None:
        several, timeout_ms = found
        assert expected is not None
        assert timeout_ms == requests[0][3][2]
        for field in Series.__slots__:
            assert getattr(several, field) == getattr(expected, field), field
        assert several.operation("ann") == expected.operation("ann")


def test_what_clients_send_is_a_whole_series() -> None:
    """Neighbours with rising ids and numbers, one timeout and values within the bounds."""
    requests = [[8 + n, "put", [f"k{n}", b"value"], [3, 20 + n, 500]] for n in range(64)]
    found = series.whole(requests, 7)
    assert found is not None
    assert (found[0].ids, found[1]) == (list(range(8, 72)), 500)
    assert series.whole(requests, 8) is None
    assert series.whole(requests[:1], 7) is None
    assert series.whole(requests[:2] + requests[3:], 7) is None
    large = [[8 + n, "put", ["k", b"v" * 5_000], [3, 20 + n, 500]] for n in range(4)]
    assert series.whole(large, 7) is None
