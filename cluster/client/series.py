"""Requests that a client makes in one go and sends as one (ADR 0020). HOT.

What surrounds a small request costs its client, and the node that reads it, more than it does
itself. A series has requests of one name and session, whose ids and numbers follow each other; each
is answered for itself, or all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from cluster.client.call import Call
from cluster.limits import EACH_BYTES_MAX, EACH_CALLS_MAX
from cluster.protocol import SERIES
from pubsub.events import array_header

_pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True).pack
_HEADER_BYTES = 5  # of an array


class Series:
    """Requests that have not left yet, the first one under `first_id`."""

    __slots__ = (
        "_bytes_left", "_client_id", "_first_id", "_first_seq", "_name", "_next_seq", "_packed",
        "_timeout_ms",
    )  # fmt: skip

    def __init__(self, first_id: int, call: Call, timeout_ms: int, packed: bytes) -> None:
        self._first_id = first_id
        self._name = call.name
        self._client_id = call.client_id
        self._first_seq = call.seq
        self._next_seq = call.seq + 1
        self._timeout_ms = timeout_ms
        self._packed = [packed]  # the arguments of each
        self._bytes_left = EACH_BYTES_MAX - _HEADER_BYTES - len(packed)

    @property
    def is_full(self) -> bool:
        """Whether nothing can be added."""
        return self._bytes_left <= 0

    def add(self, call: Call, timeout_ms: int, packed: bytes) -> bool:
        """Add the next request, whose packed arguments these are; False if it does not belong."""
        if (
            call.seq != self._next_seq
            or call.name != self._name
            or call.client_id != self._client_id
            or timeout_ms != self._timeout_ms
            or len(packed) > self._bytes_left
            or len(self._packed) >= EACH_CALLS_MAX
        ):
            return False
        self._next_seq += 1
        self._bytes_left -= len(packed)
        self._packed.append(packed)
        return True

    def encode(self) -> bytes:
        """The request that stands for all of them."""
        packed = self._packed
        meta = self._client_id, self._first_seq, self._timeout_ms
        if len(packed) == 1:
            request = (
                array_header(4),
                _pack(self._first_id),
                _pack(self._name),
                *packed,
                _pack(meta),
            )
            return b"".join(request)
        calls = array_header(len(packed)) + b"".join(packed)
        return _pack((self._first_id, SERIES, (self._name, calls), meta))
