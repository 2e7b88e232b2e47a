"""Bugs planted into whole nodes: a simulator that finds none of them would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cluster.machine
import cluster.node
import cluster.sessions
from cluster.raft.sqlite_log import SqliteLog
from pubsub.apply import Apply
from pubsub.rejection import Rejection
from simulation.node.world import World

SEEDS_MAX = 50

Plant = Callable[[pytest.MonkeyPatch], None]


def reads_ask_nobody(patch: pytest.MonkeyPatch) -> None:
    """A node answers from its own state without a ReadIndex round."""
    patch.setattr(cluster.node.Node, "read_index", lambda self, done: done(None))


def retries_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Every request counts as new, also the one that is made again."""
    recall = cluster.sessions.Sessions.recall

    def forgetful(self: cluster.sessions.Sessions, client_id: int, seq: int) -> Any:
        known = recall(self, client_id, seq)
        expired = isinstance(known, Rejection) and known.code == "session_expired"
        return known if expired else cluster.sessions.NEW

    patch.setattr(cluster.sessions.Sessions, "recall", forgetful)


def the_log_is_acknowledged_unwritten(patch: pytest.MonkeyPatch) -> None:
    """What was appended counts as persisted without a commit."""

    def commit(self: SqliteLog) -> None:
        self.term_dirty = False
        self.persisted_term = self.term
        self.persisted_index = self.last.index

    patch.setattr(SqliteLog, "commit", commit)


def votes_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Term and vote live in memory only."""

    def set_term(self: SqliteLog, term: int, voted_for: str | None) -> None:
        self.term, self.voted_for = term, voted_for

    patch.setattr(SqliteLog, "set_term", set_term)


def events_follow_the_change(patch: pytest.MonkeyPatch) -> None:
    """The event of a change goes into the log with the next one."""
    emit = Apply.emit
    late: dict[int, tuple[Any, ...]] = {}

    def emit_late(self: Apply, *event: Any) -> int:
        before = late.pop(id(self.connection), None)
        late[id(self.connection)] = event
        return self.revision if before is None else emit(self, *before)

    patch.setattr(Apply, "emit", emit_late)


def an_entry_is_applied_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The applied index on disk is one behind what was applied."""
    begin = cluster.machine.Machine.__init__

    def behind(self: cluster.machine.Machine, connection: Any) -> None:
        begin(self, connection)
        if self.applied_index > 2:
            self.applied_index -= 1

    patch.setattr(cluster.machine.Machine, "__init__", behind)


PLANTS: list[Plant] = [
    reads_ask_nobody,
    retries_are_forgotten,
    the_log_is_acknowledged_unwritten,
    votes_are_forgotten,
    events_follow_the_change,
    an_entry_is_applied_again_after_a_restart,
]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bounded number of seeds."""
    plant(monkeypatch)
    assert any(breaks(seed) for seed in range(SEEDS_MAX)), f"not caught in {SEEDS_MAX} seeds"


def breaks(seed: int) -> bool:
    """Whether a run breaks a promise, whichever; a plant that does not even run raises."""
    try:
        World(seed, 3).run()
    except Exception as problem:
        if isinstance(root(problem), (TypeError, NameError, AttributeError)):
            raise
        return True
    return False


def root(problem: BaseException) -> BaseException:
    """What lies inside of groups of one."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
