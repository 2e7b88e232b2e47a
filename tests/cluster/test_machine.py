"""The state machine as a whole: deterministic, total, atomic per entry, and it survives crashes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import kv, operations, state
from cluster.limits import DIGESTS_MAX
from cluster.machine import Applied, Machine
from cluster.operations import EACH, NO_OP, REGULAR, VERSION, UnsupportedEntry
from cluster.registry import OPERATIONS, Operation, by_version
from pubsub import groups
from pubsub.limits import MEMBERS_MAX
from pubsub.publishing import topic_tails
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver, dump, put

MEMBERS = [["a", "uid-a", "a:1", "voter"], ["b", "uid-b", "b:1", "learner"]]


def script(seed: int, entries: int) -> list[tuple[int, int, bytes]]:
    """A log with everything in it, made by a machine of its own."""
    driver, draw = Driver(), random.Random(seed)
    driver.membership("added_learner", "b", "b:1", MEMBERS)
    clients = [driver.do("session.open") for _ in range(3)]
    seqs = dict.fromkeys(clients, 0)
    driver.do("group.define", "g", ">", 4, "earliest", 1)
    driver.do("group.join", "g", "m1", 60_000)
    for _ in range(entries):
        driver.wall_ms += draw.randrange(-50, 500)
        driver.elapsed_ms += draw.randrange(-50, 20_000)
        if draw.random() < 0.05:
            driver.term += 1
            driver.no_op(draw.choice("ab"), ["a"], ["b"])
        driver.entry(*[operation(draw, driver, seqs) for _ in range(draw.randrange(1, 12))])
    return driver.entries


def operation(draw: random.Random, driver: Driver, seqs: dict[int, int]) -> bytes:
    """One random packed operation, now and then a retry or garbage."""
    client = draw.choice([0, *seqs])
    if client:
        seqs[client] += draw.choice([0, 1, 1, 1, 1, 2])
    key = f"k/{draw.randrange(30)}"
    put_item = ["put", key, draw.randbytes(draw.choice([3, 50, 3000])), draw.choice([None, 900])]
    members = [f"m{number}" for number in range(1, 4)]
    choices: list[list[Any]] = [
        put_item,
        put_item,
        ["put", key, b"", None, draw.randrange(100)],
        ["delete", key],
        ["batch", [put_item, ["delete", f"k/{draw.randrange(30)}"]]],
        ["txn", [[key, "exists", "=", True]], [put_item, ["get", key]], [["delete", key]]],
        ["publish", "orders.created", key, b"payload", None, {"h": "v"}],
        ["publish", "orders.paid", key, b"", None, None, {"message_id": key}],
        ["publish", "orders.paid", key, b"", None, None, {"expected_last_revision": 150}],
        ["publish_batch", [["t", key, b"", None, None, {"message_id": key}], ["u", key, b""]]],
        ["publish_later", "late", key, b"", None, None, None, draw.randrange(2_000)],
        ["delayed.cancel", draw.randrange(60)],
        ["delayed.publish", driver.wall_ms, 3],
        ["message.forget", driver.elapsed_ms],
        ["kv.expire", driver.wall_ms, 10],
        ["session.expire", driver.elapsed_ms],
        ["group.join", "g", draw.choice(members), 60_000],
        ["group.leave", draw.choice(members)],
        ["group.expire", driver.elapsed_ms],
        ["group.seek", "g", "latest"],
        checkpoint(draw, driver, key),
        ["unheard of", 1, 2],
    ]
    name, *args = draw.choice(choices)
    packed = operations.pack(client, seqs.get(client, 0), name, args, "actor", ["correlation"])
    return packed if draw.random() > 0.02 else packed[: draw.randrange(len(packed))]


def checkpoint(draw: random.Random, driver: Driver, key: str) -> list[Any]:
    """A checkpoint of what a member owns, with an effect."""
    member = draw.choice(["m1", "m2", "m3"])
    owned = groups.assignments(driver.connection, member)
    progress = [
        [item.partition, item.token, item.floor + draw.randrange(3), [], False, 1, []]
        for item in owned
    ]
    effects = [
        [item.partition, item.floor + 1, [["put", [key, b"effect"]], ["publish", ["t", None, b""]]]]
        for item in owned[:1]
    ]
    return ["group.checkpoint", "g", member, progress, effects]


def test_two_machines_agree_though_one_restarts(tmp_path: Path) -> None:
    """The same entries give the same rows, results and digests; a replay changes nothing."""
    entries = script(seed=1, entries=120)
    steady = Driver(tmp_path / "steady.db")
    restarting = Driver(tmp_path / "restarting.db")
    for position, entry in enumerate(entries):
        one = steady.machine.apply(*entry)
        other = restarting.machine.apply(*entry)
        assert one == other
        if position % 17 == 0:
            restarting.machine.commit()
            state.checkpoint(restarting.connection)
            restarting.reopen()
            for old in entries[max(0, position - 5) : position + 1]:
                again = restarting.machine.apply(*old)
                assert (again.results, again.batch) == ([], None)
    assert steady.machine.digest == restarting.machine.digest
    steady.machine.commit()
    restarting.machine.commit()
    assert steady.rows() == restarting.rows()
    assert state.load(steady.connection) == state.load(restarting.connection)
    assert state.verify(steady.connection) > 0
    assert any(steady.rows().values())


def test_different_entries_give_different_digests() -> None:
    """The digest covers command, results and events; a node that applied another entry shows."""
    one, other = Driver(), Driver()
    assert one.digest_after(put("a")) == other.digest_after(put("a"))
    assert one.digest_after(put("b", b"1")) != other.digest_after(put("b", b"2"))
    assert one.digest_after(put("c")) != other.digest_after(put("c")), "differences stay"


def test_rows_that_differ_show_when_they_are_used() -> None:
    """An answer that another node would not give changes the digest, without any event."""
    one, other = Driver(), Driver()
    for driver in (one, other):
        driver.do("put", "a", b"1")
    other.connection.execute("UPDATE kv SET value = ?", (b"2",))
    other.machine = Machine(other.connection)  # which remembers no row
    look = operations.pack(0, 0, "txn", [[], [["get", "a"]], []])
    assert one.digest_after(look) != other.digest_after(look)


def test_an_operation_that_is_refused_late_is_taken_back() -> None:
    """To join again ends an expired session first; a group that is full then takes that back."""
    driver = Driver()
    driver.do("group.define", "full", ">", 1, "earliest", 1)
    for number in range(MEMBERS_MAX):
        driver.do("group.join", "full", f"m{number}", 600_000)
    driver.do("group.define", "g", ">", 1, "earliest", 1)
    driver.do("group.join", "g", "late", 1_000)
    driver.elapsed_ms += 1_000
    before = driver.rows()
    refused = driver.do("group.join", "full", "late", 1_000)
    assert isinstance(refused, Rejection)
    assert driver.rows() == before


def test_a_crash_applies_again_exactly_what_is_missing(tmp_path: Path) -> None:
    """Files copied before, between and in the middle of transactions: each goes on the same way."""
    entries = script(seed=2, entries=60)
    driver = Driver(tmp_path / "state.db")
    copies: list[Path] = []
    applied: list[Applied] = []
    for position, entry in enumerate(entries):
        if position % 5 == 0:
            copies.append(copy_files(tmp_path, len(copies)))
        if position % 5 == 1:
            # what is applied and not committed can be in the file as well: caches are small
            driver.connection.cache_flush()
            copies.append(copy_files(tmp_path, len(copies)))
        if position % 3 == 0:
            driver.machine.commit()
        if position % 24 == 0:
            state.checkpoint(driver.connection)
        applied.append(driver.machine.apply(*entry))
    driver.machine.commit()
    rows = driver.rows()
    for path in copies:
        machine = Machine(state.open_state(path))
        present = machine.applied_index - 1
        again = [machine.apply(*entry) for entry in entries]
        assert again[present:] == applied[present:]
        assert not any(repeated.results or repeated.batch for repeated in again[:present])
        assert machine.digest == driver.machine.digest
        machine.commit()
        assert dump(machine.connection) == rows
        state.verify(machine.connection)
        machine.connection.close()


def copy_files(directory: Path, number: int) -> Path:
    """What a crash at this moment would leave: the database and its write-ahead file."""
    target = directory / f"crash-{number}.db"
    for suffix in ("", "-wal"):
        source = directory / f"state.db{suffix}"
        if source.exists():
            shutil.copy(source, directory / f"{target.name}{suffix}")
    return target


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["g", "m1", "put", "key", "latest", "a.b", ">", "hooks.x", "", "="]),
    st.binary(max_size=5),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
NAMES = [*OPERATIONS, EACH, "session.open", "session.close", "session.expire", "nothing"]
garbage = st.one_of(
    st.binary(max_size=40),
    st.tuples(
        st.integers(0, 3), st.integers(0, 5), st.sampled_from(NAMES), st.lists(values, max_size=6)
    ).map(lambda items: operations.pack(*items)),
    st.tuples(values, values, values, values, values, values).map(
        lambda items: operations.pack(*items)
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(garbage, min_size=1, max_size=8))
def test_apply_is_total(payloads: list[bytes]) -> None:
    """Garbage never raises; what is refused changes nothing but the digest and the memory of it."""
    driver = prepared()
    for payload in payloads:
        before, digest = kept(driver), driver.machine.digest
        applied = driver.entry(payload)
        assert len(applied.results) == 1
        if isinstance(applied.results[0], Rejection):
            assert kept(driver) == before
            assert applied.batch is None
        assert driver.machine.digest != digest
    driver.connection.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 2))
def test_no_command_breaks_the_machine(body: bytes, kind: int) -> None:
    """An entry that is not one of ours is refused; a newer release's stops the node."""
    driver = prepared()
    before = kept(driver)
    try:
        applied = driver.apply(bytes((kind,)) + body)
    except UnsupportedEntry:
        pass
    else:
        assert [type(result) for result in applied.results] in ([], [Rejection])
    assert kept(driver) == before
    driver.connection.close()


def prepared() -> Driver:
    """A state in which names and numbers of the garbage can mean something."""
    driver = Driver()
    driver.do("session.open")
    driver.do("session.open")
    driver.do("put", "key", b"value")
    driver.do("publish", "a.b", "key", b"")
    driver.do("group.define", "g", ">", 2, "earliest", 1)
    driver.do("group.join", "g", "m1", 1_000)
    return driver


def kept(driver: Driver) -> dict[str, list[Any]]:
    """All rows but the memory of what was answered."""
    rows = driver.rows()
    del rows["session_results"]
    return rows


def test_one_bad_operation_does_not_hide_its_neighbours() -> None:
    """Every operation of an entry has its own result at its own place."""
    driver = Driver()
    cut = put("b")[:-3]
    applied = driver.entry(put("a"), cut, b"", put("c"), b"\xff" * 9, put("d"))
    assert [result if type(result) is int else result.code for result in applied.results] == [
        1, "malformed", "malformed", 2, "malformed", 3,
    ]  # fmt: skip
    assert [event.key for event in driver.events()] == ["a", "c", "d"]


def test_an_applied_entry_is_ignored_and_a_gap_is_our_bug() -> None:
    """Raft may hand over an entry again after a restart, but never skip one."""
    driver = Driver()
    driver.do("put", "a", b"")
    before = driver.rows()
    for entry in [(1, 0, bytes((NO_OP,))), *driver.entries]:
        assert driver.machine.apply(*entry).results == []
    assert driver.rows() == before
    with pytest.raises(AssertionError):
        driver.machine.apply(4, 1, driver.entries[0][2])


def test_what_is_not_ours_leaves_the_state_alone() -> None:
    """An exception inside apply takes the whole entry back and ends this machine."""
    driver = Driver()
    driver.do("put", "a", b"")
    driver.connection.execute("CREATE TEMP TRIGGER bug BEFORE INSERT ON kv WHEN NEW.key = 'bug'"
                              " BEGIN SELECT RAISE(ABORT, 'bug'); END")  # fmt: skip
    before, digest = driver.rows(), driver.machine.digest
    with pytest.raises(apsw.ConstraintError, match="bug"):
        driver.entry(put("b"), put("bug"))
    assert driver.rows() == before
    assert (driver.machine.applied_index, driver.machine.digest) == (2, digest)
    with pytest.raises(AssertionError):
        driver.do("put", "c", b"")


def test_an_entry_is_applied_before_it_is_stored(tmp_path: Path) -> None:
    """Its results and events are there for callers; whoever looks at the state finds it whole."""
    driver, other = Driver(tmp_path / "state.db"), Driver()
    driver.commits_each = False
    payload = operations.pack(0, 0, "publish", ["t", None, b"v", None, None])
    for _ in range(2):
        reader, machine = driver.connection.cursor(), driver.machine
        applied = driver.entry(payload)
        assert applied.results == [machine.revision]
        assert applied.batch is not None
        rows = reader.execute("SELECT count(*) FROM event_batches").get
        assert rows == machine.revision - 1, "not yet"
        assert machine.digest == other.digest_after(payload)
        assert reader.execute("SELECT count(*) FROM event_batches").get == machine.revision
    driver.entry(payload)
    driver.machine.commit()
    other.entry(payload)
    assert driver.rows() == other.rows()


def test_what_callers_do_with_a_result_is_their_own_affair() -> None:
    """A list is stored before it is given away."""
    driver, other = Driver(), Driver()
    driver.commits_each = False
    batch = operations.pack(0, 0, "publish_batch", [[["t", None, b"v"]]])
    driver.entry(batch).results[0].clear()
    assert driver.machine.digest == other.digest_after(batch)


def test_what_cannot_be_stored_ends_the_machine() -> None:
    """All since the last commit is taken back, and nothing claims that it was applied."""
    driver = Driver()
    driver.do("put", "a", b"")
    driver.machine.commit()
    before = driver.rows()
    driver.connection.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON event_batches"
                              " BEGIN SELECT RAISE(ABORT, 'full'); END")  # fmt: skip
    driver.commits_each = False
    driver.entry(put("b"))
    with pytest.raises(apsw.ConstraintError, match="full"):
        driver.machine.finish()
    with pytest.raises(AssertionError):
        driver.machine.commit()
    with pytest.raises(AssertionError):
        driver.entry(put("c"))
    assert driver.rows() == before


def test_an_entry_of_a_newer_release_stops_the_machine() -> None:
    """Neither its kind nor its version is guessed at."""
    driver = Driver()
    with pytest.raises(UnsupportedEntry):
        driver.apply(b"\x03")
    driver = Driver()
    with pytest.raises(UnsupportedEntry):
        driver.apply(bytes((REGULAR,)) + msgpack.packb([VERSION + 1, 0, 0, []]))


def test_an_entry_of_an_older_version_knows_only_what_that_version_knew() -> None:
    """A release that came later must answer as the one did that wrote it."""
    older = Operation(lambda apply, *args: len(args), 1, 3, older=(1, 2))
    newer = Operation(lambda apply: 0, 0, 0, since=2)
    registries = by_version({"older": older, "newer": newer})
    assert registries[1] == {"older": older._replace(arguments_max=2)}
    assert registries[2] == {"older": older, "newer": newer}


def test_what_an_older_member_holds_back_is_refused_with_that_reason() -> None:
    """An operation and an option of the newer release, in an entry of the older version."""
    driver = Driver()
    fetch = operations.pack(0, 0, "group.fetch", ["g", "m", 1, 1])
    with_options = operations.pack(0, 0, "publish", ["t", None, b"", None, None, {}])
    applied = driver.apply(bytes((REGULAR,)) + operations.seal([fetch, with_options], 1, 1, 1))
    assert [result.code for result in applied.results] == ["unknown_operation", "malformed"]
    assert all("of an older release" in result.detail for result in applied.results)
    assert "older" not in driver.do("no.such.operation").detail


def test_the_newest_version_of_an_entry_is_kept(tmp_path: Path) -> None:
    """What was applied once may be written by every later leader, over restarts too."""
    driver = Driver(tmp_path / "state.db")
    assert driver.machine.entry_version == 1
    driver.apply(bytes((REGULAR,)) + operations.seal([put("a")], 1, 1, 1))
    assert driver.machine.entry_version == 1
    driver.entry(put("b"))
    driver.machine.commit()
    driver.reopen()
    assert driver.machine.entry_version == VERSION


def test_a_state_of_the_version_before_keeps_what_it_knows_of_topics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest event of each is counted since version 2, and no log need have it any more."""
    monkeypatch.setattr(topic_tails, "TAILS_ADOPTED_EVENTS_MAX", 1)
    driver = Driver(commits_each=False)
    publish = operations.pack(0, 0, "publish", ["t", None, b"", None, None])
    for _ in range(2):
        driver.apply(bytes((REGULAR,)) + operations.seal([publish, put("k")], 1, 1, 2))
    driver.entry(put("k"))
    assert (driver.machine.entry_version, driver.machine.revision) == (VERSION, 5)
    assert driver.machine.topics("", 10) == ([("t", 3)], False)
    driver.machine.commit()
    tails = driver.connection.execute("SELECT * FROM topic_tails").fetchall()
    assert tails == [("t", 3)]


def test_what_is_published_is_known_after_a_restart(tmp_path: Path) -> None:
    """And at once when it is set; none is asked about a topic while all are published."""
    driver = Driver(tmp_path / "state.db")
    topics = ("hooks.cluster.node_added", "hooks.kv.ttl_expired", "orders.created")

    def published() -> list[bool] | None:
        ask = driver.machine.is_published
        return None if ask is None else [ask(topic) for topic in topics]

    assert published() is None
    driver.do("hook.settings", {"publish_topics": ["hooks.cluster.*"]})
    assert published() == [True, False, True]
    driver.reopen()
    assert published() == [True, False, True]
    driver.do("hook.settings", {"publish_topics": []})
    assert published() is None


def test_the_clocks_never_run_backwards() -> None:
    """Whatever the stamps of successive leaders were."""
    driver = Driver()
    driver.entry(put("a"))
    wall_ms, elapsed_ms = driver.wall_ms, driver.elapsed_ms
    driver.wall_ms -= 900
    driver.elapsed_ms -= 900
    assert driver.entry(put("b", b"", 1_000)).wall_ms == wall_ms
    row = kv.get(driver.connection, "b")
    assert row is not None
    assert row.expires_ms == wall_ms + 1_000
    assert (driver.machine.wall_ms, driver.machine.elapsed_ms) == (wall_ms, elapsed_ms)


def test_digests_of_the_newest_entries_are_remembered() -> None:
    """A bounded number, by index, for comparison with other nodes."""
    driver = Driver()
    digests = {driver.machine.applied_index: driver.machine.digest}
    for _ in range(DIGESTS_MAX + 10):
        applied = driver.apply(bytes((NO_OP,)))
        digests[applied.index] = driver.machine.digest
    newest = sorted(digests)[-DIGESTS_MAX:]
    assert driver.machine.digests == {index: digests[index] for index in newest}


def test_operations_are_counted_by_name_and_outcome() -> None:
    """For the metrics; names that nobody knows are not, for they have no end."""
    driver = Driver()
    driver.do("put", "a", b"")
    driver.do("put", "a", b"", None, 9)
    driver.do("nonsense")
    assert driver.machine.operations["put"] == [1, 1]
    assert "nonsense" not in driver.machine.operations
