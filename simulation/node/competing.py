"""What a competing group may do: no event is lost between its tables, none is in two of them, and
one that a member has leaves only by an answer under that very lease.

Judged from the tables before and after, as `simulation.node.cursors` does for partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import apsw
import msgpack

from simulation.violation import Violation

_GROUPS = "SELECT group_id, cursor, in_flight, waiting, dying, held FROM competing_groups"
_LEASES = "SELECT token, events FROM competing_leases WHERE group_id = ? ORDER BY id"
_WAITING = "SELECT revision, due_ms FROM competing_waiting WHERE group_id = ? ORDER BY revision"
_KEYS = "SELECT order_key, revision FROM competing_keys WHERE group_id = ? ORDER BY 1, 2"
_LETTERS = "SELECT revision FROM dead_letters WHERE group_id = ? ORDER BY revision"
_OLDEST = "SELECT coalesce(min(first_revision), 1) FROM event_batches"


class Competing(NamedTuple):
    """The rows of a competing group, as far as they are judged."""

    cursor: int
    tokens: Mapping[int, int]  # of each event that was read and is not completed: 0 if not leased
    letters: Mapping[int, None]
    oldest: int  # what retention left of the log


class Answer(NamedTuple):
    """One answer in a `group.settle`."""

    revision: int
    token: int


def read_competing(connection: apsw.Connection) -> dict[int, Competing]:
    """All competing groups of a state; a Violation if the tables of one do not fit together."""
    return {
        identity: _read(connection, identity, cursor, tuple(counts))
        for identity, cursor, *counts in _rows(connection, _GROUPS)
    }


def _rows(connection: apsw.Connection, statement: str, *arguments: int) -> Iterable[Any]:
    return connection.execute(statement, arguments)


def _read(
    connection: apsw.Connection, identity: int, cursor: int, counts: tuple[int, ...]
) -> Competing:
    where = f"competing group {identity}"
    leased: list[tuple[int, int]] = []
    for token, blob in _rows(connection, _LEASES, identity):
        leased += [(event[0], token) for event in msgpack.unpackb(blob)]
    waiting = list(_rows(connection, _WAITING, identity))
    dying = sum(due_ms is None for _, due_ms in waiting)
    places = [*leased, *((revision, 0) for revision, _ in waiting)]
    firsts: dict[str, int] = {}
    held: list[int] = []
    for key, revision in _rows(connection, _KEYS, identity):
        if firsts.setdefault(key, revision) != revision:
            held.append(revision)
    tokens = dict([*places, *((revision, 0) for revision in held)])
    if len(tokens) != len(places) + len(held):
        raise Violation(f"{where} has an event in two places")
    if not all(revision in tokens for revision in firsts.values()):
        raise Violation(f"{where} waits behind an event that nobody has")
    found = (len(leased), len(waiting) - dying, dying, len(held))
    if found != counts:
        raise Violation(f"{where} counts {counts} leased, waiting, dying and held: {found}")
    if tokens and max(tokens) > cursor:
        raise Violation(f"{where} has read {max(tokens)}, and its cursor is at {cursor}")
    letters = {revision: None for (revision,) in _rows(connection, _LETTERS, identity)}
    return Competing(cursor, tokens, letters, int(connection.execute(_OLDEST).get))


def judge_competing(
    name: str,
    last_token: int,
    before: Competing,
    after: Competing,
    answers: Iterable[Answer],
    skips: Mapping[int, None],
) -> None:
    """Hold a step against what it was allowed to do; `last_token` is the group's before it."""
    if after.cursor < before.cursor:
        raise Violation(f"the cursor of {name} went from {before.cursor} back to {after.cursor}")
    for revision, token in after.tokens.items():
        if revision <= before.cursor and revision not in before.tokens:
            raise Violation(f"event {revision} of {name} was completed and is handed out again")
        had = before.tokens.get(revision, 0)
        if token and token != had and token <= last_token:
            raise Violation(f"event {revision} of {name} was leased under the old token {token}")
    given: dict[int, list[int]] = {}
    for answer in answers:
        given.setdefault(answer.revision, []).append(answer.token)
    for revision, had in before.tokens.items():
        if revision in after.tokens or revision in after.letters or revision in skips:
            continue
        if revision < after.oldest:  # retention took it
            continue
        # a later lease may have come within the same step
        if not any(
            token and (token == had or token > last_token) for token in given.get(revision, ())
        ):
            raise Violation(f"event {revision} of {name} is completed, and nobody answered for it")
