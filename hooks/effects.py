"""Effects: what a handler returns to have it committed with the completion of its event.

    return [effects.put("seen/" + event.key, b"1"), effects.publish("orders.seen", b"...")]

They are applied in the given order, all or none, once per event and handler: the record that the
event is completed is part of the same command. If the state refuses one (an expected revision that
does not hold, a reserved topic), none is applied and the event becomes a dead letter that says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hooks.limits import HookLimits
from pubsub.limits import INTEGER_MAX

Operation = list[object]  # a nested operation of a transaction, as `put`, `delete` ... pack it


@dataclass(frozen=True, slots=True)
class Effect:
    """One replicated operation: its name and arguments, as the state machine knows them."""

    name: str
    arguments: tuple[object, ...]

    def to_wire(self) -> Operation:
        return [self.name, list(self.arguments)]

    @property
    def size_bytes(self) -> int:
        return 16 + _size(self.arguments)


def put(
    key: str,
    value: bytes | str,
    *,
    ttl_ms: int | None = None,
    expected_revision: int | None = None,
) -> Effect:
    """Write a key; text is stored as UTF-8; an expected revision of 0 means: must not exist."""
    return Effect(
        "put",
        (
            _text("key", key),
            _value(value),
            _number("ttl_ms", ttl_ms, 1),
            _number("expected_revision", expected_revision, 0),
        ),
    )


def delete(key: str, *, expected_revision: int | None = None) -> Effect:
    """Delete a key; without an expected revision a missing one is no error."""
    revision = _number("expected_revision", expected_revision, 0)
    return Effect("delete", (_text("key", key), revision))


def publish(
    topic: str,
    payload: bytes | str,
    *,
    key: str | None = None,
    content_type: str | None = None,
    headers: dict[str, str] | None = None,
    message_id: str | None = None,
    expected_last_revision: int | None = None,
    schema_version: str | None = None,
) -> Effect:
    """Publish to a user topic; events of the same key stay in order.

    An event is handled at least once and its effects are applied once, so a `message_id` is needed
    only where others publish the same message.
    """
    arguments = _event(topic, payload, key, content_type, headers)
    options = _options(message_id, expected_last_revision, schema_version)
    return Effect("publish", arguments if options is None else (*arguments, options))


def publish_later(
    topic: str,
    payload: bytes | str,
    *,
    delay_ms: int,
    key: str | None = None,
    content_type: str | None = None,
    headers: dict[str, str] | None = None,
    schema_version: str | None = None,
) -> Effect:
    """Publish to a user topic when `delay_ms` have passed since the effect was applied."""
    arguments = _event(topic, payload, key, content_type, headers)
    delay = _number("delay_ms", delay_ms, 0)
    return Effect("publish_later", (*arguments, _options(None, None, schema_version), delay))


def compare(key: str, field: str, operator: str, operand: bytes | str | int | bool) -> Operation:
    """A condition of `txn`: field is value, version, create_revision, mod_revision or exists."""
    if isinstance(operand, bytes | bytearray | memoryview | str):
        plain: object = _value(operand)
    else:
        plain = operand if isinstance(operand, bool) else _number("operand", operand, 0)
    return [_text("key", key), _text("field", field), _text("operator", operator), plain]


def txn(
    compares: Sequence[Operation], then: Sequence[Effect], otherwise: Sequence[Effect] = ()
) -> Effect:
    """Apply `then` if every condition holds, else `otherwise`; either is a success."""
    nested = [[[effect.name, *effect.arguments] for effect in part] for part in (then, otherwise)]
    return Effect("txn", ([list(condition) for condition in compares], *nested))


def check(returned: object, limits: HookLimits) -> tuple[Effect, ...]:
    """What a handler returned, as effects; raises TypeError or ValueError when it is none."""
    if returned is None:
        return ()
    if not isinstance(returned, list | tuple):
        raise TypeError(
            f"the handler returned {type(returned).__name__}; None or a list of effects is expected"
        )
    for item in returned:
        if not isinstance(item, Effect):
            raise TypeError(
                f"the handler returned a list with {type(item).__name__} in it;"
                " only what hooks.effects makes is expected"
            )
    if len(returned) > limits.effects_per_event_max:
        raise ValueError(f"{len(returned)} effects; at most {limits.effects_per_event_max}")
    size = sum(effect.size_bytes for effect in returned)
    if size > limits.effects_bytes_max:
        raise ValueError(f"effects of {size} bytes; at most {limits.effects_bytes_max}")
    return tuple(returned)


def _event(
    topic: object,
    payload: object,
    key: object,
    content_type: object,
    headers: dict[str, str] | None,
) -> tuple[object, ...]:
    """What an event is made of, as `publish` takes it."""
    return (
        _text("topic", topic),
        None if key is None else _text("key", key),
        _value(payload),
        None if content_type is None else _text("content_type", content_type),
        None
        if headers is None
        else {_text("header", name): _text("header", text) for name, text in headers.items()},
    )


def _options(
    message_id: object, expected_last_revision: object, schema_version: object
) -> dict[str, object] | None:
    options = {
        "message_id": None if message_id is None else _text("message_id", message_id),
        "expected_last_revision": _number("expected_last_revision", expected_last_revision, 0),
        "schema_version": None
        if schema_version is None
        else _text("schema_version", schema_version),
    }
    return {name: value for name, value in options.items() if value is not None} or None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: text is expected, not {type(value).__name__}")
    value.encode()  # a lone surrogate raises here, in the handler that made it
    return value


def _number(name: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: a whole number is expected, not {type(value).__name__}")
    if not least <= value <= INTEGER_MAX:
        raise ValueError(f"{name}: {value} is not between {least} and {INTEGER_MAX}")
    return value


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"bytes or text are expected, not {type(value).__name__}")


def _size(value: object) -> int:
    if isinstance(value, bytes):
        return len(value) + 5
    if isinstance(value, str):
        return 4 * len(value) + 5
    if isinstance(value, list | tuple):
        return 5 + sum(_size(item) for item in value)
    if isinstance(value, dict):
        return 5 + sum(_size(name) + _size(item) for name, item in value.items())
    return 9
