"""The newest event of each topic of users: what `expected_last_revision` is compared with, and the
catalogue of topics.

One row for each topic, written once for many entries: until then `Apply.published` has the newer
ones. A cluster that was upgraded looks through what its log held before, if that is little; of a
longer log it only remembers where it ended, as the row of the topic "", which no event can have.
A row stays when retention took its events: what was read must not seem new again.
"""

from collections.abc import Mapping
from heapq import merge
from itertools import islice
from typing import Final

import apsw

from pubsub import log
from pubsub.apply import Apply
from pubsub.limits import TAILS_ADOPTED_BYTES_MAX, TAILS_ADOPTED_EVENTS_MAX

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS topic_tails(
    topic TEXT PRIMARY KEY,
    last_revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_BEFORE: Final = ""  # its row: topics without a row may have events up to here


def last_revision(apply: Apply, topic: str) -> int:
    """The revision of the topic's newest event, 0 if it has none; where nobody knows (the topic was
    silent since an upgrade), the newest that it could have."""
    for published in (apply.published, *apply.published_before):
        revision = published.get(topic)
        if revision is not None:
            return revision
    found = apply.connection.execute(
        "SELECT last_revision FROM topic_tails WHERE topic IN (?, ?) ORDER BY topic DESC LIMIT 1",
        (topic, _BEFORE),
    ).get
    return int(found or 0)


def store(connection: apsw.Connection, published: Mapping[str, int]) -> None:
    """Write what was published since the last call."""
    connection.executemany(
        "INSERT INTO topic_tails VALUES(?1, ?2)"
        " ON CONFLICT(topic) DO UPDATE SET last_revision = ?2",
        published.items(),
    )


def adopt(connection: apsw.Connection, revision: int) -> None:
    """Begin to count, in a log that ends at `revision`: look through it, unless that is long."""
    if not revision:
        return
    found = log.read(connection, 1, TAILS_ADOPTED_EVENTS_MAX, TAILS_ADOPTED_BYTES_MAX)
    if isinstance(found, list) and found and found[-1].revision == revision:
        store(connection, {event.topic: event.revision for event in found if not event.is_system})
    else:
        store(connection, {_BEFORE: revision})


def page(
    connection: apsw.Connection, published: Mapping[str, int], after: str, limit: int
) -> tuple[list[tuple[str, int]], bool]:
    """Topics of users with the revision of their newest event, in the order of their names after
    `after`, and whether there are more. `published` is what no row has yet."""
    stored = connection.execute(
        "SELECT topic, last_revision FROM topic_tails WHERE topic > ? ORDER BY topic LIMIT ?",
        (after, limit + 1),
    )
    newer = sorted((item for item in published.items() if item[0] > after), key=_by_bytes)
    # of two rows of one topic the second is the newer one
    found = dict(islice(merge(stored, newer, key=_by_bytes), limit + 1 + len(newer)))
    rows = list(found.items())
    return rows[:limit], len(rows) > limit


def _by_bytes(item: tuple[str, int]) -> bytes:
    return item[0].encode()  # the order of SQLite
