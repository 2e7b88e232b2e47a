"""What an operation may use while it is applied, and nothing else.

The state machine keeps one `Apply` and calls `begin` for each log entry; an operation is a function
of it and of its arguments. Time enters only here, as the entry's two clocks.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import apsw
import msgpack

from pubsub.consumer_groups.outlines import Outlines
from pubsub.events import Meta, array_header
from pubsub.rejection import Rejection

Run = Callable[[str, Any], Any]

Terms = tuple[int | str, str | None, Meta | None]
"""What an event can be found by: its topic, key and meta."""

_VARIOUS: Final = ()
_topic_and_key: Final = itemgetter(0, 1)


class Apply:
    """The state and the clocks of the entry in progress, and the events that it makes."""

    __slots__ = (
        "_alike",
        "_pack",
        "connection",
        "elapsed_ms",
        "log_index",
        "meta",
        "outlines",
        "packed_events",
        "published",
        "published_before",
        "revision",
        "run",
        "trimmed_to",
        "version",
        "wall_ms",
    )

    def __init__(self, connection: apsw.Connection, run: Run | None = None) -> None:
        self.connection = connection
        # The state machine's callback: applies operation `name` with `args` inside the one in
        # progress and returns its result. It refuses what may not be nested.
        self.run: Run = run or _run_nothing
        # Of the entry in progress. What is new in one may only happen in entries that say so: a
        # release that knows less applies the older ones, too, and must come to the same state.
        self.version = 3
        self.meta: Meta | None = None  # of the operation in progress
        self.outlines = Outlines()
        # Topics of users and their newest revisions, as far as no row has them yet; inside of
        # `atomically` those of its steps, and before them those of the operations around it.
        self.published: dict[str, int] = {}
        self.published_before: list[dict[str, int]] = []
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack
        self.begin(0, 0, 0, 0)

    def begin(self, log_index: int, wall_ms: int, elapsed_ms: int, revision: int) -> None:
        """Start an entry; `revision` is that of the newest event before it."""
        self.log_index = log_index
        self.wall_ms = wall_ms
        self.elapsed_ms = elapsed_ms
        self.revision = revision
        self.packed_events: list[bytes] = []  # one after the other, or several in one piece
        self._alike: Terms | tuple[()] = _VARIOUS
        self.trimmed_to = 0  # the newest event that retention took in this entry
        self.meta = None

    def emit(self, topic: int | str, key: str | None, data: object, meta: Meta | None) -> int:
        """Append an event to the log of this entry and return its revision.

        The event is packed at once: its bytes are what the digest covers, what SQLite stores and
        what the in-memory tail keeps, so nothing on this path packs it again.
        """
        self._compare((topic, key, meta))
        self.packed_events.append(self._pack((topic, key, data, meta)))
        self.revision = revision = self.revision + 1
        return revision

    def emit_all(self, events: Sequence[tuple[int | str, str | None, object, Meta | None]]) -> None:
        """Append events `(topic, key, data, meta)` of one meta side by side. HOT."""
        kinds = set(map(_topic_and_key, events))
        self._compare((*kinds.pop(), events[0][3]) if len(kinds) == 1 else _VARIOUS)
        # In one call, which costs half; the array that this makes of them is the batch's.
        header = len(array_header(len(events)))
        self.packed_events.append(self._pack(events)[header:])
        self.revision += len(events)

    def _compare(self, terms: Terms | tuple[()]) -> None:
        if terms != self._alike:
            self._alike = _VARIOUS if self.packed_events else terms

    @property
    def alike(self) -> Terms | None:
        """What all events of this entry can be found by; None if they differ, or may."""
        return self._alike or None

    def atomically(self, steps: Callable[[], Any]) -> Any:
        """Run `steps`; if they return a Rejection, the state and the events are as before them."""
        revision, events, meta = self.revision, len(self.packed_events), self.meta
        execute = self.connection.execute
        execute("SAVEPOINT steps")
        published = self.published
        self.published = {}
        self.published_before.insert(0, published)
        result = steps()
        del self.published_before[0]
        if isinstance(result, Rejection):
            execute("ROLLBACK TO steps")
            self.revision = revision
            del self.packed_events[events:]
            self.meta = meta
        else:
            published.update(self.published)
        self.published = published
        execute("RELEASE steps")
        return result


def _run_nothing(name: str, args: Any) -> Rejection:
    return Rejection("unknown_operation", f'no operation "{name}" can be nested here')
