"""Requests that a client sent as one and that are logged as one operation (ADR 0018, 0020). HOT.

They are small and many: sent and logged alone, what surrounds one costs more than it does itself. A
series has requests of one name and session, whose ids and numbers follow each other.

May not: know a connection, or whether the cluster can read such an operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from cluster.errors import Malformed
from cluster.limits import EACH_BYTES_MAX, EACH_CALLS_MAX
from cluster.operations import EACH, UNPACK_ERRORS, pack
from cluster.protocol import SERIES_NAMES, decode_meta


class Series(NamedTuple):
    """Requests to be logged as one operation; `calls` has the arguments of each."""

    ids: range
    name: str
    calls: list[Any]
    client_id: int
    first_seq: int
    timeout_ms: int | None

    @classmethod
    def of(cls, first_id: int, args: list[Any], raw_meta: Any) -> Series:
        """From a request `series [name, calls]`; raises Malformed."""
        client_id, first_seq, timeout_ms, trace = decode_meta(raw_meta)
        if len(args) != 2 or args[0] not in SERIES_NAMES or args[1].__class__ is not bytes:
            raise Malformed(f"a series is [name, bin] of one of {', '.join(SERIES_NAMES)}")
        name, packed = args
        if not client_id or trace is not None:
            raise Malformed("a series belongs to a session, and has no trace")
        if len(packed) > EACH_BYTES_MAX:
            raise Malformed(f"the arguments of a series have at most {EACH_BYTES_MAX} bytes")
        try:
            calls = msgpack.unpackb(packed, strict_map_key=False, max_ext_len=0)
        except UNPACK_ERRORS as error:
            raise Malformed(f"the arguments of a series: {error}") from None
        if calls.__class__ is not list or set(map(type, calls)) != {list}:
            raise Malformed("the arguments of a series are an array of arrays")
        if len(calls) > EACH_CALLS_MAX:
            raise Malformed(f"a series has at most {EACH_CALLS_MAX} requests")
        ids = range(first_id, first_id + len(calls))
        return cls(ids, name, calls, client_id, first_seq, timeout_ms)

    def operation(self, actor: str | None) -> bytes:
        """All of them as one."""
        return pack(self.client_id, self.first_seq, EACH, [self.name, self.calls], actor)

    def requests(self) -> list[list[Any]]:
        """Each as the client could have sent it alone."""
        return [
            [request_id, self.name, call, [self.client_id, seq, self.timeout_ms]]
            for seq, (request_id, call) in enumerate(
                zip(self.ids, self.calls, strict=True), self.first_seq
            )
        ]
