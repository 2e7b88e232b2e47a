"""The Raft log and (term, vote): the port, its part in memory, and what can go wrong with it.

Everything between two `commit()` calls is one transaction and one fsync; nothing that depends on
it may leave the node before (Raft §5.1, Fig. 2 "persistent state"). The kept log also stands in
memory: compaction bounds it. sqlite_log.py keeps it on disk.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

Fact = str | int | None


class Entry(NamedTuple):
    """A log entry in the order in which PySyncObj keeps its fields."""

    command: bytes
    index: int  # type: ignore[assignment]  # nobody asks this tuple for the position of a value
    term: int


class CorruptLog(Exception):
    """`raft.db` cannot be trusted: the node must not start on it."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path} is corrupt: {detail}")
        self.path = path
        self.detail = detail


class ForgottenEntries(Exception):
    """This node's log lacks what it acknowledged to the leader that it has. It must not go on."""

    def __init__(self, acknowledged: int, last: int) -> None:
        super().__init__(
            f"the Raft log ends at index {last}, and this node had acknowledged {acknowledged}: an "
            "older copy was restored, or the disk lost what it had confirmed. Move the data "
            "directory away, remove the node and add it again"
        )
        self.acknowledged = acknowledged
        self.last = last


class StorageFailed(Exception):
    """The disk refused a write or an fsync. The node stops: it never limps on."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"cannot write {path}: {detail}")
        self.path = path
        self.detail = detail


class LogStore(Protocol):
    """What consensus needs of a log. `first` is the base: an entry whose command may be gone.

    `append`, `truncate`, `compact`, `reset` and `set_term` change memory at once and the disk
    with the next `commit`.
    """

    @property
    def first(self) -> Entry: ...
    @property
    def last(self) -> Entry: ...
    @property
    def persisted_index(self) -> int: ...
    @property
    def dirty(self) -> bool: ...
    @property
    def term_dirty(self) -> bool: ...
    @property
    def kept_bytes(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def voted_for(self) -> str | None: ...
    def __len__(self) -> int: ...
    def get(self, index: int) -> Entry | None: ...
    def slice(self, first: int, count: int, bytes_max: int) -> list[Entry]: ...
    def append(self, entry: Entry) -> None: ...
    def truncate(self, index: int) -> None: ...
    def compact(self, index: int) -> None: ...
    def reset(self, base: Entry) -> None: ...
    def set_term(self, term: int, voted_for: str | None) -> None: ...
    def note(self, name: str, value: Fact) -> None: ...
    def commit(self) -> None: ...


class MemoryTail:
    """The kept log in memory, shared by the real store and the simulator's."""

    def __init__(self, entries: list[Entry], term: int, voted_for: str | None) -> None:
        self._entries = entries
        self.term = term
        self.voted_for = voted_for
        self.persisted_index = entries[-1].index
        self.kept_bytes = sum(len(entry.command) for entry in entries)

    @property
    def first(self) -> Entry:
        return self._entries[0]

    @property
    def last(self) -> Entry:
        return self._entries[-1]

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, index: int) -> Entry | None:
        position = index - self._entries[0].index
        return self._entries[position] if 0 <= position < len(self._entries) else None

    def slice(self, first: int, count: int, bytes_max: int) -> list[Entry]:
        """Entries from index `first`: at most `count` and about `bytes_max`, at least one."""
        position = first - self._entries[0].index
        if position < 0:
            return []
        taken: list[Entry] = []
        size = 0
        for entry in self._entries[position : position + count]:
            size += len(entry.command)
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return taken

    def index_before(self, count: int, bytes_max: int) -> int:
        """The index behind which at most `count` entries of at most `bytes_max` bytes lie."""
        size = 0
        for kept, entry in enumerate(reversed(self._entries)):
            size += len(entry.command)
            if kept >= count or size > bytes_max:
                return entry.index
        return self._entries[0].index

    def _add(self, entry: Entry) -> None:
        if entry.index != self._entries[-1].index + 1:
            raise AssertionError(f"gap: entry {entry.index} after {self._entries[-1].index}")
        self._entries.append(entry)
        self.kept_bytes += len(entry.command)

    def _cut_from(self, index: int) -> None:
        position = index - self._entries[0].index
        if position < 1:
            raise AssertionError(f"truncation at {index} reaches the base of the log")
        self.kept_bytes -= sum(len(entry.command) for entry in self._entries[position:])
        del self._entries[position:]
        self.persisted_index = min(self.persisted_index, index - 1)

    def _cut_to(self, index: int) -> None:
        position = index - self._entries[0].index
        if not 0 <= position < len(self._entries):
            raise AssertionError(f"compaction to {index}, which is not in the log")
        self.kept_bytes -= sum(len(entry.command) for entry in self._entries[:position])
        del self._entries[:position]

    def _restart_at(self, base: Entry) -> None:
        self._entries[:] = [base]
        self.kept_bytes = len(base.command)
        self.persisted_index = base.index
