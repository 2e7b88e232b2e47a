"""Changes of the cluster itself, on any node: members and leadership.

Only the leader can make them. Another node asks it over the peer session and passes the answer
on; when that session breaks first, the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from cluster.errors import LeaderChanged, NoLeader, NotLeader, Rejected, TremulaError, from_wire
from cluster.raft.core import Core
from cluster.raft.peers import Hello
from cluster.raft.stock import Message
from pubsub.rejection import Rejection

Done = Callable[[object], None]
Request = Literal["add", "promote", "remove", "transfer"]


class Administration:
    """One node's. `known(name)` is what a node said when it last contacted this one."""

    def __init__(
        self,
        core: Core,
        *,
        known: Callable[[str], Hello | None],
        send: Callable[[str, Message], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._core = core
        self._known = known
        self._send = send
        self._wake = wake
        self._clock = clock
        self._asked: dict[int, tuple[str, Done]] = {}
        self._identity = 0

    def request(self, request: Request, name: str | None, address: str, done: Done) -> None:
        """Do it here or at the leader; `done` gets a result or a TremulaError."""
        core = self._core
        if core.is_leader:
            self._perform(request, name, address, done)
        elif core.leader is None:
            done(NoLeader())
        else:
            self._identity += 1
            self._asked[self._identity] = (core.leader, done)
            message = {"type": "admin", "id": self._identity, "request": request}
            self._send(core.leader, {**message, "name": name, "address": address})

    def receive(self, sender: str, message: Message) -> bool:
        """Take a message of ours; False for any other."""
        if message["type"] == "admin":
            identity = message["id"]

            def answer(result: object) -> None:
                self._send(sender, {"type": "admin_reply", "id": identity, **_encode(result)})

            self._perform(message["request"], message["name"], message["address"], answer)
        elif message["type"] == "admin_reply":
            _, done = self._asked.pop(message["id"], ("", None))
            if done is not None:
                failed = message["error"] is not None
                done(from_wire(message["error"]) if failed else message["result"])
        else:
            return False
        return True

    def link_down(self, peer: str) -> None:
        """What was asked of `peer` may or may not have happened."""
        for identity in [i for i, (asked, _) in self._asked.items() if asked == peer]:
            self._asked.pop(identity)[1](LeaderChanged())

    def _perform(self, request: str, name: str | None, address: str, done: Done) -> None:
        core = self._core
        done = self._sure(done)
        if request == "add":
            self._add(name or "", address, done)
        elif request == "promote":
            core.change_members("promoted", name or "", "", "", done)
        elif request == "remove":
            core.change_members("removed", name or "", "", "", done)
        elif request == "transfer":
            core.transfer_leadership(self._clock(), name, done)
        else:
            done(Rejected("unknown_operation", f"no such change: {request!r}"))
        self._wake()

    def _sure(self, done: Done) -> Done:
        """A refusal is definite: who refuses by what it knows of the members must still lead."""
        core, term = self._core, self._core.term

        def answer(result: object) -> None:
            if not isinstance(result, Rejected):
                done(result)
                return

            def confirmed(error: object) -> None:
                leads = error is None and core.is_leader and core.term == term
                done(result if leads else NotLeader(core.leader))

            core.read(confirmed)
            self._wake()

        return answer

    def _add(self, name: str, address: str, done: Done) -> None:
        """A learner must have contacted the leader: that is how its uid is known."""
        known = self._known(name)
        if known is None:
            hint = "start it with cluster.join set to the address of a member, and try again"
            done(Rejected("member_unreachable", f"{name} has not contacted the leader: {hint}"))
            return
        self._core.change_members("added_learner", name, known.uid, address or known.address, done)


def _encode(result: object) -> dict[str, Any]:
    if isinstance(result, Rejection):
        result = Rejected.of(result)
    if isinstance(result, TremulaError):
        return {"error": result.to_wire(), "result": None}
    return {"error": None, "result": result}
