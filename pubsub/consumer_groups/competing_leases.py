"""Leases of competing groups that end otherwise than by an answer, and what comes of their events.

    a lease ran out, or its member's session did     it counts as a failed delivery
    its member joined again: a new run of a process  so, too: the former run may have died of it
    its member left                                  it does not count, and nothing is waited for

A lease is over at its deadline and not when `lease.expire` clears it away: what its member says
from then on is refused, whether or not somebody else has the event by then.
"""

from typing import Any, Final

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import competing_tables as tables
from pubsub.consumer_groups.competing_tables import CompetingGroup, Pending
from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.limits import LEASES_ENDED_EVENTS_MAX
from pubsub.rejection import Rejection

LEASE_ENDED: Final = "the lease ended without an answer"


def expire(apply: Apply, up_to_elapsed_ms: Any) -> int | Rejection:
    """Give back what was leased until then: one bounded slice; returns how many events.

    `next_due` tells whether more is due.
    """
    if not is_count(up_to_elapsed_ms):
        return malformed("up_to_elapsed_ms: an integer from 0 is needed")
    execute = apply.connection.execute
    groups: dict[int, CompetingGroup] = {}
    ended = 0
    while ended < LEASES_ENDED_EVENTS_MAX:
        row = execute(
            "SELECT id, group_id, member, events FROM competing_leases WHERE deadline_ms <= ?"
            " ORDER BY deadline_ms, id LIMIT 1",
            (min(up_to_elapsed_ms, apply.elapsed_ms),),
        ).fetchone()
        if row is None:
            break
        identity, group_id, member, blob = row
        group = groups.get(group_id)
        if group is None:
            group = groups[group_id] = tables.load_by_id(apply, group_id)
        execute("DELETE FROM competing_leases WHERE id = ?", (identity,))
        events = tables.unpack_events(blob)
        group.in_flight -= len(events)
        ended += len(events)
        for event in events:
            if member is None:
                group.wait(event, event.attempt - 1, apply.elapsed_ms)
            else:
                failed(apply, group, event, LEASE_ENDED)
    for group in groups.values():
        group.store()
    return ended


def next_due(connection: apsw.Connection) -> int | None:
    """When the next lease ends, on the elapsed clock; None when nothing is leased."""
    value = connection.execute("SELECT min(deadline_ms) FROM competing_leases").get
    return None if value is None else int(value)


def failed(
    apply: Apply, group: CompetingGroup, event: Pending, error: str, delay_ms: int | None = None
) -> None:
    """A delivery failed: the event goes out again, or was given its last chance."""
    settings = group.settings
    if event.attempt >= settings.max_deliveries:
        group.bury(event, error)
        return
    if delay_ms is None:
        backoff = settings.backoff_ms
        delay_ms = backoff[min(event.attempt, len(backoff)) - 1] if backoff else 0
    group.wait(event, event.attempt, apply.elapsed_ms + delay_ms)


def take(apply: Apply, group: CompetingGroup, revision: int) -> Pending | None:
    """Take an event out of those that are leased, wait or die; None if it is none of them."""
    execute = apply.connection.execute
    row = execute(
        "SELECT revision, attempt, size_bytes, order_key, due_ms FROM competing_waiting"
        " WHERE group_id = ? AND revision = ?",
        (group.id, revision),
    ).fetchone()
    if row is not None:
        *event, due_ms = row
        group.take_waiting([revision])
        group.waiting -= due_ms is not None
        group.dying -= due_ms is None
        return Pending(*event)
    rows: list[Any] = execute(
        "SELECT id, events FROM competing_leases WHERE group_id = ? AND first_revision <= ?",
        (group.id, revision),
    ).fetchall()
    for identity, blob in rows:
        leased = {event.revision: event for event in tables.unpack_events(blob)}
        found = leased.pop(revision, None)
        if found is not None:
            tables.rewrite_lease(apply.connection, identity, list(leased.values()))
            group.in_flight -= 1
            return found
    return None


def end(apply: Apply, group_id: int, member: str, *, left: bool) -> None:
    """End what `member` has leased in a group; `expire`, which the caller calls, does the rest."""
    keep = "NULL" if left else "member"
    apply.connection.execute(
        f"UPDATE competing_leases SET deadline_ms = ?, member = {keep}"
        " WHERE group_id = ? AND member = ?",
        (apply.elapsed_ms, group_id, member),
    )
