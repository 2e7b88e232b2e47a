"""Checkpoints: fencing, floors, completions, dead letters, effects."""

from typing import Any

import pytest

from pubsub import groups, limits
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 10_000


@pytest.fixture
def machine() -> SmallMachine:
    """A group of one partition, owned by "a" under token 1, and five events."""
    machine = SmallMachine()
    machine.publish("k", "k", "k", meta=["ann", "c-1", None, 3])
    machine.publish("k", "k")
    machine.do(groups.define, "g", ">", 1, "earliest", 1)
    machine.do(groups.join, "g", "a", TTL)
    return machine


def item(
    floor: int = 0,
    done: Any = (),
    *,
    token: Any = 1,
    release: Any = False,
    completed: Any = 0,
    dead: Any = (),
) -> list[Any]:
    return [0, token, floor, list(done), release, completed, dead]


def save(machine: SmallMachine, progress: Any, effects: Any = (), member: Any = "a") -> Any:
    return machine.do(groups.checkpoint, "g", member, [progress], effects, meta=["svc"])


def code(result: Any) -> str | None:
    return result.code if isinstance(result, Rejection) else None


def state(machine: SmallMachine) -> tuple[int, list[int]]:
    description = groups.describe(machine.connection, "g")
    assert description is not None
    floor: int = description["partitions"][0]["floor"]
    return floor, groups.completions(machine.connection, "g", 0)


def counters(machine: SmallMachine) -> tuple[int, int, int]:
    description = groups.describe(machine.connection, "g")
    assert description is not None
    return description["completed"], description["dead"], description["dead_held"]


def test_records_completions_above_the_floor(machine: SmallMachine) -> None:
    """Completions are kept one by one above the floor and dropped once it has passed them."""
    assert save(machine, item(1, [3, 4], completed=3)) == []
    assert state(machine) == (1, [3, 4])
    assert save(machine, item(3, [5], completed=2)) == []
    assert state(machine) == (3, [4, 5])
    assert save(machine, item(5)) == []
    assert state(machine) == (5, [])
    assert counters(machine) == (5, 0, 0)


def test_the_floor_never_goes_back(machine: SmallMachine) -> None:
    """An old checkpoint that arrives late under a valid token takes nothing back."""
    save(machine, item(3, [5]))

    assert save(machine, item(1, [2, 4])) == []
    assert state(machine) == (3, [4, 5])


def test_completing_again_is_harmless(machine: SmallMachine) -> None:
    """A checkpoint sent twice, because its answer was lost, is kept and counted once."""
    for progress in (item(0, [3, 3], completed=1), item(1, [3], completed=1)):
        assert save(machine, progress) == save(machine, progress) == []

    assert state(machine) == (1, [3])
    assert counters(machine) == (2, 0, 0)


@pytest.mark.parametrize(
    ("member", "token"), [("b", 1), ("a", 0), ("a", 2), (None, 1), (7, 1), ("nobody", 1)]
)
def test_a_foreign_or_old_token_is_fenced(machine: SmallMachine, member: Any, token: int) -> None:
    """Only the owner under its present token may complete anything."""
    before = machine.dump()

    assert code(save(machine, item(1, token=token), [[0, 1, [["put", ["x"]]]]], member)) == "fenced"
    assert before == machine.dump()


def test_nobody_owns_an_unowned_partition(machine: SmallMachine) -> None:
    """A member without a name is not the owner of what has no owner."""
    machine.do(groups.leave, "a")

    assert code(save(machine, item(1), member=None)) == "fenced"


def test_one_fenced_partition_refuses_all(machine: SmallMachine) -> None:
    """A checkpoint is refused as a whole if any of its partitions is not the member's."""
    machine.do(groups.define, "h", ">", 2, "earliest", 1)
    machine.do(groups.join, "h", "a", TTL)
    before = machine.dump()
    items = [[0, 1, 3, [], False, 0, []], [1, 9, 3, [], False, 0, []]]

    assert code(machine.do(groups.checkpoint, "h", "a", items, [])) == "fenced"
    items[1][0] = 5
    assert code(machine.do(groups.checkpoint, "h", "a", items, [])) == "fenced"
    assert before == machine.dump()


def test_effects_are_applied_once(machine: SmallMachine) -> None:
    """What an event caused is applied with its completion and never again."""
    effects = [[0, 2, [["put", ["x"]], ["put", ["y"]]]]]

    assert save(machine, item(0, [2]), effects) == []
    assert save(machine, item(0, [2]), effects) == []
    assert save(machine, item(5), effects) == []

    assert (machine.value("x"), machine.value("y")) == (1, 1)
    assert machine.revision == 7


def test_effects_carry_their_cause(machine: SmallMachine) -> None:
    """An effect names the event that caused it, one hop further, in the same correlation."""
    save(machine, item(4), [[0, 2, [["put", ["x"]]]], [0, 4, [["put", ["y"]]]]])

    assert machine.metas == [["svc", "c-1", 2, 4], ["svc", 4, 4, 1]]


def test_effects_of_an_event_that_is_gone_name_it_still(machine: SmallMachine) -> None:
    """If retention took the event under a hard cap, its effects are applied all the same."""
    machine.connection.execute("DELETE FROM event_batches")

    assert save(machine, item(4), [[0, 4, [["put", ["x"]]]]]) == []
    assert machine.metas == [["svc", 4, 4, 1]]


def test_refused_effects_are_a_unit_and_a_dead_letter(machine: SmallMachine) -> None:
    """One refused operation takes back all of its event's effects; other events are untouched."""
    effects = [
        [0, 1, [["put", ["x"]], ["burn", []]]],
        [0, 2, [["burn", []]]],
        [0, 3, [["put", ["y"]]]],
    ]

    refused = save(machine, item(3, completed=3), effects)

    assert refused == [
        [0, 1, "refused", "burn is always refused"],
        [0, 2, "refused", "burn is always refused"],
    ]
    assert (machine.value("x"), machine.value("y")) == (None, 1)
    assert machine.revision == 6
    assert state(machine) == (3, [])
    assert counters(machine) == (1, 2, 2)
    assert groups.dead_letters(machine.connection, "g")[0] == {
        "revision": 1,
        "partition": 0,
        "attempts": 1,
        "wall_ms": 0,
        "error": "effects refused: refused: burn is always refused",
    }


@pytest.mark.parametrize(
    "operations",
    [7, [7], [["put"]], [["put", "x"]], [[1, []]], [["put", ["x"]], None], {"put": ["x"]}],
)
def test_malformed_effects_are_refused_alone(machine: SmallMachine, operations: Any) -> None:
    """A handler that returns nonsense loses its event to the dead letters and stops nobody."""
    refused = save(machine, item(2), [[0, 1, operations], [0, 2, [["put", ["y"]]]]])

    assert [entry[2] for entry in refused] == ["malformed"]
    assert machine.value("y") == 1


def test_too_many_effects_of_one_event_are_refused(machine: SmallMachine) -> None:
    """The operations of one event are bounded like those of a batch."""
    operations = [["put", ["x"]]] * (limits.EFFECT_OPERATIONS_MAX + 1)

    assert save(machine, item(1), [[0, 1, operations]])[0][2] == "limit_exceeded"
    assert machine.value("x") is None


def test_a_chain_of_effects_ends(machine: SmallMachine) -> None:
    """A handler that writes what it watches is stopped after a number of hops, by name."""
    revision = machine.publish("k", meta=["ann", "c", None, limits.EFFECT_HOPS_MAX])

    refused = save(machine, item(revision), [[0, revision, [["put", ["x"]]]]])

    assert refused[0][2] == "hops_exceeded"


def test_dead_letters_are_kept_and_counted(machine: SmallMachine) -> None:
    """An event that was given up is completed and listed with its error until it is discarded."""
    machine.wall_ms = 77
    long = "é" * limits.ERROR_BYTES_MAX

    assert save(machine, item(1, [3], completed=1, dead=[[3, 5, long]])) == []

    (letter,) = groups.dead_letters(machine.connection, "g")
    assert (letter["revision"], letter["attempts"], letter["wall_ms"]) == (3, 5, 77)
    assert letter["error"] == "é" * (limits.ERROR_BYTES_MAX // 2)
    assert counters(machine) == (1, 1, 1)
    assert groups.dead_letters(machine.connection, "g", after_revision=3) == []
    assert machine.do(groups.discard, "g", [2, 3, 3]) == 1
    assert counters(machine) == (1, 1, 0)


def test_a_completed_event_does_not_die_again(machine: SmallMachine) -> None:
    """A late report of giving up an event that was completed is ignored."""
    save(machine, item(1, [3]))

    assert save(machine, item(1, [3], dead=[[1, 5, "no"], [3, 5, "no"]])) == []
    assert counters(machine) == (0, 0, 0)


def test_a_replayed_event_dies_in_its_old_place(machine: SmallMachine) -> None:
    """After a seek back a dead letter replaces the one of the same event."""
    save(machine, item(1, dead=[[1, 5, "no"]]))
    machine.do(groups.seek, "g", "earliest")

    assert save(machine, item(1, token=2, dead=[[1, 6, "still no"]])) == []
    assert [row["error"] for row in groups.dead_letters(machine.connection, "g")] == ["still no"]
    assert counters(machine) == (0, 2, 1)


def test_a_full_list_of_dead_letters_stops_the_group(machine: SmallMachine) -> None:
    """Without room for more the checkpoint is refused, and goes through once there is room."""
    most = limits.DEAD_LETTERS_MAX
    machine.publish(*["k"] * most)
    save(machine, item(most, dead=[[n + 1, 5, "no"] for n in range(most)]))
    before = machine.dump()

    assert code(save(machine, item(most + 1, dead=[[most + 1, 5, "no"]]))) == "dead_letters_full"
    burning = [[0, most + 1, [["burn", []]]]]
    assert code(save(machine, item(most + 1), burning)) == "dead_letters_full"
    assert before == machine.dump()
    assert save(machine, item(most + 1)) == []
    machine.do(groups.discard, "g", [1])
    assert save(machine, item(most + 2, dead=[[most + 2, 5, "no"]])) == []


def test_completions_above_a_floor_are_bounded(machine: SmallMachine) -> None:
    """A partition whose floor is stuck cannot pile up completions without end."""
    most = limits.COMPLETIONS_MAX
    machine.publish(*["k"] * most)
    done = range(2, most + 2)

    assert save(machine, item(0, done)) == []
    assert save(machine, item(0, done)) == []
    assert code(save(machine, item(0, [most + 2]))) == "limit_exceeded"
    assert save(machine, item(2, [most + 2])) == []


@pytest.mark.parametrize(
    ("progress", "effects"),
    [
        (7, []),
        ([], []),
        ([0, 1, 0, [], False, 0], []),
        (["0", 1, 0, [], False, 0, []], []),
        (item(-1), []),
        (item(2**63), []),
        (item(6), []),
        (item(0, [6]), []),
        (item(0, ["1"]), []),
        ([0, 1, 0, 7, False, 0, []], []),
        (item(release=1), []),
        (item(completed=-1), []),
        (item(token=True), []),
        (item(1, dead=7), []),
        (item(1, dead=[[1, 2]]), []),
        (item(1, dead=[[1, 2, b"no"]]), []),
        (item(1, dead=[[2, 2, "not completed"]]), []),
        (item(1), 7),
        (item(1), [7]),
        (item(1), [[0, "1", []]]),
        (item(1), [[0, 2, [["put", ["not completed"]]]]]),
        (item(1), [[1, 1, [["put", ["not named"]]]]]),
        (item(1), [[0, 1, []], [0, 1, []]]),
        (item(1, dead=[[1, 2, "no"]]), [[0, 1, [["put", ["x"]]]]]),
        (item(1), [[0, 1, []]] * (limits.CHECKPOINT_EFFECTS_MAX + 1)),
    ],
)
def test_malformed_checkpoints_change_nothing(
    machine: SmallMachine, progress: Any, effects: Any
) -> None:
    """A checkpoint of a wrong shape, or of events not in the log, is refused as a whole."""
    before = machine.dump()

    assert code(save(machine, progress, effects)) == "malformed"
    assert before == machine.dump()


def test_malformed_lists_of_partitions(machine: SmallMachine) -> None:
    """The list itself is checked, a partition named twice too, and the group must exist."""

    def result(group: Any, items: Any) -> str | None:
        return code(machine.do(groups.checkpoint, group, "a", items, []))

    assert result("g", None) == "malformed"
    assert result("g", [item(), item()]) == "malformed"
    assert result("g", [item()] * 300) == "malformed"
    assert result("nowhere", []) == "unknown_group"
    assert result("g", []) is None
