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

    __slots__ = ("_distance_max", "_next_seq", "_unanswered", "client_id")

    def __init__(self, distance_max: int) -> None:
        self.client_id = 0
        self._distance_max = distance_max
        self._next_seq = 1
        self._unanswered: dict[int, Call] = {}  # by seq, which is also their order

    def identify(self, call: Call) -> bool:
        """Give `call` its (client_id, seq); False while the window is full. Needs a session."""
        unanswered = self._unanswered
        seq = self._next_seq
        if unanswered and seq - next(iter(unanswered)) >= self._distance_max:
            return False
        self._next_seq = seq + 1
        call.client_id = self.client_id
        call.seq = seq
        unanswered[seq] = call
        return True

    def release(self, call: Call) -> None:
        """`call` will not be sent again under its seq."""
        self._unanswered.pop(call.seq, None)

    def forget_session(self, client_id: int) -> None:
        """The cluster does not know this session any more."""
        if self.client_id == client_id:
            self.client_id = 0
