"""What the benchmark of NATS sends and counts, against a server scripted by hand."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.peers import nats_workloads as workloads
from tests.peers.nats_wire import Message, NatsConnection, NatsFailed

ACK = b'{"stream":"bench","seq":1}'


class AckServer(threading.Thread):
    """Acknowledges each message that asks for it; `published` counts them all."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.published = 0
        self.start()
        self.client = NatsConnection("127.0.0.1", self._listener.getsockname()[1])

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                words = line.split()
                if words[0] in (b"PUB", b"HPUB"):
                    lines.read(int(words[-1]) + 2)
                    self.published += 1
                    if len(words) == (4 if words[0] == b"PUB" else 5):
                        answer = (words[2], len(self._answer), self._answer)
                        connection.sendall(b"MSG %b 1 %d\r\n%b\r\n" % answer)

    def end(self) -> None:
        self.client.close()
        self.join(5.0)
        self._listener.close()


@pytest.fixture
def server() -> Iterator[AckServer]:
    one = AckServer(ACK)
    yield one
    one.end()


@pytest.mark.parametrize(
    ("shape", "messages"),
    [
        (workloads.single(b"bench.x"), 1),
        (workloads.pipelined(b"bench.x"), workloads.BATCH),
        (workloads.atomic(b"bench.x"), workloads.BATCH),
    ],
)
def test_a_call_is_over_when_all_of_it_is_acknowledged(
    server: AckServer, shape: workloads.Shape, messages: int
) -> None:
    """Calls under way at the deadline are waited for: nothing is sent that is not counted."""
    measured = workloads.closed_loop([server.client], 4, shape, 0.02)
    assert measured.failed == 0
    assert measured.calls >= 4
    assert server.published == measured.calls * messages


def test_a_refusal_is_not_an_answer() -> None:
    """A stream that refuses a message ends the run, however fast it refuses."""
    server = AckServer(b'{"error":{"code":503,"description":"no leader"}}')
    with pytest.raises(NatsFailed, match="no leader"):
        workloads.closed_loop([server.client], 1, workloads.single(b"bench.x"), 0.02)
    server.end()


def test_an_atomic_batch_numbers_its_messages_and_commits_with_the_last() -> None:
    """One hundred headers in order, one commit, one inbox."""
    command = workloads.atomic(b"bench.x").command(b"_R.1")
    numbers = [int(n) for n in re.findall(rb"Nats-Batch-Sequence: (\d+)", command)]
    assert numbers == list(range(1, workloads.BATCH + 1))
    assert command.count(b"Nats-Batch-Commit") == command.count(b"_R.1") == 1


@pytest.mark.parametrize(("every", "acknowledged"), [(True, [b"r1", b"r2"]), (False, [b"r2"])])
def test_a_puller_acknowledges_and_asks_again_in_time(
    server: AckServer, every: bool, acknowledged: list[bytes]
) -> None:
    """Each message, or the newest for all; and no more is asked for while enough is under way."""
    sent: list[bytes] = []
    server.client.send = sent.append  # type: ignore[assignment]
    puller = workloads.Puller(server.client, "bench", "c1", every)
    puller.open()
    assert puller.wanted == workloads.PULL
    sent.clear()
    assert puller.take([Message(b"s", 1, reply, b"", b"") for reply in (b"r1", b"r2")]) == 2
    assert re.findall(rb"PUB (\S+) 4\r\n\+ACK", b"".join(sent)) == acknowledged
    assert puller.wanted == workloads.PULL - 2
    puller.take([Message(b"s", 1, b"r", b"", b"")] * (workloads.PULL // 2))
    assert b'"batch":252' in b"".join(sent)
    assert puller.wanted == workloads.PULL
    with pytest.raises(NatsFailed, match="408"):
        puller.take([Message(b"s", 1, b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")])
