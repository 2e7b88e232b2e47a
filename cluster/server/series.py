"""Requests that came together and are logged as one operation (ADR 0018). HOT.

They are small and many: logged alone, what surrounds one costs more than it does itself. A series
has requests of one name and session whose numbers follow each other.

May not: know a connection, or whether the cluster can read such an operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from cluster.limits import EACH_BYTES_MAX, EACH_CALLS_MAX, EACH_VALUE_BYTES_MAX
from cluster.operations import EACH, pack

# Where the value stands of what may be in a series.
VALUE_AT: Final = {"put": 1, "publish": 2}


class Series:
    """Requests to be logged as one operation."""

    __slots__ = ("calls", "client_id", "first_seq", "ids", "name", "value_bytes")

    def __init__(self, name: str, client_id: int, first_seq: int) -> None:
        self.name = name
        self.client_id = client_id
        self.first_seq = first_seq
        self.ids: list[int] = []  # of the requests
        self.calls: list[list[Any]] = []
        self.value_bytes = 0

    def takes(self, name: str, client_id: int, seq: int, value_bytes: int) -> bool:
        """Whether this request belongs to it, too."""
        count = len(self.calls)
        return (
            seq == self.first_seq + count
            and name == self.name
            and client_id == self.client_id
            and count < EACH_CALLS_MAX
            and self.value_bytes + value_bytes <= EACH_VALUE_BYTES_MAX
        )

    def add(self, request_id: int, args: list[Any], value_bytes: int) -> None:
        """Take the next request."""
        self.ids.append(request_id)
        self.calls.append(args)
        self.value_bytes += value_bytes

    def operation(self, actor: str | None) -> bytes | None:
        """All of them as one; None where they had better be logged alone."""
        if len(self.ids) < 2:
            return None
        together = pack(self.client_id, self.first_seq, EACH, [self.name, self.calls], actor)
        return together if len(together) <= EACH_BYTES_MAX else None

    def operations(self, actor: str | None) -> list[tuple[int, bytes]]:
        """Each alone, with the id of its request."""
        return [
            (request_id, pack(self.client_id, seq, self.name, args, actor))
            for seq, (request_id, args) in enumerate(
                zip(self.ids, self.calls, strict=True), self.first_seq
            )
        ]


def value_bytes(name: str, args: list[Any]) -> int:
    """The size of the value that a request brings; 0 where it brings none."""
    at = VALUE_AT[name]
    value = args[at] if len(args) > at else None
    return len(value) if value.__class__ is bytes else 0


def whole(requests: Sequence[Any], last_id: int) -> tuple[Series, int] | None:
    """The series that all of these requests are, with the timeout that all of them want; None if
    they are not one. Looked at field by field: a tenth of what each alone would cost."""
    try:
        ids, names, calls, metas = zip(*requests, strict=True)
        clients, seqs, timeouts = zip(*metas, strict=True)
        name, client_id, timeout_ms, count = names[0], clients[0], timeouts[0], len(ids)
        size = sum(map(len, map(itemgetter(VALUE_AT[name]), calls)))
        first_id, first_seq = ids[0], seqs[0]
        is_one = (
            set(map(type, (first_id, client_id, first_seq, timeout_ms))) == {int}
            and first_id > last_id
            and client_id > 0
            and min(first_seq, timeout_ms) >= 0
            and 1 < count <= EACH_CALLS_MAX
            and size <= EACH_VALUE_BYTES_MAX
            and ids == tuple(range(first_id, first_id + count))
            and seqs == tuple(range(first_seq, first_seq + count))
            and names.count(name) == clients.count(client_id) == timeouts.count(timeout_ms) == count
            and set(map(type, calls)) == {list}
        )
    except (TypeError, ValueError, LookupError):  # of another shape: looked at one by one
        return None
    if not is_one:
        return None
    series = Series(name, client_id, first_seq)
    series.ids = list(range(first_id, first_id + count))
    series.calls, series.value_bytes = list(calls), size
    return series, timeout_ms
