"""Answers of a competing group's members: acks with effects, nacks, extensions, dead letters.

An answer counts while its lease lasts, and only the first one: whoever is late, was replaced, or
says it twice is told `fenced`, even if nobody else has the event yet. So an answer may be sent
again when the cluster's word on it was lost: what it did is not done twice.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from pubsub.apply import Apply
from pubsub.consumer_groups import competing_tables as tables
from pubsub.consumer_groups.competing_leases import failed
from pubsub.consumer_groups.competing_tables import CompetingGroup, Pending
from pubsub.consumer_groups.effect_unit import apply_unit
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import (
    CHECKPOINT_EFFECTS_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    REDELIVERY_DELAY_MS_MAX,
    SETTLE_ITEMS_MAX,
)
from pubsub.rejection import Rejection

_NACKED: Final = "nacked"


def settle(
    apply: Apply, group: Any, member: Any, items: Any, effects: Any
) -> list[list[Any]] | Rejection:
    """Answer for leased events. `items` is `[[revision, token, verdict, argument], ...]`, in order:

    - `"ack"`, nil: completed;
    - `"nack"`, nil or `[delay_ms | nil, error | nil]`: to be delivered again, after the delay or
      else the group's backoff; after the last of `max_deliveries` a dead letter;
    - `"extend"`, lease_ms | nil: the lease of this event ends so much from now, never sooner;
    - `"dead"`, error text: a dead letter at once.

    `effects` is `[[revision, [[operation, args], ...]], ...]`, each for an event acked here; they
    are applied with the ack or not at all. A letter that finds the list full waits for room.

    Returns `[[revision, code, detail], ...]` of what was refused: `fenced`, or the code of refused
    effects, whose event has had no effect and is a dead letter.
    """
    problem = _problem_of_items(items)
    if problem is not None:
        return problem
    units = _parse_effects(effects, items)
    if isinstance(units, Rejection):
        return units
    row = tables.load(apply, group)
    if row is None:
        return tables.not_competing(apply.connection, group)
    leases = _Leases(apply, row, member)
    refused: list[list[Any]] = []
    for revision, token, verdict, argument in items:
        if verdict == "extend":
            lease_ms = row.settings.lease_ms if argument is None else argument
            event = leases.extend(token, revision, apply.elapsed_ms + lease_ms)
        else:
            event = leases.take(token, revision)
        if event is None:
            refused.append([revision, "fenced", f"the lease under token {token} is over"])
        elif verdict == "ack":
            unit = units.get(revision)
            result = None if unit is None else apply_unit(apply, revision, unit)
            if isinstance(result, Rejection):
                refused.append([revision, result.code, result.detail])
                row.bury(event, f"effects refused: {result.code}: {result.detail}")
            else:
                row.complete(event)
        elif verdict == "nack":
            delay_ms, error = argument or (None, None)
            failed(apply, row, event, _NACKED if error is None else error, delay_ms)
        elif verdict == "dead":
            row.bury(event, argument)
    leases.store()
    row.store()
    return refused


class _Lease:
    """A row of leases while it is answered for."""

    __slots__ = ("deadline_ms", "events", "id")

    def __init__(self, identity: int | None, deadline_ms: int, events: dict[int, Pending]) -> None:
        self.id = identity  # None: not written yet
        self.deadline_ms = deadline_ms
        self.events = events


class _Leases:
    """The leases of one member that answers are for. A fetch makes one; extensions part it."""

    __slots__ = ("_apply", "_changed", "_group", "_leases", "_member")

    def __init__(self, apply: Apply, group: CompetingGroup, member: Any) -> None:
        self._apply = apply
        self._group = group
        self._member = member
        self._leases: dict[int, list[_Lease]] = {}  # by token
        self._changed: dict[tuple[int, int], _Lease] = {}  # by token and place among those

    def take(self, token: int, revision: int) -> Pending | None:
        """Take an event out of its lease; None when there is none that lasts. HOT."""
        leases = self._leases.get(token)
        if leases is None:
            leases = self._leases[token] = self._load(token)
        for place, lease in enumerate(leases):
            event = lease.events.pop(revision, None)
            if event is not None:
                self._changed[token, place] = lease
                self._group.in_flight -= 1
                return event
        return None

    def extend(self, token: int, revision: int, deadline_ms: int) -> Pending | None:
        """Move an event to a lease that ends at `deadline_ms`, unless its own ends later."""
        leases = self._leases.get(token)
        if leases is None:
            leases = self._leases[token] = self._load(token)
        for lease in leases:
            if revision in lease.events and lease.deadline_ms >= deadline_ms:
                return lease.events[revision]
        event = self.take(token, revision)
        if event is None:
            return None
        self._group.in_flight += 1
        ends = [lease.deadline_ms for lease in leases]
        if deadline_ms not in ends:
            ends.append(deadline_ms)
            leases.append(_Lease(None, deadline_ms, {}))
        place = ends.index(deadline_ms)
        leases[place].events[revision] = event
        self._changed[token, place] = leases[place]
        return event

    def store(self) -> None:
        """Write what changed."""
        for (token, _), lease in self._changed.items():
            events = list(lease.events.values())
            if lease.id is None:
                if events:
                    self._group.lease(self._member, token, lease.deadline_ms, events)
            else:
                tables.rewrite_lease(self._apply.connection, lease.id, events)

    def _load(self, token: int) -> list[_Lease]:
        if not isinstance(self._member, str):
            return []
        rows: list[Any] = self._apply.connection.execute(
            "SELECT id, deadline_ms, events FROM competing_leases"
            " WHERE group_id = ? AND token = ? AND member = ? AND deadline_ms > ? ORDER BY id",
            (self._group.id, token, self._member, self._apply.elapsed_ms),
        ).fetchall()
        return [
            _Lease(identity, deadline_ms, {e.revision: e for e in tables.unpack_events(blob)})
            for identity, deadline_ms, blob in rows
        ]


def _problem_of_items(items: Any) -> Rejection | None:
    """What is wrong with the list of answers. HOT."""
    if not isinstance(items, list | tuple) or len(items) > SETTLE_ITEMS_MAX:
        return malformed(f"items: a list of at most {SETTLE_ITEMS_MAX} is needed")
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 4:
            return malformed("an item is [revision, token, verdict, argument]")
        revision, token, verdict, argument = item
        if not is_count(revision) or not is_count(token):
            return malformed("revision and token are integers from 0")
        needed = _ARGUMENTS.get(verdict) if isinstance(verdict, str) else None
        if needed is None:
            return malformed("the verdict is ack, nack, extend or dead")
        is_valid, shape = needed
        if not is_valid(argument):
            return malformed(f"{verdict}: {shape} is needed")
    return None


def _is_nack(argument: Any) -> bool:
    if argument is None:
        return True
    if not isinstance(argument, list | tuple) or len(argument) != 2:
        return False
    delay_ms, error = argument
    return (delay_ms is None or (is_count(delay_ms) and delay_ms <= REDELIVERY_DELAY_MS_MAX)) and (
        error is None or isinstance(error, str)
    )


def _is_extension(argument: Any) -> bool:
    return argument is None or (is_count(argument, LEASE_MS_MIN) and argument <= LEASE_MS_MAX)


_ARGUMENTS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "ack": (lambda argument: argument is None, "nil"),
    "nack": (_is_nack, f"nil or [delay_ms up to {REDELIVERY_DELAY_MS_MAX} or nil, error or nil]"),
    "extend": (_is_extension, f"nil or a lease from {LEASE_MS_MIN} to {LEASE_MS_MAX} ms"),
    "dead": (lambda argument: isinstance(argument, str), "the error"),
}


def _parse_effects(effects: Any, items: Sequence[Any]) -> dict[int, Any] | Rejection:
    """The effects by revision, each of an event that is acked."""
    if not isinstance(effects, list | tuple) or len(effects) > CHECKPOINT_EFFECTS_MAX:
        return malformed(f"effects: a list of at most {CHECKPOINT_EFFECTS_MAX} is needed")
    units: dict[int, Any] = {}
    if not effects:
        return units
    acked = {item[0]: None for item in items if item[2] == "ack"}
    for effect in effects:
        if not isinstance(effect, list | tuple) or len(effect) != 2:
            return malformed("effects: a list of [revision, operations] is needed")
        revision, operations = effect
        if not is_count(revision) or revision not in acked:
            return malformed("effects: each is of an event that is acked here")
        if revision in units:
            return malformed(f"effects: event {revision} is named twice")
        units[revision] = operations
    return units
