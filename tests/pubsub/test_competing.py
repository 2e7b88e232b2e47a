"""Competing groups: leases, answers, their ends, and what a fetch may cost."""

from typing import Any

import pytest

from pubsub import groups, limits, retention
from pubsub.consumer_groups import competing
from pubsub.events import GROUP_EVENT_REPLAYED
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 100_000
LEASE = 30_000


def make(*keys: str, **options: Any) -> SmallMachine:
    """A group "g" with these events to read, and two members."""
    machine = SmallMachine()
    machine.publish(*keys)
    define(machine, "g", **options)
    return machine


def define(machine: SmallMachine, name: str, pattern: str = "orders.>", **options: Any) -> None:
    wanted = {"mode": "competing", **options}
    assert machine.do(groups.define, name, pattern, 1, "earliest", 1, wanted) == 0
    for member in ("a", "b"):
        machine.do(groups.join, name, member, TTL)


def fetch(machine: SmallMachine, member: str = "a", events_max: int = 10, group: str = "g") -> Any:
    return machine.do(competing.fetch, group, member, events_max, 1_000_000)


def settle(machine: SmallMachine, *items: Any, effects: Any = (), member: str = "a") -> Any:
    answers = [list(item) for item in items]
    return machine.do(competing.settle, "g", member, answers, effects, meta=["svc"])


def state(machine: SmallMachine, group: str = "g") -> dict[str, Any]:
    description = groups.describe(machine.connection, group)
    assert description is not None
    found: dict[str, Any] = description["competing"]
    return found | {"floor": description["partitions"][0]["floor"]}


def code(result: Any) -> str | None:
    return result.code if isinstance(result, Rejection) else None


def test_members_share_the_events() -> None:
    """Each fetch gets what nobody has yet, under a token of its own."""
    machine = make("k", "k", "l")

    assert fetch(machine, "a", 2) == [1, LEASE, [[1, 1], [2, 1]]]
    assert fetch(machine, "b") == [2, LEASE, [[3, 1]]]
    assert fetch(machine, "b") == [0, 0, []]
    assert [row["events"] for row in state(machine)["leases"]] == [2, 1]


def test_the_floor_follows_what_is_completed() -> None:
    """It stands before the first event that is not, whoever has it."""
    machine = make("k", "k", "l")
    fetch(machine)

    assert settle(machine, (1, 1, "ack", None), (3, 1, "ack", None)) == []
    assert state(machine)["floor"] == 1
    assert settle(machine, (2, 1, "ack", None)) == []
    assert state(machine)["floor"] == 3


@pytest.mark.parametrize(
    ("verdict", "argument"), [("ack", None), ("nack", None), ("extend", None), ("dead", "no")]
)
def test_an_answer_after_the_lease_is_refused(verdict: str, argument: Any) -> None:
    """From the deadline on, even while nobody else has the event."""
    machine = make("k")
    fetch(machine)
    machine.elapsed_ms = LEASE
    before = machine.dump()

    assert settle(machine, (1, 1, verdict, argument))[0][:2] == [1, "fenced"]
    assert before == machine.dump()


def test_an_answer_counts_once() -> None:
    """Sent again it is refused, changes nothing, and repeats no effect."""
    machine = make("k")
    fetch(machine)
    ack, effects = (1, 1, "ack", None), [[1, [["put", ["x"]]]]]

    assert settle(machine, ack, effects=effects) == []
    assert [item[1] for item in settle(machine, ack, effects=effects)] == ["fenced"]
    assert machine.value("x") == 1


def test_only_who_has_the_lease_answers() -> None:
    """Another member, or the right one under an older token, is refused."""
    machine = make("k", "l")
    fetch(machine, "a")
    settle(machine, (1, 1, "nack", None))
    assert fetch(machine, "a") == [2, LEASE, [[1, 2]]]

    for member, token in (("b", 2), ("a", 1), ("a", 0), ("a", 3)):
        refused = settle(machine, (1, token, "ack", None), member=member)
        assert [item[1] for item in refused] == ["fenced"]
    assert settle(machine, (1, 2, "ack", None)) == []


def test_an_extension_never_shortens() -> None:
    """The lease of that event alone ends later; the others keep their end."""
    machine = make("k", "l")
    fetch(machine)
    assert settle(machine, (1, 1, "extend", 50_000), (1, 1, "extend", 600)) == []
    machine.elapsed_ms = LEASE

    assert machine.do(competing.expire, LEASE) == 1
    assert settle(machine, (1, 1, "ack", None)) == []
    assert fetch(machine)[2] == [[2, 2]]


def test_the_backoff_rises_and_stays() -> None:
    """The pause before the second delivery, the third, and all later ones."""
    machine = make("k", backoff_ms=[100, 300], max_deliveries=4)
    for pause in (100, 300, 300):
        token, _, events = fetch(machine)
        settle(machine, (1, token, "nack", None))
        assert len(events) == 1
        machine.elapsed_ms += pause - 1
        assert fetch(machine) == [0, 0, []]
        machine.elapsed_ms += 1
    settle(machine, (1, fetch(machine)[0], "nack", [None, "boom"]))

    (letter,) = groups.dead_letters(machine.connection, "g")
    assert (letter["attempts"], letter["error"]) == (4, "boom")
    assert state(machine)["floor"] == 1


def test_who_leaves_gives_back_at_once() -> None:
    """What a member had when it left was no delivery, and is due without a pause."""
    machine = make("k", backoff_ms=[5_000])
    fetch(machine)

    machine.do(groups.leave, "a")

    assert fetch(machine, "b") == [2, LEASE, [[1, 1]]]


@pytest.mark.parametrize("again", [False, True])
def test_who_dies_has_failed(again: bool) -> None:
    """The end of a session, or a new run under the same name, counts and waits its pause."""
    machine = make("k", backoff_ms=[5_000])
    fetch(machine)
    machine.do(groups.keepalive, "b")
    if again:
        machine.do(groups.join, "g", "a", TTL)
    else:
        machine.do(groups.join, "g", "b", 2 * TTL)
        settle(machine, (1, 1, "extend", 2 * TTL))
        machine.elapsed_ms = TTL
        assert machine.do(groups.expire, TTL) == 1

    assert fetch(machine, "b") == [0, 0, []]
    machine.elapsed_ms += 5_000
    assert fetch(machine, "b")[2] == [[1, 2]]


def test_a_member_whose_session_is_over_gets_nothing() -> None:
    """Nor does one that never joined, or joined another group."""
    machine = make("k")
    machine.do(groups.define, "h", ">", 1, "latest", 1, {"mode": "competing"})
    machine.do(groups.join, "h", "c", 2 * TTL)
    machine.elapsed_ms = TTL

    for member in ("a", "c", "nobody", None, 7):
        assert code(machine.do(competing.fetch, "g", member, 1, 1)) == "unknown_member"


def test_leases_end_in_slices() -> None:
    """One command gives back a bounded number of events, and says so."""
    count = limits.LEASES_ENDED_EVENTS_MAX
    machine = make(*["k"] * (count + 1), max_in_flight=count * 2)
    fetch(machine, events_max=count - 1)
    fetch(machine, events_max=2)
    machine.elapsed_ms = LEASE
    assert competing.next_due(machine.connection) == LEASE

    assert machine.do(competing.expire, LEASE - 1) == 0
    assert [machine.do(competing.expire, LEASE + 1) for _ in range(2)] == [count + 1, 0]
    assert competing.next_due(machine.connection) is None


def test_a_gap_of_other_topics_is_crossed_in_bounded_steps() -> None:
    """A fetch that finds nothing among so many events moves on, and so does the floor."""
    machine = make("k")
    other = limits.FETCH_LOOK_EVENTS_MAX + 5
    machine.publish(*["k"] * other, topic="other")
    last = machine.publish("k")
    assert settle(machine, (1, fetch(machine, events_max=1)[0], "ack", None)) == []

    assert fetch(machine) == [0, 0, []]
    assert state(machine)["cursor"] == state(machine)["floor"] == 1 + limits.FETCH_LOOK_EVENTS_MAX
    assert fetch(machine)[2] == [[last, 1]]


def test_what_is_in_flight_is_bounded() -> None:
    """No more is leased until something is answered for."""
    machine = make(*["k"] * 5, max_in_flight=3)

    assert len(fetch(machine)[2]) == 3
    assert fetch(machine, "b") == [0, 0, []]
    standing = competing.standing(machine.connection, "g")
    assert standing is not None
    assert (standing.may_lease, standing.cursor, standing.lease_due_ms) == (False, 3, LEASE)
    settle(machine, (2, 1, "ack", None))
    assert fetch(machine, "b")[2] == [[4, 1]]


def test_a_key_is_with_one_member_at_a_time() -> None:
    """Later events of a key wait for the first; those of other keys do not."""
    machine = make("k", "k", "l", "k", ordered=True)

    assert fetch(machine)[2] == [[1, 1], [3, 1]]
    assert state(machine)["held"] == 2
    settle(machine, (1, 1, "nack", [1_000, None]))
    assert fetch(machine, "b") == [0, 0, []]
    machine.elapsed_ms = 1_000
    token, _, events = fetch(machine, "b")
    assert events == [[1, 2]]
    settle(machine, (1, token, "ack", None), member="b")
    token, _, events = fetch(machine, "b")
    assert events == [[2, 1]]
    settle(machine, (2, token, "dead", "no"), member="b")
    assert fetch(machine)[2] == [[4, 1]]


def test_events_without_a_key_are_in_the_order_of_their_topic() -> None:
    """As in a partitioned group."""
    machine = make(None, None, ordered=True)  # type: ignore[arg-type]
    machine.publish(None, topic="orders.paid")  # type: ignore[arg-type]

    assert fetch(machine)[2] == [[1, 1], [3, 1]]


def test_a_held_event_that_is_skipped_holds_nobody() -> None:
    """The one after it comes when the first of the key is answered for."""
    machine = make("k", "k", "k", ordered=True)
    fetch(machine)

    assert machine.do(groups.skip, "g", 2) is True

    assert state(machine)["held"] == 1
    settle(machine, (1, 1, "ack", None))
    assert fetch(machine)[2] == [[3, 1]]
    assert state(machine)["held"] == 0


def test_effects_are_caused_by_the_event_that_is_acked() -> None:
    """All of one event, with its actor and hop, or none; a refused one is a dead letter."""
    machine = make("k", "l")
    fetch(machine)
    effects = [[1, [["put", ["x"]], ["put", ["y"]]]], [2, [["put", ["z"]], ["burn", []]]]]

    refused = settle(machine, (1, 1, "ack", None), (2, 1, "ack", None), effects=effects)

    assert refused == [[2, "refused", "burn is always refused"]]
    assert machine.metas[:2] == [["svc", 1, 1, 1]] * 2
    assert [machine.value(key) for key in "xyz"] == [1, 1, None]
    (letter,) = groups.dead_letters(machine.connection, "g")
    assert (letter["revision"], letter["attempts"]) == (2, 1)


def test_a_full_list_of_dead_letters_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room waits with its error, holds the floor, and is written when there is."""
    monkeypatch.setattr("pubsub.consumer_groups.competing_tables.DEAD_LETTERS_MAX", 1)
    machine = make("k", "l")
    fetch(machine)
    settle(machine, (1, 1, "dead", "one"), (2, 1, "dead", "two"))
    assert (state(machine)["dying"], state(machine)["floor"]) == (1, 1)

    assert fetch(machine) == [0, 0, []]
    machine.do(groups.discard, "g", [1])

    assert (state(machine)["dying"], state(machine)["floor"]) == (0, 2)
    (letter,) = groups.dead_letters(machine.connection, "g")
    assert (letter["revision"], letter["error"]) == (2, "two")


def test_a_replayed_event_is_for_the_group_that_it_names() -> None:
    """Whatever the pattern says; no other group gets it."""
    machine = SmallMachine()
    define(machine, "g")
    define(machine, "h", ">")
    revision = machine.do(lambda apply: apply.emit(GROUP_EVENT_REPLAYED, "k", ["g", 1], None))

    assert fetch(machine)[2] == [[revision, 1]]
    assert fetch(machine, group="h") == [0, 0, []]


def test_an_event_that_is_gone_is_not_delivered_again() -> None:
    """A hard cap of retention may take what waits; the group goes on without it."""
    machine = make("k", "l", ordered=True)
    machine.publish("k")
    token, _, _ = fetch(machine)
    settle(machine, (1, token, "nack", None), (2, token, "ack", None))
    machine.connection.execute("DELETE FROM event_batches WHERE first_revision = 1")

    assert fetch(machine) == [0, 0, []]
    assert fetch(machine)[2] == [[3, 1]]


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_that_retention_overtook_goes_on_with_what_is_left(version: int) -> None:
    """As a partitioned one does. In entries before version 3 it stands still."""
    machine = SmallMachine()
    define(machine, "g", protected=False)
    for _ in range(4):
        machine.publish("k")
    machine.do(retention.set_rule, "orders.>", None, 1)
    while machine.do(retention.trim, 10):
        assert machine.log_index < 100
    machine._apply.version = version

    fetched = fetch(machine)

    if version == 2:
        assert code(fetched) == "compacted"
    else:
        assert fetched[2] == [[4, 1]]
        assert settle(machine, (4, 1, "ack", None)) == []
        assert state(machine)["floor"] == 4


def test_members_own_no_partition() -> None:
    """A competing group assigns nothing, and takes no checkpoint."""
    machine = make("k")

    assert groups.assignments(machine.connection, "a") == []
    item = [0, 0, 1, [], False, 1, []]
    assert code(machine.do(groups.checkpoint, "g", "a", [item], [])) == "fenced"


def test_seek_ends_every_lease() -> None:
    """And forgets what waited or was held: all of it is read again."""
    machine = make("k", "k", "l", ordered=True)
    fetch(machine)
    settle(machine, (3, 1, "nack", [9_000, None]))

    assert machine.do(groups.seek, "g", 2) == 1

    assert settle(machine, (1, 1, "ack", None))[0][1] == "fenced"
    assert fetch(machine) == [2, LEASE, [[2, 1], [3, 1]]]


def test_a_removed_group_leaves_nothing() -> None:
    """No lease, no key, no settings."""
    machine = make("k", "k", "l", ordered=True)
    fetch(machine)
    settle(machine, (3, 1, "nack", [9_000, None]))
    machine.do(groups.pause, "g")

    assert machine.do(groups.remove, "g") is True

    kept = {table for table, rows in machine.dump() if rows}
    assert kept == {"event_batches", "group_state", "group_sessions"}


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        (competing.fetch, ("nowhere", "a", 1, 1), "unknown_group"),
        (competing.fetch, (None, "a", 1, 1), "unknown_group"),
        (competing.fetch, ("p", "a", 1, 1), "wrong_mode"),
        (competing.fetch, ("g", "a", 0, 1), "malformed"),
        (competing.fetch, ("g", "a", limits.FETCH_EVENTS_MAX + 1, 1), "malformed"),
        (competing.fetch, ("g", "a", 1, 0), "malformed"),
        (competing.fetch, ("g", "a", 1, True), "malformed"),
        (competing.settle, ("nowhere", "a", [], []), "unknown_group"),
        (competing.settle, ("p", "a", [], []), "wrong_mode"),
        (competing.settle, ("g", "a", None, []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]] * 1_001, []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack"]], []), "malformed"),
        (competing.settle, ("g", "a", [["1", 1, "ack", None]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, -1, "ack", None]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ok", None]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, ["ack"], None]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", 1]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "nack", 5]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "nack", [-1, None]]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "nack", [None, 5]]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "extend", 1]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "dead", None]], []), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]], None), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]], [[1]]), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]], [[2, []]]), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "nack", None]], [[1, []]]), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]], [[1, []], [1, []]]), "malformed"),
        (competing.settle, ("g", "a", [[1, 1, "ack", None]], [[[], []]]), "malformed"),
        (competing.expire, (-1,), "malformed"),
        (groups.rebalance, ("now",), "malformed"),
    ],
)
def test_bad_input_changes_nothing(operation: Any, arguments: Any, expected: str) -> None:
    """Refused as a whole, by code, before anything is written."""
    machine = make("k", "l")
    machine.do(groups.define, "p", ">", 1, "latest", 1)
    fetch(machine)
    before = machine.dump()

    assert code(machine.do(operation, *arguments)) == expected
    assert before == machine.dump()


def test_an_answer_of_nobody_is_late() -> None:
    """A member that is no text has no lease."""
    machine = make("k")
    fetch(machine)

    assert settle(machine, (1, 1, "ack", None), member=7)[0][1] == "fenced"  # type: ignore[arg-type]


def test_ordering_that_is_switched_off_lets_what_was_held_go() -> None:
    """Events that were read while it was on keep their order; new ones have none."""
    machine = make("k", "k", ordered=True)
    fetch(machine)
    options = {"mode": "competing"}
    assert machine.do(groups.define, "g", "orders.>", 1, "latest", 2, options) == 0
    machine.publish("k")

    assert fetch(machine, "b")[2] == [[3, 1]]
    settle(machine, (1, 1, "ack", None))
    assert fetch(machine, "b")[2] == [[2, 1]]
