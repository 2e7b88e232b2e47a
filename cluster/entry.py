"""What the operations of this package may use while an entry is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw

from hooks.replicated import capture
from pubsub.apply import Apply, Run
from pubsub.rejection import Rejection

ROWS_MAX: Final = 16_384
ROW_VALUE_BYTES_MAX: Final = 1024
"""Rows kept in memory, at most 20 MiB, so that SQLite is not asked for a key used lately."""

StoredRow = tuple[int, int, int, int, int | None, bytes]
"""`(id, create_revision, mod_revision, version, expires_ms, value)`."""


class Entry(Apply):
    """`Apply`, one cursor for statements whose result is used up at once, and rows used lately.

    A cursor that is used again saves a fifth of a small statement's cost. A result that is still
    being iterated needs `connection.execute`, which makes a cursor of its own.
    """

    __slots__ = ("capture", "execute", "rows")

    def __init__(self, connection: apsw.Connection, run: Run) -> None:
        super().__init__(connection, run)
        self.execute: Callable[..., Any] = connection.cursor().execute
        self.rows: dict[str, StoredRow] = {}
        # What the log keeps of values that are put; None: all of every value.
        self.capture: capture.Rules | None = capture.load(connection)

    def remember(self, key: str, row: StoredRow) -> None:
        """What `key` holds from now on. HOT."""
        rows = self.rows
        if len(row[5]) > ROW_VALUE_BYTES_MAX:
            rows.pop(key, None)
            return
        if len(rows) >= ROWS_MAX:
            rows.clear()  # dropping the oldest alone would cost each put a search for it
        rows[key] = row

    def atomically(self, steps: Callable[[], Any]) -> Any:
        """As in `Apply`; what was rolled back must not be remembered."""
        result = super().atomically(steps)
        if result.__class__ is Rejection:
            self.rows.clear()
        return result
