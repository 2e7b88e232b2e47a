"""The measuring side of `cluster bench`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from time import monotonic
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench import hook
from cluster.bench import run as driving
from cluster.bench.handling import Marks
from cluster.bench.latency import Latencies, percentile
from cluster.bench.run import Meter
from cluster.bench.workload import (
    CONSUME,
    HANDLE,
    HANDLED,
    HOOK_SUITE,
    MARK_BYTES,
    PREFIX,
    REACT,
    SUITE,
    WORKLOADS,
    Plan,
    Requests,
)
from cluster.client import Client
from cluster.client.call import Done
from cluster.errors import Timeout
from hooks.execution.attempt import Succeeded
from hooks.handlers.inprocess import InlineRunner
from hooks.registry import Registry
from pubsub.events import Event
from tests.hooks.workbench import ListLog, attempt, definition


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.1, 100.0))
def test_percentile_is_the_nearest_rank(times: list[float], percent: float) -> None:
    """At least the asked share of all times is not above it, and no smaller time has that."""
    ordered = sorted(times)
    found = percentile(ordered, percent)
    share = 100.0 * sum(time <= found for time in ordered) / len(ordered)
    assert share >= percent - 1e-6
    smaller = [time for time in ordered if time < found]
    assert 100.0 * len(smaller) / len(ordered) < percent


def test_summary_has_percentiles_in_milliseconds() -> None:
    """A thousand times from 1 to 1000 ms have the percentiles that one expects."""
    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(number / 1000)
    summary = latencies.summary_ms()
    assert (summary["p50"], summary["p99"], summary["p99.9"]) == (500.0, 990.0, 999.0)
    assert (summary["mean"], summary["max"]) == (500.5, 1000.0)
    assert Latencies().summary_ms() == {}


SENT = [one for one in WORKLOADS if one not in (*CONSUME, HANDLE, REACT)]


@pytest.mark.parametrize("workload", SENT)
@pytest.mark.parametrize("batch", [1, 3])
def test_requests_have_the_shape_of_the_protocol(workload: str, batch: int) -> None:
    """Each workload makes its own request, on keys of its own, the same for the same seed."""
    plan = Plan(workload=workload, batch=batch, keys=10, value_bytes=20)
    make = Requests(plan, Random(1)).maker()
    name, args = make()
    assert (name, args) == Requests(plan, Random(1)).maker()()
    if name == "batch":
        assert len(args[0]) == batch
        assert all(put[0] == "put" and put[1].startswith(PREFIX) for put in args[0])
    elif name == "publish_batch":
        assert len(args[0]) == batch
    elif name in ("put", "get"):
        assert args[0].startswith(PREFIX)


@pytest.mark.parametrize(("workload", "at"), [("watch", 1), ("deliver", 2)])
def test_what_a_reader_gets_names_the_write_that_it_comes_from(workload: str, at: int) -> None:
    """The value begins with the mark of its write and has the size that was asked for."""
    marked = Requests(Plan(workload=workload, keys=3, value_bytes=20), Random(1)).marked()
    values = [marked(number.to_bytes(MARK_BYTES, "big"), number)[1][at] for number in range(5)]
    assert [int.from_bytes(value[:MARK_BYTES], "big") for value in values] == list(range(5))
    assert {len(value) for value in values} == {20}


def test_reads_are_of_keys_that_exist() -> None:
    """Before a get workload runs, all of its keys are written."""
    requests = Requests(Plan(workload="get", keys=1200), Random(1))
    written = [put[1] for _, (puts,) in requests.preload() for put in puts]
    assert written == requests.keys
    assert Requests(Plan(workload="put"), Random(1)).preload() == []


def test_what_is_consumed_is_published_before() -> None:
    """So many events as were asked for, in batches, over more keys than a group has members."""
    requests = Requests(Plan(workload="competing", events=1_201, value_bytes=20), Random(1))
    batches = requests.preload()
    assert [name for name, _ in batches] == ["publish_batch"] * 3
    events = [event for _, (items,) in batches for event in items]
    assert len(events) == 1_201
    assert len({event[1] for event in events}) > 100


class SlowAndSlower:
    """A client whose requests take 1 s and 3 s by turns; every fifth then ends with an error."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.numbers = count(1)
        self.under_way = 0
        self.under_way_max = 0

    async def request(self, name: str) -> None:
        assert name == "ping"

    def request_nowait(self, name: str, args: list[Any], done: Done) -> None:
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        self.nursery.start_soon(self._answer, next(self.numbers), done)

    async def _answer(self, number: int, done: Done) -> None:
        await trio.sleep(1 if number % 2 else 3)
        self.under_way -= 1
        done(None if number % 5 else Timeout(1))


async def test_each_request_of_a_closed_loop_is_timed_on_its_own(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the answers is; after an error as many are under way as before."""
    monkeypatch.setattr(driving, "perf_counter", trio.current_time)
    client = SlowAndSlower(nursery)

    @asynccontextmanager
    async def open_client(number: int) -> AsyncIterator[Client]:
        yield cast(Client, client)

    result = await driving.run(Plan(depth=4, warm_up_s=0.5, seconds=60.0), open_client)
    assert client.under_way == client.under_way_max == 4
    assert set(result.latency_ms.values()) - {result.latency_ms["mean"]} == {1000.0, 3000.0}
    assert result.errors["timeout"] > 10
    assert result.requests + sum(result.errors.values()) == next(client.numbers) - 5


def test_plans_have_names_that_tell_them_apart() -> None:
    """No two lines of the suite read the same."""
    plans = (*SUITE, *HOOK_SUITE)
    assert len({plan.name for plan in plans}) == len(plans)


def test_what_is_handled_goes_to_the_handler_and_is_not_marked() -> None:
    """The handler of the benchmark is for this topic, and does nothing with these events."""
    batches = Requests(Plan(workload=HANDLE, events=700), Random(1)).preload()
    events = [event for _, (items,) in batches for event in items]
    assert len(events) == 700
    assert {event[0] for event in events} == {HANDLED, hook.TOPIC}
    assert {event[3] for event in events} == {None}


async def _returned(content_type: str | None) -> list[Any]:
    """What the benchmark's handler returns for an event."""
    registry = Registry().collect([hook])
    handler = definition(name=hook.HANDLER, pattern=hook.TOPIC, handler_id=hook.HANDLER)
    data = (b"7", content_type, None)
    event = Event(7, hook.TOPIC, "k1", data, None, None, None, 0, None, 0, 5, 0, 30)
    outcome = await InlineRunner(registry, ListLog()).execute(attempt(handler, event))
    assert isinstance(outcome, Succeeded)
    return [effect.to_wire() for effect in outcome.effects]


async def test_the_handler_tells_when_it_was_started() -> None:
    """Of a marked event it publishes the mark and the moment; of another one nothing."""
    before = monotonic()
    ((name, arguments),) = await _returned(hook.MARKED)
    assert (name, arguments[0]) == ("publish", hook.SEEN)
    mark, started = json.loads(arguments[2])
    assert mark == "7"
    assert before <= started <= monotonic()
    assert await _returned(None) == []


def test_an_event_counts_when_both_its_moments_are_known() -> None:
    """In either order; one whose answer is an error, and one of the warm-up, do not count."""
    meter = Meter()
    marks = Marks(meter)
    marks.send("warm-up")(None)
    meter.on = True
    first, second, third = (marks.send(mark) for mark in "123")
    first(None)
    marks.seen("1", monotonic())
    marks.seen("2", monotonic())
    assert len(meter.latencies) == 1
    second(None)
    third(Timeout(10))
    marks.seen("3", monotonic())
    marks.seen("of an earlier run", monotonic())
    marks.seen("warm-up", monotonic())
    assert len(meter.latencies) == len(marks.to_answer) == len(marks.to_start) == 2
    assert meter.errors == {"timeout": 1}
    assert marks.to_start.summary_ms()["max"] <= meter.latencies.summary_ms()["max"]


def test_the_measuring_ends_when_nothing_is_missing() -> None:
    """What is sent after the end does not count and is not waited for."""
    meter = Meter()
    marks = Marks(meter)
    meter.on = True
    answered = marks.send("1")
    marks.end()
    marks.send("2")
    assert (marks.missing, marks.complete.is_set()) == (1, False)
    answered(None)
    marks.seen("1", monotonic())
    assert (marks.missing, marks.complete.is_set()) == (0, True)
