"""A Raft log that forgets what was not committed: the simulator's LogStore.

Passes the same tests as `raft.db`. `crash()` gives what a new process would find on the disk.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.raft.log import Entry, MemoryTail

FIRST = Entry(b"\x01", 1, 0)


class Platter:
    """What is durable: shared by the logs of one node's successive processes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = [FIRST]
        self.term = 0
        self.voted_for: str | None = None
        self.notes: dict[str, str | int | None] = {}

    @property
    def last_index(self) -> int:
        return self.entries[-1].index

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is there, or compacted: then the state has it."""
        position = index - self.entries[0].index
        if position < 0:
            return True
        return position < len(self.entries) and self.entries[position].term == term


class SimulatedLog(MemoryTail):
    """Changes gather in `_unsynced` and reach the platter with `commit`, all or none."""

    def __init__(
        self,
        platter: Platter,
        on_commit: Callable[[], bool] = lambda: True,
        on_cut: Callable[[list[Entry]], None] = lambda removed: None,
    ) -> None:
        super().__init__(list(platter.entries), platter.term, platter.voted_for)
        self._platter = platter
        self._on_commit = on_commit
        self._on_cut = on_cut  # told what a truncation takes off the platter
        self._unsynced: list[Callable[[Platter], None]] = []
        self.term_dirty = False

    @property
    def dirty(self) -> bool:
        return bool(self._unsynced)

    def append(self, entry: Entry) -> None:
        self._add(entry)
        self._unsynced.append(lambda platter: platter.entries.append(entry))

    def truncate(self, index: int) -> None:
        self._cut_from(index)

        def cut(platter: Platter) -> None:
            position = index - platter.entries[0].index
            self._on_cut(platter.entries[position:])
            del platter.entries[position:]

        self._unsynced.append(cut)

    def compact(self, index: int) -> None:
        self._cut_to(index)

        def cut(platter: Platter) -> None:
            del platter.entries[: index - platter.entries[0].index]

        self._unsynced.append(cut)

    def reset(self, base: Entry) -> None:
        self._restart_at(base)

        def restart(platter: Platter) -> None:
            self._on_cut([entry for entry in platter.entries if entry.index > base.index])
            platter.entries[:] = [base]

        self._unsynced.append(restart)

    def set_term(self, term: int, voted_for: str | None) -> None:
        self.term, self.voted_for, self.term_dirty = term, voted_for, True

        def vote(platter: Platter) -> None:
            platter.term, platter.voted_for = term, voted_for

        self._unsynced.append(vote)

    def note(self, name: str, value: str | int | None) -> None:
        def keep(platter: Platter) -> None:
            platter.notes[name] = value

        self._unsynced.append(keep)

    def noted(self, name: str) -> str | int | None:
        return self._platter.notes.get(name)

    def commit(self) -> None:
        # the hook is where a crash strikes; False is the planted bug of an fsync that lies
        if self._unsynced and self._on_commit():
            for change in self._unsynced:
                change(self._platter)
            self._unsynced = []
        self.term_dirty = False
        self.persisted_index = self.last.index

    def close(self) -> None:
        """Nothing to close."""
