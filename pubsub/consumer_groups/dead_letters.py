"""What can be done about events that a group gave up: look, edit, give back, throw away.

A letter stands under the revision at which the group gave up. When it is given back (redriven), an
event addressed to the group carries the original, as it was or as it was edited, and the letter is
gone with it: in the same entry, so it is in one of the two places at any time. To throw letters
away is `groups.discard`.
"""

from typing import Any, Final

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups import letter_copies
from pubsub.consumer_groups.addressing import meta_of_fact, redriven_data
from pubsub.consumer_groups.group_tables import is_count, malformed, unknown_group
from pubsub.consumer_groups.letter_copies import SCHEMA, Copy
from pubsub.events import GROUP_EVENT_REDRIVEN
from pubsub.limits import LETTER_COPIES_BYTES_MAX, READ_ROWS_MAX, REDRIVE_BYTES_MAX
from pubsub.rejection import Rejection

__all__ = ["SCHEMA", "edit", "listing", "redrive", "show"]

_SELECT: Final = "SELECT revision, partition, attempts, wall_ms, error FROM dead_letters WHERE "


def edit(
    apply: Apply, group: Any, revision: Any, payload: bytes, content_type: Any, headers: Any
) -> bool | Rejection:
    """Replace what a user published with what the group gets when the letter is redriven.

    The caller has checked the payload, the content type and the headers as those of any event.
    """
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    if not _is_held(apply.connection, row.id, revision):
        return _no_letter(group, revision)
    copy = letter_copies.find(apply.connection, row.id, revision)
    if copy is None:
        return _gone(group, revision)
    event = copy.event
    if event.is_system:
        return Rejection(
            "not_editable", f'an event of "{event.topic}" says what happened; edit what users sent'
        )
    data = (payload, content_type, headers, *event.data[3:])
    edited = Copy(event._replace(data=data), copy.redrives, True)
    if letter_copies.replace(apply.connection, row.id, revision, edited):
        return True
    return Rejection(
        "limit_exceeded", f'group "{group}": letters keep at most {LETTER_COPIES_BYTES_MAX} bytes'
    )


def redrive(apply: Apply, group: Any, revisions: Any) -> list[list[int]] | Rejection:
    """Give letters back to their group, in the order asked for.

    Returns `[[revision of the letter, revision of the new event], ...]`. A letter that is not
    named there was not redriven: there is none, its event is gone, or the bytes of one operation
    were used up (ask again).
    """
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    if not tables.are_revisions(revisions):
        return malformed(f"revisions: a list of at most {READ_ROWS_MAX} revisions is needed")
    redriven: list[list[int]] = []
    size = 0
    for revision in dict.fromkeys(revisions):
        if not _is_held(apply.connection, row.id, revision):
            continue
        copy = letter_copies.find(apply.connection, row.id, revision)
        if copy is None:
            continue
        size += copy.event.size_bytes
        if redriven and size > REDRIVE_BYTES_MAX:
            break
        original = copy.event
        data = redriven_data(row.name, original, copy.redrives + 1)
        meta = meta_of_fact(apply.meta, original)
        redriven.append([revision, apply.emit(GROUP_EVENT_REDRIVEN, original.key, data, meta)])
        tables.delete_letter(apply.connection, row.id, revision)
    apply.connection.execute(
        "UPDATE consumer_groups SET dead_held = dead_held - ? WHERE id = ?",
        (len(redriven), row.id),
    )
    return redriven


def listing(
    connection: apsw.Connection, group: str, after: int = 0, limit: int = READ_ROWS_MAX
) -> list[dict[str, Any]] | None:
    """A page of a group's letters by revision, without payloads; None if there is no such group."""
    row = tables.load_group(connection, group)
    if row is None:
        return None
    letters = connection.execute(
        _SELECT + "group_id = ? AND revision > ? ORDER BY revision LIMIT ?",
        (row.id, after, min(limit, READ_ROWS_MAX)),
    ).fetchall()
    return [_facts(connection, row.id, letter) for letter in letters]


def show(connection: apsw.Connection, group: str, revision: int) -> dict[str, Any] | Rejection:
    """One letter with its event (nil when nobody has it any more)."""
    row = tables.load_group(connection, group)
    if row is None:
        return unknown_group(group)
    letter = connection.execute(
        _SELECT + "group_id = ? AND revision = ?", (row.id, revision)
    ).fetchone()
    if letter is None:
        return _no_letter(group, revision)
    copy = letter_copies.find(connection, row.id, revision)
    event = None if copy is None else copy.event
    return {"group": group, **_facts(connection, row.id, letter), "event": event}


def _facts(connection: apsw.Connection, group_id: int, letter: Any) -> dict[str, Any]:
    revision, partition, attempts, wall_ms, error = letter
    event = letter_copies.outline(connection, group_id, revision)
    return {
        "revision": revision,
        "original_revision": event.original_revision if event else None,
        "topic": event.topic if event else None,
        "key": event.key if event else None,
        "partition": partition,
        "attempts": attempts,
        "redrives": event.redrives if event else None,
        "edited": event.edited if event else None,
        "wall_ms": wall_ms,
        "event_wall_ms": event.wall_ms if event else None,
        "size_bytes": event.size_bytes if event else None,
        "error": error,
    }


def _is_held(connection: apsw.Connection, group_id: int, revision: Any) -> bool:
    if not is_count(revision):
        return False
    found = connection.execute(
        "SELECT 1 FROM dead_letters WHERE group_id = ? AND revision = ?", (group_id, revision)
    ).get
    return found is not None


def _no_letter(group: Any, revision: Any) -> Rejection:
    shown = revision if is_count(revision) else "?"
    return Rejection("unknown_letter", f'group "{group}" holds no dead letter {shown}')


def _gone(group: Any, revision: Any) -> Rejection:
    return Rejection(
        "compacted", f'retention took the event of dead letter {revision} of group "{group}"'
    )
