"""Consumption: how fast the members of one group take what is there, acknowledging all of it.

The events are published first, each with one of a few hundred keys, and the group begins behind
what was there before. The clock runs from the first delivery until everything was delivered once
and every acknowledgement was written down, or until the time is over.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from secrets import token_hex
from time import perf_counter, process_time

import trio

from cluster.bench.run import OpenClient, Result
from cluster.bench.workload import CONSUMED, Plan, Requests
from cluster.client import Client
from cluster.client.consumer import Consumer

DELETE_S = 5.0
FIRST_S = 30.0
"""So long may it take until the first event arrives: the members join meanwhile."""


class _Progress:
    """What the members have taken together. HOT."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.revisions: set[int] = set()
        self.again = 0
        self.first = trio.Event()
        self.done = trio.Event()
        self.started = self.started_cpu = 0.0

    def take(self, revision: int) -> None:
        if not self.revisions:
            self.started, self.started_cpu = perf_counter(), process_time()
            self.first.set()
        if revision in self.revisions:
            self.again += 1
            return
        self.revisions.add(revision)
        if len(self.revisions) >= self.wanted:
            self.done.set()


async def run_consumers(plan: Plan, open_client: OpenClient, seed: int = 0) -> Result:
    """Measure one plan that consumes; each connection is a member."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_client(number))
            for number in range(plan.connections)
        ]
        group = clients[0].group(f"bench-{token_hex(4)}")
        # not protected: whatever becomes of this program, it holds back no retention
        await group.create(CONSUMED, mode=plan.workload, start="latest", protected=False)
        try:
            for name, args in Requests(plan, Random(seed)).preload():
                await clients[0].request(name, args)
            return await _measure(plan, clients, group.name)
        finally:
            with trio.move_on_after(DELETE_S, shield=True):
                await group.delete()


async def _measure(plan: Plan, clients: list[Client], group: str) -> Result:
    progress = _Progress(plan.events)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        consumers = [
            await stack.enter_async_context(client.group(group).consume(auto_ack=False))
            for client in clients
        ]
        for consumer in consumers:
            nursery.start_soon(_take_all, consumer, progress)
        with trio.fail_after(FIRST_S):
            await progress.first.wait()
        with trio.move_on_after(plan.seconds):
            await progress.done.wait()
        taken = len(progress.revisions)
        for consumer in consumers:
            await consumer.flush()
        elapsed = perf_counter() - progress.started
        cpu = process_time() - progress.started_cpu
        nursery.cancel_scope.cancel()
    return Result(
        plan=plan,
        elapsed_s=elapsed,
        requests=taken,
        errors={"delivered again": progress.again} if progress.again else {},
        client_cpu_percent=round(100 * cpu / elapsed, 1),
    )


async def _take_all(consumer: Consumer, progress: _Progress) -> None:
    """HOT."""
    async for delivery in consumer:
        delivery.ack_nowait()
        progress.take(delivery.event.revision)
