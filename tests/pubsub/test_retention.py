"""Retention: rules, their order, groups that hold it back, the cap, what readers are told."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubsub import groups, limits, log, retention, retention_rules
from pubsub.apply import Apply
from pubsub.events import Event
from pubsub.log import Compacted
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, specificity
from tests.pubsub.small_machine import SmallMachine

ALL = 1_000
TOPICS = ("logs.a", "logs.b", "orders.a", "x")
PATTERNS = (">", "logs.>", "logs.*", "logs.a", "*.a", "orders.a", "*", "y.>")


@pytest.fixture
def machine() -> SmallMachine:
    """A state without rules."""
    return SmallMachine()


def publish(machine: SmallMachine, topic: str, *sizes: int) -> int:
    """One entry with an event for each payload size."""

    def emit(apply: Apply) -> int:
        revisions = [apply.emit(topic, "k", [b"x" * size, None, None], None) for size in sizes]
        return revisions[0]

    return int(machine.do(emit))


def settle(machine: SmallMachine, batches_max: int = ALL) -> int:
    """What the leader does; returns how many slices it took."""
    slices = 0
    while retention.is_due(machine.connection, machine.wall_ms):
        assert isinstance(machine.do(retention.trim, batches_max), int)
        slices += 1
        assert slices < 1_000, "a slice that is due gets on"
    return slices


def events(machine: SmallMachine) -> list[Event]:
    return log.read(machine.connection, 1, 1_000_000, 1 << 30)


def revisions(machine: SmallMachine) -> list[int]:
    return [event.revision for event in events(machine)]


def code(result: object) -> str:
    assert isinstance(result, Rejection)
    return result.code


class Model:
    """The same as lists, and everything from the beginning each time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.gone: list[Event] = []
        self.rules: dict[str, tuple[int | None, int | None, int | None]] = {}
        self.cap: tuple[int | None, int | None] = (None, None)
        self.floors: dict[str, tuple[str, int, bool]] = {}  # group -> pattern, floor, protected
        self.last = 0

    def rule_of(self, event: Event) -> str | None:
        matching = [rule for rule in self.rules if Pattern(rule).matches(event.topic)]
        return min(matching, key=specificity, default=None)

    def settle(self, wall_ms: int) -> None:
        for rule, (age, count, size) in self.rules.items():
            limit = self.last - 1
            for pattern, floor, protected in self.floors.values():
                # dumb overlap: of patterns over a handful of topics, and of any others for certain
                everything = [*TOPICS, "y.z", "q", "a", "z.a", "logs.z", "logs.z.z", "q.q.q", "y.a"]
                both = (Pattern(pattern).matches, Pattern(rule).matches)
                addressed = Pattern(rule).matches("hooks.group.event_replayed")
                if protected and (addressed or any(all(m(t) for m in both) for t in everything)):
                    limit = min(limit, floor)
            mine = [event for event in self.events if self.rule_of(event) == rule]
            self._take(mine, limit, age, count, size, wall_ms)
        self._take(list(self.events), self.last - 1, None, *self.cap, wall_ms)

    def _take(
        self,
        mine: list[Event],
        limit: int,
        age: int | None,
        count: int | None,
        size: int | None,
        wall_ms: int,
    ) -> None:
        while mine and mine[0].revision <= limit:
            oldest = mine[0]
            is_over = (count is not None and len(mine) > count) or (
                size is not None and sum(event.size_bytes for event in mine) > size
            )
            if not is_over and (age is None or oldest.wall_ms + age > wall_ms):
                return
            mine.pop(0)
            self.events.remove(oldest)
            self.gone.append(oldest)


topics, patterns = st.sampled_from(TOPICS), st.sampled_from(PATTERNS)
bound = st.none() | st.integers(1, 6)
size = st.none() | st.integers(1, 120)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), topics, st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("set"), patterns, st.none() | st.integers(1, 40), bound, size),
        st.tuples(st.just("delete"), patterns),
        st.tuples(st.just("group"), st.sampled_from("gh"), patterns, st.booleans()),
        st.tuples(st.just("seek"), st.sampled_from("gh"), st.integers(1, 40)),
        st.tuples(st.just("settle"), st.integers(1, 5)),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(steps, st.none() | st.tuples(st.integers(1, 12), size))
def test_keeps_what_a_dumb_model_keeps(
    steps: list[Any], cap: tuple[int, int | None] | None
) -> None:
    """Rules that overlap, come and go, groups that hold and a cap: the same events stay, the same
    are counted, and no reader misses one without being told."""
    machine, model = SmallMachine(), Model()
    if cap is not None:
        assert machine.do(retention.set_cap, *cap) is True
        model.cap = cap
    for step in [*steps, ("settle", ALL)]:
        _do(machine, model, step, cap is not None)
    assert retention.is_due(machine.connection, machine.wall_ms) is False
    _check_counts(machine, model)
    for pattern in (*PATTERNS, *TOPICS):
        for start in range(1, model.last + 2):
            _check_told(machine, model, pattern, start)


def _do(machine: SmallMachine, model: Model, step: Any, capped: bool) -> None:
    match step:
        case ("publish", topic, sizes):
            publish(machine, topic, *sizes)
            _follow(machine, model)
        case ("wait", ms):
            machine.wall_ms += ms
        case ("set", pattern, *bounds):
            # the model takes at once what the machine takes before anything else changes
            _settle(machine, model, ALL)
            machine.do(retention.set_rule, pattern, *bounds)
            model.rules[pattern] = tuple(bounds)
            model.rules = {rule: model.rules[rule] for rule in sorted(model.rules, key=specificity)}
        case ("delete", pattern):
            _settle(machine, model, ALL)
            result = machine.do(retention.delete_rule, pattern)
            assert (result is True) == (pattern in model.rules)
            model.rules.pop(pattern, None)
        case ("group", name, pattern, protected):
            if name not in model.floors:
                options = {"protected": protected}
                floor = machine.do(groups.define, name, pattern, 1, "latest", 1, options)
                model.floors[name] = (pattern, floor, protected)
        case ("seek", name, start):
            if name in model.floors:
                _settle(machine, model, ALL)
                floor = machine.do(groups.seek, name, start)
                if not isinstance(floor, Rejection):
                    pattern, _, protected = model.floors[name]
                    model.floors[name] = (pattern, floor, protected)
        case ("settle", batches_max):
            _settle(machine, model, ALL if capped else batches_max)


def _settle(machine: SmallMachine, model: Model, batches_max: int) -> None:
    while retention.is_due(machine.connection, machine.wall_ms):
        settle(machine, batches_max)
        _follow(machine, model)  # the cap may have said something, which is an event
        model.settle(machine.wall_ms)
        assert revisions(machine) == [event.revision for event in model.events]
    model.settle(machine.wall_ms)
    assert revisions(machine) == [event.revision for event in model.events]


def _follow(machine: SmallMachine, model: Model) -> None:
    model.events += log.read(machine.connection, model.last + 1, ALL, 1 << 30)
    model.last = machine.revision


def _check_counts(machine: SmallMachine, model: Model) -> None:
    for rule in retention.listing(machine.connection):
        if rule["events"] is not None:
            pattern = rule["pattern"]
            mine = [e for e in model.events if pattern is None or model.rule_of(e) == pattern]
            assert rule["events"] == len(mine)
            assert rule["bytes"] == sum(event.size_bytes for event in mine)


def _check_told(machine: SmallMachine, model: Model, pattern: str, start: int) -> None:
    missed = [
        event.revision
        for event in model.gone
        if event.revision >= start and Pattern(pattern).matches(event.topic)
    ]
    told = retention.compacted(machine.connection, pattern, start)
    if missed:
        assert told is not None
        assert told.first_revision > max(missed)
    elif all(event.revision < start for event in model.gone):
        assert told is None


def test_the_newest_event_stays(machine: SmallMachine) -> None:
    """The table alone must know which revision comes next, whatever the rules say."""
    machine.do(retention.set_rule, ">", 1, 1)
    publish(machine, "x", 1, 1, 1)
    machine.wall_ms += 1_000

    settle(machine)

    assert revisions(machine) == [3]
    assert log.last_revision(machine.connection) == 3


def test_a_slice_is_bounded(machine: SmallMachine) -> None:
    """One command looks at so many batches and no more; the next one goes on."""
    for _ in range(10):
        publish(machine, "x", 1)
    machine.do(retention.set_rule, "x", None, 1)

    assert [machine.do(retention.trim, 3) for _ in range(4)] == [2, 3, 3, 1]
    assert revisions(machine) == [10]


def test_a_slice_is_bounded_in_bytes(
    machine: SmallMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches are allowed, a command does not read more than some megabytes."""
    monkeypatch.setattr(retention, "RETENTION_SLICE_BYTES_MAX", 2_500)
    for _ in range(6):
        publish(machine, "x", 1_000)
    machine.do(retention.set_rule, "x", 1)
    machine.wall_ms += 10

    assert machine.do(retention.trim, ALL) == 2
    assert settle(machine) == 2


def test_an_idle_log_is_left_alone(machine: SmallMachine) -> None:
    """Nothing is due while nothing changes, also when a group holds what is too old."""
    publish(machine, "x", 1, 1)
    machine.do(groups.define, "g", "x", 1, "earliest", 1)
    machine.do(retention.set_rule, "x", 10, 1)
    machine.wall_ms += 100
    settle(machine)

    assert revisions(machine) == [1, 2]
    assert not retention.is_due(machine.connection, machine.wall_ms + 1_000_000)


def test_a_group_that_gets_on_lets_go(machine: SmallMachine) -> None:
    """What a protected group has passed goes, and no event more."""
    publish(machine, "x", 1, 1, 1, 1)
    machine.do(groups.define, "g", "x", 1, "earliest", 1)
    machine.do(retention.set_rule, ">", 10)
    machine.wall_ms += 100
    machine.do(groups.seek, "g", 3)

    settle(machine)

    assert revisions(machine) == [3, 4]
    listed = retention.listing(machine.connection)[0]
    assert (listed["holder"], listed["holder_floor"], listed["trimmed_to"]) == ("g", 2, 2)


def test_other_groups_hold_nothing(machine: SmallMachine) -> None:
    """A group of other topics and one that is not protected do not keep the log."""
    publish(machine, "x", 1, 1, 1)
    machine.do(groups.define, "g", "y.>", 1, "earliest", 1)
    machine.do(groups.define, "h", "x", 1, "earliest", 1, {"protected": False})
    machine.do(retention.set_rule, "x", None, 1)

    settle(machine)

    assert revisions(machine) == [3]


def test_whoever_may_be_addressed_holds_what_is_addressed(machine: SmallMachine) -> None:
    """A replayed event belongs to a group whose own pattern knows nothing of its topic."""
    publish(machine, "hooks.group.event_replayed", 1, 1)
    machine.do(groups.define, "g", "orders.>", 1, "earliest", 1)
    machine.do(retention.set_rule, "hooks.group.*", None, 1)

    settle(machine)

    assert revisions(machine) == [1, 2]


def test_the_cap_outweighs_groups_and_says_so_once(machine: SmallMachine) -> None:
    """One event names the groups that lost something; the next one comes when they lose again
    after they had caught up."""
    machine.do(groups.define, "g", "x", 1, "earliest", 1)
    machine.do(groups.define, "h", "y", 1, "earliest", 1)
    machine.do(retention.set_cap, 3)
    loud: Callable[[], list[tuple[int, Any]]] = lambda: [  # noqa: E731
        (event.revision, event.data)
        for event in events(machine)
        if event.topic == "hooks.system.retention_capped"
    ]
    publish(machine, "x", 1, 1, 1, 1, 1)
    settle(machine)
    assert loud() == [(6, (3, ("g",)))]
    assert revisions(machine) == [4, 5, 6]

    publish(machine, "x", 1)
    settle(machine)
    assert loud() == [(6, (3, ("g",)))]  # told

    machine.do(groups.seek, "g", 7)
    publish(machine, "x", 1, 1, 1, 1)
    settle(machine)
    assert loud() == [(12, (9, ("g",)))]


def test_a_cap_is_taken_away(machine: SmallMachine) -> None:
    """Two nils, and the log grows again."""
    machine.do(retention.set_cap, 1)
    assert machine.do(retention.set_cap, None) is True
    publish(machine, "x", 1, 1)

    assert settle(machine) == 0
    assert retention.listing(machine.connection) == []


def test_a_rule_without_limits_keeps_for_ever(machine: SmallMachine) -> None:
    """It takes its topics out of the reach of a less specific one."""
    publish(machine, "logs.audit", 1)
    publish(machine, "logs.debug", 1)
    publish(machine, "x", 1)
    machine.do(retention.set_rule, "logs.audit", None)
    machine.do(retention.set_rule, "logs.>", None, None, 1)
    settle(machine)

    assert revisions(machine) == [1, 3]
    assert retention.compacted(machine.connection, "logs.audit", 1) is None
    assert retention.compacted(machine.connection, "logs.debug", 1) == Compacted(3)
    assert retention.compacted(machine.connection, "logs.debug", 3) is None


def test_a_new_rule_does_not_hide_what_was_taken_before_it(machine: SmallMachine) -> None:
    """A more specific rule keeps others away from now on, and readers are told of the past."""
    publish(machine, "logs.audit", 1, 1, 1)
    machine.do(retention.set_rule, "logs.>", None, 1)
    settle(machine)
    machine.do(retention.delete_rule, "logs.>")
    machine.do(retention.set_rule, "logs.audit", None)

    assert retention.compacted(machine.connection, "logs.audit", 1) == Compacted(3)


def test_what_was_taken_is_remembered_within_bounds(
    machine: SmallMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules that come and go leave no more than so many rows; what is forgotten of the oldest is
    told of all topics instead."""
    monkeypatch.setattr(retention_rules, "RETENTION_TRIMS_MAX", 3)
    for number in range(6):
        retention_rules.note_trim(machine.connection, f"t{number}", number + 1)

    count = machine.connection.execute("SELECT count(*) FROM retention_trims").get
    assert count == 3
    told = [retention.compacted(machine.connection, f"t{number}", 1) for number in range(6)]
    assert all(told)
    assert told[5] == Compacted(7)


def test_rules_are_bounded(machine: SmallMachine) -> None:
    """One rule more than the limit is refused; the known ones still change, and the cap is none."""
    machine.do(retention.set_cap, 5)
    for number in range(limits.RETENTION_RULES_MAX):
        assert machine.do(retention.set_rule, f"t{number}", 5) is True

    assert code(machine.do(retention.set_rule, "new", 5)) == "limit_exceeded"
    assert machine.do(retention.set_rule, "t0", 6) is False


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        (retention.set_rule, ("a..b", 1), "malformed"),
        (retention.set_rule, ("", 1), "malformed"),
        (retention.set_rule, ("a", 0), "malformed"),
        (retention.set_rule, ("a", None, "5"), "malformed"),
        (retention.set_rule, ("a", None, None, True), "malformed"),
        (retention.set_cap, (0,), "malformed"),
        (retention.set_cap, (None, -1), "malformed"),
        (retention.delete_rule, ("",), "unknown_rule"),
        (retention.delete_rule, (5,), "malformed"),
        (retention.trim, (0,), "malformed"),
        (retention.trim, (None,), "malformed"),
    ],
)
def test_bad_arguments_change_nothing(
    machine: SmallMachine, operation: Any, arguments: Any, expected: str
) -> None:
    """A refusal, and the state is as before."""
    machine.do(retention.set_cap, 5)
    before = machine.dump()

    assert code(machine.do(operation, *arguments)) == expected
    assert machine.dump() == before


def test_a_misspelt_rule_is_named(machine: SmallMachine) -> None:
    """The nearest pattern that has a rule."""
    machine.do(retention.set_rule, "orders.>", 5)

    result = machine.do(retention.delete_rule, "order.>")

    assert result == Rejection(
        "unknown_rule", 'there is no retention rule "order.>"; did you mean "orders.>"?'
    )


def test_the_entry_tells_memory_what_went(machine: SmallMachine) -> None:
    """The newest revision that was taken, in the entry that took it and in no other."""
    publish(machine, "x", 1, 1, 1)
    machine.do(retention.set_rule, "x", None, 1)
    seen: list[int] = []

    def trim(apply: Apply) -> None:
        retention.trim(apply, ALL)
        seen.append(apply.trimmed_to)

    machine.do(trim)
    machine.do(trim)

    assert seen == [2, 0]
