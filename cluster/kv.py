"""The key-value store: its table, the reads, and the operations on single keys.

Operations (first argument `apply`) change the state inside an entry and return a plain value or a
Rejection, which changed nothing. Reads (first argument `connection`) are for anybody.

A key lives until a delete or an expiry was applied: one that is past its time is still there until
`kv.expire` says so, on every node at the same place in the log. Each change is exactly one event,
and that event's revision becomes the key's `mod_revision`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import apsw

from cluster.corruption import storage_error
from cluster.entry import Entry
from cluster.limits import (
    EXPIRED_KEYS_MAX,
    KEY_BYTES_MAX,
    RANGE_BYTES_MAX,
    RANGE_ROWS_MAX,
    TTL_MS_MAX,
    VALUE_BYTES_MAX,
)
from cluster.operations import is_count, is_text
from pubsub.events import KV_DELETE_COMMITTED, KV_TTL_EXPIRED, KV_WRITE_COMMITTED
from pubsub.rejection import Rejection

# A rowid table with an index on the key, and not WITHOUT ROWID: there a row that does not fit in a
# quarter of a page goes to an overflow page, which made puts of 1000 bytes three times as dear.
SCHEMA: Final = """
CREATE TABLE kv(
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,        -- 1 for a new key, +1 with each put
    expires_ms INTEGER,              -- on the cluster's wall clock
    value BLOB NOT NULL
) STRICT;
CREATE INDEX kv_by_expiry ON kv(expires_ms, id) WHERE expires_ms IS NOT NULL;
"""

_SELECT: Final = (
    "SELECT key, value, create_revision, mod_revision, version, expires_ms FROM kv WHERE "
)
_SELECT_KEYS: Final = (
    "SELECT key, NULL, create_revision, mod_revision, version, expires_ms FROM kv WHERE "
)


class Row(NamedTuple):
    """A key as readers see it; `value` is None where only keys were asked for."""

    key: str
    value: bytes | None
    create_revision: int
    mod_revision: int
    version: int
    expires_ms: int | None


_new = tuple.__new__  # a third of the time that the constructor of a named tuple takes


def get(connection: apsw.Connection, key: str) -> Row | None:
    """The row of a key, or None."""
    try:
        row = connection.execute(_SELECT + "key = ?", (key,)).fetchone()
    except apsw.Error as error:
        raise storage_error(connection.filename, error) from error
    return None if row is None else Row(*row)


def get_remembered(apply: Entry, key: str) -> Row | None:
    """As `get`, from the rows in memory if it is one of them. HOT."""
    stored = apply.rows.get(key)
    if stored is None:
        try:
            stored = apply.execute(
                "SELECT id, create_revision, mod_revision, version, expires_ms, value FROM kv"
                " WHERE key = ?",
                (key,),
            ).get
        except apsw.Error as error:
            raise storage_error(apply.connection.filename, error) from error
        if stored is None:
            return None
        apply.remember(key, stored)
    _, create_revision, mod_revision, version, expires_ms, value = stored
    return _new(Row, (key, value, create_revision, mod_revision, version, expires_ms))


def range_(
    connection: apsw.Connection,
    start: str,
    end: str | None,
    limit: int = RANGE_ROWS_MAX,
    after: str | None = None,
    keys_only: bool = False,
    bytes_max: int = RANGE_BYTES_MAX,
) -> tuple[list[Row], bool]:
    """Rows with start <= key < end in the order of keys, and whether there are more.

    `end` None means the single key `start`; an empty `end` means no end. `after` is the last key of
    the page before. A page ends at `limit` rows or before the row that would exceed `bytes_max`
    (its first row is always there).
    """
    condition, bindings = _condition(start, end, after)
    rows: list[Row] = []
    size = 0
    try:
        cursor = connection.execute(
            (_SELECT_KEYS if keys_only else _SELECT) + condition + " ORDER BY key", bindings
        )
        for row in cursor:
            size += len(row[0]) + len(row[1] or b"")
            if len(rows) >= limit or (rows and size > bytes_max):
                cursor.close()
                return rows, True
            rows.append(Row(*row))
    except apsw.Error as error:
        raise storage_error(connection.filename, error) from error
    return rows, False


def count(connection: apsw.Connection, start: str, end: str | None) -> int:
    """How many keys there are in a range (as in `range_`); proportional to that number."""
    condition, bindings = _condition(start, end, None)
    try:
        return int(connection.execute("SELECT count(*) FROM kv WHERE " + condition, bindings).get)
    except apsw.Error as error:
        raise storage_error(connection.filename, error) from error


def prefix(text: str) -> tuple[str, str]:
    """The range `(start, end)` of all keys that begin with `text`."""
    for position in reversed(range(len(text))):
        following = ord(text[position]) + 1
        if following == 0xD800:
            following = 0xE000  # surrogates are no characters
        if following <= 0x10FFFF:
            return text, text[:position] + chr(following)
    return text, ""


def next_expiry(connection: apsw.Connection) -> int | None:
    """When the next key expires, on the cluster's wall clock; None when none will."""
    try:
        expires_ms = connection.execute(
            "SELECT min(expires_ms) FROM kv WHERE expires_ms IS NOT NULL"
        ).get
    except apsw.Error as error:
        raise storage_error(connection.filename, error) from error
    return None if expires_ms is None else int(expires_ms)


def put(
    apply: Entry, key: Any, value: Any, ttl_ms: Any = None, expected_revision: Any = None
) -> int | Rejection:
    """`put [key, value, ttl_ms, expected_revision]` -> the revision. HOT.

    An expected revision of 0 means that the key must not exist. Without a `ttl_ms` the key stays
    for ever, even if it had one before.
    """
    problem = put_problem(key, value, ttl_ms, expected_revision)
    if problem is not None:
        return problem
    return store(apply, key, value, ttl_ms, expected_revision)


def store(
    apply: Entry, key: str, value: bytes, ttl_ms: int | None = None, expected: int | None = None
) -> int | Rejection:
    """A put whose arguments were found in order. HOT."""
    row = apply.rows.get(key)
    if row is None:
        row = apply.execute(
            "SELECT id, create_revision, mod_revision, version FROM kv WHERE key = ?", (key,)
        ).get
    expires_ms = None if ttl_ms is None else apply.wall_ms + ttl_ms
    revision = apply.revision + 1
    if row is None:
        if expected:
            return _mismatch(key, expected, 0)
        create_revision, version, previous_revision = revision, 1, 0
        apply.execute(
            "INSERT INTO kv VALUES(NULL, ?, ?, ?, 1, ?, ?)",
            (key, revision, revision, expires_ms, value),
        )
        identity = apply.connection.last_insert_rowid()
    else:
        identity, create_revision, previous_revision, version = row[:4]
        if expected is not None and expected != previous_revision:
            return _mismatch(key, expected, previous_revision)
        version += 1
        apply.execute(
            "UPDATE kv SET mod_revision = ?, version = ?, expires_ms = ?, value = ? WHERE id = ?",
            (revision, version, expires_ms, value, identity),
        )
    apply.remember(key, (identity, create_revision, revision, version, expires_ms, value))
    data: tuple[Any, ...] = (value, create_revision, version, previous_revision, expires_ms)
    if apply.capture is not None:
        data = apply.capture.applied(key, data)
    return apply.emit(KV_WRITE_COMMITTED, key, data, apply.meta)


def delete(apply: Entry, key: Any, expected_revision: Any = None) -> int | Rejection:
    """`delete [key, expected_revision]` -> the revision, or 0 when there was nothing to delete."""
    problem = delete_problem(key, expected_revision)
    if problem is not None:
        return problem
    return remove(apply, key, expected_revision)


def remove(apply: Entry, key: str, expected: int | None = None) -> int | Rejection:
    """A delete whose arguments were found in order."""
    execute = apply.execute
    row = execute("SELECT id, mod_revision, version FROM kv WHERE key = ?", (key,)).get
    found = 0 if row is None else row[1]
    if expected is not None and expected != found:
        return _mismatch(key, expected, found)
    if row is None:
        return 0
    execute("DELETE FROM kv WHERE id = ?", (row[0],))
    apply.rows.pop(key, None)
    return apply.emit(KV_DELETE_COMMITTED, key, row[1:], apply.meta)


def expire(apply: Entry, up_to_wall_ms: Any, limit: Any = EXPIRED_KEYS_MAX) -> int | Rejection:
    """`kv.expire [up_to_wall_ms, limit]` -> how many keys were removed, oldest expiry first.

    Never beyond the cluster's clock, whatever the proposer says.
    """
    if not is_count(up_to_wall_ms) or not is_count(limit, 1):
        return Rejection("malformed", "kv.expire: a time and a limit from 1 are needed")
    execute = apply.execute
    rows = execute(
        "SELECT id, key, mod_revision, version, expires_ms FROM kv"
        " WHERE expires_ms IS NOT NULL AND expires_ms <= ? ORDER BY expires_ms, id LIMIT ?",
        (min(up_to_wall_ms, apply.wall_ms), min(limit, EXPIRED_KEYS_MAX)),
    ).fetchall()
    for identity, key, previous_revision, version, expires_ms in rows:
        execute("DELETE FROM kv WHERE id = ?", (identity,))
        apply.rows.pop(key, None)
        apply.emit(KV_TTL_EXPIRED, key, (previous_revision, version, expires_ms), apply.meta)
    return len(rows)


def put_problem(key: Any, value: Any, ttl_ms: Any, expected_revision: Any) -> Rejection | None:
    """What is wrong with the arguments of a put, whatever the state is. HOT."""
    if key.__class__ is not str or not key:
        return Rejection("malformed", "put: the key must be a non-empty text")
    if value.__class__ is not bytes:
        return Rejection("malformed", "put: the value must be bytes")
    if len(key) * 4 > KEY_BYTES_MAX and not is_text(key, KEY_BYTES_MAX):
        return Rejection("limit_exceeded", f"put: a key has at most {KEY_BYTES_MAX} bytes")
    if len(value) > VALUE_BYTES_MAX:
        return Rejection("limit_exceeded", f"put: a value has at most {VALUE_BYTES_MAX} bytes")
    if ttl_ms is not None and not (is_count(ttl_ms, 1) and ttl_ms <= TTL_MS_MAX):
        return Rejection("malformed", f"put: ttl_ms must be from 1 to {TTL_MS_MAX}")
    if expected_revision is not None and not is_count(expected_revision):
        return Rejection("malformed", "put: expected_revision must be an integer from 0")
    return None


def delete_problem(key: Any, expected_revision: Any) -> Rejection | None:
    """What is wrong with the arguments of a delete, whatever the state is."""
    if key.__class__ is not str or not key:
        return Rejection("malformed", "delete: the key must be a non-empty text")
    if not is_text(key, KEY_BYTES_MAX):
        return Rejection("limit_exceeded", f"delete: a key has at most {KEY_BYTES_MAX} bytes")
    if expected_revision is not None and not is_count(expected_revision):
        return Rejection("malformed", "delete: expected_revision must be an integer from 0")
    return None


def _mismatch(key: str, expected: int, found: int) -> Rejection:
    return Rejection(
        "revision_mismatch", f'key "{key}" is at revision {found}, expected {expected}'
    )


def _condition(start: str, end: str | None, after: str | None) -> tuple[str, tuple[str, ...]]:
    """The WHERE clause of a range and its bindings."""
    bindings: tuple[str, ...]
    if end is None:
        condition, bindings = "key = ?", (start,)
    elif end == "":
        condition, bindings = "key >= ?", (start,)
    else:
        condition, bindings = "key >= ? AND key < ?", (start, end)
    if after is not None:
        return condition + " AND key > ?", (*bindings, after)
    return condition, bindings
