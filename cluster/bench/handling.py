"""How fast events come to a handler, and how many are handled.

Throughput: the events are published in batches, and the clock runs from the first of them until the
counters of the cluster say that all are handled, which is when the last checkpoint was committed.

Latency: events at a low rate. Each is marked, and the handler (`cluster.bench.hook`) publishes the
mark together with the moment at which it was started. All moments are of the monotonic clock of one
machine, so whoever measures must run where the nodes run. Known of each event are when it was sent,
when its answer was here, which is after it was committed, and when its handler was started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from time import monotonic, perf_counter, process_time
from typing import Any, Final

import trio

from cluster.bench.hook import HANDLER, MARKED, SEEN, TOPIC
from cluster.bench.latency import Latencies
from cluster.bench.run import Meter, OpenClient, Result
from cluster.bench.workload import CONSUMED_KEYS, RATE_DEFAULT, Plan, Requests
from cluster.client import Client
from cluster.errors import TremulaError

IDLE_S: Final = 30.0
"""So long may the handler take for what was there before."""
HANDLED_S: Final = 300.0
"""After this what was handled until then is the result."""
POLL_S: Final = 0.02  # between two looks at the counters: part of the measured time
AFTER_S: Final = 2.0  # for the last marks to come back
IN_FLIGHT: Final = 8  # batches that are published at a time: writing must not be what is measured


async def run_handling(plan: Plan, open_client: OpenClient, seed: int = 0) -> Result:
    """Measure how many events a second are handled."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_client(number))
            for number in range(plan.connections)
        ]
        before = await _idle(clients[0])
        batches = Requests(plan, Random(seed)).preload()
        started, started_cpu = perf_counter(), process_time()
        handled: dict[str, int] = {}
        with trio.move_on_after(HANDLED_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_publish_all, clients, batches)
                while True:
                    handled = await _handled(clients[0], before)
                    if _events(handled) >= plan.events:
                        break
                    await trio.sleep(POLL_S)
                nursery.cancel_scope.cancel()
        elapsed, cpu = perf_counter() - started, process_time() - started_cpu
    given_up = handled.get("dead_letters", 0)
    return Result(
        plan=plan,
        elapsed_s=elapsed,
        requests=min(plan.events, _events(handled)),
        errors={"given up": given_up} if given_up else {},
        client_cpu_percent=round(100 * cpu / elapsed, 1),
    )


async def _idle(client: Client) -> dict[str, int]:
    """The counters, once the handler has caught up with what was there before."""
    with trio.fail_after(IDLE_S):
        while True:
            (row,) = await client.hooks.metrics(HANDLER)
            if not row["lag"]:
                return {name: row[name] for name in ("completed", "dead_letters")}
            await trio.sleep(POLL_S)


async def _handled(client: Client, before: dict[str, int]) -> dict[str, int]:
    (row,) = await client.hooks.metrics(HANDLER)
    return {name: row[name] - count for name, count in before.items()}


def _events(handled: dict[str, int]) -> int:
    return handled.get("completed", 0) + handled.get("dead_letters", 0)


async def _publish_all(clients: Sequence[Client], batches: list[tuple[str, list[Any]]]) -> None:
    waiting = iter(batches)

    async def publish(client: Client) -> None:
        for name, args in waiting:  # one iterator: each batch is sent once
            await client.request(name, args)

    async with trio.open_nursery() as nursery:
        for number in range(IN_FLIGHT):
            nursery.start_soon(publish, clients[number % len(clients)])


class Marks:
    """What is known of each event that is under way."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._sent: dict[str, tuple[float, bool]] = {}
        self._answered: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._ended = False
        self.to_start = Latencies()  # from the answer on; below 0: the handler was faster
        self.to_answer = Latencies()
        self.complete = trio.Event()  # nothing that counts is missing, and nothing more is sent

    def end(self) -> None:
        """What is sent from now on does not count."""
        self._meter.on = False
        self._ended = True
        self._check()

    def send(self, mark: str) -> Callable[[Any], None]:
        """Returns what is to be called with the answer."""
        self._sent[mark] = monotonic(), self._meter.on

        def answered(result: Any) -> None:
            if self._meter.note_error(result):
                self._sent.pop(mark, None)
                self._check()
                return
            self._answered[mark] = monotonic()
            self._settle(mark)

        return answered

    def seen(self, mark: str, started: float) -> None:
        """The handler says when it was started."""
        if mark in self._sent:
            self._started[mark] = started
            self._settle(mark)

    @property
    def missing(self) -> int:
        """Events that count and whose handler has not said anything."""
        return sum(counts for _, counts in self._sent.values())

    def _settle(self, mark: str) -> None:
        if mark not in self._answered or mark not in self._started:
            return
        sent, counts = self._sent.pop(mark)
        answered, started = self._answered.pop(mark), self._started.pop(mark)
        if counts:
            self._meter.latencies.add(started - sent)
            self.to_answer.add(answered - sent)
            self.to_start.add(started - answered)
        self._check()

    def _check(self) -> None:
        if self._ended and not self.missing:
            self.complete.set()


async def run_reaction(plan: Plan, open_client: OpenClient, seed: int = 0) -> Result:
    """Measure how long it takes from a write to the start of its handler."""
    meter = Meter()
    marks = Marks(meter)
    async with open_client(0) as writer, open_client(1) as reader:
        await _idle(writer)
        async with trio.open_nursery() as nursery:
            await nursery.start(_read, reader, marks)
            nursery.start_soon(_write, plan, writer, marks)
            await trio.sleep(plan.warm_up_s)
            meter.on = True
            started, started_cpu = perf_counter(), process_time()
            await trio.sleep(plan.seconds)
            marks.end()
            elapsed, cpu = perf_counter() - started, process_time() - started_cpu
            with trio.move_on_after(AFTER_S):
                await marks.complete.wait()
            nursery.cancel_scope.cancel()
    errors = dict(meter.errors)
    if marks.missing:
        errors["not seen"] = marks.missing
    return Result(
        plan=plan,
        elapsed_s=elapsed,
        requests=len(meter.latencies),
        errors=errors,
        latency_ms=dict(meter.latencies.summary_ms()),
        parts_ms={
            "written": dict(marks.to_answer.summary_ms()),
            "written to started": dict(marks.to_start.summary_ms()),
        },
        client_cpu_percent=round(100 * cpu / elapsed, 1),
    )


async def _read(
    reader: Client, marks: Marks, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with reader.subscribe(SEEN) as events:
        task_status.started()
        async for event in events:
            mark, started = json.loads(event.data[0])
            marks.seen(mark, started)


async def _write(plan: Plan, writer: Client, marks: Marks) -> None:
    """The key is another one each time, so that no event waits behind the one before."""
    interval = 1.0 / (plan.rate or RATE_DEFAULT)
    due = trio.current_time()
    number = 0
    while True:
        number += 1
        mark = str(number)
        args = [TOPIC, f"k{number % CONSUMED_KEYS}", mark.encode(), MARKED, None]
        answered = marks.send(mark)
        try:
            writer.request_nowait("publish", args, answered)
        except TremulaError as error:
            answered(error)
        due += interval
        await trio.sleep_until(due)
