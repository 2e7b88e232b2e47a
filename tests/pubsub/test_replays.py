"""Replays: what is handed out again, how fast, and what is left out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub import groups, limits, log, retention
from pubsub.apply import Apply
from pubsub.consumer_groups import addressing, replays
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

ALL = limits.REPLAY_STEP_EVENTS_MAX


@pytest.fixture
def machine() -> SmallMachine:
    """A group of orders, and events of three topics."""
    machine = SmallMachine()
    machine.do(groups.define, "g", "orders.>", 1, "earliest", 1)
    for topic in ("orders.a", "other", "orders.b"):
        machine.publish("k1", "k2", topic=topic)
    return machine


def run(machine: SmallMachine, events_max: int = ALL) -> int:
    """What the leader does, until nothing is due; returns how many steps it took."""
    steps = 0
    while due := replays.due(machine.connection, machine.elapsed_ms):
        for replay_id in due:
            machine.do(replays.step, replay_id, events_max)
        steps += 1
        assert steps < 10_000, "a replay gets on"
    return steps


def replayed(machine: SmallMachine) -> list[int]:
    """The originals of what was handed out again, in order."""
    found = log.read(machine.connection, 1, 1_000_000, 1 << 30)
    return [event.data[1] for event in found if event.topic == addressing.REPLAYED]


def listed(machine: SmallMachine, *columns: str) -> list[Any]:
    return [tuple(row[name] for name in columns) for row in replays.listing(machine.connection)]


def code(result: object) -> str:
    assert isinstance(result, Rejection)
    return result.code


def test_a_group_gets_its_events_again_and_stays_where_it_is(machine: SmallMachine) -> None:
    """Those that match its pattern, each as an event addressed to it."""
    floor = groups.floor_min(machine.connection)
    assert machine.do(replays.start, "g", 1, None, None, meta=["ann"]) == 1

    run(machine)

    assert replayed(machine) == [1, 2, 5, 6]
    fact = log.event_at(machine.connection, 7)
    assert fact is not None
    assert (fact.key, fact.actor, fact.data, fact.causation_id) == ("k1", "ann", ("g", 1), 1)
    found = addressing.resolve(fact, lambda number: log.event_at(machine.connection, number))
    assert found is not None
    assert found == (log.event_at(machine.connection, 1), True, 0)
    assert groups.floor_min(machine.connection) == floor
    assert listed(machine, "id", "group", "state", "emitted", "next_revision", "actor") == [
        (1, "g", "done", 4, 7, "ann")
    ]


@pytest.mark.parametrize(
    ("start", "end", "options", "expected"),
    [
        (2, 5, {}, [2, 5]),
        (1, None, {"pattern": "*.b"}, [5, 6]),
        (1, None, {"key": "k2"}, [2, 6]),
        (1, 4, {"pattern": "orders.a", "key": "k1"}, [1]),
        (3, 4, None, []),
        (1, None, {"pattern": "other"}, []),
    ],
)
def test_it_is_narrowed_down(
    machine: SmallMachine, start: int, end: int | None, options: Any, expected: list[int]
) -> None:
    """By revisions, by a pattern, by a key; never beyond what the group's own pattern matches."""
    machine.do(replays.start, "g", start, end, options)

    run(machine)

    assert replayed(machine) == expected
    assert listed(machine, "state") == [("done",)]


@given(
    st.lists(st.integers(1, 8), max_size=30),
    st.integers(1, 5),
    st.integers(1, 40),
    st.sets(st.integers(1, 60)),
)
def test_steps_of_any_size_hand_out_the_same(
    batches: list[int], events_max: int, start: int, gone: set[int]
) -> None:
    """Everything once and in order, but for what retention took."""
    machine = SmallMachine()
    machine.do(groups.define, "g", "orders.>", 1, "earliest", 1)
    for size in batches:
        machine.publish(*(["k"] * size), topic="orders.a")
    last = machine.revision
    for batch in list(log.batches(machine.connection, 1)):
        kept = [p for p in log.places(batch) if p.revision not in gone or p.revision == last]
        log.take_out(machine.connection, batch, kept)
    result = machine.do(replays.start, "g", start, None, None)
    if start > last:
        assert code(result) == "malformed"
        return

    run(machine, events_max)

    assert replayed(machine) == [n for n in range(start, last + 1) if n not in gone or n == last]
    assert listed(machine, "state") == [("done",)]


def test_what_was_replayed_is_not_replayed_again(machine: SmallMachine) -> None:
    """A second replay over the whole log hands out the originals and no facts about them."""
    machine.do(groups.define, "all", ">", 1, "earliest", 1)
    for _ in range(2):
        machine.do(replays.start, "all", 1, None, None)
        run(machine)

    assert replayed(machine) == [1, 2, 3, 4, 5, 6] * 2


def test_the_rate_is_kept_by_the_elapsed_clock(machine: SmallMachine) -> None:
    """One at once, then as many as the time that has passed allows, with no more saved up than a
    second's worth."""
    machine.publish(*(["k"] * 100), topic="orders.c")
    machine.do(replays.start, "g", 7, None, {"rate_per_s": 10})
    counts = []
    for elapsed_ms in (0, 99, 100, 350, 10_000, 10_100):
        machine.elapsed_ms = elapsed_ms
        machine.wall_ms += 1_000_000  # a wall clock that jumps changes nothing
        run(machine)
        counts.append(len(replayed(machine)))

    assert counts == [1, 1, 2, 4, 14, 15]


def test_a_slow_replay_is_not_due_all_the_time(machine: SmallMachine) -> None:
    """The leader proposes a step only when it would get on."""
    machine.do(replays.start, "g", 1, None, {"rate_per_s": 1})
    run(machine)

    assert replays.due(machine.connection, 999) == []
    assert replays.due(machine.connection, 1_000) == [1]


def test_a_step_is_bounded(machine: SmallMachine) -> None:
    """In the events that it looks at, also where none of them matches."""
    machine.publish(*(["k"] * (2 * ALL)), topic="other")
    machine.do(replays.start, "g", 7, None, None)

    assert machine.do(replays.step, 1, ALL) == 0
    ((state, following),) = listed(machine, "state", "next_revision")
    assert state == "running"
    assert ALL <= following - 7 < ALL + 64
    assert run(machine) <= 2


def test_cancelled_is_over(machine: SmallMachine) -> None:
    """What was handed out stays; nothing more comes."""
    machine.do(replays.start, "g", 1, None, None)
    machine.do(replays.step, 1, 1)

    assert machine.do(replays.cancel, 1) is True
    assert machine.do(replays.cancel, 1) is False
    assert run(machine) == 0
    assert machine.do(replays.step, 1, ALL) == 0
    assert replayed(machine) == [1]
    assert code(machine.do(replays.cancel, 7)) == "unknown_replay"


def test_a_removed_group_ends_its_replays(machine: SmallMachine) -> None:
    """Nobody is left to get anything, and an id is not used twice."""
    machine.do(replays.start, "g", 1, None, None)
    machine.do(groups.remove, "g")

    assert replays.listing(machine.connection) == []
    assert run(machine) == 0
    machine.do(groups.define, "g", ">", 1, "earliest", 1)
    assert machine.do(replays.start, "g", 1, None, None) == 2


def test_they_are_bounded(machine: SmallMachine) -> None:
    """Those that ended make room, those under way do not."""
    machine.do(replays.start, "g", 1, 1, None)
    run(machine)
    for _ in range(limits.REPLAYS_MAX):
        assert isinstance(machine.do(replays.start, "g", 1, None, None), int)

    assert listed(machine, "id")[0] == (2,)
    assert code(machine.do(replays.start, "g", 1, None, None)) == "limit_exceeded"


def test_an_original_that_is_gone_resolves_to_nothing(machine: SmallMachine) -> None:
    """Retention was faster than the group: there is nothing left to handle."""
    machine.do(replays.start, "g", 1, 1, None)
    run(machine)
    fact = log.event_at(machine.connection, 7)
    assert fact is not None
    machine.do(retention.set_cap, 1)
    machine.do(retention.trim, 100)

    assert addressing.resolve(fact, lambda n: log.event_at(machine.connection, n)) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("q", 1), "unknown_group"),
        (("g", 0), "malformed"),
        (("g", 5, 4), "malformed"),
        (("g", 1, 99), "malformed"),
        (("g", 1, None, []), "malformed"),
        (("g", 1, None, {"patern": ">"}), "malformed"),
        (("g", 1, None, {1: ">"}), "malformed"),
        (("g", 1, None, {"pattern": "a..b"}), "malformed"),
        (("g", 1, None, {"key": 5}), "malformed"),
        (("g", 1, None, {"rate_per_s": 0}), "malformed"),
    ],
)
def test_bad_arguments_change_nothing(machine: SmallMachine, arguments: Any, expected: str) -> None:
    """A refusal, and the state is as before."""
    before = machine.dump()

    assert code(machine.do(replays.start, *arguments)) == expected
    assert machine.dump() == before


def test_other_events_stand_for_themselves() -> None:
    """What is not addressed concerns a group by its pattern, and resolves to itself."""
    machine = SmallMachine()
    machine.publish("k")
    event = log.event_at(machine.connection, 1)
    assert event is not None

    assert addressing.recipient(event) is None
    assert addressing.original_revision(event) is None
    assert addressing.resolve(event, lambda n: None) == (event, False, 0)


def test_a_key_is_as_it_was() -> None:
    """An event without a key is replayed without one."""
    machine = SmallMachine()

    def emit(apply: Apply) -> int:
        return apply.emit("t", None, [b"", None, None], None)

    machine.do(emit)
    machine.do(groups.define, "g", ">", 1, "earliest", 1)
    machine.do(replays.start, "g", 1, None, None)
    run(machine)

    fact = log.event_at(machine.connection, 2)
    assert fact is not None
    assert fact.key is None
