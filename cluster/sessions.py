"""Client sessions: the replicated memory that lets a retried request apply once.

A client opens a session through Raft and numbers its requests in it. The results of the newest
requests are remembered, one row per client and log entry. A request is then one of

    number                       outcome
    not seen, above the floor    new: it is applied
    seen, row still there        the remembered result again, nothing is applied
    up to the floor, no row      refused: it may have been applied, and nobody knows any more
    of an unknown session        refused: the session expired, with all that it remembered

The floor is at least the highest number among the rows that were let go, so a request that was
ever applied is either remembered or up to the floor. In memory a session is a few integers (which
numbers were seen); results are read back only for an actual retry.

May not: know what an operation does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw
import msgpack

from cluster.limits import (
    SESSION_BYTES_MAX,
    SESSION_HOLES_MAX,
    SESSION_IDLE_MS,
    SESSION_RESULT_BYTES_MAX,
    SESSION_RESULTS_MIN,
    SESSION_RESULTS_SLACK,
    SESSION_TOUCH_MS,
    SESSION_WINDOWS_MAX,
    SESSIONS_EXPIRED_MAX,
    SESSIONS_MAX,
)
from pubsub.rejection import Rejection

SCHEMA: Final = """
CREATE TABLE sessions(
    client_id INTEGER PRIMARY KEY,
    touched_ms INTEGER NOT NULL,     -- on the elapsed clock, SESSION_TOUCH_MS behind at most
    floor INTEGER NOT NULL           -- requests up to here are not remembered unless a row has them
) STRICT;
CREATE INDEX sessions_by_touch ON sessions(touched_ms);
CREATE TABLE session_results(
    client_id INTEGER NOT NULL,
    log_index INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,      -- the lowest and the highest number in this row
    last_seq INTEGER NOT NULL,
    count INTEGER NOT NULL,
    results BLOB NOT NULL,           -- msgpack [[result, ...], [seq, ...] or nil if contiguous]
    PRIMARY KEY(client_id, log_index)
) STRICT, WITHOUT ROWID;
"""

NEW: Final = object()
"""The answer of `recall` for a request that is to be applied."""

_REJECTION: Final = 1  # msgpack extension type of a remembered Rejection
_FORGOTTEN: Final = Rejection(
    "result_forgotten", "the request was applied, but its result was too large to remember"
)


def _pack_rejection(value: Any) -> msgpack.ExtType:
    if isinstance(value, Rejection):
        return msgpack.ExtType(_REJECTION, msgpack.packb(list(value)))
    raise TypeError(f"a result of type {type(value).__name__} cannot be remembered")


def _unpack_rejection(code: int, data: bytes) -> Rejection:
    assert code == _REJECTION, code
    return Rejection(*msgpack.unpackb(data))


class _Window:
    """What was seen of one session, and what the entry in progress adds."""

    __slots__ = (
        "floor",
        "fresh_results",
        "fresh_seqs",
        "holes",
        "newest",
        "oldest_count",
        "size_bytes",
        "total",
        "touched_ms",
    )

    def __init__(self, touched_ms: int, floor: int) -> None:
        self.touched_ms = touched_ms
        self.floor = floor
        self.newest = floor
        self.holes: list[tuple[int, int]] = []  # numbers above the floor that were skipped so far
        self.total = 0  # results remembered
        self.oldest_count = 0  # of them in the oldest row
        self.size_bytes = 0
        self.fresh_seqs: list[int] = []
        self.fresh_results: list[Any] = []

    def note(self, seq: int) -> None:
        """`seq` was seen. Numbers may come in any order."""
        if seq > self.newest:
            if seq > self.newest + 1:
                self.holes.append((self.newest + 1, seq - 1))
            self.newest = seq
            return
        for position, (first, last) in enumerate(self.holes):
            if first <= seq <= last:
                parts = [(first, seq - 1), (seq + 1, last)]
                self.holes[position : position + 1] = [part for part in parts if part[0] <= part[1]]
                return

    def is_new(self, seq: int) -> bool:
        """Whether `seq` may be applied."""
        if seq > self.newest:
            return True
        return seq > self.floor and any(first <= seq <= last for first, last in self.holes)

    def add_row(self, count: int, size_bytes: int) -> None:
        """A row of results is stored."""
        self.oldest_count = self.oldest_count or count
        self.total += count
        self.size_bytes += size_bytes

    def raise_floor(self, floor: int) -> None:
        """Numbers up to `floor` are not taken any more."""
        self.floor = max(self.floor, floor)
        self.holes = [(first, last) for first, last in self.holes if last > self.floor]


class Sessions:
    """The sessions of one state. `recall` and `remember` are HOT."""

    def __init__(self, connection: apsw.Connection, windows_max: int = SESSION_WINDOWS_MAX) -> None:
        self._connection = connection
        self._windows_max = windows_max
        self._execute: Callable[..., Any] = connection.execute
        # strict_types: without it a Rejection would be packed as the tuple that it also is.
        packer = msgpack.Packer(default=_pack_rejection, strict_types=True)
        self._pack: Callable[[object], bytes] = packer.pack
        self._windows: dict[int, _Window] = {}
        self._touched: dict[int, _Window] = {}  # by the entry in progress
        self.count = int(self._execute("SELECT count(*) FROM sessions").get)

    def recall(self, client_id: int, seq: int) -> Any:
        """NEW, or what to answer instead of applying the request."""
        window = self._touched.get(client_id)
        if window is None:
            window = self._touch(client_id)
            if window is None:
                return Rejection("session_expired", f"there is no session {client_id}")
        if seq > window.newest or window.is_new(seq):
            return NEW
        return self._remembered(client_id, seq, window)

    def remember(self, client_id: int, seq: int, result: Any) -> None:
        """Note the result of a request that `recall` called new."""
        window = self._touched.get(client_id)
        if window is None:
            return  # the request closed its own session
        if seq == window.newest + 1:
            window.newest = seq
        else:
            window.note(seq)
        window.fresh_seqs.append(seq)
        # A number needs no look at its size; a list (of a batch, a transaction) does.
        window.fresh_results.append(result if result.__class__ is int else self._bounded(result))

    def follows(self, client_id: int, seq: int) -> bool:
        """Whether the session has seen neither `seq` nor anything after it, and all before it."""
        window = self._touched.get(client_id) or self._touch(client_id)
        return window is not None and seq == window.newest + 1

    def remember_each(self, client_id: int, first_seq: int, results: list[Any]) -> None:
        """`remember` for requests that follow each other, of which the first `follows`. HOT."""
        window = self._touched[client_id]
        window.newest = first_seq + len(results) - 1
        window.fresh_seqs += range(first_seq, window.newest + 1)
        window.fresh_results += [
            result if result.__class__ is int else self._bounded(result) for result in results
        ]

    def flush(self, log_index: int, elapsed_ms: int) -> None:
        """Store what the entry added. Called once at its end."""
        if not self._touched:
            return
        execute = self._execute
        for client_id, window in self._touched.items():
            if elapsed_ms - window.touched_ms >= SESSION_TOUCH_MS:
                window.touched_ms = elapsed_ms
                execute(
                    "UPDATE sessions SET touched_ms = ? WHERE client_id = ?",
                    (elapsed_ms, client_id),
                )
            seqs = window.fresh_seqs
            if not seqs:
                continue  # it only asked again
            first, last, count = seqs[0], seqs[-1], len(seqs)
            contiguous = last - first + 1 == count and seqs == list(range(first, last + 1))
            if not contiguous:
                first, last = min(seqs), max(seqs)
            row = self._pack([window.fresh_results, None if contiguous else seqs])
            execute(
                "INSERT INTO session_results VALUES(?, ?, ?, ?, ?, ?)",
                (client_id, log_index, first, last, count, row),
            )
            window.add_row(count, len(row))
            window.fresh_seqs = []
            window.fresh_results = []
            # Decided from what is stored alone, so that a node that restarted decides the same.
            if (
                window.total - window.oldest_count >= SESSION_RESULTS_MIN + SESSION_RESULTS_SLACK
                or window.size_bytes > SESSION_BYTES_MAX
            ):
                self._forget(client_id, window)
            if len(window.holes) > SESSION_HOLES_MAX:
                self._raise_floor(client_id, window, window.holes[-SESSION_HOLES_MAX - 1][1])
        self._touched.clear()

    def open(self, client_id: int, elapsed_ms: int) -> int | Rejection:
        """Open a session under a number that was never used."""
        if self.count >= SESSIONS_MAX:
            return Rejection("limit_exceeded", f"at most {SESSIONS_MAX} client sessions")
        self._execute("INSERT INTO sessions VALUES(?, ?, 0)", (client_id, elapsed_ms))
        self.count += 1
        return client_id

    def close(self, client_id: int) -> bool:
        """Forget a session that its client will not use again; False if there is none."""
        self._windows.pop(client_id, None)
        self._touched.pop(client_id, None)
        execute = self._execute
        execute("DELETE FROM session_results WHERE client_id = ?", (client_id,))
        execute("DELETE FROM sessions WHERE client_id = ?", (client_id,))
        closed = self._connection.changes()
        self.count -= closed
        return closed > 0

    def expire(self, up_to_elapsed_ms: int) -> int:
        """Forget sessions that were idle too long at that time; returns how many."""
        rows = self._execute(
            "SELECT client_id FROM sessions WHERE touched_ms <= ?"
            " ORDER BY touched_ms, client_id LIMIT ?",
            (up_to_elapsed_ms - _lifetime_ms(), SESSIONS_EXPIRED_MAX),
        ).fetchall()
        # Whoever asked in this very entry is not idle, although that is not stored yet.
        idle = [client_id for (client_id,) in rows if client_id not in self._touched]
        for client_id in idle:
            self.close(client_id)
        return len(idle)

    def _bounded(self, result: Any) -> Any:
        """What is remembered of a result."""
        return _FORGOTTEN if len(self._pack(result)) > SESSION_RESULT_BYTES_MAX else result

    def _touch(self, client_id: int) -> _Window | None:
        """The window of a session that the entry in progress uses for the first time."""
        # Taken out and put back: the dictionary's order is that of the last use.
        window = self._windows.pop(client_id, None) or self._load(client_id)
        if window is None:
            return None
        self._windows[client_id] = self._touched[client_id] = window
        if len(self._windows) > self._windows_max:
            del self._windows[next(iter(self._windows))]
        return window

    def _load(self, client_id: int) -> _Window | None:
        execute = self._execute
        session = execute(
            "SELECT touched_ms, floor FROM sessions WHERE client_id = ?", (client_id,)
        ).fetchone()
        if session is None:
            return None
        window = _Window(*session)
        seen: list[tuple[int, int]] = []
        for first, last, count, results in execute(
            "SELECT first_seq, last_seq, count, results FROM session_results"
            " WHERE client_id = ? ORDER BY log_index",
            (client_id,),
        ):
            window.add_row(count, len(results))
            if last - first + 1 == count:
                seen.append((first, last))
            else:
                seen.extend((seq, seq) for seq in _unpack_row(results)[1])
        for first, last in sorted(seen):
            if first > window.newest + 1:
                window.holes.append((window.newest + 1, first - 1))
            window.newest = max(window.newest, last)
        return window

    def _remembered(self, client_id: int, seq: int, window: _Window) -> Any:
        """The result of a request that was seen before."""
        if seq in window.fresh_seqs:
            return window.fresh_results[window.fresh_seqs.index(seq)]
        rows = self._execute(
            "SELECT first_seq, results FROM session_results"
            " WHERE client_id = ?1 AND first_seq <= ?2 AND last_seq >= ?2 ORDER BY log_index",
            (client_id, seq),
        ).fetchall()
        for first, packed in rows:
            results, seqs = _unpack_row(packed)
            if seqs is None:
                return results[seq - first]
            if seq in seqs:
                return results[seqs.index(seq)]
        return Rejection(
            "request_too_old",
            f"request {seq} of session {client_id} is not remembered any more",
        )

    def _forget(self, client_id: int, window: _Window) -> None:
        """Let go of the oldest rows, down to the bounds; the newest one always stays."""
        execute = self._execute
        rows = execute(
            "SELECT log_index, last_seq, count, length(results) FROM session_results"
            " WHERE client_id = ? ORDER BY log_index",
            (client_id,),
        )
        kept_from = floor = 0
        for log_index, last_seq, count, size_bytes in rows:
            window.oldest_count = count
            kept_from = log_index
            if window.total == count or (
                window.total - count < SESSION_RESULTS_MIN
                and window.size_bytes <= SESSION_BYTES_MAX
            ):
                break
            window.total -= count
            window.size_bytes -= size_bytes
            floor = max(floor, last_seq)
        execute(
            "DELETE FROM session_results WHERE client_id = ? AND log_index < ?",
            (client_id, kept_from),
        )
        self._raise_floor(client_id, window, floor)

    def _raise_floor(self, client_id: int, window: _Window, floor: int) -> None:
        """Give up the numbers up to `floor` that no row remembers, applied or never seen."""
        window.raise_floor(floor)
        self._execute(
            "UPDATE sessions SET floor = ? WHERE client_id = ?", (window.floor, client_id)
        )


def next_expiry(connection: apsw.Connection) -> int | None:
    """When the next session ends if its client stays silent, on the elapsed clock."""
    touched_ms = connection.execute("SELECT min(touched_ms) FROM sessions").get
    return None if touched_ms is None else int(touched_ms) + _lifetime_ms()


def _lifetime_ms() -> int:
    # The last touch may be that much later than the stored one.
    return SESSION_IDLE_MS + SESSION_TOUCH_MS


def _unpack_row(packed: bytes) -> Any:
    return msgpack.unpackb(packed, ext_hook=_unpack_rejection)
