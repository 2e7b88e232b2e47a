"""How groups are defined beyond their pattern, and what an operator does to one that runs."""

from typing import Any

import pytest

from pubsub import groups, limits
from pubsub.consumer_groups import competing
from pubsub.consumer_groups.assignment import partition_of
from pubsub.groups import Assignment
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 10_000
COMPETING = {"mode": "competing"}


@pytest.fixture
def machine() -> SmallMachine:
    machine = SmallMachine()
    machine.publish("k1", "k2", "k3")
    return machine


def define(machine: SmallMachine, options: Any, version: int = 1, partitions: int = 1) -> Any:
    return machine.do(groups.define, "g", "orders.>", partitions, "earliest", version, options)


def describe(machine: SmallMachine) -> dict[str, Any]:
    description = groups.describe(machine.connection, "g")
    assert description is not None
    return description


def code(result: Any) -> str | None:
    return result.code if isinstance(result, Rejection) else None


def test_what_is_left_out_is_the_default(machine: SmallMachine) -> None:
    """A description shows every option that has a meaning in the group's mode."""
    assert define(machine, {"mode": "competing", "backoff_ms": [5, 10]}) == 0

    description = describe(machine)
    assert description["mode"] == "competing"
    assert description["settings"] == {
        "mode": "competing",
        "protected": True,
        "lease_ms": 30_000,
        "max_deliveries": 5,
        "backoff_ms": [5, 10],
        "max_in_flight": 1_000,
        "ordered": False,
    }


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (7, "a map"),
        ({1: 2}, "are known"),
        ({"lease_msec": 5}, 'did you mean "lease_ms"'),
        ({"mode": "shared"}, "competing"),
        ({"mode": ["competing"]}, "competing"),
        ({"protected": 1}, "true or false"),
        ({"cooldown_ms": limits.COOLDOWN_MS_MAX + 1}, "cooldown_ms"),
        ({"lease_ms": 5_000}, "competing groups only"),
        ({**COMPETING, "cooldown_ms": 0}, "partitioned groups only"),
        ({**COMPETING, "lease_ms": 1}, "lease_ms"),
        ({**COMPETING, "lease_ms": None}, "lease_ms"),
        ({**COMPETING, "max_deliveries": 0}, "max_deliveries"),
        ({**COMPETING, "backoff_ms": 5}, "backoff_ms"),
        ({**COMPETING, "backoff_ms": [-1]}, "backoff_ms"),
        ({**COMPETING, "backoff_ms": [1] * 17}, "backoff_ms"),
        ({**COMPETING, "max_in_flight": 10_001}, "max_in_flight"),
        ({**COMPETING, "ordered": 0}, "ordered"),
    ],
)
def test_bad_options_are_told(machine: SmallMachine, options: Any, hint: str) -> None:
    """With what would be right, and nothing is written."""
    before = machine.dump()

    result = define(machine, options)

    assert code(result) == "malformed"
    assert hint in result.detail
    assert before == machine.dump()


def test_a_competing_group_has_one_partition(machine: SmallMachine) -> None:
    """It has nothing to divide."""
    assert code(define(machine, COMPETING, partitions=2)) == "malformed"


def test_options_change_with_the_version(machine: SmallMachine) -> None:
    """The same ones, or none, confirm a definition; others need a higher version."""
    define(machine, {**COMPETING, "lease_ms": 5_000})

    assert define(machine, {**COMPETING, "lease_ms": 5_000}) == 0
    assert define(machine, None) == 0
    assert code(define(machine, COMPETING)) == "definition_conflict"
    assert define(machine, None, version=2) == 0
    assert describe(machine)["settings"]["lease_ms"] == 5_000
    assert define(machine, COMPETING, version=3) == 0
    assert describe(machine)["settings"]["lease_ms"] == 30_000


def test_the_mode_is_for_ever(machine: SmallMachine) -> None:
    """A group that was defined without options is partitioned, and stays it."""
    define(machine, None)

    assert code(define(machine, COMPETING, version=2)) == "mode_fixed"
    assert define(machine, {"mode": "partitioned"}) == 0
    assert define(machine, {"protected": False}, version=2) == 0


def test_retention_waits_for_protected_groups_only(machine: SmallMachine) -> None:
    """Each with its pattern and the lowest of its floors."""
    define(machine, {"protected": False})
    assert groups.floor_min(machine.connection) is None
    machine.do(groups.define, "h", ">", 4, 3, 1)
    machine.do(groups.define, "c", "a.*", 1, "latest", 1, COMPETING)

    assert groups.protected_floors(machine.connection) == [("c", "a.*", 3), ("h", ">", 2)]
    assert groups.floor_min(machine.connection) == 2


@pytest.mark.parametrize(("wall_ms", "floor"), [(0, 0), (1, 3), (100, 3), (101, 4), (9_999, 4)])
def test_a_start_by_time(machine: SmallMachine, wall_ms: int, floor: int) -> None:
    """The first event of that time or later; a time to come means from now on."""
    define(machine, None)
    machine.wall_ms = 100
    machine.publish("k4")

    assert machine.do(groups.seek, "g", ["time", wall_ms]) == floor


def test_old_entries_know_no_time(machine: SmallMachine) -> None:
    """A release that knows less applies them, too, and must refuse the same."""
    define(machine, None)
    machine._apply.version = 1

    assert code(machine.do(groups.seek, "g", ["time", 0])) == "malformed"
    machine._apply.version = 2
    for start in (["time"], ["time", -1], ["when", 0], ["time", 0, 0]):
        assert code(machine.do(groups.seek, "g", start)) == "malformed"


def test_a_paused_group_hands_out_nothing(machine: SmallMachine) -> None:
    """Until it is resumed; what is in hand may be finished."""
    define(machine, COMPETING)
    machine.do(groups.join, "g", "a", TTL)
    token, *_ = machine.do(competing.fetch, "g", "a", 1, 1)

    assert machine.do(groups.pause, "g") is True
    assert machine.do(groups.pause, "g") is False
    assert describe(machine)["paused"] is True
    assert machine.do(competing.fetch, "g", "a", 1, 1) == [0, 0, []]
    assert machine.do(competing.settle, "g", "a", [[1, token, "ack", None]], []) == []
    assert machine.do(groups.resume, "g") is True
    assert machine.do(groups.resume, "g") is False
    assert machine.do(competing.fetch, "g", "a", 1, 1)[2] == [[2, 1]]


def test_owners_see_the_pause(machine: SmallMachine) -> None:
    """In their assignments, whose version rises with it."""
    define(machine, None)
    machine.do(groups.join, "g", "a", TTL)
    versions = [groups.assignments_version(machine.connection)]
    for operation, paused in ((groups.pause, True), (groups.resume, False)):
        machine.do(operation, "g")
        versions.append(groups.assignments_version(machine.connection))
        assert groups.assignments(machine.connection, "a") == [
            Assignment("g", 0, 1, 0, False, paused)
        ]
    assert versions == sorted(dict.fromkeys(versions))


def test_skipping_an_event_of_a_partition(machine: SmallMachine) -> None:
    """It is completed, and the partition's owner begins again under a new token."""
    define(machine, None, partitions=4)
    machine.do(groups.join, "g", "a", TTL)
    number = partition_of("k2", 4)

    assert machine.do(groups.skip, "g", 2) is True
    assert machine.do(groups.skip, "g", 2) is False

    assert groups.completions(machine.connection, "g", number) == [2]
    assert describe(machine)["completed"] == 1
    tokens = [a.token for a in groups.assignments(machine.connection, "a")]
    assert tokens[number] == 5
    item = [number, number + 1, 3, [], False, 1, []]
    assert code(machine.do(groups.checkpoint, "g", "a", [item], [])) == "fenced"
    item[1] = 5
    assert machine.do(groups.checkpoint, "g", "a", [item], []) == []
    assert machine.do(groups.skip, "g", 2) is False


def test_skipping_an_event_that_is_leased_or_unread(machine: SmallMachine) -> None:
    """Who has it is told that it is too late; who comes to it passes over it."""
    define(machine, COMPETING)
    machine.do(groups.join, "g", "a", TTL)
    token, *_ = machine.do(competing.fetch, "g", "a", 1, 1)

    assert machine.do(groups.skip, "g", 1) is True
    assert machine.do(groups.skip, "g", 2) is True

    answer = machine.do(competing.settle, "g", "a", [[1, token, "ack", None]], [])
    assert answer[0][1] == "fenced"
    assert machine.do(competing.fetch, "g", "a", 9, 9_999)[2] == [[3, 1]]
    assert describe(machine)["completed"] == 2
    assert machine.connection.execute("SELECT count(*) FROM group_completions").get == 0


@pytest.mark.parametrize("options", [None, COMPETING])
def test_what_is_skipped_ahead_is_bounded(machine: SmallMachine, options: Any) -> None:
    """As completions above a floor always are."""
    most = limits.COMPLETIONS_MAX
    machine.publish(*["k"] * most)
    define(machine, options)
    rows = [(1, 0, revision) for revision in range(1, most + 1)]
    machine.connection.executemany("INSERT INTO group_completions VALUES(?, ?, ?)", rows)

    assert code(machine.do(groups.skip, "g", most + 1)) == "limit_exceeded"
    assert machine.do(groups.skip, "g", most) is False


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        (groups.pause, ("nowhere",), "unknown_group"),
        (groups.resume, (7,), "unknown_group"),
        (groups.skip, ("nowhere", 1), "unknown_group"),
        (groups.skip, ("g", 0), "malformed"),
        (groups.skip, ("g", 4), "malformed"),
        (groups.skip, ("g", "1"), "malformed"),
    ],
)
def test_bad_input_changes_nothing(
    machine: SmallMachine, operation: Any, arguments: Any, expected: str
) -> None:
    """Refused by code."""
    define(machine, None)
    before = machine.dump()

    assert code(machine.do(operation, *arguments)) == expected
    assert before == machine.dump()


def test_what_retention_took_cannot_be_skipped(machine: SmallMachine) -> None:
    """Nobody knows its partition any more."""
    machine.publish("k4")
    define(machine, None)
    machine.connection.execute("DELETE FROM event_batches WHERE first_revision = 1")

    assert code(machine.do(groups.skip, "g", 1)) == "compacted"
