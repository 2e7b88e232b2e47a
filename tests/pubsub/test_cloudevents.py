"""Events as CloudEvents and back, with the public implementation as the judge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent as PublicEvent
from hypothesis import given
from hypothesis import strategies as st

from pubsub.cloudevents import (
    CloudEvent,
    InvalidCloudEvent,
    from_binary,
    from_structured,
    of_user_event,
    to_binary,
    to_publish,
    to_structured,
)
from pubsub.events import Event

REQUIRED = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "orders.created"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
bodies = st.binary(max_size=30) | texts.map(str.encode)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
content_types = st.sampled_from(
    [None, "text/plain", "text/plain; charset=utf-8", "image/png", "application/octet-stream"]
)
headers = st.none() | st.dictionaries(texts, texts, min_size=1, max_size=3)
keys = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def user_event(
    body: bytes, content_type: str | None = None, found: Any = None, key: str | None = None
) -> Event:
    data = (body, content_type, found)
    return Event(
        9, "orders.created", key, data, "ann", 3, None, 1, None, 1_700_000_000_123, 7, 0, 9
    )


@given(bodies, content_types, headers, keys)
def test_an_event_survives_both_modes(
    body: bytes, content_type: str | None, found: dict[str, str] | None, key: str | None
) -> None:
    """What is published from an exported event is what the event was."""
    event = of_user_event(user_event(body, content_type, found, key), "c1")
    structured = from_structured(json.loads(json.dumps(to_structured(event))))
    for read in (structured, from_binary(*to_binary(event))):
        published = to_publish(read)
        assert (published.topic, published.key, published.payload) == ("orders.created", key, body)
        assert (published.content_type, published.headers) == (content_type, found)
        assert (published.message_id, published.correlation_id) == ("c1-9", "c1-3")


@given(json_values)
def test_json_stays_the_same_value(value: Any) -> None:
    """In structured mode JSON is part of the object, so its spelling may change and no more."""
    body = json.dumps(value).encode()
    event = of_user_event(user_event(body, "application/json"), "c1")
    read = from_structured(json.loads(json.dumps(to_structured(event))))
    assert read.data is not None
    assert json.loads(read.data) == value
    assert from_binary(*to_binary(event)).data == body


@given(bodies, content_types, headers, keys)
def test_the_public_package_reads_ours(
    body: bytes, content_type: str | None, found: dict[str, str] | None, key: str | None
) -> None:
    """Both modes are CloudEvents to somebody who does not know us: the same attributes."""
    event = of_user_event(user_event(body, content_type, found, key), "c1")
    message = HTTPMessage({}, json.dumps(to_structured(event)).encode())
    for public in (
        from_structured_event(message),
        from_binary_event(HTTPMessage(*to_binary(event))),
    ):
        assert (public.get_id(), public.get_source()) == ("c1-9", "urn:tremula:c1")
        assert (public.get_type(), public.get_subject()) == ("orders.created", key)
        assert public.get_datacontenttype() == content_type
        time = public.get_time()
        assert time is not None
        assert time.timestamp() == 1_700_000_000.123
        assert public.get_extension("actor") == "ann"
        if found:
            assert json.loads(public.get_extension("headers")) == found


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    st.dictionaries(texts, json_values, min_size=1, max_size=3),
)
def test_we_read_what_the_public_package_writes(subject: str, data: dict[str, Any]) -> None:
    """A stranger's event in either mode: its type is the topic, the rest is kept."""
    public = PublicEvent(
        {**REQUIRED, "subject": subject, "datacontenttype": "application/json", "shade": "blue"},
        data,
    )
    structured, binary = to_structured_event(public), to_binary_event(public)
    for event in (
        from_structured(json.loads(structured.body)),
        from_binary(binary.headers, binary.body),
    ):
        published = to_publish(event)
        assert (published.topic, published.key) == ("orders.created", subject)
        assert published.content_type == "application/json"
        assert json.loads(published.payload) == data
        kept = published.headers or {}
        assert (kept["ce-id"], kept["ce-source"], kept["ce-shade"]) == ("7", "/shop", "blue")
        assert published.message_id == "/shop 7"


def test_data_without_a_type_is_json() -> None:
    """The specification says so, of everybody but us: we know when nobody gave a type."""
    published = to_publish(from_structured({**REQUIRED, "data": "text"}))
    assert (published.payload, published.content_type) == (b'"text"', "application/json")
    ours = {**REQUIRED, "source": "urn:tremula:c1", "data": "text"}
    assert to_publish(from_structured(ours)).payload == b"text"
    none = from_structured(REQUIRED)
    assert none.data is None
    assert to_publish(none).payload == b""
    assert from_structured({**REQUIRED, "data_base64": "/w=="}).data == b"\xff"
    assert from_structured({**REQUIRED, "datacontenttype": "text/x", "data": 5}).data == b"5"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "JSON object"),
        ({**REQUIRED, "id": ""}, "id: "),
        ({**REQUIRED, "source": 5}, "source: "),
        ({**REQUIRED, "specversion": "0.3"}, "1.0 is known"),
        ({**REQUIRED, "Shade": "x"}, "name"),
        ({**REQUIRED, "shade": 1.5}, "shade: "),
        ({**REQUIRED, "shade": []}, "shade: "),
        ({**REQUIRED, "time": "yesterday"}, "RFC 3339"),
        ({**REQUIRED, "data": 1, "data_base64": "AA=="}, "exclude"),
        ({**REQUIRED, "data_base64": "*"}, "base64"),
        ({**REQUIRED, "data_base64": 7}, "base64"),
        ({**REQUIRED, "data": float("nan")}, "not JSON"),
        ({**REQUIRED, "data": "\ud800"}, "data: half of a character"),
        ({**REQUIRED, "shade": "\ud800"}, "shade: half of a character"),
    ],
)
def test_what_is_no_cloud_event_is_named(value: Any, complaint: str) -> None:
    """The attribute that is wrong stands in the error."""
    with pytest.raises(InvalidCloudEvent) as caught:
        from_structured(value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"type": "hooks.kv.write_committed"}, "the cluster itself"),
        ({"type": "com..x"}, "segment 2"),
        ({"headers": "[]"}, "headers: "),
        ({"headers": '{"a": 1}'}, "headers: "),
    ],
)
def test_what_cannot_be_published_is_named(more: dict[str, Any], complaint: str) -> None:
    """A CloudEvent that has no place in our log."""
    with pytest.raises(InvalidCloudEvent) as caught:
        to_publish(from_structured({**REQUIRED, **more}))
    assert complaint in str(caught.value)


def test_a_long_identity_is_a_digest() -> None:
    """A message id is bounded, and two long ones stay two."""
    found = [
        to_publish(from_structured({**REQUIRED, "id": "x" * n})).message_id for n in (400, 401)
    ]
    assert found[0] != found[1]
    assert all(len(text) == 64 for text in found)


def test_a_content_type_that_no_header_can_carry_is_left_out() -> None:
    """Nobody writes headers of their own through it."""
    carried, body = to_binary(CloudEvent({**REQUIRED, "datacontenttype": "a\r\nX-Evil: 1"}, b"x"))
    assert "content-type" not in carried
    assert (body, carried["ce-id"]) == (b"x", "7")
    evil, _ = to_binary(CloudEvent({**REQUIRED, "subject": 'a\r\nX: "ü" 100%'}, None))
    assert evil["ce-subject"] == "a%0D%0AX:%20%22%C3%BC%22%20100%25"


@pytest.mark.parametrize("body", [b'"\\ud800"', b'{"a": ["\\uDFFF"]}', b"1e400", b"[-1e400]"])
def test_json_that_cannot_be_written_again_travels_as_bytes(body: bytes) -> None:
    """A number or a text that JSON may name and that Python cannot write as JSON in UTF-8."""
    event = of_user_event(user_event(body, "application/json"), "c")
    line = json.dumps(to_structured(event), ensure_ascii=False, allow_nan=False).encode()

    assert to_publish(from_structured(json.loads(line))).payload == body


def test_pairs_of_surrogates_are_json_as_ever() -> None:
    """Only half of one is none."""
    event = of_user_event(user_event(b'"\\ud83d\\ude00"', "application/json"), "c")

    assert to_structured(event)["data"] == "\U0001f600"
