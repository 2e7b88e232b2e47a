"""What the operations of this package may use while an entry is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from pubsub.apply import Apply, Run


class Entry(Apply):
    """`Apply`, and one cursor for statements whose result is used up at once.

    A cursor that is used again saves a fifth of a small statement's cost. A result that is still
    being iterated needs `connection.execute`, which makes a cursor of its own.
    """

    __slots__ = ("execute",)

    def __init__(self, connection: apsw.Connection, run: Run) -> None:
        super().__init__(connection, run)
        self.execute: Callable[..., Any] = connection.cursor().execute
