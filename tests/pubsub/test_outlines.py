"""Outlines: what a fetch looks at is what readers get, without the cost of decoding it."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub import limits, log
from pubsub.consumer_groups import outlines
from pubsub.consumer_groups.addressing import recipient
from pubsub.consumer_groups.outlines import Outlines, outline
from pubsub.events import SYSTEM_TOPICS, array_header, decode
from tests.pubsub.small_machine import SmallMachine

values = st.recursive(st.none() | st.integers(0, 9) | st.binary(max_size=5), st.lists, max_leaves=5)
topics = st.sampled_from(["orders.created", "a", *SYSTEM_TOPICS, 99])


def packed(topic: Any, key: str | None, data: Any) -> bytes:
    data = ["g", *data] if topic in (40, 41) else data
    return bytes(msgpack.packb((topic, key, data, None)))


@given(st.lists(st.none() | st.builds(packed, topics, st.none() | st.text(), st.lists(values))))
def test_outlines_are_of_the_events_that_readers_get(events: list[bytes | None]) -> None:
    """Topic, key, recipient and size, in the same places; nil where retention took one."""
    blob = array_header(len(events)) + b"".join(event or b"\xc0" for event in events)

    found = [(at, item) for at, item in enumerate(outline(blob)) if item is not None]

    assert found == [
        (event.ordinal, (event.topic, event.key, recipient(event), event.size_bytes))
        for event in decode(blob, 1, 1, 0, 0, len(events))
    ]
    assert len(outline(blob)) == len(events)


def test_a_batch_that_lost_an_event_is_looked_at_again() -> None:
    """It is shorter, so what was remembered of it is not taken for it."""
    machine = SmallMachine()
    machine.publish("k", "l")
    remembered = Outlines()
    sizes = [machine.connection.execute("SELECT length(events) FROM event_batches").get]
    assert None not in remembered.of_batch(machine.connection, 1, sizes[0])
    (batch,) = log.batches(machine.connection, 1)

    log.take_out(machine.connection, batch, log.places(batch)[1:])

    sizes.append(machine.connection.execute("SELECT length(events) FROM event_batches").get)
    assert remembered.of_batch(machine.connection, 1, sizes[1])[0] is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; a batch larger than the bound is kept alone."""
    assert limits.OUTLINES_MAX > 0
    monkeypatch.setattr(outlines, "OUTLINES_MAX", 3)
    machine = SmallMachine()
    remembered = Outlines()
    for keys in (["k"], ["k", "l"], ["k"] * 5, ["k"]):
        first = machine.publish(*keys)
        size = machine.connection.execute(
            "SELECT length(events) FROM event_batches WHERE first_revision = ?", (first,)
        ).get
        assert len(remembered.of_batch(machine.connection, first, size)) == len(keys)
    assert remembered._held == 1
    assert list(remembered._batches) == [(9, size)]
