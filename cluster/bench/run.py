"""Driving a plan: closed loop (so many in flight) or open loop (so many a second).

Requests go through the client's callbacks: no task and no wake-up for each, so that one Python
process can keep a cluster busy. How busy it was itself is part of the result: near 100 % means that
the client was measured and not the cluster.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from time import perf_counter, process_time
from typing import Any

import trio

from cluster.bench.latency import Latencies
from cluster.bench.workload import MARK_BYTES, PREFIX, RATE_DEFAULT, TOPIC, Plan, Requests
from cluster.client import Client
from cluster.errors import TremulaError

OpenClient = Callable[[int], AbstractAsyncContextManager[Client]]  # number of the connection
RETRY_S = 0.01  # pause of one slot after an error, so that a dead cluster is not hammered
TICK_S = 0.001  # an open loop sends what is due this often; part of the measured latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured."""

    plan: Plan
    elapsed_s: float
    requests: int
    errors: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    parts_ms: dict[str, dict[str, float]] = field(default_factory=dict)  # of that latency
    client_cpu_percent: float = 0.0

    @property
    def operations_per_s(self) -> float:
        return self.requests * self.plan.batch / self.elapsed_s


class Meter:
    """Counts while it is on: warm-up requests are driven the same way and not counted. HOT."""

    def __init__(self) -> None:
        self.on = False
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()

    def note_error(self, result: Any) -> bool:
        """True for an error, which is counted like everything else only while this is on."""
        if not isinstance(result, TremulaError):
            return False
        if self.on:
            self.errors[result.code] += 1
        return True


async def run(plan: Plan, open_client: OpenClient, seed: int = 0) -> Result:
    """Measure one plan."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_client(number))
            for number in range(plan.connections)
        ]
        requests = Requests(plan, Random(seed))
        for name, args in requests.preload():
            await clients[0].request(name, args)
        for client in clients:
            await client.request("ping")  # connected and greeted before the clock runs
        meter = Meter()
        async with trio.open_nursery() as nursery:
            await _drive(plan, clients, requests, meter, nursery)
            await trio.sleep(plan.warm_up_s)
            meter.on = True
            started, started_cpu = perf_counter(), process_time()
            await trio.sleep(plan.seconds)
            meter.on = False
            elapsed = perf_counter() - started
            cpu = process_time() - started_cpu
            nursery.cancel_scope.cancel()
    return Result(
        plan=plan,
        elapsed_s=elapsed,
        requests=len(meter.latencies),
        errors=dict(meter.errors),
        latency_ms=dict(meter.latencies.summary_ms()),
        client_cpu_percent=round(100 * cpu / elapsed, 1),
    )


async def _drive(
    plan: Plan, clients: Sequence[Client], requests: Requests, meter: Meter, nursery: trio.Nursery
) -> None:
    if plan.reads:
        reader = clients[-1]
        events = reader.watch(PREFIX) if plan.workload == "watch" else reader.subscribe(TOPIC)
        nursery.start_soon(_read, events, plan, clients, requests, meter)
    elif plan.rate:
        nursery.start_soon(_open_loop, plan, clients, requests, meter)
    else:
        for client in clients:
            nursery.start_soon(_closed_loop, plan, client, requests, meter)


async def _closed_loop(plan: Plan, client: Client, requests: Requests, meter: Meter) -> None:
    """Each answer starts the next request: `depth` are always under way."""
    make, send = requests.maker(), client.request_nowait
    add = meter.latencies.add

    def slot() -> Callable[[Any], None]:
        """One request after the other: what is called with the result of each starts the next."""
        started: float | None = None  # None while none is under way

        def done(result: Any) -> None:
            nonlocal started
            if isinstance(result, TremulaError):
                meter.note_error(result)
                started = None
                idle.append(done)  # not from here: it may come at once, and again, without end
                stalled.set()
                return
            now = perf_counter()
            if meter.on and started is not None:
                add(now - started)
            started = now
            name, args = make()
            send(name, args, done)

        return done

    idle = [slot() for _ in range(plan.depth)]  # those that wait to be started from the loop below
    while True:
        stalled = trio.Event()
        waiting, idle = idle, []
        for done in waiting:
            done(None)
        await stalled.wait()
        await trio.sleep(RETRY_S)


async def _open_loop(
    plan: Plan, clients: Sequence[Client], requests: Requests, meter: Meter
) -> None:
    """Requests start when they are due, however slow the answers are; latency counts from then."""
    assert plan.rate
    make, add, interval = requests.maker(), meter.latencies.add, 1.0 / plan.rate
    due = perf_counter()
    number = 0
    while True:
        now = perf_counter()
        while due <= now:
            name, args = make()

            def done(result: Any, due: float = due, counts: bool = meter.on) -> None:
                if not meter.note_error(result) and counts:
                    add(perf_counter() - due)

            clients[number % len(clients)].request_nowait(name, args, done)
            number += 1
            due += interval
        await trio.sleep(min(TICK_S, max(0.0, due - perf_counter())))


async def _read(
    events: Any, plan: Plan, clients: Sequence[Client], requests: Requests, meter: Meter
) -> None:
    """Writes at a rate; measured is the time from a write's start until its event arrives."""
    sent: dict[bytes, tuple[float, bool]] = {}  # by the mark that the value begins with
    interval = 1.0 / (plan.rate or RATE_DEFAULT)
    marked = requests.marked()

    def answered(result: Any) -> None:
        meter.note_error(result)

    async def write() -> None:
        number = 0
        due = trio.current_time()
        while True:
            number += 1
            mark = number.to_bytes(MARK_BYTES, "big")
            sent[mark] = perf_counter(), meter.on
            name, args = marked(mark, number)
            clients[0].request_nowait(name, args, answered)
            due += interval
            await trio.sleep_until(due)

    async with trio.open_nursery() as nursery, events:
        nursery.start_soon(write)
        async for event in events:
            arrived = perf_counter()
            started, counts = sent.pop(event.data[0][:MARK_BYTES], (arrived, False))
            if counts:
                meter.latencies.add(arrived - started)
