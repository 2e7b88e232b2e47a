"""An index of the event log by term: topic, key, actor, correlation id and causation id.

It belongs to one node and is derived from the log alone: it may be lost, be behind or be built
anew, and every query still answers the same. So it is made for cheap writing. A posting is one
integer, the hash of a term and the revision of an event that has it. The newest events' postings
are in memory (`Recent`); when there are enough, they become a *run*: a sorted, immutable list of
postings in blocks, written in one go. A term that all events of a run have, as an actor or a topic
often is one, has no postings there: the run names it. Sixteen neighbouring runs are merged into one
of the next level, a bounded step at a time. Every run covers a range of revisions of its own, so
that a query takes run after run, from the newest or from the oldest end, and stops when its page is
full.

A hash is no proof: whoever reads events by the index looks at the events themselves.

Terms that leave the log leave the index with the last event of their run; until then a revision
that is gone is found here and not in the log.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from pubsub.limits import INDEX_RUN_TOPICS_BYTES_MAX, INDEX_RUN_TOPICS_MAX
from pubsub.store.event_terms import LOW, Recent

FORMAT: Final = 2

BLOCK_POSTINGS: Final = 500  # 4000 bytes: one page of the file, what a lookup reads

LIVE, GROWING, DEAD = range(3)

SCHEMA: Final = """
CREATE TABLE position(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    cluster_id TEXT NOT NULL,
    revision INTEGER NOT NULL,       -- every event up to here is in a run
    log_index INTEGER NOT NULL,      -- of that event, with its time: proof of whose log it was
    wall_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE runs(
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,          -- 0 live, 1 growing out of the live ones it covers, 2 dead
    level INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,
    last_revision INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    topics BLOB,                     -- msgpack, sorted; nil: too many to list
    stretches BLOB NOT NULL          -- msgpack: [[hash, first revision, last], ...]
) STRICT;
CREATE TABLE fences(
    run INTEGER NOT NULL,
    posting INTEGER NOT NULL,        -- the first one of the block
    block INTEGER NOT NULL,
    PRIMARY KEY (run, posting)
) STRICT, WITHOUT ROWID;
CREATE TABLE blocks(
    id INTEGER PRIMARY KEY,          -- run << 32 | number
    postings BLOB NOT NULL
) STRICT;
"""

RUN: Final = "SELECT id, level, first_revision, last_revision, blocks, stretches FROM runs"


class Stretch(NamedTuple):
    """Revisions that all have a term, and no postings of it."""

    hash: int
    first_revision: int
    last_revision: int


class Run(NamedTuple):
    """A sorted list of postings on disk."""

    id: int
    level: int
    first_revision: int
    last_revision: int
    blocks: int
    stretches: tuple[Stretch, ...]  # sorted

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Run":
        """From a row of `RUN`."""
        number, level, first, last, blocks, stretches = row
        unpacked = tuple(Stretch(*each) for each in msgpack.unpackb(stretches))
        return cls(number, level, first, last, blocks, unpacked)

    def known(self, number: int, low: int, high: int) -> list[range]:
        """Revisions from `low` to `high` that have the term without a posting."""
        clipped = [
            range(max(first, low), min(last, high) + 1)
            for hash_, first, last in self.stretches
            if hash_ == number
        ]
        return [each for each in clipped if each]


class Position(NamedTuple):
    """How far the runs reach, and the proof of the event there."""

    cluster_id: str
    revision: int
    log_index: int
    wall_ms: int


# --- what is on disk ---


def create(connection: apsw.Connection, cluster_id: str) -> None:
    """The tables, in an empty database."""
    with connection:
        connection.execute(SCHEMA)
        connection.pragma("user_version", FORMAT)
        connection.execute("INSERT INTO position VALUES(0, ?, 0, 0, 0)", (cluster_id,))


def position(connection: apsw.Connection) -> Position | None:
    """How far it is; None when these are not our tables."""
    if connection.pragma("user_version") != FORMAT:
        return None
    row = connection.execute("SELECT cluster_id, revision, log_index, wall_ms FROM position")
    return Position(*row.fetchone())  # type: ignore[misc]


def runs(connection: apsw.Connection, first: int = 0, last: int = 1 << 62) -> list[Run]:
    """The runs that have revisions from `first` to `last`, the oldest first."""
    rows = connection.execute(
        f"{RUN} WHERE state = ? AND first_revision <= ? AND last_revision >= ?"
        " ORDER BY first_revision",
        (LIVE, last, first),
    )
    return [Run.of(row) for row in rows]


def topics(connection: apsw.Connection, run: Run) -> list[str] | None:
    """The topics of a run's events, sorted; None if they are too many to list."""
    packed = connection.execute("SELECT topics FROM runs WHERE id = ?", (run.id,)).get
    return None if packed is None else list(msgpack.unpackb(packed))


def revisions(
    connection: apsw.Connection,
    run: Run,
    number: int,
    low: int,
    high: int,
    limit: int,
    *,
    descending: bool = False,
) -> list[int]:
    """Revisions from `low` to `high` of events that may have a term of hash `number`.

    In the order asked for; at least `limit` of them where there are as many, and at most a block
    more than that.
    """
    low, high = max(low, run.first_revision), min(high, run.last_revision)
    if low > high:
        return []
    prefix = number << 32
    begin, end = prefix | low & LOW, prefix | high & LOW
    at = block_of(connection, run, end if descending else begin)
    found: list[int] = []
    while 0 <= at < run.blocks and len(found) < limit:
        block = read_block(connection, run.id, at)
        left, right = bisect_left(block, begin), bisect_right(block, end)
        part = block[left:right]
        if descending:
            part.reverse()
        found += part
        if left > 0 if descending else right < len(block):
            break
        at += -1 if descending else 1
    base = run.first_revision & ~LOW
    found = [base | posting & LOW for posting in found]
    known = run.known(number, low, high)
    if known:  # of each of them as many as are asked for: the first of all are among these
        few = slice(-limit, None) if descending else slice(limit)
        found += [revision for each in known for revision in each[few]]
        found.sort(reverse=descending)
        del found[limit:]
    return found


def among(
    connection: apsw.Connection, run: Run, number: int, candidates: Sequence[int]
) -> list[int]:
    """Those of some revisions of the run, in ascending order, that may have the term."""
    known = run.known(number, run.first_revision, run.last_revision)
    prefix = number << 32
    block = array("q")
    found: list[int] = []
    for revision in candidates:
        if any(revision in each for each in known):
            found.append(revision)
            continue
        posting = prefix | revision & LOW
        if not block or posting > block[-1]:
            if not run.blocks:
                continue
            block = read_block(connection, run.id, block_of(connection, run, posting))
        at = bisect_left(block, posting)
        if at < len(block) and block[at] == posting:
            found.append(revision)
    return found


def estimate(connection: apsw.Connection, run: Run, number: int, low: int, high: int) -> int:
    """About how many revisions `revisions` would find, without reading them."""
    low, high = max(low, run.first_revision), min(high, run.last_revision)
    if low > high:
        return 0
    known = sum(map(len, run.known(number, low, high)))
    prefix = number << 32
    begin = block_of(connection, run, prefix | low & LOW)
    blocks = block_of(connection, run, prefix | high & LOW) - begin
    return known + blocks * BLOCK_POSTINGS


def flush(connection: apsw.Connection, recent: Recent) -> int:
    """Make a run of the newest events, and that it is one, in one transaction; its size."""
    newest = recent.newest
    assert newest is not None, "there is something to write"
    found, everywhere = recent.postings()
    first, last = recent.first_revision, recent.last_revision
    stretches = [Stretch(number, first, last) for number in everywhere]
    topics = listed_topics(recent.topics)
    with connection:
        run = new_run(connection, LIVE, 0, first, last, topics, stretches)
        if found:
            append(connection, run, found)
        connection.execute(
            "UPDATE position SET revision = ?, log_index = ?, wall_ms = ?",
            (recent.last_revision, *newest),
        )
    return len(found)


def new_run(
    connection: apsw.Connection,
    state: int,
    level: int,
    first: int,
    last: int,
    listed: bytes | None,
    stretches: Sequence[Stretch],
) -> Run:
    row = connection.execute(
        "INSERT INTO runs(state, level, first_revision, last_revision, blocks, topics, stretches)"
        " VALUES(?, ?, ?, ?, 0, ?, ?) RETURNING id",
        (state, level, first, last, listed, msgpack.packb(stretches)),
    ).get
    return Run(int(row), level, first, last, 0, tuple(stretches))


def append(connection: apsw.Connection, run: Run, postings: list[int]) -> Run:
    """Add sorted postings behind those of the run, in blocks of about the same size."""
    blocks = -(-len(postings) // BLOCK_POSTINGS)
    size = -(-len(postings) // blocks)
    cut = [postings[at : at + size] for at in range(0, len(postings), size)]
    numbered = list(enumerate(cut, run.blocks))
    connection.executemany(
        "INSERT INTO blocks VALUES(?, ?)",
        [(run.id << 32 | number, array("q", block).tobytes()) for number, block in numbered],
    )
    connection.executemany(
        "INSERT INTO fences VALUES(?, ?, ?)",
        [(run.id, block[0], number) for number, block in numbered],
    )
    longer = run._replace(blocks=run.blocks + len(cut))
    connection.execute("UPDATE runs SET blocks = ? WHERE id = ?", (longer.blocks, run.id))
    return longer


def bury(connection: apsw.Connection, ids: Iterable[int]) -> None:
    rows = [(DEAD, each) for each in ids]
    connection.executemany("UPDATE runs SET state = ? WHERE id = ?", rows)


def block_of(connection: apsw.Connection, run: Run, posting: int) -> int:
    """The block in which a posting would stand."""
    found = connection.execute(
        "SELECT block FROM fences WHERE run = ? AND posting <= ? ORDER BY posting DESC LIMIT 1",
        (run.id, posting),
    ).get
    return 0 if found is None else int(found)


def read_block(connection: apsw.Connection, run_id: int, number: int) -> "array[int]":
    postings = array("q")
    postings.frombytes(
        connection.execute("SELECT postings FROM blocks WHERE id = ?", (run_id << 32 | number,)).get
    )
    return postings


def listed_topics(names: Iterable[str]) -> bytes | None:
    """The topics of a run, unless they are so many that a query had better not go by them."""
    every = sorted(names)
    if len(every) > INDEX_RUN_TOPICS_MAX:
        return None
    packed: bytes = msgpack.packb(every)
    return packed if len(packed) <= INDEX_RUN_TOPICS_BYTES_MAX else None
