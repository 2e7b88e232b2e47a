"""Delayed events come out once, in order, never early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubsub.limits import DELAYED_PUBLISHED_BYTES_MAX
from pubsub.publishing import delayed
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver


def later(driver: Driver, payload: bytes, delay_ms: int, **options: Any) -> Any:
    """Let an event of topic "t" wait; returns its id."""
    return driver.do("publish_later", "t", "k", payload, None, None, options or None, delay_ms)


def totals(driver: Driver) -> tuple[int, int]:
    """How many events wait, and their bytes."""
    events, size = driver.connection.execute("SELECT events, bytes FROM delayed_totals").get
    return events, size


def test_an_event_comes_out_when_its_time_has_come() -> None:
    """With the actor and the correlation of the request that left it, at its new place."""
    driver = Driver()
    event = ["t", "k", b"p", "text/plain", {"h": "v"}, {"schema_version": "2"}]
    identity = driver.do("publish_later", *event, 500, actor="ann", meta=["corr", None, 2, None])
    assert driver.machine.revision == 0
    assert delayed.next_due(driver.connection) == driver.wall_ms + 500
    driver.wall_ms += 499
    assert driver.do("delayed.publish", driver.wall_ms + 10**6, 10, actor="system") == 0
    driver.wall_ms += 1
    assert driver.do("delayed.publish", driver.wall_ms, 10, actor="system") == 1
    (found,) = driver.events()
    assert (found.topic, found.key, found.wall_ms) == ("t", "k", driver.wall_ms)
    assert found.data == (b"p", "text/plain", {"h": "v"}, "2")
    assert (found.actor, found.correlation_id, found.hops) == ("ann", "corr", 2)
    assert driver.do("delayed.cancel", identity) is False
    assert totals(driver) == (0, 0)
    assert driver.machine.topics("", 5) == ([("t", 1)], False)


def test_an_id_is_never_given_twice(tmp_path: Path) -> None:
    """Not even when nothing waits any more: a late cancel must hit nobody else."""
    driver = Driver(tmp_path / "state.db")
    assert later(driver, b"", 5) == 1
    assert driver.do("delayed.cancel", 1) is True
    driver.reopen()
    assert later(driver, b"", 5) == 2


def test_a_repetition_of_a_delay_waits_once() -> None:
    """The answer is the id of the first; an event that came out at once is another matter."""
    driver = Driver()
    assert driver.do("publish", "t", None, b"", None, None, {"message_id": "m"}) == 1
    assert later(driver, b"", 5, message_id="m") == 1
    assert later(driver, b"", 5, message_id="m") == 1
    assert later(driver, b"", 5, message_id="n") == 2
    assert totals(driver)[0] == 2


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In events and in bytes; what comes out or is cancelled makes room."""
    driver = Driver()
    monkeypatch.setattr(delayed, "DELAYED_EVENTS_MAX", 2)
    assert [later(driver, b"x", 5), later(driver, b"x", 5)] == [1, 2]
    full = later(driver, b"x", 5, message_id="m")
    assert isinstance(full, Rejection)
    assert full.code == "limit_exceeded"
    driver.do("delayed.cancel", 1)
    assert later(driver, b"x", 5, message_id="m") == 3, "the refused id was not used up"
    monkeypatch.setattr(delayed, "DELAYED_EVENTS_MAX", 9)
    monkeypatch.setattr(delayed, "DELAYED_BYTES_MAX", 100)
    assert isinstance(later(driver, bytes(100), 5), Rejection)


def test_one_command_is_bounded_in_bytes() -> None:
    """Large events come out a few at a time, and the largest alone."""
    driver = Driver()
    size = DELAYED_PUBLISHED_BYTES_MAX // 5
    for _ in range(7):
        later(driver, bytes(size), 0)
    came = [driver.do("delayed.publish", driver.wall_ms, 1_000) for _ in range(3)]
    assert came == [4, 3, 0]


def test_a_listing_goes_by_id() -> None:
    """Page by page, with what a person wants to know."""
    driver = Driver()
    for number in range(5):
        later(driver, bytes(number), 50 - number)
    page, more = delayed.page(driver.connection, 0, 3)
    assert more
    assert [event.id for event in page] == [1, 2, 3]
    assert page[0][:4] == (1, driver.wall_ms + 50, "t", "k")
    rest, more = delayed.page(driver.connection, 3, 3)
    assert ([event.id for event in rest], more) == ([4, 5], False)


@pytest.mark.parametrize("args", [[-1, 5], ["x", 5], [5, -1], [5, None]])
def test_a_malformed_slice_is_refused(args: list[Any]) -> None:
    """As everything of a wrong shape is."""
    assert isinstance(Driver().do("delayed.publish", *args), Rejection)
    assert isinstance(Driver().do("delayed.cancel", "x"), Rejection)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("later"), st.integers(0, 30)),
        st.tuples(st.just("at"), st.integers(-20, 30)),
        st.tuples(st.just("cancel"), st.integers(1, 12)),
        st.tuples(st.just("publish"), st.integers(0, 4)),
        st.tuples(st.just("clock"), st.sampled_from([-5, 0, 1, 7, 1_000])),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_it_does_what_a_dumb_model_does(script: list[tuple[str, int]]) -> None:
    """Once each, never early, by (due, id), also where several are due at once and the clock jumps
    or is told to run backwards."""
    driver = Driver(commits_each=False)
    waiting: dict[int, int] = {}
    out: list[int] = []
    left = 0
    clock = 0
    for name, number in script:
        if name == "clock":
            driver.wall_ms += number
            continue
        clock = max(clock, driver.wall_ms)
        if name in ("later", "at"):
            left += 1
            due = clock + number
            times = [number] if name == "later" else [None, due]
            payload = str(left).encode()
            assert driver.do("publish_later", "t", None, payload, None, None, None, *times) == left
            waiting[left] = due
        elif name == "cancel":
            assert driver.do("delayed.cancel", number) is (waiting.pop(number, None) is not None)
        else:
            due_now = sorted((due, identity) for identity, due in waiting.items() if due <= clock)
            expected = [identity for _, identity in due_now[:number]]
            assert driver.do("delayed.publish", clock + 10**9, number) == len(expected)
            for identity in expected:
                assert waiting.pop(identity) <= clock
            out += expected
        assert totals(driver)[0] == len(waiting)
        assert delayed.next_due(driver.connection) == min(waiting.values(), default=None)
    assert [int(event.data[0]) for event in driver.events()] == out
    driver.connection.close()
