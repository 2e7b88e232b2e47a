"""The workloads: closed loops, watch latency at a fixed rate, the gap that a dead leader leaves.

One thread and one selector drive all connections. Every loop ends at its deadline, and what is
under way then is waited for, so that a failed call is never mistaken for an unfinished one.
"""

from __future__ import annotations

import re
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice

from tests.peers import etcd_messages as etcd
from tests.peers.grpc_wire import CallFailed, GrpcConnection
from tests.peers.rows import Measured

DRAIN_S = 5.0
VALUE = b"v" * 100
PUTS_EACH = 100
"""Puts in one transaction."""
WATCHED = b"watched/"
PROBE_S = 0.01
FAILOVER_MAX_S = 30.0

Call = tuple[bytes, bytes]
"""Path and message of one unary call."""


def puts(keys: int) -> Iterator[Call]:
    """100-byte values to `keys` keys in turn. Encoded beforehand, as are the others."""
    return cycle([(etcd.PUT, etcd.put(key(number), VALUE)) for number in range(keys)])


def gets(keys: int) -> Iterator[Call]:
    """Linearizable reads of keys that exist, in a scattered order."""
    # a prime step: neighbours in time are no neighbours in the tree
    return cycle([(etcd.RANGE, etcd.get(key(n * 7919 % keys))) for n in range(keys)])


def transactions(keys: int) -> Iterator[Call]:
    """Transactions of puts; a transaction may not touch a key twice."""
    return cycle(
        [
            (etcd.TXN, etcd.transaction_of_puts((key(n), VALUE) for n in range(at, at + PUTS_EACH)))
            for at in range(0, keys, PUTS_EACH)
        ]
    )


def key(number: int) -> bytes:
    return b"bench/%08d" % number


def closed_loop(
    connections: Sequence[GrpcConnection], in_flight: int, calls: Iterator[Call], seconds: float
) -> Measured:
    """Keep `in_flight` calls under way, spread over the connections, for `seconds`."""
    started: dict[GrpcConnection, dict[int, float]] = {one: {} for one in connections}
    latencies: list[float] = []
    clock = time.perf_counter
    begin = clock()
    with _selecting(connections) as selector:
        for turn in range(in_flight):
            connection = connections[turn % len(connections)]
            started[connection][connection.call(*next(calls))] = begin
        for connection in connections:
            connection.flush()
        deadline, now = begin + seconds, begin
        while now < deadline + DRAIN_S and any(started.values()):
            for selected, _ in selector.select(1.0):
                connection = selected.data
                pending = started[connection]
                finished = connection.receive()
                now = clock()
                for stream, _message in finished:
                    latencies.append(now - pending.pop(stream))
                _raise_failed(connection)
                if now < deadline:
                    for _ in finished:
                        pending[connection.call(*next(calls))] = now
                connection.flush()
            now = clock()
    unfinished = sum(len(pending) for pending in started.values())
    latencies.sort()
    return Measured(
        calls=len(latencies), failed=unfinished, seconds=clock() - begin, latencies=latencies
    )


def exactly(connection: GrpcConnection, calls: Iterator[Call], count: int) -> None:
    """Make `count` calls, one after the other."""
    for path, message in islice(calls, count):
        connection.request(path, message)


def watch_latency(
    writer: GrpcConnection, watcher: GrpcConnection, rate: int, seconds: float
) -> Measured:
    """From sending a put, at a fixed rate whatever the server does, to its watch event."""
    clock = time.perf_counter
    watcher.open_stream(etcd.WATCH, etcd.watch_prefix(WATCHED))
    watcher.flush()
    while not watcher.receive():  # the answer to the creation
        watcher.flush()
    total = int(rate * seconds)
    sent_at: list[float] = []
    latencies: list[float] = []
    begin = clock()
    stamp = re.compile(rb"stamp=(\d{8})")
    with _selecting([writer, watcher]) as selector:
        while len(latencies) < total and clock() < begin + seconds + DRAIN_S:
            due = begin + len(sent_at) / rate
            if len(sent_at) < total and clock() >= due:
                value = b"stamp=%08d" % len(sent_at)
                sent_at.append(clock())
                writer.call(etcd.PUT, etcd.put(WATCHED + b"key", value.ljust(len(VALUE), b".")))
                writer.flush()
                continue
            wait = due - clock() if len(sent_at) < total else 1.0
            for selected, _ in selector.select(max(wait, 0.0)):
                messages = selected.data.receive()
                now = clock()
                if selected.data is watcher:
                    for _, message in messages:
                        for match in stamp.finditer(message):
                            latencies.append(now - sent_at[int(match[1])])
                selected.data.flush()
                _raise_failed(selected.data)
    latencies.sort()
    return Measured(
        calls=total, failed=total - len(latencies), seconds=clock() - begin, latencies=latencies
    )


def gap_after(kill: Callable[[], None], survivors: Sequence[GrpcConnection]) -> float:
    """Seconds from `kill()` to the next acknowledged put at any survivor.

    A new put goes to every survivor each `PROBE_S`, because one that arrives while there is no
    leader is dropped and only ends with etcd's request timeout of 7 s: the gap is the cluster's.
    """
    calls = puts(1)
    clock = time.perf_counter
    with _selecting(survivors) as selector:
        kill()
        begin = clock()
        probes = 0
        while clock() < begin + FAILOVER_MAX_S:
            if clock() >= begin + probes * PROBE_S:
                probes += 1
                for connection in survivors:
                    connection.call(*next(calls))
                    connection.flush()
            for selected, _ in selector.select(max(begin + probes * PROBE_S - clock(), 0.0)):
                if selected.data.receive():
                    return clock() - begin
                selected.data.flush()
                selected.data.failed.clear()
    raise CallFailed(f"no write was acknowledged within {FAILOVER_MAX_S} s of the kill")


@contextmanager
def _selecting(connections: Sequence[GrpcConnection]) -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        yield selector


def _raise_failed(connection: GrpcConnection) -> None:
    if connection.failed:
        raise CallFailed(f"{len(connection.failed)} calls failed at {connection.authority}")
