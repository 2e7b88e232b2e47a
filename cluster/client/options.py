"""How a client behaves: every wait and every queue of it, with unit and reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Bounds of one client."""

    # Milliseconds until a request that does not say so itself is given up.
    timeout_ms: int = 10_000
    # Milliseconds that one node may take for a request that can be sent again: a node that is cut
    # off from its cluster must not eat the whole timeout while another one would answer.
    attempt_timeout_ms: int = 3_000
    # Mutations of this client under way. The cluster remembers the last 512 results per client
    # (docs/limits.md); half of that leaves room for those that a slow retry holds back.
    mutations_in_flight_max: int = 256
    # Requests under way on the connection: the node's own bound, above it only its queue grows.
    requests_in_flight_max: int = 1_024
    # Requests that wait in the client for a connection or for room; one more is `overloaded`.
    requests_waiting_max: int = 65_536
    # Seconds between attempts after a refusal that will pass (no leader, overloaded): doubled each
    # time up to the maximum, times a random factor between a half and one.
    backoff_s: float = 0.02
    backoff_s_max: float = 0.5
    # Seconds without a byte from the node, with something under way, until it is asked whether it
    # is alive, and until the connection is given up for another endpoint.
    ping_after_s: float = 1.0
    silence_s_max: float = 2.5
    # Seconds for which a node may only refuse before another endpoint is tried.
    refusals_s_max: float = 0.5
    # Events that a subscription may hold in memory; the node is granted no more.
    credits: int = 256

    def __post_init__(self) -> None:
        """The relations without which the client could not work."""
        assert min(self.attempt_timeout_ms, self.timeout_ms) > 0
        assert 0 < self.mutations_in_flight_max <= 256, "half the retry window"
        assert self.mutations_in_flight_max <= self.requests_in_flight_max
        assert 0 < self.backoff_s <= self.backoff_s_max
        assert 0 < self.ping_after_s < self.silence_s_max
        assert self.credits > 1
