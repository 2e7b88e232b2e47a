"""The messages between a node and its handler host: msgpack arrays, one after the other, on pipes.

    node -> host   [START, version, settings]                              once, first
                   [RUN, id, handler_id, handler name, [delivery, ...], attempt, token, cluster_id,
                    timeout_ms, coalesced]
                   [CANCEL, id]
    host -> node   [LOADING, name]   a module, file or entry point, before it is imported
                   [READY, [[handler_id, where, pattern, options], ...],
                    [[name, text, suggestion], ...], files]                or
                   [REFUSED, text]                                         the modules do not load
                   [DONE, id, effects]
                   [FAILED, id, kind, text, final]
                   [STUCK, id]     a sync handler is past its timeout: only a kill stops it
                   [LOG, level, message, fields]

settings is a map: `sources` (the fields of `hooks.configuration.sections.CodeSources`), `paths`,
`limits`, and `client`, nil or [function, arguments] (see `hooks.ports.ClientFactory`). Each side
writes what it has at once, many messages in one piece.

Both ends are of one release, started by one another; the version only guards against a mixed
installation.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgpack

VERSION: Final = 3

START: Final = 1
RUN: Final = 2
CANCEL: Final = 3
READY: Final = 10
REFUSED: Final = 11
DONE: Final = 12
FAILED: Final = 13
STUCK: Final = 14
LOG: Final = 15
LOADING: Final = 16


class FrameReader:
    """Cuts a stream of bytes into messages; raises ValueError on anything else."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._unpacker = msgpack.Unpacker(
            use_list=False, strict_map_key=False, max_buffer_size=frame_bytes_max
        )

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        try:
            self._unpacker.feed(data)
            for message in self._unpacker:
                if not isinstance(message, tuple) or not message:
                    raise ValueError("not a message")
                yield message
        except (msgpack.UnpackException, msgpack.BufferFull, RecursionError) as error:
            raise ValueError(f"not a stream of messages: {type(error).__name__}") from error


def pack(*message: object) -> bytes:
    """One message; raises ValueError, TypeError or OverflowError on what msgpack cannot carry."""
    packed: bytes = msgpack.packb(message)
    return packed
