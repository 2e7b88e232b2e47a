"""Packed operations, and the entries of the Raft log that carry them.

An operation is the msgpack array `[client_id, request_seq, name, args, actor, meta]`: client_id 0
means no deduplication, meta is nil or `[correlation_id, causation_id, hops, traceparent]`.

A command of the log is one kind byte and a body, a msgpack array that starts with the entry version
and the two clocks:

    0 REGULAR     [version, wall_ms, elapsed_ms, [operation, ...]]
    1 NO_OP       [version, wall_ms, elapsed_ms, leader, [voter, ...], [learner, ...]] or nothing
    2 MEMBERSHIP  [version, wall_ms, elapsed_ms, change, node, address, [member, ...]]

with member = `[name, uid, address, "voter" | "learner"]`. A packed operation travels as one opaque
byte string: sealing an entry copies bytes, and one malformed operation cannot hide its neighbours.

Requests of one kind that a client sends together travel as one operation, `each` with the args
`[name, [args, ...]]`: its request_seq is that of the first, and each has the next. They stay
requests of their own, applied or refused for themselves, and only what surrounds them is shared.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from cluster.limits import ACTOR_BYTES_MAX, CLOCK_MS_MAX, INTEGER_MAX, TRACE_TEXT_BYTES_MAX
from pubsub.events import Meta, compress
from pubsub.rejection import Rejection

VERSION: Final = 3
"""The newest entry version that this release knows. A leader writes a newer one only once every
member knows it; a node that finds one that it does not know stops, because it would drift."""

REGULAR: Final = 0
NO_OP: Final = 1
MEMBERSHIP: Final = 2

EACH: Final = "each"
EACH_SINCE: Final = 3  # the entry version
UNPACK_ERRORS: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)
"""What msgpack raises on bytes that it cannot decode."""

# one Packer for all: making one costs more than packing (only the engine's thread packs)
_pack: Final[Callable[[object], bytes]] = msgpack.Packer(autoreset=True).pack
_unpack: Final[Callable[[bytes], Any]] = msgpack.unpackb


class UnsupportedEntry(Exception):
    """An entry that a newer release wrote: this node must stop, for it cannot follow."""

    def __init__(self, what: str, found: int, known: int) -> None:
        super().__init__(
            f"the log has an entry of {what} {found}, and this release knows up to {known}: "
            "upgrade this node"
        )
        self.what = what
        self.found = found
        self.known = known


Operation = tuple[int, int, str, list[Any], Meta | None]
"""A decoded operation: client_id, request_seq, name, args, and the meta that its events carry."""


def pack(
    client_id: int,
    request_seq: int,
    name: str,
    args: Sequence[Any],
    actor: str | None = None,
    meta: Sequence[Any] | None = None,
) -> bytes:
    """An operation as bytes. HOT."""
    return _pack((client_id, request_seq, name, args, actor, meta))


def unpack(payload: bytes) -> Operation | Rejection:
    """The operation in `payload`, whatever it holds. HOT."""
    try:
        client_id, request_seq, name, args, actor, meta = _unpack(payload)
    except UNPACK_ERRORS:
        return Rejection("malformed", "an operation is a msgpack array of six items")
    if (
        client_id.__class__ is int
        and request_seq.__class__ is int
        and 0 <= client_id <= INTEGER_MAX
        and 0 <= request_seq <= INTEGER_MAX
        and name.__class__ is str
        and args.__class__ is list
    ):
        if meta is None:  # the usual case, without a call
            if actor is None:
                return client_id, request_seq, name, args, None
            if actor.__class__ is str and len(actor) * 4 <= ACTOR_BYTES_MAX:
                return client_id, request_seq, name, args, [actor]
        traced = _expand(actor, meta)
        if traced is not None:
            return client_id, request_seq, name, args, traced or None
    return Rejection("malformed", "an item of the operation has a wrong type or value")


def seal(payloads: Sequence[bytes], wall_ms: int, elapsed_ms: int, version: int = VERSION) -> bytes:
    """The body of a REGULAR entry with packed operations, which are copied as they are. HOT."""
    return _pack((version, wall_ms, elapsed_ms, payloads))


def unseal(body: bytes) -> list[Any] | None:
    """The items of an entry's body, at least version and clocks; None when it is malformed.

    Raises UnsupportedEntry for a version that this release does not know.
    """
    try:
        items = _unpack(body)
    except UNPACK_ERRORS:
        return None
    if items.__class__ is not list or len(items) < 3:
        return None
    version, wall_ms, elapsed_ms = items[:3]
    if not (is_count(version, 1) and _is_clock(wall_ms) and _is_clock(elapsed_ms)):
        return None
    if version > VERSION:
        raise UnsupportedEntry("version", version, VERSION)
    return items


def is_count(value: object, least: int = 0) -> bool:
    """True for an integer, not a bool, from `least` to what SQLite can store."""
    return value.__class__ is int and least <= value <= INTEGER_MAX


def is_text(value: object, bytes_max: int) -> bool:
    """True for a text of at most `bytes_max` bytes of UTF-8."""
    if value.__class__ is not str:
        return False
    # Four bytes are the most that a character takes: only long texts must be encoded to know.
    return len(value) * 4 <= bytes_max or len(value.encode()) <= bytes_max


def _expand(actor: Any, meta: Any) -> Meta | None:
    """The meta of the operation's events, empty if nothing is known; None when it is malformed."""
    if actor is not None and not is_text(actor, ACTOR_BYTES_MAX):
        return None
    if meta is None:
        return [actor]
    if meta.__class__ is not list or len(meta) > 4:
        return None
    correlation_id, causation_id, hops, traceparent = meta + [None] * (4 - len(meta))
    if (
        (correlation_id is None or _is_identifier(correlation_id))
        and (causation_id is None or _is_identifier(causation_id))
        and (hops is None or is_count(hops))
        and (traceparent is None or is_text(traceparent, TRACE_TEXT_BYTES_MAX))
    ):
        return compress(actor, correlation_id, causation_id, hops or 0, traceparent) or []
    return None


def _is_clock(value: object) -> bool:
    return is_count(value) and value <= CLOCK_MS_MAX  # type: ignore[operator]


def _is_identifier(value: object) -> bool:
    return is_count(value) or is_text(value, TRACE_TEXT_BYTES_MAX)
