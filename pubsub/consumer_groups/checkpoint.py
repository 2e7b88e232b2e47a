"""The operation that moves a group forward: completions, dead letters and effects in one command.

Everything in a checkpoint happens together or not at all. It is refused as a whole unless the
member owns every partition that it names under the very token that it names: that is the fence
against a member that was paused and does not know yet that it has a successor.
"""

from typing import Any, Final, NamedTuple

import apsw

from pubsub.apply import Apply
from pubsub.consumer_groups import group_tables as tables
from pubsub.consumer_groups.assignment import Partition
from pubsub.consumer_groups.effect_unit import apply_unit
from pubsub.consumer_groups.group_tables import Group, Letter, is_count, malformed, unknown_group
from pubsub.limits import (
    CHECKPOINT_EFFECTS_MAX,
    COMPLETIONS_MAX,
    DEAD_LETTERS_MAX,
    EXECUTED_MAX,
    PARTITIONS_MAX,
    SKIPPED_MAX,
)
from pubsub.rejection import Rejection

REFUSED: Final = "effects refused: "  # the error of such a dead letter begins so
_OLDER_ROW_ITEMS_MAX: Final = {1: 7, 2: 8}  # what a partition may have had, by entry version


class Executed(NamedTuple):
    """An attempt that succeeded, of a member that wants it told."""

    revision: int  # of a batch that of the newest event
    attempts: int
    duration_ms: int  # of the last attempt
    events: int  # more than one: a batch


class _Progress(NamedTuple):
    """What a checkpoint says about one partition."""

    partition: int
    token: int
    floor: int
    done: dict[int, None]
    release: bool
    completed_count: int
    letters: list[Letter]
    skipped: list[Letter]
    executed: list[Executed]

    def completes(self, revision: int) -> bool:
        return revision <= self.floor or revision in self.done


class _Unit(NamedTuple):
    """What one event caused: operations that are applied together or not at all."""

    partition: int
    revision: int
    operations: Any
    others: tuple[int, ...] = ()  # of the batch that the event was handled in

    @property
    def revisions(self) -> tuple[int, ...]:
        return (self.revision, *self.others)


class Outcome(NamedTuple):
    """What a checkpoint did beyond moving forward."""

    refused: list[list[Any]]  # [[partition, revision, code, detail], ...]
    letters: list[Letter]  # events that became dead letters
    skipped: list[Letter]  # events that were given up and are none
    executed: list[Executed]  # what its members want told of those that were handled


class _Stored(NamedTuple):
    """A partition as it was before the checkpoint."""

    row: Partition
    completions: dict[int, None]

    def completed(self, revision: int) -> bool:
        return revision <= self.row.floor or revision in self.completions


def checkpoint(
    apply: Apply, group: Any, member: Any, partitions: Any, effects: Any
) -> list[list[Any]] | Rejection:
    """Record progress of `member` in `group` and apply what its handlers returned.

    `partitions` is a list of `[partition, token, floor, done, release, completed_count, dead]`:
    every event up to `floor` and those in `done` are completed. `completed_count` counts those that
    were handled since the last checkpoint; `dead` lists those that were given up instead, as
    `[revision, attempts, error]`. `release` gives up a partition that another member waits for.
    `effects` is a list of `[partition, revision, [[operation, args], ...]]`, each for an event that
    this checkpoint completes. What is known already changes nothing: floors never go back, effects
    of an event that was completed before are left out, and so a checkpoint whose answer was lost
    may be sent again.

    Returns `[[partition, revision, code, detail], ...]`: effects that were refused. Such an event
    has had no effect at all and is a dead letter.

    In entries of version 2 a partition may have an eighth item: those that were given up without
    becoming dead letters, listed as `dead` is. Effects may have a fourth: the other events of the
    partition that were handled together with theirs, and become dead letters together with it. In
    entries of version 3 a partition may have a ninth: `[revision, attempts, duration_ms, events]`
    of attempts at events that it completes. What is made of those is for the caller of `record`.
    """
    outcome = record(apply, group, member, partitions, effects)
    return outcome if isinstance(outcome, Rejection) else outcome.refused


def record(
    apply: Apply, group: Any, member: Any, partitions: Any, effects: Any
) -> Outcome | Rejection:
    """`checkpoint`, and what became of the events."""
    row = tables.load_group(apply.connection, group)
    if row is None:
        return unknown_group(group)
    progress = _parse_progress(partitions, apply.version)
    if isinstance(progress, Rejection):
        return progress
    units = _parse_effects(effects, progress, apply.version)
    if isinstance(units, Rejection):
        return units
    stored = _load(apply.connection, row.id, progress)
    problem = _refusal(apply, row, member, progress, stored, units)
    if problem is not None:
        return problem

    refused = _apply_effects(apply, units, stored)
    letters = [
        (item.partition, letter)
        for item in progress.values()
        for letter in item.letters
        if not stored[item.partition].completed(letter.revision)
    ]
    for partition, revision, code, detail in refused:
        letters.append((partition, Letter(revision, 1, f"{REFUSED}{code}: {detail}")))
    held = tables.store_letters(apply, row.id, letters)
    token = _store_progress(apply.connection, row, progress, stored)
    completed = -len(refused)
    for item in progress.values():
        if _advances(item, stored[item.partition]):
            completed += item.completed_count
    apply.connection.execute(
        "UPDATE consumer_groups SET token = ?, completed = completed + ?, dead = dead + ?,"
        " dead_held = dead_held + ? WHERE id = ?",
        (token, max(0, completed), len(letters), held, row.id),
    )
    skipped = [
        letter
        for item in progress.values()
        for letter in item.skipped
        if not stored[item.partition].completed(letter.revision)
    ]
    without = dict.fromkeys(revision for _, revision, _, _ in refused)
    executed = [
        each
        for item in progress.values()
        for each in item.executed
        if each.revision not in without and not stored[item.partition].completed(each.revision)
    ]
    return Outcome(refused, [letter for _, letter in letters], skipped, executed)


def _refusal(
    apply: Apply,
    row: Group,
    member: Any,
    progress: dict[int, _Progress],
    stored: dict[int, _Stored],
    units: list[_Unit],
) -> Rejection | None:
    """Why the whole checkpoint is refused, or None."""
    letters = sum(len(unit.revisions) for unit in units)
    for item in progress.values():
        before = stored.get(item.partition)
        owner = before.row.owner if before else None
        if before is None or owner is None or (owner, before.row.token) != (member, item.token):
            return Rejection(
                "fenced", f'partition {item.partition} of group "{row.name}" has another owner now'
            )
        newest = max([item.floor, *item.done, *(letter.revision for letter in item.letters)])
        if newest > apply.revision:
            return malformed(f"revision {newest} is not in the log yet")
        floor = max(item.floor, before.row.floor)
        above = dict.fromkeys(r for r in (*before.completions, *item.done) if r > floor)
        if len(above) > COMPLETIONS_MAX:
            return Rejection(
                "limit_exceeded", f"at most {COMPLETIONS_MAX} completions above a floor are kept"
            )
        letters += len(item.letters)
    if letters and row.dead_held + letters > DEAD_LETTERS_MAX:
        # The log keeps what the list cannot: the group waits until somebody makes room.
        return Rejection(
            "dead_letters_full", f'group "{row.name}" holds {row.dead_held} dead letters'
        )
    return None


def _advances(item: _Progress, before: _Stored) -> bool:
    """False for a checkpoint that was applied before: what it counts is counted."""
    return item.floor > before.row.floor or not all(map(before.completed, item.done))


def _apply_effects(apply: Apply, units: list[_Unit], stored: dict[int, _Stored]) -> list[list[Any]]:
    """Run the effects of events that were not completed before; returns the refused ones."""
    refused: list[list[Any]] = []
    for unit in units:
        if stored[unit.partition].completed(unit.revision):
            continue
        result = apply_unit(apply, unit.revision, unit.operations)
        if isinstance(result, Rejection):
            refused += [
                [unit.partition, revision, result.code, result.detail]
                for revision in unit.revisions
            ]
    return refused


def _load(
    connection: apsw.Connection, group_id: int, progress: dict[int, _Progress]
) -> dict[int, _Stored]:
    """The named partitions as they are, without those that do not exist."""
    stored: dict[int, _Stored] = {}
    for number in progress:
        row = connection.execute(
            "SELECT partition, owner, token, next_owner, floor FROM group_partitions"
            " WHERE group_id = ? AND partition = ?",
            (group_id, number),
        ).fetchone()
        if row is not None:
            revisions = connection.execute(
                "SELECT revision FROM group_completions WHERE group_id = ? AND partition = ?"
                " ORDER BY revision",
                (group_id, number),
            )
            stored[number] = _Stored(Partition(*row), {revision: None for (revision,) in revisions})
    return stored


def _store_progress(
    connection: apsw.Connection,
    group: Group,
    progress: dict[int, _Progress],
    stored: dict[int, _Stored],
) -> int:
    """Write floors, completions and releases; returns the group's last token."""
    token = group.token
    changed: list[Partition] = []
    added: list[tuple[int, int, int]] = []
    for item in progress.values():
        before = stored[item.partition]
        after = before.row._replace(floor=max(item.floor, before.row.floor))
        if before.completions and after.floor > before.row.floor:
            connection.execute(
                "DELETE FROM group_completions WHERE group_id = ? AND partition = ?"
                " AND revision <= ?",
                (group.id, item.partition, after.floor),
            )
        for revision in item.done:
            if revision > after.floor and revision not in before.completions:
                added.append((group.id, item.partition, revision))
        if item.release and after.next_owner is not None:
            token += 1
            after = after._replace(owner=after.next_owner, token=token, next_owner=None)
        if after != before.row:
            changed.append(after)
    if added:
        connection.executemany("INSERT INTO group_completions VALUES(?, ?, ?)", added)
    tables.store_partitions(connection, group.id, changed)
    if token != group.token:
        tables.note_change(connection)
    return token


def _parse_progress(partitions: Any, version: int) -> dict[int, _Progress] | Rejection:
    """The partitions of a checkpoint by number."""
    if not isinstance(partitions, list | tuple) or len(partitions) > PARTITIONS_MAX:
        return malformed(f"partitions: a list of at most {PARTITIONS_MAX} is needed")
    progress: dict[int, _Progress] = {}
    for item in partitions:
        if not isinstance(item, list | tuple) or not (
            7 <= len(item) <= _OLDER_ROW_ITEMS_MAX.get(version, 9)
        ):
            return malformed(
                "a partition is [partition, token, floor, done, release, completed_count, dead]"
            )
        number, token, floor, done, release, completed_count, dead = item[:7]
        skipped = item[7] if len(item) > 7 else ()
        if not all(map(is_count, (number, token, floor, completed_count))):
            return malformed("partition, token, floor and completed_count are integers from 0")
        if number in progress:
            return malformed(f"partition {number} is named twice")
        if not isinstance(done, list | tuple) or not all(map(is_count, done)):
            return malformed("done: a list of revisions is needed")
        if type(release) is not bool:
            return malformed("release: true or false is needed")
        if not isinstance(dead, list | tuple) or not all(map(_is_letter, dead)):
            return malformed("dead: a list of [revision, attempts, error] is needed")
        if not isinstance(skipped, list | tuple) or not all(map(_is_letter, skipped)):
            return malformed("skipped: a list of [revision, attempts, error] is needed")
        letters = [Letter(*letter) for letter in dead]
        if len(skipped) > SKIPPED_MAX:
            return Rejection("limit_exceeded", f"at most {SKIPPED_MAX} skipped events")
        passed_over = [Letter(*letter) for letter in skipped]
        executed = _parse_executed(item[8] if len(item) > 8 else ())
        if isinstance(executed, Rejection):
            return executed
        read = _Progress(
            number, token, floor, dict.fromkeys(done), release, completed_count, letters,
            passed_over, executed,
        )  # fmt: skip
        if not all(read.completes(letter.revision) for letter in letters):
            return malformed("dead: an event that is given up must be completed")
        if not all(read.completes(letter.revision) for letter in passed_over):
            return malformed("skipped: an event that is given up must be completed")
        named = dict.fromkeys(letter.revision for letter in passed_over)
        if len(named) < len(passed_over) or any(each.revision in named for each in letters):
            return malformed("skipped: an event is given up once")
        given_up = {**named, **dict.fromkeys(letter.revision for letter in letters)}
        if any(each.revision in given_up or not read.completes(each.revision) for each in executed):
            return malformed("executed: what was handled must be completed, and not given up")
        progress[number] = read
    if sum(len(item.skipped) for item in progress.values()) > SKIPPED_MAX:
        return Rejection("limit_exceeded", f"at most {SKIPPED_MAX} skipped events")
    told = [each.revision for item in progress.values() for each in item.executed]
    if len(told) > EXECUTED_MAX:
        return Rejection("limit_exceeded", f"at most {EXECUTED_MAX} executed events")
    if len(dict.fromkeys(told)) < len(told):
        return malformed("executed: an event is named once")
    return progress


def _parse_executed(value: Any) -> list[Executed] | Rejection:
    """What one partition says of attempts that succeeded."""
    if not isinstance(value, list | tuple):
        return malformed("executed: a list is needed")
    if len(value) > EXECUTED_MAX:
        return Rejection("limit_exceeded", f"at most {EXECUTED_MAX} executed events")
    for each in value:
        if not (
            isinstance(each, list | tuple)
            and len(each) == 4
            and all(map(is_count, each))
            and each[3] > 0
        ):
            return malformed("executed: [revision, attempts, duration_ms, events] is needed")
    return [Executed(*each) for each in value]


def _parse_effects(
    effects: Any, progress: dict[int, _Progress], version: int
) -> list[_Unit] | Rejection:
    """The effects of a checkpoint, each of an event that the checkpoint completes."""
    if not isinstance(effects, list | tuple) or len(effects) > CHECKPOINT_EFFECTS_MAX:
        return malformed(f"effects: a list of at most {CHECKPOINT_EFFECTS_MAX} is needed")
    units: list[_Unit] = []
    named: dict[int, None] = {}
    for item in effects:
        if not isinstance(item, list | tuple) or len(item) not in ((3,) if version < 2 else (3, 4)):
            return malformed("effects: a list of [partition, revision, operations] is needed")
        number, revision, operations = item[:3]
        others = item[3] if len(item) == 4 else ()
        if not is_count(number) or not is_count(revision):
            return malformed("effects: partition and revision are integers from 0")
        if not isinstance(others, list | tuple) or not all(map(is_count, others)):
            return malformed("effects: a list of revisions is needed for the rest of a batch")
        unit = _Unit(number, revision, operations, tuple(others))
        for each in unit.revisions:
            # An effect without its completion would be applied again by whoever handles the event
            # next.
            if number not in progress or not progress[number].completes(each):
                return malformed(f"effects: the checkpoint does not complete event {each}")
            if each in named:
                return malformed(f"effects: event {each} is named twice")
            named[each] = None
        units.append(unit)
    given_up = [each for item in progress.values() for each in (*item.letters, *item.skipped)]
    if any(letter.revision in named for letter in given_up):
        return malformed("effects: an event that is given up has none")
    return units


def _is_letter(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and is_count(value[0])
        and is_count(value[1])
        and isinstance(value[2], str)
    )
