"""Effects: what the constructors accept, and that the state machine understands what they make."""

from typing import Any

import pytest

from cluster.registry import OPERATIONS
from hooks import effects
from hooks.effects import Effect
from hooks.limits import HookLimits

LIMITS = HookLimits(effects_per_event_max=2, effects_bytes_max=1000)


def test_effects_are_operations_with_positional_arguments() -> None:
    """Each effect is an operation's name and its arguments as the state machine takes them."""
    assert effects.put("k", "é", ttl_ms=5).to_wire() == ["put", ["k", "é".encode(), 5, None]]
    assert effects.delete("k", expected_revision=3).to_wire() == ["delete", ["k", 3]]
    assert effects.publish("t.x", b"p", key="k", headers={"a": "b"}).to_wire() == [
        "publish",
        ["t.x", "k", b"p", None, {"a": "b"}],
    ]
    assert effects.publish(
        "t.x", b"p", message_id="m", expected_last_revision=3, schema_version="2"
    ).to_wire() == [
        "publish",
        [
            "t.x", None, b"p", None, None,
            {"message_id": "m", "expected_last_revision": 3, "schema_version": "2"},
        ],
    ]  # fmt: skip
    assert effects.publish_later("t.x", b"p", delay_ms=5).to_wire() == [
        "publish_later",
        ["t.x", None, b"p", None, None, None, 5],
    ]
    made = effects.txn(
        [effects.compare("k", "value", "=", "v")], [effects.put("k", b"w")], [effects.delete("l")]
    )
    assert made.to_wire() == [
        "txn",
        [
            [["k", "value", "=", b"v"]],
            [["put", "k", b"w", None, None]],
            [["delete", "l", None]],
        ],
    ]


@pytest.mark.parametrize(
    "made",
    [
        effects.put("k", b""),
        effects.delete("k"),
        effects.publish("t.x", b""),
        effects.publish("t.x", b"", message_id="m"),
        effects.publish_later("t.x", b"", delay_ms=5),
        effects.txn([], []),
    ],
)
def test_every_effect_is_an_operation_that_may_be_nested(made: Effect) -> None:
    """The state machine has each operation, lets it nest, and takes that many arguments."""
    operation = OPERATIONS[made.name]
    assert operation.nestable
    assert operation.arguments_min <= len(made.arguments) <= operation.arguments_max


@pytest.mark.parametrize(
    ("name", "arguments", "options", "error"),
    [
        ("put", (5, b""), {}, TypeError),
        ("put", ("k", 5), {}, TypeError),
        ("put", ("\ud800", b""), {}, ValueError),
        ("put", ("k", b""), {"ttl_ms": 0}, ValueError),
        ("put", ("k", b""), {"expected_revision": 1 << 63}, ValueError),
        ("publish", ("t", b""), {"headers": {"a": 1}}, TypeError),
        ("publish", ("t", b""), {"message_id": 5}, TypeError),
        ("publish", ("t", b""), {"expected_last_revision": -1}, ValueError),
        ("publish_later", ("t", b""), {"delay_ms": 1.5}, TypeError),
        ("compare", ("k", "version", "=", 1.5), {}, TypeError),
    ],
)
def test_a_wrong_argument_fails_in_the_handler(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    """A mistake shows where it was made and not as a refused command."""
    with pytest.raises(error):
        getattr(effects, name)(*arguments, **options)


@pytest.mark.parametrize(
    "returned",
    [17, "put", {"put": 1}, [None], [effects.put("k", b"")] * 3, [effects.put("k", bytes(2000))]],
)
def test_what_is_not_effects_is_refused(returned: object) -> None:
    """Only None and bounded lists of effects pass."""
    with pytest.raises((TypeError, ValueError)):
        effects.check(returned, LIMITS)


def test_nothing_and_lists_of_effects_are_accepted() -> None:
    """None and [] mean no effects."""
    assert effects.check(None, LIMITS) == effects.check([], LIMITS) == ()
    assert effects.check([effects.put("k", b"")], LIMITS) == (effects.put("k", b""),)
