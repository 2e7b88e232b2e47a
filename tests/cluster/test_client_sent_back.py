"""What a member of a partitioned group sends back comes again in the order of its key."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.client.delivery import Delivery, Holder
from cluster.client.sent_back import SentBack
from pubsub.events import Event

KEYS = ("a", "b")


def test_a_batch_that_is_sent_back_comes_again_in_its_order() -> None:
    """Whatever the order in which its events were sent back, and before what follows."""
    parked = SentBack()
    for revision in (3, 1, 2):
        parked.add(_delivery(revision), 1.0)
    follower = _delivery(4, attempt=1)

    assert parked.holds(follower)
    assert parked.due(0.5) == []
    again = parked.due(1.0)
    assert [each.revision for each in again] == [1, 2, 3]
    assert [list(parked.settled(each)) for each in again] == [[], [], [follower]]
    assert not parked


def test_a_longer_pause_of_an_earlier_event_holds_a_later_one() -> None:
    """As long as the first of a key pauses, nothing else of it comes; another key does."""
    parked = SentBack()
    parked.add(_delivery(1), 5.0)
    parked.add(_delivery(2), 1.0)
    parked.add(_delivery(3, "b"), 1.0)

    assert [each.revision for each in parked.due(1.0)] == [3]
    assert [each.revision for each in parked.due(5.0)] == [1, 2]


def test_an_event_that_came_again_waits_for_an_earlier_one_sent_back_since() -> None:
    """It was not handed out yet, so it can still be kept."""
    parked = SentBack()
    first, second = _delivery(1), _delivery(2)
    parked.add(first, 0.0)
    parked.add(second, 0.0)
    assert parked.due(0.0) == [first, second]

    parked.add(_delivery(1, attempt=3), 2.0)

    assert parked.holds(second)
    assert [each.revision for each in parked.due(2.0)] == [1, 2]


def test_a_later_event_does_not_overtake_those_that_came_again() -> None:
    """Its pause ends while an earlier one has come again and is not settled."""
    parked = SentBack()
    parked.add(_delivery(1), 0.0)
    parked.add(_delivery(2), 1.0)
    (first,) = parked.due(0.0)
    assert parked.due(1.0) == []

    assert not parked.settled(first)

    assert parked.next_at <= 1.0
    assert [each.revision for each in parked.due(1.0)] == [2]


def test_a_partition_that_is_gone_leaves_nothing() -> None:
    """Not those that pause, and not those behind them."""
    parked = SentBack()
    parked.add(_delivery(1), 1.0)
    parked.holds(_delivery(2, attempt=1))

    assert [each.revision for each in parked.drop(0)] == [1, 2]
    assert not parked
    assert parked.due(9.0) == []


@settings(deadline=None)
@given(st.data())
def test_a_key_stays_in_order(data: st.DataObject) -> None:
    """A program takes as much as there is, settles some of it and sends the rest back: in each
    round each key comes in its order, nothing is skipped, and in the end nothing is missing."""
    parked = SentBack()
    stream = [_delivery(n, data.draw(st.sampled_from(KEYS)), attempt=1) for n in range(1, 13)]
    ready, now = list(stream), 0.0
    done: list[Delivery] = []
    for _ in range(200):
        if not ready and not parked:
            break
        in_hand: list[Delivery] = []
        while ready and len(in_hand) < data.draw(st.integers(1, 5)):
            delivery = ready.pop(0)
            if not (parked and parked.holds(delivery)):
                in_hand.append(delivery)
        for key in KEYS:
            revisions = [each.revision for each in in_hand if each.event.key == key]
            settled = [each.revision for each in done if each.event.key == key]
            open_ones = [
                each.revision
                for each in stream
                if each.event.key == key and each.revision not in settled
            ]
            assert revisions == open_ones[: len(revisions)]
        bad = {key for key in KEYS if data.draw(st.booleans())} if now < 30 else set()
        for delivery in in_hand:
            if delivery.event.key in bad:
                parked.add(delivery.again(), now + data.draw(st.integers(0, 3)))
            else:
                done.append(delivery)
                ready = list(parked.settled(delivery)) + ready
        now += 1.0
        ready = parked.due(now) + ready
        if parked and not ready:
            now = max(now, parked.next_at)
            ready = parked.due(now)
    assert sorted(each.revision for each in done) == list(range(1, 13))


def _delivery(revision: int, key: str = "a", *, attempt: int = 2) -> Delivery:
    data: Any = (b"", None, None)
    event = Event(revision, "t", key, data, None, None, None, 0, None, 0, 0, 0, 0)
    return Delivery(event, attempt, 0, 1, cast("Holder", None), None)
