"""Dead letters: the copy of the event, editing, giving back, throwing away."""

from typing import Any

import pytest

from pubsub import groups, limits, log, retention
from pubsub.apply import Apply
from pubsub.consumer_groups import addressing, checkpoint, dead_letters, letter_copies, membership
from pubsub.events import Event
from pubsub.rejection import Rejection
from pubsub.topics import Pattern
from tests.pubsub.small_machine import SmallMachine


@pytest.fixture
def machine() -> SmallMachine:
    """A group of one partition with a member, and four events."""
    machine = SmallMachine()
    machine.wall_ms = 1_000
    machine.do(groups.define, "g", ">", 1, "earliest", 1)
    machine.do(membership.join, "g", "m", 5_000)
    machine.publish("k1", "k2", "k3", "k4", meta=["ann", "order-7"])
    return machine


def die(machine: SmallMachine, *revisions: int, error: str = "no") -> None:
    """The group gives events up."""
    (assignment,) = groups.assignments(machine.connection, "m")
    letters = [[revision, 3, error] for revision in revisions]
    item = [0, assignment.token, max(revisions), [], False, 0, letters]
    assert machine.do(checkpoint.checkpoint, "g", "m", [item], []) == []


def listed(machine: SmallMachine, *columns: str) -> list[Any]:
    found = dead_letters.listing(machine.connection, "g")
    assert found is not None
    return [tuple(letter[column] for column in columns) for letter in found]


def event(machine: SmallMachine, revision: int) -> Event:
    found = log.event_at(machine.connection, revision)
    assert found is not None
    return found


def resolved(machine: SmallMachine, revision: int) -> addressing.Resolved:
    fact = event(machine, revision)
    found = addressing.resolve(fact, lambda number: log.event_at(machine.connection, number))
    assert found is not None
    return found


def code(result: object) -> str:
    assert isinstance(result, Rejection)
    return result.code


def trim_everything(machine: SmallMachine) -> None:
    machine.do(retention.set_cap, 1)
    machine.do(retention.trim, 1_000)


def test_a_letter_outlives_its_event(machine: SmallMachine) -> None:
    """Retention takes the event; the letter still has it, word for word."""
    before = event(machine, 2)
    die(machine, 2, 3)
    trim_everything(machine)
    assert log.event_at(machine.connection, 2) is None

    copy = letter_copies.find(machine.connection, 1, 2)

    assert copy is not None
    assert copy.event._replace(log_index=0, ordinal=0, size_bytes=0) == before._replace(
        log_index=0, ordinal=0, size_bytes=0
    )
    assert listed(machine, "revision", "topic", "key", "attempts", "redrives", "error") == [
        (2, "orders.created", "k2", 3, 0, "no"),
        (3, "orders.created", "k3", 3, 0, "no"),
    ]


def test_entries_of_version_1_keep_no_copy(machine: SmallMachine) -> None:
    """A node of the older release, which applies the same entry, has no such table."""
    machine._apply.version = 1
    die(machine, 2)
    machine._apply.version = 2

    assert machine.connection.execute("SELECT count(*) FROM dead_letter_events").get == 0
    assert listed(machine, "revision", "topic") == [(2, "orders.created")]  # from the log
    trim_everything(machine)
    assert listed(machine, "revision", "topic", "error") == [(2, None, "no")]
    assert machine.do(dead_letters.redrive, "g", [2]) == []
    assert code(machine.do(dead_letters.edit, "g", 2, b"", None, None)) == "compacted"


def test_a_redrive_gives_the_original_back_to_its_group_alone(machine: SmallMachine) -> None:
    """The letter is gone with the same entry, and what the group gets is the event as it was."""
    original = event(machine, 2)
    die(machine, 2)

    assert machine.do(dead_letters.redrive, "g", [2, 9], meta=["bob"]) == [[2, 5]]

    fact = event(machine, 5)
    assert (fact.topic, fact.key, fact.actor) == ("hooks.group.event_redriven", "k2", "bob")
    assert (fact.correlation_id, fact.causation_id) == ("order-7", 2)
    assert addressing.concerns(fact, "g", Pattern("nothing.at.all"))
    assert not addressing.concerns(fact, "h", Pattern(">"))
    assert addressing.original_revision(fact) == 2
    found = resolved(machine, 5)
    assert (found.replayed, found.redrives) == (True, 1)
    assert found.event._replace(log_index=0, ordinal=0, size_bytes=0) == original._replace(
        log_index=0, ordinal=0, size_bytes=0
    )
    assert listed(machine, "revision") == []
    described = groups.describe(machine.connection, "g")
    assert described is not None
    assert (described["dead"], described["dead_held"]) == (1, 0)


def test_what_dies_again_is_still_the_original(machine: SmallMachine) -> None:
    """The second letter stands where the group gave up, and counts the redrives."""
    die(machine, 2)
    machine.do(dead_letters.redrive, "g", [2])
    die(machine, 5, error="again")
    columns = ("revision", "original_revision", "topic", "key", "redrives", "error")
    assert listed(machine, *columns) == [(5, 2, "orders.created", "k2", 1, "again")]

    machine.do(dead_letters.redrive, "g", [5])

    assert resolved(machine, 6).redrives == 2
    assert resolved(machine, 6).event.revision == 2


def test_what_comes_again_to_another_group_dies_as_the_fact(machine: SmallMachine) -> None:
    """A group that was told of a redrive as such, and not given the event, gives up just that."""
    machine.do(groups.define, "other", ">", 1, "earliest", 1)
    machine.do(membership.join, "other", "n", 5_000)
    die(machine, 2)
    machine.do(dead_letters.redrive, "g", [2])
    (assignment,) = groups.assignments(machine.connection, "n")
    item = [0, assignment.token, 5, [], False, 0, [[5, 1, "no"]]]
    assert machine.do(checkpoint.checkpoint, "other", "n", [item], []) == []

    (letter,) = dead_letters.listing(machine.connection, "other") or [{}]
    fact = "hooks.group.event_redriven"
    assert (letter["topic"], letter["original_revision"], letter["redrives"]) == (fact, 5, 0)


def test_an_edited_letter_goes_back_edited(machine: SmallMachine) -> None:
    """Payload, content type and headers change; topic, key and history do not."""
    die(machine, 3)

    assert machine.do(dead_letters.edit, "g", 3, b"mended", "text/plain", {"a": "b"}) is True

    assert listed(machine, "revision", "edited", "topic") == [(3, True, "orders.created")]
    machine.do(dead_letters.redrive, "g", [3])
    found = resolved(machine, 5).event
    assert (found.data, found.key, found.actor) == (
        (b"mended", "text/plain", {"a": "b"}),
        "k3",
        "ann",
    )
    assert event(machine, 3).data[0] == b""  # the log never changes


def test_a_fact_of_the_cluster_cannot_be_edited(machine: SmallMachine) -> None:
    """It says what happened."""

    def emit(apply: Apply) -> int:
        return apply.emit(2, "k", [1, 1], None)

    revision = machine.do(emit)
    die(machine, revision)

    assert code(machine.do(dead_letters.edit, "g", revision, b"", None, None)) == "not_editable"


def test_thrown_away_is_gone(machine: SmallMachine) -> None:
    """Discarding a letter, or its group, deletes the copy as well."""
    die(machine, 1, 2, 3)
    assert machine.do(groups.discard, "g", [1, 2, 9]) == 2
    held = machine.connection.execute("SELECT bytes FROM dead_letter_bytes").get
    copy = letter_copies.find(machine.connection, 1, 3)
    assert copy is not None
    assert held == copy.event.size_bytes

    machine.do(groups.remove, "g")

    kept = {table for table, rows in machine.dump() if rows}
    assert not kept & {"dead_letters", "dead_letter_events", "dead_letter_bytes"}


def test_copies_are_bounded(machine: SmallMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter without room for its event is kept, and has it as long as the log has."""
    monkeypatch.setattr(letter_copies, "LETTER_COPIES_BYTES_MAX", 50)
    die(machine, 1, 2)

    assert machine.connection.execute("SELECT count(*) FROM dead_letter_events").get == 1
    assert listed(machine, "revision", "key") == [(1, "k1"), (2, "k2")]
    before = machine.dump()

    def edit(apply: Apply) -> Any:
        return apply.atomically(lambda: dead_letters.edit(apply, "g", 1, b"x" * 100, None, None))

    assert code(machine.do(edit)) == "limit_exceeded"
    assert machine.dump() == before


def test_one_redrive_is_bounded(machine: SmallMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit any more waits for the next request; the first always fits."""
    monkeypatch.setattr(dead_letters, "REDRIVE_BYTES_MAX", 60)
    die(machine, 1, 2, 3)

    assert machine.do(dead_letters.redrive, "g", [1, 2, 3]) == [[1, 5]]
    assert machine.do(dead_letters.redrive, "g", [1, 2, 3]) == [[2, 6]]


def test_show_has_the_event(machine: SmallMachine) -> None:
    """One letter with everything that is known of it."""
    die(machine, 2)

    shown = dead_letters.show(machine.connection, "g", 2)

    assert isinstance(shown, dict)
    assert shown["event"].key == "k2"
    assert (shown["group"], shown["attempts"]) == ("g", 3)
    assert code(dead_letters.show(machine.connection, "g", 3)) == "unknown_letter"
    assert code(dead_letters.show(machine.connection, "q", 3)) == "unknown_group"
    assert dead_letters.listing(machine.connection, "q") is None


@pytest.mark.parametrize("revisions", [None, 5, ["1"], [-1], [1] * (limits.READ_ROWS_MAX + 1)])
def test_bad_arguments_change_nothing(machine: SmallMachine, revisions: Any) -> None:
    """A refusal, and the state is as before."""
    die(machine, 1)
    before = machine.dump()

    assert code(machine.do(dead_letters.redrive, "g", revisions)) == "malformed"
    assert code(machine.do(dead_letters.redrive, "q", [1])) == "unknown_group"
    assert code(machine.do(dead_letters.edit, "g", "1", b"", None, None)) == "unknown_letter"
    assert code(machine.do(dead_letters.edit, "q", 1, b"", None, None)) == "unknown_group"
    assert machine.dump() == before
