"""What a committed event looks like to people, programs and other systems."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hooks.events.catalogue import CATALOGUE, pattern_problem
from hooks.events.publisher import binary_cloud_event, cloud_event, payload
from pubsub.cloudevents import timestamp
from pubsub.events import Event

SYSTEM_DATA: dict[str, tuple[Any, ...]] = {
    "hooks.kv.write_committed": (b"v", 3, 2, 5, None),
    "hooks.kv.delete_committed": (5, 2),
    "hooks.kv.ttl_expired": (5, 2, 99_000),
    "hooks.cluster.leader_elected": ("b", None, 4, ("a", "b", "c"), ()),
    "hooks.cluster.membership_changed": (("a", "b"), ("c",), "c", "added_learner"),
    "hooks.cluster.node_added": ("c", "10.0.0.3:7000", "learner"),
    "hooks.cluster.node_removed": ("c",),
    "hooks.system.retention_capped": (70, ("g", "h")),
    "hooks.system.snapshot_created": ("a", 900, 4, 65_536),
    "hooks.system.snapshot_installed": ("c", 900, 4, 65_536, None),
    "hooks.system.health_changed": ("c", "healthy", "unreachable", "a has no connection to it"),
    "hooks.system.node_started": ("c", "0.1.0", "00ff00ff00ff00ff"),
    "hooks.system.node_stopped": ("c", None),
    "hooks.system.config_reloaded": ("c", False, ("handler x",), ("raft: needs a restart",)),
    "hooks.system.settings_changed": ("publish_topics", ("hooks.kv.>",), "ann"),
    "hooks.hook.triggered": (b'{"a": [1]}', "application/json", {"triggered-topic": "orders.new"}),
    "hooks.hook.registered": ("mail", 2, "a", "changed"),
    "hooks.hook.failed": ("mail", 5, "orders.new", "k", 4, "exit 1", "a", "dead_letter"),
    "hooks.hook.executed": ("mail", 5, "orders.new", "k", 2, 1, "a", 12),
    "hooks.hook.disabled": ("mail", "too many letters"),
    "hooks.hook.enabled": ("mail",),
    "hooks.hook.removed": ("mail", "a"),
    "hooks.hook.load_failed": ("mail", "a", "no module named mail"),
    "hooks.group.event_replayed": ("g", 5),
    "hooks.group.event_redriven": ("g", 5, "orders.created", (b"v", None, None), 2, 99, None),
}


def make_event(topic: str, data: tuple[Any, ...], **fields: Any) -> Event:
    key = "k" if topic.startswith("hooks.kv.") else None
    event = Event(9, topic, key, data, None, None, None, 0, None, 1_700_000_000_123, 7, 0, 20)
    return event._replace(**fields)


def user_event(body: bytes, content_type: str | None = None, headers: Any = None) -> Event:
    return make_event("orders.created", (body, content_type, headers), key="k")


@pytest.mark.parametrize("topic", sorted(SYSTEM_DATA))
def test_payloads_fit_their_schemas(topic: str) -> None:
    """A payload has exactly the catalogue's fields, and an implementation of JSON Schema that
    knows nothing of us accepts it."""
    found = payload(make_event(topic, SYSTEM_DATA[topic]))
    schema = CATALOGUE[topic].json_schema()

    Draft202012Validator.check_schema(schema)
    assert schema["required"] == list(found)
    Draft202012Validator(schema).validate(found)
    assert found == json.loads(json.dumps(found))


@pytest.mark.parametrize("topic", sorted(SYSTEM_DATA))
def test_a_schema_refuses_what_is_missing(topic: str) -> None:
    """Without one of its fields a payload does not fit its schema."""
    found = payload(make_event(topic, SYSTEM_DATA[topic]))
    validator = Draft202012Validator(CATALOGUE[topic].json_schema())

    for name in found:
        assert not validator.is_valid({key: found[key] for key in found if key != name})


def test_an_item_that_an_older_release_did_not_store_is_null() -> None:
    """A field that was appended to a type is there for events from before, too."""
    found = payload(make_event("hooks.hook.removed", ("mail",)))

    assert found == {"handler": "mail", "node": None}


def test_a_first_write_is_a_create() -> None:
    """A key that did not exist is created, and has no previous revision."""
    found = payload(make_event("hooks.kv.write_committed", ("é".encode(), 9, 1, 0, 12_000)))

    assert found == {
        "key": "k",
        "value": "é",
        "value_encoding": "utf-8",
        "value_size_bytes": 2,
        "is_create": True,
        "version": 1,
        "create_revision": 9,
        "previous_revision": None,
        "expires_ms": 12_000,
        "value_capture": "full",
        "value_sha256": None,
    }


@pytest.mark.parametrize(
    ("kept", "captured", "expected"),
    [
        (None, ("none", 70, None), (None, None, 70, "none", None)),
        (None, ("hash", 70, "ab"), (None, None, 70, "hash", "ab")),
        (b"begin", ("truncated", 70, "ab"), ("begin", "utf-8", 70, "truncated", "ab")),
        (b"\xff", ("truncated", 70, "ab"), ("/w==", "base64", 70, "truncated", "ab")),
        (b"v", None, ("v", "utf-8", 1, "full", None)),
    ],
)
def test_a_value_that_was_not_captured(kept: bytes | None, captured: Any, expected: Any) -> None:
    """A write says what the log has of its value, and always how large it is."""
    found = payload(make_event("hooks.kv.write_committed", (kept, 3, 2, 5, None, captured)))

    names = ("value", "value_encoding", "value_size_bytes", "value_capture", "value_sha256")
    assert expected == tuple(found[name] for name in names)
    Draft202012Validator(CATALOGUE["hooks.kv.write_committed"].json_schema()).validate(found)


def test_a_trigger_shows_what_it_imitates() -> None:
    """Who looks at the log itself sees the topic and the payload that somebody gave."""
    event = make_event("hooks.hook.triggered", SYSTEM_DATA["hooks.hook.triggered"], key="k")
    spoilt = event._replace(data=(b"{", *event.data[1:]))

    assert payload(event) == {"topic": "orders.new", "key": "k", "payload": {"a": [1]}}
    assert payload(spoilt)["payload"] == "{"


def test_a_later_write_is_none() -> None:
    """A key that existed is updated, and names the revision that it replaced."""
    found = payload(make_event("hooks.kv.write_committed", (b"v", 3, 2, 5, None)))

    assert (found["is_create"], found["previous_revision"]) == (False, 5)


@given(st.binary(max_size=40))
def test_values_survive(value: bytes) -> None:
    """Text stays text and any other value comes as base64: its bytes can always be restored."""
    found = payload(make_event("hooks.kv.write_committed", (value, 3, 2, 5, None)))

    if found["value_encoding"] == "base64":
        assert value == base64.b64decode(found["value"])
    else:
        assert value == found["value"].encode(found["value_encoding"])
    assert len(value) == found["value_size_bytes"]


def test_newer_fields_are_left_out() -> None:
    """A field that a newer release appended to the stored data disturbs nobody."""
    whole = SYSTEM_DATA["hooks.kv.write_committed"] + (None,)
    for topic, data in {**SYSTEM_DATA, "hooks.kv.write_committed": whole}.items():
        newer = payload(make_event(topic, (*data, "new")))
        assert newer == payload(make_event(topic, data))


def test_an_unknown_event_type_is_shown_as_stored() -> None:
    """An event of a newer release can be looked at, though nobody here knows its fields."""
    assert payload(make_event("hooks.unknown.99", ((b"a", {b"b": b"\xff"}), 1))) == {
        "key": None,
        "data": [["a", {"b": "/w=="}], 1],
    }


def test_a_user_event() -> None:
    """A user's payload and headers are shown with encoding, size and content type."""
    assert payload(user_event(b"\xff", "image/png", {"source": "shop"})) == {
        "key": "k",
        "payload": "/w==",
        "payload_encoding": "base64",
        "payload_size_bytes": 1,
        "content_type": "image/png",
        "headers": {"source": "shop"},
    }


def test_a_cloud_event_of_the_cluster() -> None:
    """The envelope has a stable id, the log's order, and the whole causation."""
    event = make_event(
        "hooks.kv.delete_committed",
        (5, 2),
        actor="ann",
        correlation_id=3,
        causation_id="other-8",
        hops=2,
        traceparent="00-aa-bb-01",
    )

    assert cloud_event(event, "c1") == {
        "specversion": "1.0",
        "id": "c1-9",
        "source": "urn:tremula:c1",
        "type": "hooks.kv.delete_committed",
        "time": "2023-11-14T22:13:20.123Z",
        "sequence": "00000000000000000009",
        "subject": "k",
        "partitionkey": "k",
        "actor": "ann",
        "correlationid": "c1-3",
        "causationid": "other-8",
        "traceparent": "00-aa-bb-01",
        "hops": 2,
        "datacontenttype": "application/json",
        "dataschema": "urn:tremula:event:hooks.kv.delete_committed:1",
        "data": {"key": "k", "existed": True, "previous_revision": 5, "version": 2},
    }


def test_the_binary_mode_says_the_same() -> None:
    """Attributes become headers, and the body is the data alone."""
    event = make_event("hooks.cluster.node_removed", ("c",))
    headers, body = binary_cloud_event(event, "c1")
    structured = cloud_event(event, "c1")
    assert headers["content-type"] == structured["datacontenttype"]
    assert json.loads(body) == structured["data"]
    for name in ("specversion", "id", "source", "type"):
        assert headers[f"ce-{name}"] == structured[name]
    assert binary_cloud_event(user_event(b"\x00\xff"), "c1")[1] == b"\x00\xff"


def test_absent_attributes_are_absent() -> None:
    """CloudEvents knows no empty attributes: what an event does not have is left out."""
    found = cloud_event(make_event("hooks.cluster.node_removed", ("c",)), "c1")

    assert sorted(found) == sorted(
        [
            "specversion", "id", "source", "type", "time", "sequence", "datacontenttype",
            "dataschema", "data",
        ]
    )  # fmt: skip


DEEP = b"[" * 200 + b"]" * 200


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": [1]}', "application/json", {"data": {"a": [1]}}),
        (b'"a"', "application/vnd.shop+json; charset=utf-8", {"data": "a"}),
        (b"a", "text/plain", {"data": "a"}),
        (b"a", None, {"data": "a"}),
        (b"\xff", None, {"data_base64": "/w=="}),
        (b"{", "application/json", {"data_base64": "ew=="}),
        (b"NaN", "application/json", {"data_base64": "TmFO"}),
        (DEEP, "application/json", {"data_base64": base64.b64encode(DEEP).decode()}),
        (b"[" * 10**5, "application/json", {"data_base64": None}),
    ],
)
def test_the_data_of_a_user_event(body: bytes, content_type: str | None, expected: Any) -> None:
    """JSON comes as JSON, text as text, and all that is neither as base64."""
    found = cloud_event(user_event(body, content_type), "c1")

    data = {name: value for name, value in found.items() if name.startswith("data")}
    assert content_type == data.pop("datacontenttype", None)
    assert set(expected) == set(data)
    if expected != {"data_base64": None}:
        assert expected == data


def test_headers_of_a_user_event_are_one_attribute() -> None:
    """Headers may have any names, so they come as JSON text in one extension attribute."""
    found = cloud_event(user_event(b"a", None, {"X-Shop": "1"}), "c1")

    assert json.loads(found["headers"]) == {"X-Shop": "1"}


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("hooks.kv.write_committed", None),
        ("hooks.kv.*", None),
        ("hooks.>", None),
        ("hooks.*.node_added", None),
        ("*.kv.>", None),
        (">", None),
        ("orders.*", None),
        ("hooks.kv.write_commited", 'did you mean "hooks.kv.write_committed"?'),
        ("hooks.vk.*", 'did you mean "hooks.kv.*"?'),
        ("hooks.clutser.>", 'did you mean "hooks.cluster.>"?'),
        ("hooks.kv", "no event type matches"),
        ("hooks.kv.was_written", "there are hooks.kv.write_committed, hooks.kv.delete_committed"),
        ("hooks.kv.write_committed.*", "no event type matches"),
        ("hooks..kv", "segment 2 is empty"),
    ],
)
def test_a_pattern_that_can_never_fire(pattern: str, complaint: str | None) -> None:
    """A misspelt pattern is refused with the nearest spelling instead of staying silent."""
    problem = pattern_problem(pattern)

    if complaint is None:
        assert problem is None
    else:
        assert problem is not None
        assert complaint in problem


def test_times_are_rfc_3339() -> None:
    """Times of the cluster clock are UTC to the millisecond, also at a whole second."""
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(253_402_300_799_999) == "9999-12-31T23:59:59.999Z"
