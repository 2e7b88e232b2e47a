"""A state machine as small as the consumer groups and the log need it, on a database in memory."""

from typing import Any

import apsw

from pubsub import groups, log, retention
from pubsub.apply import Apply
from pubsub.events import Meta
from pubsub.rejection import Rejection

SCHEMA = """
CREATE TABLE kv(key TEXT PRIMARY KEY, value INTEGER, revision INTEGER) STRICT;
"""


class SmallMachine:
    """Applies operations one per entry; knows `put`, which emits, and `refuse`, which does not."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        for schema in (log.SCHEMA, groups.SCHEMA, retention.SCHEMA, SCHEMA):
            self.connection.execute(schema).fetchall()
        self._apply = Apply(self.connection, self._run)
        self.log_index = 0
        self.wall_ms = 0
        self.elapsed_ms = 0
        self.metas: list[Meta | None] = []  # in force when a put was applied

    @property
    def revision(self) -> int:
        return self._apply.revision

    def do(self, operation: Any, *args: Any, meta: Meta | None = None) -> Any:
        """Apply one operation as one entry."""
        self.log_index += 1
        apply = self._apply
        apply.begin(self.log_index, self.wall_ms, self.elapsed_ms, apply.revision)
        apply.meta = meta
        first = apply.revision + 1
        with self.connection:
            result = operation(apply, *args)
            if apply.packed_events:
                count = apply.revision + 1 - first
                batch = log.Batch.joined(
                    first, self.log_index, self.wall_ms, apply.packed_events, count
                )
                log.append(self.connection, batch)
        return result

    def publish(self, *keys: str, topic: str = "orders.created", meta: Meta | None = None) -> int:
        """Publish one event per key in one entry; returns the first revision."""

        def emit(apply: Apply) -> int:
            revisions = [apply.emit(topic, key, [b"", None, None], meta) for key in keys]
            return revisions[0]

        return int(self.do(emit))

    def value(self, key: str) -> int | None:
        """How often `key` was put, or None."""
        value = self.connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).get
        return None if value is None else int(value)

    def dump(self) -> list[Any]:
        """Every row of every table."""
        tables = [
            name
            for (name,) in self.connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
            ).fetchall()
        ]
        return [
            (table, self.connection.execute(f"SELECT * FROM {table}").fetchall())
            for table in tables
        ]

    def _run(self, name: str, args: Any) -> Any:
        if name != "put":
            return Rejection("refused", f"{name} is always refused")
        (key,) = args
        revision = self._apply.emit("puts", key, [b"", None, None], self._apply.meta)
        self.metas.append(self._apply.meta)
        self.connection.execute(
            "INSERT INTO kv VALUES(?1, 1, ?2)"
            " ON CONFLICT(key) DO UPDATE SET value = value + 1, revision = ?2",
            (key, revision),
        )
        return revision
