"""The workloads of JetStream: closed loops of publishes, latency to a consumer, consumption.

One thread and one selector drive all connections. A publish is a command made beforehand whose
acknowledgement comes to an inbox of its own; what is under way at the deadline is waited for.
"""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.peers.nats_wire import Message, NatsConnection, NatsFailed, publish
from tests.peers.rows import Measured

DRAIN_S = 5.0
PAYLOAD = b"v" * 100
BATCH = 100
"""Messages in one batch."""
PULL = 500
"""Messages that a consumer asks for at a time; it asks again when half of them are there."""

_BATCH_NUMBER = b"00000000"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a slot of a closed loop publishes: `command(inbox)` gives the bytes of one call, which
    is over after so many acknowledgements; `numbered` commands get a fresh number each time."""

    command: Callable[[bytes], bytes]
    acknowledgements: int
    numbered: bool = False


def single(subject: bytes) -> Shape:
    """One message, one acknowledgement."""
    return Shape(lambda inbox: publish(subject, PAYLOAD, inbox), 1)


def pipelined(subject: bytes) -> Shape:
    """A batch as any client can send it: a hundred messages, each with its acknowledgement."""
    return Shape(lambda inbox: publish(subject, PAYLOAD, inbox) * BATCH, BATCH)


def atomic(subject: bytes) -> Shape:
    """An atomic batch (NATS 2.12): all or none, one acknowledgement for the last message."""

    def command(inbox: bytes) -> bytes:
        number = _BATCH_NUMBER.decode()
        headers = [
            {"Nats-Batch-Id": number, "Nats-Batch-Sequence": str(at)} for at in range(1, BATCH + 1)
        ]
        headers[-1]["Nats-Batch-Commit"] = "1"
        first = b"".join(publish(subject, PAYLOAD, b"", one) for one in headers[:-1])
        return first + publish(subject, PAYLOAD, inbox, headers[-1])

    return Shape(command, 1, numbered=True)


class _Slot:
    """One of the calls that are kept in flight."""

    __slots__ = ("command", "connection", "missing", "shape", "started")

    def __init__(self, connection: NatsConnection, shape: Shape, inbox: bytes) -> None:
        self.connection = connection
        self.shape = shape
        self.command = shape.command(inbox)
        self.missing = 0
        self.started = 0.0

    def start(self, now: float) -> None:
        command = self.command
        if self.shape.numbered:
            command = command.replace(_BATCH_NUMBER, b"%08x" % next(_numbers))
        self.connection.send(command)
        self.missing = self.shape.acknowledgements
        self.started = now


def closed_loop(
    connections: Sequence[NatsConnection], in_flight: int, shape: Shape, seconds: float
) -> Measured:
    """Keep `in_flight` calls under way, spread over the connections, for `seconds`. HOT."""
    slots: dict[bytes, _Slot] = {}
    base = b"%b.%x." % (connections[0].inbox, next(_numbers))
    for connection in connections:
        connection.subscribe(b"%b%x.*" % (base, connection.fileno()))
    for turn in range(in_flight):
        connection = connections[turn % len(connections)]
        inbox = b"%b%x.%d" % (base, connection.fileno(), turn)
        slots[inbox] = _Slot(connection, shape, inbox)
    latencies: list[float] = []
    clock = time.perf_counter
    unfinished = len(slots)
    with _selecting(connections) as selector:
        begin = now = clock()
        deadline = begin + seconds
        for slot in slots.values():
            slot.start(begin)
        for connection in connections:
            connection.flush()
        while unfinished and now < deadline + DRAIN_S:
            for selected, _ in selector.select(1.0):
                messages = selected.data.receive()
                now = clock()
                for subject, _, _, _, payload in messages:
                    if subject not in slots:
                        continue  # late, of a loop before this one, which counted it as failed
                    slot = slots[subject]
                    slot.missing -= 1
                    if b'"error"' in payload:
                        raise NatsFailed(f"a publish was refused: {payload.decode()}")
                    if not slot.missing:
                        latencies.append(now - slot.started)
                        if now < deadline:
                            slot.start(now)
                        else:
                            unfinished -= 1
                selected.data.flush()
            now = clock()
    latencies.sort()
    return Measured(
        calls=len(latencies), failed=unfinished, seconds=clock() - begin, latencies=latencies
    )


def fill(connection: NatsConnection, subjects: Sequence[bytes], events: int) -> None:
    """Publish so many events, in turn to the subjects, and wait until all are stored."""
    inbox = b"%b.%x" % (connection.inbox, next(_numbers))
    connection.subscribe(inbox)
    block = b"".join(publish(subjects[n % len(subjects)], PAYLOAD, inbox) for n in range(1_000))
    sent = acknowledged = 0
    while acknowledged < events:
        while sent < events and sent - acknowledged < 4_000:
            connection.send(block)
            sent += 1_000
        connection.flush()
        acknowledged += len(connection.receive())


def delivery_latency(
    publisher: NatsConnection,
    consumer: NatsConnection,
    subject: bytes,
    rate: int,
    seconds: float,
) -> Measured:
    """From sending a publish, at a fixed rate, to its message at the consumer.

    The caller has opened the consumer; what it gets has the subject that was published to.
    """
    clock = time.perf_counter
    inbox = b"%b.%x" % (publisher.inbox, next(_numbers))
    publisher.subscribe(inbox)
    total = int(rate * seconds)
    sent_at: list[float] = []
    latencies: list[float] = []
    begin = clock()
    with _selecting([publisher, consumer]) as selector:
        while len(latencies) < total and clock() < begin + seconds + DRAIN_S:
            due = begin + len(sent_at) / rate
            if len(sent_at) < total and clock() >= due:
                payload = b"%08d" % len(sent_at)
                sent_at.append(clock())
                publisher.send(publish(subject, payload.ljust(len(PAYLOAD), b"."), inbox))
                publisher.flush()
                continue
            wait = due - clock() if len(sent_at) < total else 1.0
            for selected, _ in selector.select(max(wait, 0.0)):
                messages = selected.data.receive()
                now = clock()
                for message in messages:
                    if message.subject == subject:
                        latencies.append(now - sent_at[int(message.payload[:8])])
                selected.data.flush()
    latencies.sort()
    return Measured(
        calls=total, failed=total - len(latencies), seconds=clock() - begin, latencies=latencies
    )


@dataclass(slots=True)
class Puller:
    """One client of a pull consumer. `every`: acknowledge each message, or only the newest one."""

    connection: NatsConnection
    stream: str
    consumer: str
    every: bool
    inbox: bytes = b""
    wanted: int = 0  # asked for and not there yet

    def open(self) -> None:
        self.inbox = b"%b.%x" % (self.connection.inbox, next(_numbers))
        self.connection.subscribe(self.inbox)
        self.ask()

    def ask(self) -> None:
        """Keep at least half of PULL under way."""
        if self.wanted > PULL // 2:
            return
        request = b'{"batch":%d,"expires":30000000000}' % (PULL - self.wanted)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}".encode()
        self.connection.send(publish(subject, request, self.inbox))
        self.wanted = PULL

    def take(self, messages: Sequence[Message]) -> int:
        """Acknowledge what arrived; how many events that were. HOT."""
        events = [reply for _, _, reply, header, _ in messages if not header]
        if len(events) != len(messages):
            raise NatsFailed(f"{self.consumer}: {messages[-1].header.decode().strip()}")
        if not events:
            return 0
        acknowledged = events if self.every else events[-1:]
        self.connection.send(b"".join([b"PUB %b 4\r\n+ACK\r\n" % reply for reply in acknowledged]))
        self.wanted -= len(events)
        self.ask()
        return len(events)

    def unacknowledged(self) -> int:
        """How many messages of its consumer the server waits for."""
        answer = self.connection.request(f"$JS.API.CONSUMER.INFO.{self.stream}.{self.consumer}")
        return int(answer["num_ack_pending"])


def consume(pullers: Sequence[Puller], events: int, seconds: float) -> Measured:
    """Take and acknowledge up to `events` within about `seconds`. No latencies: it is a rate.

    When all were taken, it lasts until the server knows every acknowledgement.
    """
    clock = time.perf_counter
    of = {puller.connection: puller for puller in pullers}
    taken = 0
    with _selecting(list(of)) as selector:
        begin = clock()
        for puller in pullers:
            puller.open()
            puller.connection.flush()
        while taken < events and clock() < begin + seconds:
            for selected, _ in selector.select(1.0):
                taken += of[selected.data].take(selected.data.receive())
                selected.data.flush()
        while taken == events and any(puller.unacknowledged() for puller in pullers):
            if clock() > begin + seconds + DRAIN_S:
                raise NatsFailed("the last acknowledgements never arrived")
        elapsed = clock() - begin
    return Measured(calls=taken, failed=0, seconds=elapsed, latencies=[])


@contextmanager
def _selecting(connections: Sequence[NatsConnection]) -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        yield selector
