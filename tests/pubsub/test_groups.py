"""Groups: definitions, members, sessions, hand-over, seek."""

from typing import Any

import pytest

from pubsub import groups, limits
from pubsub.groups import Assignment
from pubsub.rejection import Rejection
from tests.pubsub.small_machine import SmallMachine

TTL = 10_000


@pytest.fixture
def machine() -> SmallMachine:
    machine = SmallMachine()
    machine.publish("k1", "k2", "k3")
    assert machine.do(groups.define, "g", "orders.>", 4, "earliest", 1) == 0
    return machine


def code(result: Any) -> str | None:
    return result.code if isinstance(result, Rejection) else None


def owned(machine: SmallMachine, member: str) -> list[Assignment]:
    return groups.assignments(machine.connection, member)


def partitions(machine: SmallMachine, group: str = "g") -> list[dict[str, Any]]:
    description = groups.describe(machine.connection, group)
    assert description is not None
    found: list[dict[str, Any]] = description["partitions"]
    return found


def release_all(machine: SmallMachine, member: str) -> None:
    """Checkpoint every partition that another member waits for, giving it up."""
    items = [
        [a.partition, a.token, a.floor, [], True, 0, []]
        for a in owned(machine, member)
        if a.releasing
    ]
    assert machine.do(groups.checkpoint, "g", member, items, []) == []


@pytest.mark.parametrize(
    ("start", "floor"), [("latest", 3), ("earliest", 0), (1, 0), (3, 2), (4, 3)]
)
def test_where_a_new_group_starts(machine: SmallMachine, start: Any, floor: int) -> None:
    """A group starts after everything, at the oldest event, or at the revision it names."""
    assert floor == machine.do(groups.define, "new", ">", 2, start, 1)
    assert [floor] * 2 == [partition["floor"] for partition in partitions(machine, "new")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("", ">", 4, "latest", 1),
        ("a b", ">", 4, "latest", 1),
        (None, ">", 4, "latest", 1),
        ("n", "a..b", 4, "latest", 1),
        ("n", 7, 4, "latest", 1),
        ("n", ">", 3, "latest", 1),
        ("n", ">", 0, "latest", 1),
        ("n", ">", 512, "latest", 1),
        ("n", ">", True, "latest", 1),
        ("n", ">", "4", "latest", 1),
        ("n", ">", 4, "soon", 1),
        ("n", ">", 4, 0, 1),
        ("n", ">", 4, 5, 1),
        ("n", ">", 4, None, 1),
        ("n", ">", 4, [], 1),
        ("n", ">", 4, "latest", -1),
        ("n", ">", 4, "latest", 2**63),
        ("n", ">", 4, "latest", 1.0),
    ],
)
def test_bad_definitions_change_nothing(machine: SmallMachine, arguments: Any) -> None:
    """A definition with any bad argument is refused and leaves no trace."""
    before = machine.dump()

    assert code(machine.do(groups.define, *arguments)) == "malformed"
    assert before == machine.dump()


def test_a_start_behind_retention_is_told(machine: SmallMachine) -> None:
    """A group cannot start at events that retention has removed."""
    machine.publish("k4")
    machine.connection.execute("DELETE FROM event_batches WHERE first_revision = 1")

    assert code(machine.do(groups.define, "new", ">", 2, 2, 1)) == "compacted"
    assert machine.do(groups.define, "new", ">", 2, "earliest", 1) == 3


def test_defining_again_is_idempotent(machine: SmallMachine) -> None:
    """The same definition from every node is one group, wherever a latecomer wants to start."""
    before = machine.dump()

    assert machine.do(groups.define, "g", "orders.>", 4, "latest", 1) == 0
    assert before == machine.dump()


def test_a_definition_changes_with_its_version(machine: SmallMachine) -> None:
    """A higher version changes the pattern; the same or a lower one with another is refused."""
    assert code(machine.do(groups.define, "g", "a", 4, "latest", 1)) == "definition_conflict"
    assert machine.do(groups.define, "g", "a", 4, "latest", 2) == 0
    assert code(machine.do(groups.define, "g", "orders.>", 4, "latest", 1)) == (
        "definition_conflict"
    )
    description = groups.describe(machine.connection, "g")
    assert description is not None
    assert (description["pattern"], description["version"]) == ("a", 2)


def test_the_partition_count_is_for_ever(machine: SmallMachine) -> None:
    """Keys must not change their partition, so another count is refused at any version."""
    assert code(machine.do(groups.define, "g", "orders.>", 8, "latest", 9)) == "partitions_fixed"


def test_the_number_of_groups_is_bounded(machine: SmallMachine) -> None:
    """One group more than the limit is refused by name."""
    for n in range(limits.GROUPS_MAX - 1):
        assert machine.do(groups.define, f"h{n}", ">", 1, "latest", 1) == 3

    assert code(machine.do(groups.define, "new", ">", 1, "latest", 1)) == "limit_exceeded"


def test_a_removed_group_leaves_nothing(machine: SmallMachine) -> None:
    """Removing a group deletes all that it held and lets go of retention."""
    machine.do(groups.join, "g", "a", TTL)
    (first, *_) = owned(machine, "a")
    item = [first.partition, first.token, 0, [2, 3], False, 2, [[3, 5, "no"]]]
    assert machine.do(groups.checkpoint, "g", "a", [item], []) == []
    assert groups.floor_min(machine.connection) == 0

    assert machine.do(groups.remove, "g") is True

    assert groups.floor_min(machine.connection) is None
    assert groups.names(machine.connection) == []
    assert owned(machine, "a") == []
    assert code(machine.do(groups.remove, "g")) == "unknown_group"
    kept = {table for table, rows in machine.dump() if rows}
    assert kept == {"event_batches", "group_state", "group_sessions"}


def test_a_group_id_is_not_used_twice(machine: SmallMachine) -> None:
    """A group of the same name made after a removal starts with nothing of the old one."""
    machine.do(groups.remove, "g")
    machine.do(groups.define, "g", ">", 1, "latest", 1)

    assert machine.connection.execute("SELECT id FROM consumer_groups").get == 2


def test_the_first_member_owns_everything(machine: SmallMachine) -> None:
    """Joining returns the session's deadline and gives the partitions with rising tokens."""
    machine.elapsed_ms = 500

    assert machine.do(groups.join, "g", "a", TTL) == 500 + TTL
    assert owned(machine, "a") == [Assignment("g", n, n + 1, 0, False) for n in range(4)]


def test_hand_over_between_the_living_has_two_steps(machine: SmallMachine) -> None:
    """A newcomer waits until the old owner has drained and released; then it has a new token."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    releasing = [a for a in owned(machine, "a") if a.releasing]
    assert len(releasing) == 2
    assert owned(machine, "b") == []

    release_all(machine, "a")

    moved = owned(machine, "b")
    assert [a.partition for a in releasing] == [a.partition for a in moved]
    assert [a.token for a in moved] == [5, 6]
    assert len(owned(machine, "a")) == 2
    assert not any(a.releasing for a in owned(machine, "a"))


def test_a_release_that_nobody_waits_for_is_a_checkpoint(machine: SmallMachine) -> None:
    """When the move was called off meanwhile, the owner keeps the partition and its token."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    items = [[a.partition, a.token, 3, [], True, 0, []] for a in owned(machine, "a")]
    machine.do(groups.leave, "b")

    assert machine.do(groups.checkpoint, "g", "a", items, []) == []
    assert owned(machine, "a") == [Assignment("g", n, n + 1, 3, False) for n in range(4)]


def test_leaving_hands_over_at_once(machine: SmallMachine) -> None:
    """A member that leaves has drained, so its partitions move in the same command."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    release_all(machine, "a")

    assert machine.do(groups.leave, "a") == 1

    assert len(owned(machine, "b")) == 4
    assert machine.do(groups.leave, "a") == 0
    assert code(machine.do(groups.keepalive, "a")) == "unknown_member"


def test_leaving_one_of_several_groups(machine: SmallMachine) -> None:
    """A member can leave a single group; its session and the others stay."""
    machine.do(groups.define, "h", ">", 1, "latest", 1)
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "h", "a", TTL)

    assert machine.do(groups.leave, "a", "g") == 1

    assert [a.group for a in owned(machine, "a")] == ["h"]
    assert machine.do(groups.keepalive, "a") == TTL


def test_the_dead_lose_their_partitions(machine: SmallMachine) -> None:
    """When a session's deadline passes, the survivors own everything at once, with new tokens."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", 2 * TTL)
    release_all(machine, "a")
    machine.elapsed_ms = TTL - 1
    assert machine.do(groups.expire, TTL) == 0  # never ahead of the cluster's own clock
    machine.elapsed_ms = TTL
    assert groups.next_deadline(machine.connection) == TTL

    assert machine.do(groups.expire, TTL) == 1

    tokens = [a.token for a in owned(machine, "b")]
    assert len(tokens) == 4
    assert sorted(tokens) == [5, 6, 7, 8]
    assert groups.next_deadline(machine.connection) == 2 * TTL


def test_keepalive_prolongs_one_session_for_all_groups(machine: SmallMachine) -> None:
    """A member keeps its partitions in every group as long as it renews its one session."""
    machine.do(groups.define, "h", ">", 1, "latest", 1)
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "h", "a", TTL)
    machine.elapsed_ms = TTL - 1

    assert machine.do(groups.keepalive, "a") == 2 * TTL - 1

    machine.elapsed_ms = TTL
    assert machine.do(groups.expire, TTL) == 0
    assert len(owned(machine, "a")) == 5


def test_a_session_past_its_deadline_is_over(machine: SmallMachine) -> None:
    """Even before it is cleared away it cannot be renewed, and joining starts afresh."""
    machine.do(groups.join, "g", "a", TTL)
    machine.elapsed_ms = TTL

    assert code(machine.do(groups.keepalive, "a")) == "unknown_member"
    assert machine.do(groups.join, "g", "a", TTL) == 2 * TTL
    assert [a.token for a in owned(machine, "a")] == [5, 6, 7, 8]


def test_tokens_only_rise_when_a_session_that_was_over_joins(machine: SmallMachine) -> None:
    """It leaves first, which hands tokens to others: the newest of the group is kept."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", 2 * TTL)
    releasing = [a for a in groups.assignments(machine.connection, "a") if a.releasing]
    released = [[a.partition, a.token, a.floor, [], True, 0, []] for a in releasing]
    machine.do(groups.checkpoint, "g", "a", released, [])
    machine.elapsed_ms = TTL
    machine.do(groups.join, "g", "a", TTL)
    described = groups.describe(machine.connection, "g")
    assert described is not None
    handed_out = max(partition["token"] for partition in described["partitions"])
    newest: Any = machine.connection.execute("SELECT token FROM consumer_groups").get
    assert newest >= handed_out


def test_joining_again_fences_the_former_run(machine: SmallMachine) -> None:
    """A process that restarts under its name keeps its partitions under new tokens."""
    machine.do(groups.join, "g", "a", TTL)
    old = owned(machine, "a")

    machine.do(groups.join, "g", "a", TTL)

    assert [a.token for a in owned(machine, "a")] == [5, 6, 7, 8]
    item = [old[0].partition, old[0].token, 3, [], False, 0, []]
    assert code(machine.do(groups.checkpoint, "g", "a", [item], [])) == "fenced"


def test_joining_again_lets_go_of_what_was_moving(machine: SmallMachine) -> None:
    """A restarted process has nothing to drain, so what others wait for is theirs at once."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)

    machine.do(groups.join, "g", "a", TTL)

    assert len(owned(machine, "a")) == len(owned(machine, "b")) == 2
    assert not any(a.releasing for a in owned(machine, "a"))


def test_expiry_takes_bounded_steps(machine: SmallMachine) -> None:
    """One command removes a bounded number of memberships; the next ones go on from there."""
    count = limits.EXPIRE_MEMBERSHIPS_MAX + 3
    for n in range(count):
        machine.do(groups.define, f"h{n:03}", ">", 1, "latest", 1)
        machine.do(groups.join, f"h{n:03}", "a", TTL)
    machine.elapsed_ms = TTL

    removed = [machine.do(groups.expire, TTL) for _ in range(3)]

    assert removed == [limits.EXPIRE_MEMBERSHIPS_MAX, 3, 0]
    assert groups.next_deadline(machine.connection) is None


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        (groups.join, ("nowhere", "a", TTL), "unknown_group"),
        (groups.join, (None, "a", TTL), "unknown_group"),
        (groups.join, ("g", "a b", TTL), "malformed"),
        (groups.join, ("g", None, TTL), "malformed"),
        (groups.join, ("g", "a", limits.SESSION_TTL_MS_MIN - 1), "malformed"),
        (groups.join, ("g", "a", limits.SESSION_TTL_MS_MAX + 1), "malformed"),
        (groups.join, ("g", "a", "1000"), "malformed"),
        (groups.keepalive, ("a",), "unknown_member"),
        (groups.keepalive, (7,), "unknown_member"),
        (groups.leave, (7,), "malformed"),
        (groups.expire, (-1,), "malformed"),
        (groups.expire, ("now",), "malformed"),
        (groups.seek, ("nowhere", 1), "unknown_group"),
        (groups.seek, ("g", "soon"), "malformed"),
        (groups.discard, ("nowhere", []), "unknown_group"),
        (groups.discard, ("g", 5), "malformed"),
        (groups.discard, ("g", ["5"]), "malformed"),
    ],
)
def test_bad_input_changes_nothing(
    machine: SmallMachine, operation: Any, arguments: Any, expected: str
) -> None:
    """Every operation refuses bad arguments with a code and leaves the state alone."""
    before = machine.dump()

    assert expected == code(machine.do(operation, *arguments))
    assert before == machine.dump()


def test_the_members_of_a_group_are_bounded(machine: SmallMachine) -> None:
    """One member more than the limit is refused; a known one may join again."""
    for n in range(limits.MEMBERS_MAX):
        assert code(machine.do(groups.join, "g", f"m{n}", TTL)) is None

    assert code(machine.do(groups.join, "g", "one-more", TTL)) == "limit_exceeded"
    assert code(machine.do(groups.join, "g", "m7", TTL)) is None


def test_seek_moves_all_and_fences_what_is_in_hand(machine: SmallMachine) -> None:
    """After a seek every partition starts at the same place and old checkpoints are refused."""
    machine.do(groups.join, "g", "a", TTL)
    old = owned(machine, "a")[0]
    item = [old.partition, old.token, 1, [3], False, 2, []]
    machine.do(groups.checkpoint, "g", "a", [item], [])

    assert machine.do(groups.seek, "g", 2) == 1

    assert owned(machine, "a") == [Assignment("g", n, n + 5, 1, False) for n in range(4)]
    assert groups.completions(machine.connection, "g", old.partition) == []
    assert code(machine.do(groups.checkpoint, "g", "a", [item], [])) == "fenced"
    assert machine.do(groups.seek, "g", "earliest") == 0
    assert machine.do(groups.seek, "g", "latest") == 3


def test_watchers_see_every_change_of_an_assignment(machine: SmallMachine) -> None:
    """The assignments' version rises with joins, releases, seeks and removals, and only then."""

    def changed(operation: Any, *arguments: Any) -> bool:
        before = groups.assignments_version(machine.connection)
        assert code(machine.do(operation, *arguments)) is None
        return groups.assignments_version(machine.connection) > before

    assert changed(groups.join, "g", "a", TTL)
    assert not changed(groups.keepalive, "a")
    items = [[a.partition, a.token, 1, [], False, 0, []] for a in owned(machine, "a")]
    assert not changed(groups.checkpoint, "g", "a", items, [])
    assert changed(groups.join, "g", "b", TTL)
    items = [[a.partition, a.token, 1, [], True, 0, []] for a in owned(machine, "a")]
    assert changed(groups.checkpoint, "g", "a", items, [])
    assert changed(groups.seek, "g", "latest")
    assert changed(groups.leave, "b")
    assert changed(groups.remove, "g")


def test_describe(machine: SmallMachine) -> None:
    """A description shows definition, counters, members and partitions of a group."""
    machine.do(groups.join, "g", "a", TTL)
    machine.do(groups.join, "g", "b", TTL)
    description = groups.describe(machine.connection, "g")

    assert description is not None
    assert [m["member"] for m in description.pop("members")] == ["a", "b"]
    assert [p["owner"] for p in description.pop("partitions")] == ["a"] * 4
    assert description == {
        "name": "g",
        "pattern": "orders.>",
        "version": 1,
        "mode": "partitioned",
        "settings": {"mode": "partitioned", "protected": True, "cooldown_ms": 0},
        "paused": False,
        "held": False,
        "token": 4,
        "completed": 0,
        "dead": 0,
        "dead_held": 0,
        "competing": None,
    }
    assert groups.describe(machine.connection, "nowhere") is None
