"""Effects of an ack: operations that are applied with the completion of its event, exactly once.

    await delivery.ack([effects.put("seen/" + key, b"1"), effects.publish("orders.seen", b"...")])

They are applied in the given order, all or none. Each is `[operation, [argument, ...]]`, as in
docs/protocol.md; these functions only spell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def put(
    key: str, value: bytes, *, ttl_ms: int | None = None, expected_revision: int | None = None
) -> list[Any]:
    """Write a key; an expected revision of 0 means that it must not exist."""
    return ["put", [key, value, ttl_ms, expected_revision]]


def delete(key: str, *, expected_revision: int | None = None) -> list[Any]:
    """Delete a key; without an expected revision a missing one is no error."""
    return ["delete", [key, expected_revision]]


def publish(
    topic: str,
    payload: bytes,
    *,
    key: str | None = None,
    content_type: str | None = None,
    headers: dict[str, str] | None = None,
) -> list[Any]:
    """Publish to a user topic."""
    return ["publish", [topic, key, payload, content_type, headers]]


def txn(
    compares: Iterable[Sequence[Any]],
    thens: Iterable[Sequence[Any]] = (),
    elses: Iterable[Sequence[Any]] = (),
) -> list[Any]:
    """Compare, then do one of two lists of items; either is a success."""
    return ["txn", [[list(item) for item in items] for items in (compares, thens, elses)]]
