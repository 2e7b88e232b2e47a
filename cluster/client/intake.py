"""What a consumer and the two ways of getting events need of each other."""

from __future__ import annotations

from typing import Any, Protocol

from cluster.client.delivery import Delivery
from cluster.errors import TremulaError


class Host(Protocol):
    """The consumer, as its intake sees it."""

    group: str
    member: str

    @property
    def is_alive(self) -> bool:
        """Whether the member's session certainly goes on."""

    def now(self) -> float:
        """The client's clock."""

    def tell_news(self) -> None:
        """There may be something to hand out, or all was written down."""

    def lose_session(self, error: TremulaError) -> None:
        """The cluster says that this is no member (any more)."""

    def fenced(self, revision: int, is_certain: bool) -> TremulaError:
        """What becomes of an ack that was refused, and maybe applied by an earlier attempt."""

    async def submit(self, name: str, arguments: list[Any]) -> tuple[Any, bool]:
        """A mutation, repeated until the answer is definite: the result or an error of the state
        machine, and whether no earlier attempt can have been applied."""


class Intake(Protocol):
    """One of the two ways of getting events."""

    problem: str | None  # why the cluster does not take what was settled, for people

    def begin(self) -> None:
        """The member has joined: ask for events."""

    def end(self) -> None:
        """Ask for no more events; what was handed out can still be settled."""

    def void(self) -> None:
        """The session is lost: nothing in hand is this member's any more."""

    def next_nowait(self) -> Delivery | None:
        """What to hand out next."""

    @property
    def is_flushed(self) -> bool:
        """Whether the cluster has everything that was settled."""

    async def run(self) -> None:
        """Do what takes time, until cancelled."""

    def abandon(self) -> None:
        """Nobody writes down any more what was settled: tell those who wait."""
