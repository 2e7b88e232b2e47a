"""The identity of a client's mutations: one session, and a seq for each, given in order.

The cluster remembers the last results of a session, so a mutation may be sent again as long as its
seq is among them. What is bounded here is therefore the distance to the oldest unanswered seq, and
not only the number under way.

May not: send anything, or give a seq to a call that already has one.
"""

from __future__ import annotations

from cluster.client.call import Call


class Window:
    """The session of a client, 0 while it has none, and its unanswered mutations."""

    __slots__ = ("_distance_max", "_end", "_next_seq", "_unanswered", "client_id")

    def __init__(self, distance_max: int) -> None:
        self.client_id = 0
        self._distance_max = distance_max
        self._next_seq = 1
        self._end = 0  # a seq below it has room; looked up anew only when it is reached
        self._unanswered: dict[int, Call] = {}  # by seq, which is also their order

    def identify(self, call: Call) -> bool:
        """Give `call` its (client_id, seq); False without a session, or while the window is full.
        HOT."""
        client_id, seq = self.client_id, self._next_seq
        if seq >= self._end:
            self._end = next(iter(self._unanswered), seq) + self._distance_max
        if seq >= self._end or not client_id:
            return False
        self._next_seq = seq + 1
        self._unanswered[seq] = call
        call.client_id, call.seq = client_id, seq
        return True

    def release(self, call: Call) -> None:
        """`call` will not be sent again under its seq."""
        self._unanswered.pop(call.seq, None)

    def forget_session(self, client_id: int) -> None:
        """The cluster does not know this session any more."""
        if self.client_id == client_id:
            self.client_id = 0
