"""The measuring side of `cluster bench`."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench.latency import Latencies, percentile
from cluster.bench.workload import PREFIX, SUITE, WORKLOADS, Plan, Requests


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


@pytest.mark.parametrize("workload", WORKLOADS)
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


def test_reads_are_of_keys_that_exist() -> None:
    """Before a get workload runs, all of its keys are written."""
    requests = Requests(Plan(workload="get", keys=1200), Random(1))
    written = [put[1] for _, (puts,) in requests.preload() for put in puts]
    assert written == requests.keys
    assert Requests(Plan(workload="put"), Random(1)).preload() == []


def test_plans_have_names_that_tell_them_apart() -> None:
    """No two lines of the suite read the same."""
    assert len({plan.name for plan in SUITE}) == len(SUITE)
