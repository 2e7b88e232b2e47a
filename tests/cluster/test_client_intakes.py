"""What a consumer does with answers that come late, and when acks do not get through."""

from __future__ import annotations

from typing import Any, cast

import trio
import trio.testing

from cluster.client.competing import CompetingIntake
from cluster.client.delivery import Delivery
from cluster.client.dispatcher import Dispatcher
from cluster.client.partitioned import UNCONFIRMED_MAX, PartitionedIntake
from cluster.client.requesting import Requesting
from cluster.errors import Rejected, TremulaError
from pubsub.consumer_groups.consumption import ASSIGNED

MORE = 50


class Cluster:
    """Answers what an intake asks when the test says so. Implements `Host` and `Requesting`."""

    group = "orders"
    member = "m"
    is_alive = True

    def __init__(self) -> None:
        self.answer: Any = None
        self.fetches = 0
        self.submitted: list[tuple[str, list[Any]]] = []
        self.may_answer = trio.Event()
        self.lost: list[TremulaError] = []
        self.news = 0

    def now(self) -> float:
        return trio.current_time()

    def tell_news(self) -> None:
        self.news += 1

    def lose_session(self, error: TremulaError) -> None:
        self.lost.append(error)

    async def request(self, name: str, args: Any = (), **_: Any) -> Any:
        if name == "session.open":
            return 1
        assert name == "group.fetch"
        self.fetches += 1
        answer, self.answer = self.answer, None
        if answer is None:
            await trio.sleep_forever()
        await self.may_answer.wait()
        if isinstance(answer, TremulaError):
            raise answer
        return answer

    async def submit(self, name: str, arguments: list[Any]) -> tuple[Any, bool]:
        await self.may_answer.wait()
        self.submitted.append((name, arguments))
        return [], True


async def test_what_was_leased_in_a_lost_session_is_given_back(autojump_clock: Any) -> None:
    """The answer to a fetch comes when the member has joined again: nothing of it is handed out."""
    cluster = Cluster()
    cluster.answer = [7, 0, [[1, _event(5)], [1, _event(6)]], 0]
    async with _fetching(cluster) as intake:
        intake.void()
        intake.begin()
        cluster.may_answer.set()
        await trio.sleep(1.0)
        assert intake.next_nowait() is None
        ((_, (_, _, items, _)),) = cluster.submitted
        assert items == [[5, 7, "nack", [0, None]], [6, 7, "nack", [0, None]]]


async def test_refusal_of_a_fetch_in_a_lost_session_ends_no_other(autojump_clock: Any) -> None:
    """That the member was unknown when it asked says nothing after it has joined again."""
    cluster = Cluster()
    cluster.answer = Rejected("unknown_member", "no session")
    async with _fetching(cluster) as intake:
        intake.void()
        intake.begin()
        cluster.may_answer.set()
        await trio.sleep(1.0)
        assert (cluster.lost, cluster.fetches) == ([], 2)


async def test_nothing_more_is_handed_out_while_acks_do_not_get_through(
    autojump_clock: Any,
) -> None:
    """Without a majority a consumer stops before a crash of it would repeat everything."""
    cluster = Cluster()
    dispatcher = cast("Dispatcher", None)
    intake = PartitionedIntake(dispatcher, cluster, UNCONFIRMED_MAX + MORE)  # type: ignore[arg-type]
    intake.take_change(ASSIGNED, 0, 1)
    intake.take_events(1, [[0, 1, _event(n + 1)] for n in range(UNCONFIRMED_MAX + MORE)])
    async with trio.open_nursery() as nursery:
        assert _handle(intake) == 1000
        nursery.start_soon(intake.run)
        await trio.testing.wait_all_tasks_blocked()  # a checkpoint is under way
        assert _handle(intake, UNCONFIRMED_MAX) == UNCONFIRMED_MAX - 1000
        assert intake.next_nowait() is None
        news = cluster.news
        cluster.may_answer.set()
        await trio.sleep(1.0)
        assert cluster.news > news
        assert _handle(intake) == MORE
        nursery.cancel_scope.cancel()


def _handle(intake: PartitionedIntake, events_max: int = 1000) -> int:
    """Take and ack so many at most."""
    for count in range(events_max):
        delivery: Delivery | None = intake.next_nowait()
        if delivery is None:
            return count
        delivery.ack_nowait()
    return events_max


def _event(revision: int) -> list[Any]:
    return [revision, "t", "k", [b"", None, None], None, None, None, 0, None, 0, 0, 0, 0]


class _fetching:
    """An intake whose first fetch is under way."""

    def __init__(self, cluster: Cluster) -> None:
        requesting = cast("Requesting", cluster)
        self._intake = CompetingIntake(requesting, cluster, 128, 10_000)  # type: ignore[arg-type]
        self._nursery = trio.open_nursery()

    async def __aenter__(self) -> CompetingIntake:
        nursery = self._scope = await self._nursery.__aenter__()
        nursery.start_soon(self._intake.run)
        self._intake.begin()
        await trio.testing.wait_all_tasks_blocked()
        return self._intake

    async def __aexit__(self, *error: Any) -> None:
        self._scope.cancel_scope.cancel()
        await self._nursery.__aexit__(*error)
