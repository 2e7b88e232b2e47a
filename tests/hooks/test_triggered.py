"""A triggered event of a user's topic is to its handlers what a published one is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hooks.conditions import condition
from hooks.delivery import TRIGGER_HEADER, TRIGGER_TOPIC, Delivery, deliver, payload_bytes
from hooks.events import publisher
from pubsub.events import Event
from tests.cluster.entries import Driver
from tests.hooks.test_registrations import define, older_entry, policy, register
from tests.hooks.workbench import CLUSTER_ID

PAYLOADS = [
    (b'{"total": 5}', "application/json"),
    (b'{"total": 5}', "application/vnd.shop+json"),
    ("gr\u00fc\u00dfe, {no json".encode(), "text/plain; charset=utf-8"),
    (b"\xff\x00", "image/png"),
    (b"", None),
]


def with_handler() -> Driver:
    """A handler of the topics below, with its group."""
    driver = Driver()
    register(driver, "a", policy())
    define(driver, "hook.audit")
    return driver


def both(key: str | None, payload: bytes, content_type: str | None) -> tuple[Delivery, Delivery]:
    """One event published and one triggered, by the same person."""
    driver = with_handler()
    event = ("orders.created", key, payload, content_type)
    published = driver.do("publish", *event, actor="alice")
    triggered, _ = driver.do("hook.trigger", *event, actor="alice")
    one, other = (driver.events(revision)[0] for revision in (published, triggered))
    return deliver(one), deliver(other)


@pytest.mark.parametrize(("payload", "content_type"), PAYLOADS)
def test_a_trigger_has_the_shape_of_what_is_published(
    payload: bytes, content_type: str | None
) -> None:
    """Of the event itself, its payload and its CloudEvent; only marked."""
    real, triggered = both("k", payload, content_type)
    assert placeless(triggered.event) == placeless(real.event)
    assert (triggered.topic, triggered.triggered) == (real.topic, True)
    assert triggered.payload() == real.payload()
    shown = triggered.cloud_event(CLUSTER_ID)
    assert shown.pop("triggered") is True
    own = ("id", "sequence")
    expected = {n: v for n, v in real.cloud_event(CLUSTER_ID).items() if n not in own}
    assert {n: v for n, v in shown.items() if n not in own} == expected
    again = Delivery.from_wire(json_of(triggered.to_wire()))
    assert again.payload() == real.payload()


def placeless(event: Event) -> Event:
    """All that an event says but for where it stands."""
    return event._replace(revision=0, log_index=0, ordinal=0, size_bytes=0)


def json_of(wire: list[Any]) -> list[Any]:
    """What a handler host gets: lists in the place of tuples."""
    return [list(wire[0]), *wire[1:]]


@pytest.mark.parametrize(
    "text",
    [
        "json.total == 5",
        'data.content_type == "application/json"',
        'data.payload_size_bytes == 12 && data.payload.contains("total")',
        'event.topic == "orders.created" && event.actor == "alice"',
        "size(data.headers) == 0",
    ],
)
def test_a_condition_says_the_same_of_a_trigger(text: str) -> None:
    """Of the data, of the JSON in it, and of the event."""
    asked = condition(text)
    assert not isinstance(asked, tuple), asked
    real, triggered = both(None, b'{"total": 5}', "application/json")
    assert asked.decide(real) is True
    assert asked.decide(triggered) is True


def test_a_trigger_without_a_key_is_handled_in_the_partition_of_its_place_in_the_log() -> None:
    """Nodes of a release before this one go by that place, too."""
    _, triggered = both(None, b"", None)
    assert triggered.order_key == TRIGGER_TOPIC
    assert both("k", b"", None)[1].order_key == "k"


def test_what_an_older_release_logged_is_read() -> None:
    """It had JSON for every topic, and said so."""
    data = (b'{"total": 5}', "application/json", {TRIGGER_HEADER: "orders.created"})
    event = Event(7, TRIGGER_TOPIC, "k", data, None, None, None, 0, None, 0, 5, 0, 30)
    payload = deliver(event).payload()
    assert (payload["payload"], payload["content_type"]) == ('{"total": 5}', "application/json")
    assert publisher.payload(event)["payload"] == {"total": 5}


def test_who_reads_the_log_sees_what_was_given() -> None:
    """JSON as JSON, text as text, whatever it looks like."""
    driver = with_handler()
    for payload, content_type, shown in (
        (b"5", "application/json", 5),
        (b"5", "text/plain", "5"),
        (b"\xff", "image/png", "/w=="),
        (b"{", "application/json", "{"),
    ):
        revision, _ = driver.do("hook.trigger", "orders.a", None, payload, content_type)
        told = publisher.payload(driver.events(revision)[0])
        assert told == {"topic": "orders.a", "key": None, "payload": shown}


@pytest.mark.parametrize(
    ("topic", "payload", "expected"),
    [
        ("orders.a", b"\xff", b"\xff"),
        ("orders.a", "{no json", b"{no json"),
        ("orders.a", {"total": 5}, b'{"total": 5}'),
        ("orders.a", None, b""),
        ("hooks.kv.write_committed", None, b"{}"),
        ("hooks.kv.write_committed", {"key": "k"}, b'{"key": "k"}'),
        ("hooks.kv.write_committed", b'{"key":"k"}', b'{"key": "k"}'),
    ],
)
def test_what_may_be_given_as_a_payload(topic: str, payload: object, expected: bytes) -> None:
    """Of a user's topic anything; of the cluster's own data or the bytes of JSON."""
    assert payload_bytes(topic, payload) == expected


@pytest.mark.parametrize(
    "payload", [b"{no json", b"\xff", b"NaN", b"[" * 100_000, object(), float("nan")]
)
def test_a_topic_of_the_cluster_takes_json_alone(payload: object) -> None:
    """Refused before there is an event of it."""
    with pytest.raises((ValueError, TypeError)):
        payload_bytes("hooks.kv.write_committed", payload)


def test_json_in_the_bytes_of_a_trigger_keeps_its_numbers() -> None:
    """Larger ones than the protocol could carry."""
    large = 10**30
    assert json.loads(payload_bytes("hooks.kv.ttl_expired", b"%d" % large)) == large


def test_a_trigger_keeps_what_would_be_published() -> None:
    """Bytes of any kind with their content type, in the name of whoever asked."""
    driver = with_handler()
    trigger = ("hook.trigger", "orders.created", "k", b"\xff\x00")
    revision, _ = driver.do(*trigger, "image/png", actor="alice")
    event = driver.events(revision)[0]
    assert (event.data[:2], event.actor) == ((b"\xff\x00", "image/png"), "alice")
    revision, _ = driver.do(*trigger, None)
    assert driver.events(revision)[0].data[1] is None
    for wrong in (5, "t" * 257):
        assert driver.do(*trigger, wrong).code == "malformed"
    refused = older_entry(driver, *trigger, "image/png", version=2)
    assert (refused.code, "of an older release" in refused.detail) == ("malformed", True)
