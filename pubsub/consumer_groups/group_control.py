"""What is done to a group that runs: pausing it, getting it past one event, and letting retention
wait for it or not.

A group stands still for two reasons that know nothing of each other: somebody paused it, or whoever
it belongs to holds it (a handler that is disabled holds its groups). It runs when neither is so.
"""

from typing import Any

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups import competing_leases, competing_tables, group_settings
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.assignment import partition_of
from pubsub.consumer_groups.competing_tables import CompetingGroup
from pubsub.consumer_groups.group_tables import Group, is_count, malformed, unknown_group
from pubsub.limits import COMPLETIONS_MAX
from pubsub.rejection import Rejection


def pause(apply: Apply, group: Any) -> bool | Rejection:
    """Hand out nothing of this group until `resume`; returns whether that is new.

    What members have in hand they may finish: nothing is fenced, and nothing is lost.
    """
    return _change(apply, group, "INSERT OR IGNORE INTO group_pauses VALUES(:id, :now_ms)")


def resume(apply: Apply, group: Any) -> bool | Rejection:
    """End the pause; returns whether there was one. A group that is held stands still for that."""
    return _change(apply, group, "DELETE FROM group_pauses WHERE group_id = :id")


def hold(apply: Apply, group: Any) -> bool | Rejection:
    """As `pause`, by whoever the group belongs to, until `release`."""
    return _change(apply, group, "INSERT OR IGNORE INTO group_holds VALUES(:id, :now_ms)")


def release(apply: Apply, group: Any) -> bool | Rejection:
    """End the hold; returns whether there was one. A group that is paused stands still for that."""
    return _change(apply, group, "DELETE FROM group_holds WHERE group_id = :id")


def protect(apply: Apply, group: Any, protected: bool) -> bool | Rejection:
    """Let retention wait for a group, or not; returns whether that is new."""
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    settings = group_settings.load(apply.connection, row.id)
    if settings.protected == protected:
        return False
    group_settings.store(apply.connection, row.id, settings._replace(protected=protected))
    return True


def skip(apply: Apply, group: Any, revision: Any) -> bool | Rejection:
    """Complete one event without handling it; returns False if it was completed before.

    Whoever has it in hand is fenced: of a competing group for this event alone; of a partitioned
    one for its partition, whose owner begins again at the floor as after a seek.
    """
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    if not is_count(revision, 1) or revision > log.last_revision(apply.connection):
        return malformed("revision: one that is in the log is needed")
    competing = competing_tables.load(apply, group)
    if competing is None:
        return _skip_partitioned(apply, row, revision)
    return _skip_competing(apply, competing, revision)


def _change(apply: Apply, group: Any, statement: str) -> bool | Rejection:
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    apply.connection.execute(statement, {"id": row.id, "now_ms": apply.wall_ms})
    has_changed = apply.connection.changes() > 0
    if has_changed:
        tables.note_change(apply.connection)
    return has_changed


def _skip_partitioned(apply: Apply, row: Group, revision: int) -> bool | Rejection:
    connection = apply.connection
    event = log.event_at(connection, revision)
    if event is None:
        return Rejection("compacted", f"event {revision} was removed by retention")
    number = partition_of(event.topic if event.key is None else event.key, row.partitions)
    partition = tables.load_partitions(connection, row.id)[number]
    if revision <= partition.floor:
        return False
    skipped = _complete_above(apply, row.id, number, revision)
    if skipped is not True:
        return skipped
    tables.store_partitions(connection, row.id, [partition._replace(token=row.token + 1)])
    connection.execute(
        "UPDATE consumer_groups SET token = token + 1, completed = completed + 1 WHERE id = ?",
        (row.id,),
    )
    tables.note_change(connection)
    return True


def _skip_competing(apply: Apply, group: CompetingGroup, revision: int) -> bool | Rejection:
    if revision > group.cursor:
        skipped = _complete_above(apply, group.id, 0, revision)
        if skipped is not True:
            return skipped
        group.completed += 1
    elif not _skip_read(apply, group, revision):
        return False
    group.store()
    return True


def _skip_read(apply: Apply, group: CompetingGroup, revision: int) -> bool:
    """Complete an event up to the cursor; False if it is completed, or never was the group's."""
    event = competing_leases.take(apply, group, revision)
    if event is not None:
        group.complete(event)
        return True
    apply.connection.execute(
        "DELETE FROM competing_keys WHERE group_id = ? AND revision = ?", (group.id, revision)
    )
    held = apply.connection.changes()
    group.held -= held
    group.completed += held
    return held > 0


def _complete_above(apply: Apply, group_id: int, number: int, revision: int) -> bool | Rejection:
    """Note a completion above the floor of a partition; False if it stands there already."""
    execute = apply.connection.execute
    held = "FROM group_completions WHERE group_id = ? AND partition = ?"
    if execute(f"SELECT 1 {held} AND revision = ?", (group_id, number, revision)).get:
        return False
    if execute(f"SELECT count(*) {held}", (group_id, number)).get >= COMPLETIONS_MAX:
        return Rejection(
            "limit_exceeded", f"at most {COMPLETIONS_MAX} completions above a floor are kept"
        )
    execute("INSERT INTO group_completions VALUES(?, ?, ?)", (group_id, number, revision))
    return True
