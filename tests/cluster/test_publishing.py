"""Options of a publish: message ids, expected last revisions, schema versions; old entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import operations, state
from cluster.machine import Machine
from cluster.operations import REGULAR
from pubsub import groups
from pubsub.limits import (
    DELAY_MS_MAX,
    MESSAGE_ID_BYTES_MAX,
    MESSAGE_ID_WINDOW_MS,
    SCHEMA_VERSION_BYTES_MAX,
    TAILS_ADOPTED_EVENTS_MAX,
)
from pubsub.publishing import message_ids
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver


def publish(driver: Driver, topic: str, payload: bytes = b"", **options: Any) -> Any:
    """Publish with options; returns the result."""
    return driver.do("publish", topic, None, payload, None, None, options)


def code(result: Any) -> str:
    """The code of a rejection."""
    assert isinstance(result, Rejection), result
    return result.code


def test_a_message_id_is_one_event() -> None:
    """A repetition is answered with the first one's revision, whatever it carries."""
    driver = Driver()
    assert publish(driver, "t", b"1", message_id="m") == 1
    assert publish(driver, "t", b"2", message_id="m") == 1
    assert publish(driver, "t", b"3", message_id="n") == 2
    assert publish(driver, "u", b"4", message_id="m") == 3, "another topic has other messages"
    assert [event.data[0] for event in driver.events()] == [b"1", b"3", b"4"]


def test_a_message_id_is_forgotten_after_its_window() -> None:
    """For the whole window it is known, and from then on it is a new one."""
    driver = Driver()
    driver.elapsed_ms = 7 * MESSAGE_ID_WINDOW_MS - 10
    assert publish(driver, "t", message_id="m") == 1
    driver.elapsed_ms += MESSAGE_ID_WINDOW_MS - 1
    assert publish(driver, "t", message_id="m") == 1
    driver.elapsed_ms += 1
    assert publish(driver, "t", message_id="m") == 2
    assert publish(driver, "t", message_id="m") == 2


def test_ids_that_are_over_go_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """None within its window goes, and those that are over go however many they are."""
    monkeypatch.setattr(message_ids, "MESSAGE_IDS_FORGOTTEN_MAX", 3)
    driver = Driver()
    assert message_ids.next_due(driver.connection) is None
    for number in range(7):
        publish(driver, "t", message_id=f"m{number}")
    driver.elapsed_ms += MESSAGE_ID_WINDOW_MS
    publish(driver, "t", message_id="young")
    due = message_ids.next_due(driver.connection)
    assert due is not None
    driver.elapsed_ms = due - 1
    assert driver.do("message.forget", due + 10**9) == 0, "never beyond the clock"
    driver.elapsed_ms = due
    assert [driver.do("message.forget", due) for _ in range(4)] == [3, 3, 1, 0]
    assert publish(driver, "t", message_id="young") == 8
    assert code(driver.do("message.forget", -1)) == "malformed"


def test_an_expected_last_revision_is_of_the_topic() -> None:
    """Nothing of this topic after what I read; other topics do not matter."""
    driver = Driver()
    assert publish(driver, "t", expected_last_revision=0) == 1
    assert code(publish(driver, "t", expected_last_revision=0)) == "revision_mismatch"
    assert publish(driver, "u") == 2
    assert publish(driver, "t", expected_last_revision=1) == 3
    assert publish(driver, "t", expected_last_revision=99) == 4, "a higher one is as good"
    assert driver.machine.revision == 4


def test_an_expectation_sees_what_no_transaction_wrote_yet(tmp_path: Path) -> None:
    """Within an entry, between two transactions, and after a restart."""
    driver = Driver(tmp_path / "state.db", commits_each=False)
    first = operations.pack(0, 0, "publish", ["t", None, b""])
    second = operations.pack(
        0, 0, "publish", ["t", None, b"", None, None, {"expected_last_revision": 0}]
    )
    assert code(driver.entry(first, second).results[1]) == "revision_mismatch"
    assert code(driver.entry(second).results[0]) == "revision_mismatch"
    driver.machine.commit()
    driver.reopen()
    assert code(driver.entry(second).results[0]) == "revision_mismatch"
    assert publish(driver, "t", expected_last_revision=1) == 2


def test_what_was_taken_back_was_not_published() -> None:
    """A transaction that is refused late leaves no trace of its events, nor of their ids."""
    driver = Driver()
    driver.do("put", "k", b"")
    publishing = ["publish", "t", None, b"", None, None, {"message_id": "m"}]
    refused = driver.do("txn", [], [publishing, ["put", "k", b"", None, 99]])
    assert code(refused) == "revision_mismatch"
    assert publish(driver, "t", expected_last_revision=0, message_id="m") == 2


def test_events_of_an_operation_see_each_other() -> None:
    """In a transaction and in a batch, also inside of a handler's effects; all or none."""
    driver = Driver()
    one = ["t", None, b"1", None, None, {"expected_last_revision": 0}]
    assert driver.do("txn", [], [["publish", *one], ["publish", "t", None, b"2"]]) == [True, [1, 2]]
    assert code(driver.do("txn", [], [["publish", "u", None, b""], ["publish", *one]])) == (
        "revision_mismatch"
    )
    new = ["v", None, b"", None, None, {"expected_last_revision": 0}]
    assert code(driver.do("publish_batch", [new, new])) == "revision_mismatch"
    assert driver.machine.revision == 2
    driver.do("group.define", "g", "t", 1, "earliest", 1)
    driver.do("group.join", "g", "m", 60_000)
    (item,) = groups.assignments(driver.connection, "m")
    units = [[item.partition, 1, [["publish", new], ["publish", new]]]]
    progress = [[item.partition, item.token, 1, [], False, 1, []]]
    ((_, _, refusal, _),) = driver.do("group.checkpoint", "g", "m", progress, units)
    assert refusal == "revision_mismatch"
    assert publish(driver, "v", expected_last_revision=0) == 3


def test_a_repetition_is_answered_before_anything_is_expected() -> None:
    """Whoever lost the answer asks again, and the topic went on because of him."""
    driver = Driver()
    assert publish(driver, "t", message_id="m", expected_last_revision=0) == 1
    assert publish(driver, "t", message_id="m", expected_last_revision=0) == 1
    assert code(publish(driver, "t", message_id="n", expected_last_revision=0)) == (
        "revision_mismatch"
    )
    assert publish(driver, "t", message_id="n", expected_last_revision=1) == 2, "n was not used up"


def test_a_batch_says_which_events_are_old() -> None:
    """First and count are of the new ones; duplicates within the batch count as well."""
    driver = Driver()
    a, b = ({"message_id": name} for name in "ab")
    items = [
        ["t", None, b"0", None, None, a],
        ["t", None, b"1"],
        ["t", None, b"2", None, None, a],
        ["t", None, b"3", None, None, b],
    ]
    assert driver.do("publish_batch", items) == [1, 3, [[2, 1]]]
    assert driver.do("publish_batch", items) == [4, 1, [[0, 1], [2, 1], [3, 3]]]
    assert driver.do("publish_batch", [items[0]]) == [5, 0, [[0, 1]]]
    assert driver.do("publish_batch", [["t", None, b"", None, None, {}]]) == [5, 1]


def test_a_schema_version_stands_in_the_event() -> None:
    """As a fourth item, and only where it was given."""
    driver = Driver()
    publish(driver, "t", b"p", schema_version="2")
    publish(driver, "t", b"p")
    assert [event.data for event in driver.events()] == [
        (b"p", None, None, "2"),
        (b"p", None, None),
    ]


@pytest.mark.parametrize(
    "options",
    [
        5,
        [],
        {"message-id": "m"},
        {5: "m"},
        {"message_id": ""},
        {"message_id": 5},
        {"message_id": "x" * (MESSAGE_ID_BYTES_MAX + 1)},
        {"expected_last_revision": -1},
        {"expected_last_revision": True},
        {"expected_last_revision": 2**63},
        {"schema_version": ""},
        {"schema_version": "x" * (SCHEMA_VERSION_BYTES_MAX + 1)},
    ],
)
def test_wrong_options_are_refused_everywhere(options: Any) -> None:
    """By name, and nothing of the operation happens."""
    driver = Driver()
    event = ["t", None, b"", None, None, options]
    for name, args in (
        ("publish", event),
        ("publish_batch", [[["t", None, b""], event]]),
        ("txn", [[], [["publish", "t", None, b""], ["publish", *event]]]),
        ("publish_later", [*event, 5]),
    ):
        assert code(driver.do(name, *args)) == "malformed"
    assert driver.machine.revision == 0
    assert driver.rows()["delayed_events"] == []


def of_version(driver: Driver, version: int, name: str, *args: Any) -> Any:
    """The result of one operation in an entry of a version."""
    payload = operations.pack(0, 0, name, args)
    body = operations.seal([payload], driver.wall_ms, driver.elapsed_ms, version)
    return driver.apply(bytes((REGULAR,)) + body).results[0]


def test_an_old_entry_knows_no_options() -> None:
    """It is answered as the release that wrote it did."""
    driver = Driver()
    event: list[Any] = ["t", None, b"", None, None, {}]
    cases: list[tuple[str, list[Any]]] = [
        ("publish", event),
        ("publish_batch", [[event]]),
        ("txn", [[], [["publish", *event]], []]),
    ]
    for name, args in cases:
        assert code(of_version(driver, 1, name, *args)) == "malformed"
    for name in ("publish_later", "delayed.cancel", "delayed.publish", "message.forget"):
        assert code(of_version(driver, 1, name, 1, 1)) == "unknown_operation"
    assert driver.machine.revision == 0


def test_an_upgrade_finds_the_topics_of_a_short_log() -> None:
    """With the first entry of version 2, wherever transactions ended before it."""
    dumps = []
    for commits_each in (True, False):
        driver = Driver(commits_each=commits_each)
        for topic in ("a", "b", "a"):
            assert of_version(driver, 1, "publish", topic, None, b"") > 0
        of_version(driver, 1, "put", "k", b"")
        assert driver.rows()["topic_tails"] == []
        assert publish(driver, "b", expected_last_revision=2) == 5
        assert code(publish(driver, "a", expected_last_revision=2)) == "revision_mismatch"
        assert publish(driver, "new", expected_last_revision=0) == 6
        driver.machine.commit()
        dumps.append(driver.rows())
    assert dumps[0] == dumps[1]
    assert dumps[0]["topic_tails"] == [("a", 3), ("b", 5), ("new", 6)]


def test_an_upgrade_of_a_long_log_is_careful() -> None:
    """What nobody looked at counts as new: a refusal that is not needed, and no lost update."""
    driver = Driver()
    batch = [["a", None, b""]] * 10_000
    for _ in range(TAILS_ADOPTED_EVENTS_MAX // len(batch)):
        of_version(driver, 1, "publish_batch", batch)
    last = of_version(driver, 1, "publish", "a", None, b"")
    assert code(publish(driver, "b", expected_last_revision=last - 1)) == "revision_mismatch"
    assert publish(driver, "b", expected_last_revision=last) == last + 1
    assert code(publish(driver, "b", expected_last_revision=last)) == "revision_mismatch"
    assert driver.machine.topics("", 10) == ([("b", last + 1)], False)


def test_topics_are_listed_by_name() -> None:
    """Those that rows have and those that none has yet, page by page."""
    driver = Driver(commits_each=False)
    names = ["ab", "a.b", "z", "a.a", "\u00e9", "a.b.c", "\U0001f600"]
    for name in names[:4]:
        publish(driver, name)
    driver.machine.commit()
    for name in [*names[3:], "z"]:
        publish(driver, name)
    driver.do("put", "k", b"")
    every, more = driver.machine.topics("", 100)
    assert not more
    assert [topic for topic, _ in every] == sorted(names, key=str.encode)
    assert dict(every) == {"ab": 1, "a.b": 2, "a.a": 5, "\u00e9": 6, "a.b.c": 7, "\U0001f600": 8,
                           "z": 9}  # fmt: skip
    paged: list[tuple[str, int]] = []
    more = True
    while more:
        page, more = driver.machine.topics(paged[-1][0] if paged else "", 2)
        assert len(page) <= 2
        paged += page
    assert paged == every


def test_a_state_of_the_older_format_gets_the_tables(tmp_path: Path) -> None:
    """They are there after opening, and empty."""
    path = tmp_path / "state.db"
    connection = state.open_state(path)
    for table in ("topic_tails", "message_ids", "delayed_events", "delayed_totals"):
        connection.execute(f"DROP TABLE {table}")
    connection.pragma("user_version", 1)
    connection.close()
    machine = Machine(state.open_state(path))
    assert machine.topics("", 5) == ([], False)
    machine.connection.close()


def test_a_delay_has_one_time_within_bounds() -> None:
    """Either after so long or at a time; what nobody would hear of is refused at once."""
    driver = Driver()
    event = ["t", None, b"", None, None]
    for times in ([None], [None, None], [5, driver.wall_ms], [-1], ["5"], [DELAY_MS_MAX + 1],
                  [None, driver.wall_ms + DELAY_MS_MAX + 1]):  # fmt: skip
        assert code(driver.do("publish_later", *event, None, *times)) == "malformed"
    expecting = {"expected_last_revision": 5}
    assert code(driver.do("publish_later", *event, expecting, 5)) == "malformed"
    assert code(driver.do("publish_later", "hooks.x", *event[1:], None, 5)) == "reserved_topic"
    assert driver.do("publish_later", *event, None, 0) == 1
