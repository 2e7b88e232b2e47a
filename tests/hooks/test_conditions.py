"""What conditions say of events, and what they say of themselves when they are wrong."""

import json
from typing import Any

import pytest

from hooks.conditions import Condition, ConditionFailed, condition, problem
from hooks.delivery import TRIGGER_HEADER, TRIGGER_TOPIC, Delivery, deliver
from pubsub.events import Event
from tests.hooks.workbench import write_event

ORDER = {"total": 120, "main": "b", "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]}


def written(value: object = ORDER, key: str = "orders/1", **fields: Any) -> Delivery:
    """The delivery of a write whose value is `value` as JSON, or as the bytes that it is."""
    stored = value if isinstance(value, bytes) else json.dumps(value).encode()
    return deliver(write_event(7, key, stored, **fields))


def asked(text: str, delivery: Delivery | None = None) -> bool | str:
    """What a condition says of an event; a text is its error."""
    found = Condition(text).decide(delivery or written())
    return found.text if isinstance(found, ConditionFailed) else found


@pytest.mark.parametrize(
    "text",
    [
        'event.topic == "hooks.kv.write_committed"',
        'event.key == "orders/1" && event.revision == 7 && event.hops == 0',
        'event.actor == null && event.correlation_id == "c" && event.causation_id == 5',
        "event.time_ms > 1600000000000 && !event.triggered && !event.replayed",
        'data.key.startsWith("orders/") && data.is_create && data.value_size_bytes > 10',
        "json.total > 100 && json.total < 120.5",
        'json.items[1].sku == "b" && size(json.items) == 2',
        "json.items.exists(item, item.sku == json.main && item.n > 1)",
        "json.items.exists_one(item, item.n == 2) && json.items.all(item, item.n > 0)",
        '["a/", "orders/"].exists(prefix, data.key.startsWith(prefix))',
        'data.key.matches("^orders/[0-9]+$")',
        r"data.key.matches(r'^orders/\d+$')",
        'has(json.total) && !has(json.nothing) && "main" in json',
        'type(json.total) == int ? json.total == 120 : json.total == "120"',
        'timestamp("2026-01-02T00:00:00Z") > timestamp("2026-01-01T00:00:00Z")',
        '!(data.key in ["orders/2", "orders/3"])',
    ],
)
def test_conditions_that_hold(text: str) -> None:
    """Every variable and every function of the documented part."""
    assert asked(text, written(correlation_id="c", causation_id=5)) is True
    assert asked(f"!({text})", written(correlation_id="c", causation_id=5)) is False


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("data.nothing == 1", 'there is no "nothing"'),
        ("json.items[2].n > 1", "index out of bounds: 2"),
        ("data.key > 1", "an operator or a function is not defined for what it is given"),
        ("json.total.startsWith('1')", '"startsWith" is not defined for what it is given'),
        ("1 / (json.total - 120) == 1", "division by zero"),
        ("json.total + 9223372036854775807 > 0", "overflow"),
        ("data.key", "is a text, neither true nor false"),
        ("event.actor", "is null, neither true nor false"),
        ("json.items", "is a list, neither true nor false"),
        ("json.total && true", "is a number, neither true nor false (in: json.total)"),
        ("json.items[0].all(name, true)", "is asked of a list that has a name"),
        ("json.exists(name, name == 'a')", "json is a map; all, exists and exists_one go over"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(text: str, error: str) -> None:
    """It is never a silent no, and never an exception."""
    found = problem(text) or asked(text)
    assert isinstance(found, str)
    assert error in found


def test_a_false_clause_decides_whatever_else_fails() -> None:
    """In each order: `false` and an error is false, `true` or an error is true."""
    fails = "data.nothing == 1"
    for text in (f"{fails} && false", f"false && {fails}", f"({fails} && false)"):
        assert asked(text) is False
    for text in (f"{fails} || true", f"true || {fails}"):
        assert asked(text) is True
    for text in (f"{fails} && true", f"true && {fails}", f"{fails} || false"):
        assert 'there is no "nothing"' in str(asked(text))


def test_json_is_only_read_where_a_clause_comes_to_it() -> None:
    """A handler of many keys is not failed by values that its condition has ruled out."""
    other = written(b"\xff not JSON", key="images/1")
    assert asked('data.key.startsWith("orders/") && json.total > 1', other) is False
    assert asked('data.key.startsWith("images/") || json.total > 1', other) is True
    assert "the value is no text" in str(asked('has(json.total) || data.key == "x"', other))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"\xff", "the value is no text"),
        (b"", "there is no json"),
        (b"{", "there is no json"),
        (b'{"total": NaN}', "NaN is no JSON"),
        (b'{"total": -Infinity}', "-Infinity is no JSON"),
        (b'{"total": 1' + b"0" * 400 + b"}", "a number that is too large"),
        (b'{"total": 1' + b"0" * 5_000 + b"}", "there is no json"),
        (b'{"total": "\\ud800"}', "a text that is no Unicode"),
        (b"[" * 60_000, "too deep"),
        (b'{"total": ' + b"[" * 70 + b"]" * 70 + b"}", "more than 64 deep"),
        (b'"' + b"x" * 65_536 + b'"', "more than 65536 bytes"),
        ('"' + "\u00e9" * 40_000 + '"', "more than 65536 bytes"),
    ],
)
def test_values_that_are_no_json(value: bytes | str, error: str) -> None:
    """Each fails with its reason, and what does not need it is not disturbed."""
    delivery = written(value if isinstance(value, bytes) else value.encode())
    assert error in str(asked("json.total == 1", delivery))
    assert asked('json.total == 1 || data.key == "orders/1"', delivery) is True


def test_a_value_that_the_log_does_not_have() -> None:
    """Where a rule of capture kept it out, a condition says so."""
    data = (None, 7, 1, 0, None, ["none", 12, None])
    delivery = deliver(write_event(7, "orders/1", data=data))
    assert asked("data.value == null", delivery) is True
    assert "the log does not have the value" in str(asked("json.total > 1", delivery))


def test_numbers_of_64_bits_are_exact() -> None:
    """Both signs to their ends; what is larger is compared as a floating-point number."""
    delivery = written({"n": 2**63, "m": -(2**63), "d": 1.0, "large": 2**70})
    assert asked("json.n > 9223372036854775807", delivery) is True
    assert asked("json.n == 9223372036854775808u", delivery) is True
    assert asked("json.m == -9223372036854775808", delivery) is True
    assert asked("json.d == 1", delivery) is True
    assert asked("json.large > 1e21", delivery) is True


def test_events_of_users_and_events_without_a_value() -> None:
    """A published payload is read as JSON; a deletion has none."""
    data = (b'{"total": 5}', "application/json", {"shop": "north"})
    event = Event(7, "orders.created", None, data, None, None, None, 0, None, 0, 5, 0, 30)
    assert asked('json.total == 5 && data.headers.shop == "north"', deliver(event)) is True
    assert "not defined" in str(asked('event.key.startsWith("a")', deliver(event)))
    deleted = deliver(write_event(7, topic="hooks.kv.delete_committed", data=(6, 1)))
    assert asked("data.existed", deleted) is True
    assert "neither a value nor a payload" in str(asked("json.total == 5", deleted))


def _triggered(payload: bytes, topic: str = "hooks.kv.write_committed") -> Delivery:
    data = (payload, "application/json", {TRIGGER_HEADER: topic})
    return deliver(write_event(7, "k", topic=TRIGGER_TOPIC, data=data))


def test_a_triggered_event_is_asked_for_what_a_person_gave() -> None:
    """Under the topic that it imitates, and with a payload of any form."""
    delivery = _triggered(b'{"value": "{\\"total\\": 5}"}')
    text = 'event.triggered && event.topic == "hooks.kv.write_committed" && json.total == 5'
    assert asked(text, delivery) is True
    assert asked("json.total == 5", _triggered(b'{"value": {"total": 5}}')) is True
    for payload in (b"nonsense", b"[" * 100_000, b"[1]", b"null", b"{}", b'{"value": NaN}'):
        assert isinstance(asked("json.total == 5", _triggered(payload)), str)


def test_a_triggered_topic_of_users_has_json_as_if_it_were_published() -> None:
    """What a person gave is the payload, whatever it looks like."""
    triggered = _triggered(b'{"total": 5}', "orders.created")
    assert asked("json.total == 5 && data.payload_size_bytes == 12", triggered) is True
    nested = _triggered(b'{"payload": "{}"}', "orders.created")
    assert asked('json.payload == "{}"', nested) is True
    assert asked("json == 5", _triggered(b"5", "orders.created")) is True


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('evnt.topic == "a"', 'the name "evnt" is unknown; did you mean "event"?'),
        ("key == 'a'", 'the name "key" is unknown; there are event, data, json'),
        ("event.topc == 'a'", 'events have no "topc"; did you mean "topic"?'),
        ('data.key.startWith("a")', 'no function "startWith"; did you mean "startsWith"?'),
        ('startsWith(data.key, "a")', "value.startsWith(...)"),
        ("data.key.int() == 1", "int(value)"),
        ("now() > 1", 'no function "now"'),
        ('data.key = "a"', 'to compare write "=="'),
        ("data.is_create and true", '"and" is written &&'),
        ("data.is_create == True", '"True" is written true'),
        ("data.is_create & true", '"and" is written "&&"'),
        ("data.key == 'a", "a text that does not end"),
        ("(data.is_create", 'a "(" is not closed'),
        ("data.is_create)", 'a ")" closes nothing'),
        ("[data.is_create)", 'a ")" closes nothing'),
        ("data.is_create &&", 'nothing stands beside a "&&"'),
        ("data.is_create ||", "mismatched input '<EOF>'"),
        ("data.is_create true", "extraneous input 'true'"),
        ("data.key == #", "the sign '#' is unknown"),
        ('data.key == """a"""', "three quotes"),
        ('data.key == b"a"', "bytes are not taken"),
        ("data.is_create // why", "comments are not taken"),
        (".data.is_create", 'nothing stands before a "."'),
        ("data.`is_create`", "the sign '`' is unknown"),
        ("data{a: 1}.a == 1", "objects of a type are not taken"),
        ("json.items.filter(i, i.n > 1).size() > 1", '"filter" is not taken; ask the elements'),
        ("json.items.map(i, i.n) == [1]", '"map" is not taken'),
        ("json.items.all(i, json.items.all(j, i == j))", '"all" inside of "all" is not taken'),
        ("json.items.all(data, data.n > 1)", '"data" has a meaning'),
        ("json.items.all(n, i, i.n > 1)", "unknown"),
        ("json.items.all(i.n > 1)", "is written list.all(x, condition on x)"),
        ("json.items[0].tags.exists(t, t == 'a')", "a list that has a name"),
        ("data.key.matches(event.topic)", "takes a text that is written out"),
        ('json.items.exists(i, i.sku.matches("a"))', "would be compiled for each element"),
        ('data.key.matches("(")', "is no regular expression: '(' not a valid regex"),
        ("1 + 1", "is a number, neither true nor false"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775808 > 1", "invalid int literal"),
        ("true && 'yes'", "is a text, neither true nor false"),
    ],
)
def test_problems_name_the_place_and_what_was_meant(text: str, wrong: str) -> None:
    """All that can be told without an event is told when a configuration is read."""
    found = problem(text)
    assert found is not None
    assert wrong in found
    with pytest.raises(ValueError, match=r"."):
        Condition(text)


def test_every_clause_says_what_it_found() -> None:
    """The parts of the outermost `&&`, in their order, each asked alone."""
    text = 'data.key.startsWith("orders/") && (json.total > 500 || false) && json.nothing == 1'
    assert Condition(text).clauses(written()) == [
        ('data.key.startsWith("orders/")', True),
        ("(json.total > 500 || false)", False),
        ("json.nothing == 1", 'there is no "nothing"'),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "data.is_create && json.total > 1 || false",
        "data.is_create ? json.total > 1 && true : false",
        '(data.key == "a" && data.is_create)',
        'data.key == "a && b"',
        r'data.key != "\"&& b"',
        r"""data.key != r'\' """,
    ],
)
def test_what_binds_less_than_and_is_one_clause(text: str) -> None:
    """Texts, brackets, `||` and `? :` are not cut."""
    assert len(Condition(text).clauses(written())) == 1


def test_a_registered_condition_that_this_release_refuses_is_an_error() -> None:
    """It came out of the replicated state, so nobody can be asked to correct it here."""
    assert condition("true") is condition("true")
    refused = condition("data.key.ofTheFuture()")
    assert isinstance(refused, ConditionFailed)
    assert "not a condition for this release" in refused.text


def test_errors_are_short() -> None:
    """They stand in dead letters, and quote what they were given."""
    delivery = written(b'{"a": "' + b"x" * 60_000 + b'"}')
    found = str(asked('json["' + "y" * 1_000 + '"] == 1 && int(json.a) == 1', delivery))
    assert len(found.encode()) <= 512
    assert found.endswith("...")
