"""The native protocol between clients and a node: a stream of msgpack values in each direction.

Greeting, then requests `[id, name, args, meta]` one way, responses `[id, status, value]` the other,
in any order. docs/protocol.md is the specification; this file is what both ends share of it.

May not: do anything but encode and decode. Every decoder is bounded, because its input is a
stranger's: in bytes, and in the items that an array may claim to have (msgpack reserves memory for
all of them on seeing the header, once per level of nesting).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import msgpack

from cluster.errors import (
    LimitExceeded,
    Malformed,
    TremulaError,
    VersionMismatch,
    from_wire,
)
from pubsub.traceparent import validate_traceparent

MAGIC: Final = "tremula"
VERSIONS: Final = (1,)  # newest first

# Statuses of a response. The first two end a request, the others belong to a stream.
OK: Final = 0
ERROR: Final = 1
EVENTS: Final = 2
BOOKMARK: Final = 3
CHANGE: Final = 4
# The results of all requests of a series, in the order of their ids.
RESULTS: Final = 5

# Requests of one kind that a client makes in one go: one request in place of many (ADR 0020).
SERIES: Final = "series"
SERIES_NAMES: Final = ("publish", "put")

# A message with this id wants no answer; a response with it is about the connection as a whole.
NO_REQUEST: Final = 0

LINEARIZABLE: Final = "linearizable"
LOCAL: Final = "local"

# Requests that become an operation in the Raft log, under the same name and with the same
# arguments. What the cluster proposes by itself (expiry, trimming) is deliberately not here.
MUTATIONS: Final = frozenset(
    (
        "put", "delete", "batch", "txn", "publish", "publish_batch", "publish_later",
        "delayed.cancel",
        "session.open", "session.close",
        "group.define", "group.remove", "group.seek", "group.discard",
        "group.pause", "group.resume", "group.skip", "group.fetch", "group.settle",
        "group.join", "group.keepalive", "group.leave", "group.checkpoint",
        "retention.set", "retention.delete", "retention.cap", "capture.set", "capture.delete",
        "dlq.edit", "dlq.redrive", "replay.start", "replay.cancel",
        "hook.enable", "hook.disable", "hook.forget", "hook.settings",
    )
)  # fmt: skip
# Requests that only look, and so may be sent again at will (and are soon done).
READS: Final = frozenset(
    (
        "events.get", "events.kept", "events.query", "events.trace",
        "get", "range", "count", "events.read", "status", "members", "ping", "subscribe",
        "hooks.list", "hooks.info", "hooks.metrics", "hooks.settings", "hooks.events",
        "hooks.history", "hooks.explain", "hooks.wait", "topics.list", "delayed.list",
        "group.consume", "group.describe", "group.list",
        "retention.list", "capture.list", "dlq.list", "dlq.show", "replay.list",
    )
)  # fmt: skip

GREETING_BYTES_MAX: Final = 4_096  # A greeting is some 100 bytes; etcd and NATS send about 400.
GREETING_ITEMS_MAX: Final = 64
# A frame may claim this many items per array or map: more than the operations of the largest batch
# (10,000, docs/limits.md), and 128 KiB of pointers reserved for each level of nesting.
REQUEST_ITEMS_MAX: Final = 16_384
# The largest answer: a page of rows or events (a few MiB), or a transaction's results.
RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
TRACE_TEXT_MAX: Final = 256  # characters of an id; a W3C traceparent has 55
INTEGER_MAX: Final = 2**63 - 1  # what SQLite stores; msgpack would carry one bit more
CHUNK_BYTES_MAX: Final = 64 * 1024  # What one receive may add to a buffer.


class ProtocolViolation(Exception):
    """The other end does not speak the protocol; the connection cannot go on. Says why."""

    def __init__(self, error: TremulaError) -> None:
        super().__init__(str(error))
        self.error = error


class Reader:
    """Decodes a stream of msgpack values within bounds. HOT."""

    __slots__ = ("_bytes_max", "_values")

    def __init__(self, bytes_max: int, items_max: int = 0) -> None:
        """`items_max` 0 = as many as the bytes allow, for a peer that is trusted to be sane."""
        self._bytes_max = bytes_max
        limits = {"max_array_len": items_max, "max_map_len": items_max} if items_max else {}
        self._values = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            max_buffer_size=bytes_max + CHUNK_BYTES_MAX,
            max_ext_len=0,  # No extension type has a meaning here.
            read_size=CHUNK_BYTES_MAX,
            **limits,
        )

    def feed(self, chunk: bytes) -> None:
        """Take received bytes; a value larger than the bound is a violation."""
        try:
            self._values.feed(chunk)
        except msgpack.BufferFull:
            error = LimitExceeded("message_bytes", self._bytes_max + 1, self._bytes_max)
            raise ProtocolViolation(error) from None

    def take(self, values_max: int) -> list[Any]:
        """The next complete values, at most `values_max`; fewer when more bytes are needed."""
        try:
            return list(islice(self._values, values_max))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            detail = f"not a msgpack value within bounds ({type(error).__name__}: {error})"
            raise ProtocolViolation(Malformed(detail)) from None


def encode(value: object) -> bytes:
    """One value as bytes (for what is not hot)."""
    return bytes(msgpack.packb(value))


def client_greeting(info: dict[str, object]) -> bytes:
    """The first bytes of a client: the magic word, the versions it speaks, facts about it."""
    return encode([MAGIC, list(VERSIONS), info])


def server_greeting(version: int, info: dict[str, object]) -> bytes:
    """The node's answer: the version that both will speak, facts about the node."""
    return encode([MAGIC, version, info])


def server_refusal(error: TremulaError) -> bytes:
    """The node's answer to a client that it will not serve; the connection closes after it."""
    return encode([MAGIC, 0, error.to_wire()])


def greeting_reader() -> Reader:
    """A reader for the one value that a stranger may send before it is none any more."""
    return Reader(GREETING_BYTES_MAX, GREETING_ITEMS_MAX)


def choose_version(greeting: Any) -> int:
    """The newest version that a client's greeting shares with us; raises ProtocolViolation."""
    if not (isinstance(greeting, list) and len(greeting) >= 3 and greeting[0] == MAGIC):
        raise ProtocolViolation(Malformed("this is not a Tremula greeting"))
    theirs = greeting[1]
    if not (isinstance(theirs, list) and all(isinstance(item, int) for item in theirs)):
        raise ProtocolViolation(Malformed("a greeting lists the versions as integers"))
    for version in VERSIONS:
        if version in theirs:
            return version
    raise ProtocolViolation(VersionMismatch(list(VERSIONS), theirs[:16]))


def accepted_greeting(greeting: Any) -> dict[str, Any]:
    """The facts in a node's greeting; raises the node's refusal, or ProtocolViolation."""
    if not (isinstance(greeting, list) and len(greeting) >= 3 and greeting[0] == MAGIC):
        raise ProtocolViolation(Malformed("this is not a Tremula node"))
    if greeting[1] == 0:
        raise from_wire(greeting[2])
    if greeting[1] not in VERSIONS or not isinstance(greeting[2], dict):
        raise ProtocolViolation(VersionMismatch(list(VERSIONS), [greeting[1]]))
    return greeting[2]


# (client_id, seq, timeout_ms or None, trace or None). client_id 0 = no session: a retry of a
# mutation may apply twice. trace = [correlation id, causation id, hops, traceparent]. A plain
# tuple, because one is made for each request.
Meta = tuple[int, int, int | None, list[Any] | None]

NO_META: Final[Meta] = (0, 0, None, None)


def decode_meta(meta: Any) -> Meta:
    """The decoded meta of a request; raises Malformed. HOT."""
    if type(meta) is list and len(meta) == 3:  # What a client sends that does not trace.
        client_id, seq, timeout_ms = meta
        if (
            type(client_id) is type(seq) is type(timeout_ms) is int
            and client_id >= 0
            and seq >= 0
            and timeout_ms >= 0
        ):
            return client_id, seq, timeout_ms, None
    if meta is None:
        return NO_META
    if type(meta) is not list or len(meta) > len(_META_FIELDS):
        raise Malformed(f"meta is nil or an array of at most {len(_META_FIELDS)} items")
    for (name, is_valid), item in zip(_META_FIELDS, meta, strict=False):
        if item is not None and not is_valid(item):
            raise Malformed(f"meta: {name} has a wrong type or value")
    client_id, seq, timeout_ms, *trace = meta + [None] * (META_NAMESPACE - len(meta))
    trace = trace[: META_NAMESPACE - META_TRACE]
    return client_id or 0, seq or 0, timeout_ms, trace if any(trace) else None


def _is_count(item: Any) -> bool:
    return type(item) is int and 0 <= item <= INTEGER_MAX


def _is_text(item: Any) -> bool:
    return isinstance(item, str) and len(item) <= TRACE_TEXT_MAX


def _is_traceparent(item: Any) -> bool:
    return validate_traceparent(item) is None and len(item) <= TRACE_TEXT_MAX


def _is_identifier(item: Any) -> bool:
    return _is_text(item) or _is_count(item)


# By position; nil is the default of each, and trailing defaults may be left out.
_META_FIELDS: Final[Sequence[tuple[str, Callable[[Any], bool]]]] = (
    ("client_id", _is_count),
    ("seq", _is_count),
    ("timeout_ms", _is_count),
    ("correlation_id", _is_identifier),
    ("causation_id", _is_identifier),
    ("hops", _is_count),
    ("traceparent", _is_traceparent),
    ("namespace", lambda item: type(item) is int and item == 0),  # reserved
)
META_TRACE: Final = 3
META_HOPS: Final = 5
META_NAMESPACE: Final = 7
