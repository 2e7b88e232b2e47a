"""Message ids: an event that was published before, under the same id, is not published again.

An id belongs to its topic and is remembered for `MESSAGE_ID_WINDOW_MS` of the elapsed clock. It is
one row under a digest of both, so that a row is small however long they are. The key begins with a
generation, one window long: a new id costs one insert into a part of the index that is young, and
what is over lies together and goes in slices.
"""

from hashlib import blake2b
from typing import Final

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import MESSAGE_ID_WINDOW_MS, MESSAGE_IDS_FORGOTTEN_MAX
from pubsub.rejection import Rejection

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS message_ids(
    generation INTEGER NOT NULL,     -- elapsed_ms / MESSAGE_ID_WINDOW_MS
    digest BLOB NOT NULL,            -- of kind, topic and id
    result INTEGER NOT NULL,         -- what the first one was answered
    elapsed_ms INTEGER NOT NULL,
    PRIMARY KEY(generation, digest)
) STRICT, WITHOUT ROWID;
"""

PUBLISHED: Final = "p"
DELAYED: Final = "d"
"""Kinds: the result is a revision, or the id of a delayed event. An event that comes out later is
no repetition of one that came out at once."""

_DIGEST_BYTES: Final = 16


def known(apply: Apply, kind: str, topic: str, message_id: str) -> int | None:
    """What the first one was answered, or None."""
    digest = _digest(kind, topic, message_id)
    generation = apply.elapsed_ms // MESSAGE_ID_WINDOW_MS
    found = _find(apply, generation - 1, digest)
    return _find(apply, generation, digest) if found is None else found


def remember(apply: Apply, kind: str, topic: str, message_id: str, result: int) -> int | None:
    """Remember what this one is answered, unless it is a repetition: then the first one's answer is
    returned and nothing changed."""
    digest = _digest(kind, topic, message_id)
    generation = apply.elapsed_ms // MESSAGE_ID_WINDOW_MS
    # Two statements, since one that does both takes longer than they do.
    found = _find(apply, generation - 1, digest)
    if found is not None:
        return found
    apply.connection.execute(
        "INSERT INTO message_ids VALUES(?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (generation, digest, result, apply.elapsed_ms),
    )
    return None if apply.connection.changes() else _find(apply, generation, digest)


def forget(apply: Apply, up_to_elapsed_ms: object) -> int | Rejection:
    """`message.forget [up_to_elapsed_ms]` -> how many ids went, never beyond the clock."""
    if not is_count(up_to_elapsed_ms):
        return malformed("message.forget: an integer from 0 is needed")
    assert isinstance(up_to_elapsed_ms, int)
    # The generation before the current one may still hold ids within the window.
    over = min(up_to_elapsed_ms, apply.elapsed_ms) // MESSAGE_ID_WINDOW_MS - 1
    apply.connection.execute(
        "DELETE FROM message_ids WHERE (generation, digest) IN (SELECT generation, digest"
        " FROM message_ids WHERE generation < ? ORDER BY generation, digest LIMIT ?)",
        (over, MESSAGE_IDS_FORGOTTEN_MAX),
    )
    return apply.connection.changes()


def next_due(connection: apsw.Connection) -> int | None:
    """When the oldest ids may go, on the elapsed clock; None while there are none."""
    oldest = connection.execute("SELECT min(generation) FROM message_ids").get
    return None if oldest is None else (int(oldest) + 2) * MESSAGE_ID_WINDOW_MS


def _find(apply: Apply, generation: int, digest: bytes) -> int | None:
    """An answer within its window; of the current generation that is every one."""
    result: int | None = apply.connection.execute(
        "SELECT result FROM message_ids WHERE generation = ? AND digest = ? AND elapsed_ms > ?",
        (generation, digest, apply.elapsed_ms - MESSAGE_ID_WINDOW_MS),
    ).get
    return result


def _digest(kind: str, topic: str, message_id: str) -> bytes:
    # No topic has a space, so no two pairs are one text.
    text = f"{kind} {topic} {message_id}"
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
