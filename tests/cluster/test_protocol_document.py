"""docs/protocol.md is true: its bytes are what is said, and a node answers as it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import trio

from cluster import protocol
from cluster.machine import Machine
from cluster.net import TcpNetwork
from cluster.server import Server, ServerLimits
from cluster.server.requests import request_names
from cluster.state import open_state
from pubsub.events import SYSTEM_TOPICS, Event
from tests.cluster.fake_node import FakeNode
from tests.cluster.waiting import BOUND_S

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
# What the cluster proposes by itself: no client may.
INTERNAL = {
    "kv.expire", "session.expire", "group.expire", "retention.trim", "replay.step", "hook.trigger",
    "delayed.publish", "message.forget", "lease.expire", "group.rebalance",
    "capture.seed", "system.report", "health.report",
    "hook.register",
}  # fmt: skip


class Message(NamedTuple):
    """One message of an example."""

    sender: str
    data: bytes
    value: Any


def messages() -> list[Message]:
    """All messages of the document's examples, in order."""
    found = []
    for block in re.findall(r"```wire\n(.*?)```", DOCUMENT, re.DOTALL):
        for part in re.split(r"^(?=[CS] )", block, flags=re.MULTILINE)[1:]:
            data, _, value = part[2:].partition("=")
            found.append(Message(part[0], bytes.fromhex(data), ast.literal_eval(value.strip())))
    return found


@pytest.mark.parametrize("message", messages(), ids=lambda message: repr(message.value)[:40])
def test_the_bytes_are_the_value(message: Message) -> None:
    """Each example encodes to the bytes beside it."""
    assert msgpack.packb(message.value) == message.data


async def test_a_node_answers_as_documented() -> None:
    """The examples, played from top to bottom, get byte for byte the answers shown."""
    assert len(messages()) > 10
    async with trio.open_nursery() as nursery:
        node = FakeNode()
        network = TcpNetwork(nursery)
        listener = await nursery.start(Server(node).run, network, "127.0.0.1", 0)
        nursery.start_soon(node.run)
        session = await network.connect("127.0.0.1", listener.port)
        received = b""
        with trio.fail_after(BOUND_S):
            for message in messages():
                if message.sender == "C":
                    session.send_nowait(message.data)
                    continue
                while len(received) < len(message.data):
                    chunk = await session.receive()
                    assert chunk, session.close_reason
                    received += chunk
                assert received[: len(message.data)] == message.data
                received = received[len(message.data) :]
        assert received == b""
        session.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", sorted({*request_names(), *protocol.READS, *protocol.MUTATIONS}))
def test_every_request_is_documented(name: str) -> None:
    """Whatever a node serves stands in the document."""
    assert f"`{name}`" in DOCUMENT


def test_every_operation_is_offered_or_internal() -> None:
    """A new operation of the state machine is opened to clients by decision, not by accident."""
    operations = set(Machine(open_state(":memory:")).operations)
    assert operations - INTERNAL == protocol.MUTATIONS


@pytest.mark.parametrize("topic", SYSTEM_TOPICS.values())
def test_every_system_topic_is_documented(topic: str) -> None:
    """Its data has a documented shape."""
    assert f"| `{topic}` |" in DOCUMENT


def test_an_event_has_the_documented_items() -> None:
    """Thirteen positions, the last one 12."""
    assert len(Event._fields) == 13
    assert "| 12 | size of the stored event in bytes |" in DOCUMENT


def test_the_documented_numbers_are_the_defaults() -> None:
    """Limits that a client meets stand in the document as they are."""
    limits = ServerLimits()
    text = " ".join(DOCUMENT.split())
    assert f"| {limits.timeout_ms_default} |" in text
    assert f"at most {protocol.REQUEST_ITEMS_MAX} items" in text
    assert f"`limit` rows ({limits.page_rows_max})" in text
    assert f"at most {limits.batch_operations_max} operations" in text
    assert limits.bookmark_s == 2.0
    assert limits.greeting_s == 5.0
