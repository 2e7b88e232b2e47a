"""Feeds a machine with log entries, as the engine does, and looks at what they left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import msgpack

from cluster import operations, state
from cluster.machine import Applied, Machine
from cluster.operations import MEMBERSHIP, NO_OP, REGULAR
from pubsub import log
from pubsub.events import Event

TABLES = (
    "kv",
    "sessions",
    "session_results",
    "event_batches",
    "group_state",
    "consumer_groups",
    "group_sessions",
    "group_members",
    "group_partitions",
    "group_completions",
    "dead_letters",
    "entry_format",
    "topic_tails",
    "message_ids",
    "delayed_events",
    "delayed_totals",
    "group_settings",
    "group_pauses",
    "group_holds",
    "group_moves",
    "group_leavers",
    "competing_groups",
    "competing_leases",
    "competing_waiting",
    "competing_keys",
    "dead_letter_events",
    "dead_letter_bytes",
    "replays",
    "replay_state",
    "retention_rules",
    "retention_trims",
    "retention_losers",
    "capture_rules",
    "capture_origin",
    "node_reports",
    "node_health",
    "hook_state",
    "hooks",
    "hook_nodes",
    "hook_members",
    "hook_settings",
    "hook_node_settings",
)

Entry = tuple[int, int, bytes]


class Driver:
    """A machine, the clocks of its leader, and every entry that it was given.

    `commits_each`: write each entry, or leave it to the test what is written together.
    """

    def __init__(self, path: str | Path = ":memory:", *, commits_each: bool = True) -> None:
        self.commits_each = commits_each
        self.path = path
        self.machine = Machine(state.open_state(path))
        self.wall_ms = 1_000_000
        self.elapsed_ms = 1_000
        self.term = 1
        self.entries: list[Entry] = []

    @property
    def connection(self) -> apsw.Connection:
        return self.machine.connection

    def apply(self, command: bytes) -> Applied:
        """Apply one command as the next entry."""
        entry = (self.machine.applied_index + 1, self.term, command)
        self.entries.append(entry)
        applied = self.machine.apply(*entry)
        if self.commits_each:
            self.machine.commit()
        return applied

    def entry(self, *payloads: bytes) -> Applied:
        """Apply packed operations as one entry."""
        body = operations.seal(payloads, self.wall_ms, self.elapsed_ms)
        return self.apply(bytes((REGULAR,)) + body)

    def digest_after(self, *payloads: bytes) -> bytes:
        """The digest of the state after one more entry."""
        self.entry(*payloads)
        return self.machine.digest

    def do(self, name: str, *args: Any, client: int = 0, seq: int = 0, **meta: Any) -> Any:
        """Apply one operation as one entry; returns its result."""
        applied = self.entry(operations.pack(client, seq, name, args, **meta))
        assert len(applied.results) == 1
        return applied.results[0]

    def no_op(self, *items: Any) -> Applied:
        """Apply the first entry of a term."""
        return self.apply(bytes((NO_OP,)) + self._stamped(items))

    def membership(self, *items: Any) -> Applied:
        """Apply a change of the configuration."""
        return self.apply(bytes((MEMBERSHIP,)) + self._stamped(items))

    def reopen(self) -> None:
        """Stop and start: the state comes from the file, and nothing from memory."""
        self.connection.close()
        self.machine = Machine(state.open_state(self.path))

    def events(self, from_revision: int = 1) -> list[Event]:
        """All events from a revision on."""
        found = log.read(self.connection, from_revision, 1_000_000, 1 << 30)
        assert isinstance(found, list)
        return found

    def rows(self) -> dict[str, list[Any]]:
        """Every row that entries made, by table; `meta` is left out."""
        return dump(self.connection)

    def _stamped(self, items: tuple[Any, ...]) -> bytes:
        return bytes(msgpack.packb([operations.VERSION, self.wall_ms, self.elapsed_ms, *items]))


def dump(connection: apsw.Connection) -> dict[str, list[Any]]:
    """Every row of every table that entries write."""
    return {
        table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
        for table in TABLES
    }


def put(key: str, value: bytes = b"v", *rest: Any, client: int = 0, seq: int = 0) -> bytes:
    """A packed put."""
    return operations.pack(client, seq, "put", [key, value, *rest])
