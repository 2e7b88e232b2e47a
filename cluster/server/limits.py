"""The bounds of the client port: unit, reason, precedent. All can be configured per node.

They protect the node from its clients, so hitting one slows a client down (it is not read from for
a while) or answers it with a named error; nothing is ever dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.limits import (
    BATCH_OPERATIONS_MAX,
    RANGE_BYTES_MAX,
    RANGE_ROWS_MAX,
    REQUEST_BYTES_MAX,
)
from cluster.protocol import CHUNK_BYTES_MAX

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds of one node's client port."""

    # Connections at once. etcd has no bound and runs out of descriptors; NATS: 65536.
    connections_max: int = 1_024
    # Seconds that a stranger may take for its greeting. NATS' auth_timeout is 2 s.
    greeting_s: float = 5.0
    # Bytes of one request: some values of 1 MiB in one batch. etcd's max-request-bytes is 1.5 MiB.
    request_bytes_max: int = 4 * MIB
    # Requests under way per connection; above it, the connection is not read. HTTP/2 servers: 100.
    pipelined_requests_max: int = 1_024
    # Bytes of mutations under way per connection, with the same effect.
    pipelined_bytes_max: int = 16 * MIB
    # Bytes of mutations under way on the node: memory. Above it, requests are `overloaded`.
    inflight_bytes_max: int = 256 * MIB
    # Answers that a client has not taken; above it, it is not read and gets no events.
    unsent_bytes_max: int = 4 * MIB
    # Milliseconds that a request may wait when it does not say so itself, and at most.
    timeout_ms_default: int = 10_000
    timeout_ms_max: int = 600_000
    # Rows and bytes of one page of `range`, events and bytes of one of `events.read`: a page is
    # read without letting go of the loop, so it must stay well below a heartbeat.
    page_rows_max: int = 1_000
    page_bytes_max: int = 2 * MIB
    # Subscriptions of one connection, and how many events one may be sent before others are served.
    subscriptions_max: int = 256
    events_per_turn: int = 256
    # Seconds of silence after which a subscriber gets a bookmark: still here, nothing happened.
    bookmark_s: float = 2.0

    # Operations of one batch, compares or branches of a transaction, events of one batch publish:
    # applied without a pause. etcd: 128, Consul: 128 (64 once, and years of complaints).
    batch_operations_max: int = 1_000

    def __post_init__(self) -> None:
        """The relations without which a legal request could never be served."""
        assert CHUNK_BYTES_MAX <= self.request_bytes_max <= REQUEST_BYTES_MAX
        assert self.request_bytes_max <= self.pipelined_bytes_max <= self.inflight_bytes_max
        assert 1 <= self.timeout_ms_default <= self.timeout_ms_max
        assert 1 <= self.page_rows_max <= RANGE_ROWS_MAX
        assert 1 <= self.page_bytes_max <= RANGE_BYTES_MAX
        assert 1 <= self.batch_operations_max <= BATCH_OPERATIONS_MAX
        assert min(self.connections_max, self.pipelined_requests_max) > 0
        assert min(self.subscriptions_max, self.events_per_turn) > 0
        assert min(self.greeting_s, self.bookmark_s) > 0
