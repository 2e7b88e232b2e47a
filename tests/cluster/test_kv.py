"""The key-value store: what each operation does, what it refuses, and what readers see."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import kv
from cluster.limits import (
    BATCH_OPERATIONS_MAX,
    HEADERS_MAX,
    KEY_BYTES_MAX,
    TTL_MS_MAX,
    TXN_RESULT_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver


def code(result: Any) -> str:
    """The code of a rejection."""
    assert isinstance(result, Rejection), result
    return result.code


def unchanged(driver: Driver, name: str, *args: Any) -> str:
    """Run an operation that must be refused and leave no trace; returns the code."""
    driver.entry()  # the first entry of all notes its version
    before, revision = driver.rows(), driver.machine.revision
    result = driver.do(name, *args)
    assert driver.rows() == before
    assert driver.machine.revision == revision
    return code(result)


def test_a_put_creates_and_updates() -> None:
    """Revisions, version and expiry of a row tell its history."""
    driver = Driver()
    assert driver.do("put", "a", b"1") == 1
    assert driver.do("put", "b", b"x") == 2
    assert driver.do("put", "a", b"2") == 3
    assert kv.get(driver.connection, "a") == kv.Row("a", b"2", 1, 3, 2, None)
    assert kv.get(driver.connection, "missing") is None


def test_the_events_of_changes_are_truthful() -> None:
    """An event says what was there before, so that nobody has to guess."""
    driver = Driver()
    driver.do("put", "a", b"1", 500, actor="alice")
    driver.do("put", "a", b"2")
    driver.do("delete", "a", actor="bob", meta=["trace-1"])
    create, update, delete = driver.events()
    expires_ms = driver.wall_ms + 500
    assert (create.topic, create.key) == ("hooks.kv.write_committed", "a")
    assert create.data == (b"1", 1, 1, 0, expires_ms)
    assert create.actor == "alice"
    assert update.data == (b"2", 1, 2, 1, None)
    assert (delete.topic, delete.data) == ("hooks.kv.delete_committed", (2, 2))
    assert (delete.actor, delete.correlation_id) == ("bob", "trace-1")
    assert [event.revision for event in (create, update, delete)] == [1, 2, 3]


def test_a_deleted_key_starts_anew() -> None:
    """Version 1 and a new create revision after a delete."""
    driver = Driver()
    driver.do("put", "a", b"1")
    assert driver.do("delete", "a") == 2
    assert kv.get(driver.connection, "a") is None
    driver.do("put", "a", b"2")
    assert kv.get(driver.connection, "a") == kv.Row("a", b"2", 3, 3, 1, None)


def test_deleting_nothing_is_no_change() -> None:
    """The answer is 0 and there is no event."""
    driver = Driver()
    assert driver.do("delete", "a") == 0
    assert driver.events() == []


def test_an_expected_revision_guards_a_key() -> None:
    """0 means that the key must not exist; any other number that it is at that revision."""
    driver = Driver()
    assert unchanged(driver, "put", "a", b"1", None, 1) == "revision_mismatch"
    assert driver.do("put", "a", b"1", None, 0) == 1
    assert unchanged(driver, "put", "a", b"2", None, 0) == "revision_mismatch"
    assert driver.do("put", "a", b"2", None, 1) == 2
    assert unchanged(driver, "delete", "a", 1) == "revision_mismatch"
    assert unchanged(driver, "delete", "b", 7) == "revision_mismatch"
    assert driver.do("delete", "b", 0) == 0
    assert driver.do("delete", "a", 2) == 3


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("put", [], "malformed"),
        ("put", ["a"], "malformed"),
        ("put", ["a", b"", None, None, None], "malformed"),
        ("put", ["", b""], "malformed"),
        ("put", [b"a", b""], "malformed"),
        ("put", ["a", "text"], "malformed"),
        ("put", ["a", b"", 0], "malformed"),
        ("put", ["a", b"", True], "malformed"),
        ("put", ["a", b"", 1.0], "malformed"),
        ("put", ["a", b"", TTL_MS_MAX + 1], "malformed"),
        ("put", ["a", b"", None, -1], "malformed"),
        ("put", ["a" * (KEY_BYTES_MAX + 1), b""], "limit_exceeded"),
        ("put", ["\N{SNOWMAN}" * (KEY_BYTES_MAX // 3 + 1), b""], "limit_exceeded"),
        ("put", ["a", bytes(VALUE_BYTES_MAX + 1)], "limit_exceeded"),
        ("delete", [""], "malformed"),
        ("delete", ["a" * (KEY_BYTES_MAX + 1)], "limit_exceeded"),
        ("delete", ["a", "1"], "malformed"),
        ("batch", [[]], "malformed"),
        ("batch", ["put"], "malformed"),
        ("batch", [[["get", "a"]]], "malformed"),
        ("batch", [[["put", "a"]]], "malformed"),
        ("batch", [[["put", "ok", b""], ["put", "", b""]]], "malformed"),
        ("batch", [[["delete", "a"]] * (BATCH_OPERATIONS_MAX + 1)], "limit_exceeded"),
        ("txn", [[], [["frobnicate"]]], "malformed"),
        ("txn", [[["a", "value", "=", 5]], []], "malformed"),
        ("txn", [[["a", "colour", "=", b""]], []], "malformed"),
        ("txn", [[["a", "version", "~", 5]], []], "malformed"),
        ("txn", [[["a", "exists", "<", True]], []], "malformed"),
        ("txn", [[["", "version", "=", 5]], []], "malformed"),
        ("txn", [[], [], [["range", "a", "b", 0]]], "malformed"),
        ("txn", [[], [["range", "a", "b", None, 5]]], "malformed"),
        ("txn", [[], [["put", "ok", b""], ["publish", "hooks.x", None, b""]]], "reserved_topic"),
        ("publish", ["hooks.kv.write_committed", None, b""], "reserved_topic"),
        ("publish", ["hooks", None, b""], "reserved_topic"),
        ("publish", ["a..b", None, b""], "malformed"),
        ("publish", ["a." * 20 + "b", None, b""], "malformed"),
        ("publish", ["a", "", b""], "malformed"),
        ("publish", ["a", None, "text"], "malformed"),
        ("publish", ["a", None, bytes(VALUE_BYTES_MAX + 1)], "limit_exceeded"),
        ("publish", ["a", None, b"", 5], "malformed"),
        ("publish", ["a", None, b"", None, {"h": 5}], "malformed"),
        ("publish", ["a", None, b"", None, {f"{i}": "" for i in range(HEADERS_MAX + 1)}],
         "limit_exceeded"),
        ("publish_batch", [[["a", None, b""], ["hooks.x", None, b""]]], "reserved_topic"),
        ("publish_batch", [[["a", None]]], "malformed"),
        ("publish_batch", [[]], "malformed"),
        ("kv.expire", [-1], "malformed"),
        ("kv.expire", [5, 0], "malformed"),
        ("put ", ["a", b""], "unknown_operation"),
    ],
)  # fmt: skip
def test_a_wrong_operation_is_refused(name: str, args: list[Any], expected: str) -> None:
    """A bad argument yields a rejection with a code, and changes nothing."""
    driver = Driver()
    driver.do("put", "a", b"before")
    assert unchanged(driver, name, *args) == expected


def test_the_largest_put_is_accepted() -> None:
    """Limits are the largest value that works."""
    driver = Driver()
    key, value = "k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX)
    assert driver.do("put", key, value, TTL_MS_MAX) == 1
    row = kv.get(driver.connection, key)
    assert row is not None
    assert row.value == value


def test_a_key_expires_by_the_clock_of_the_cluster_only() -> None:
    """It stays until kv.expire is applied, and no proposer can expire it early."""
    driver = Driver()
    driver.do("put", "a", b"1", 1_000)
    due = driver.wall_ms + 1_000
    assert kv.next_expiry(driver.connection) == due
    assert driver.do("kv.expire", due + 5) == 0, "the clock of the cluster is not there yet"
    driver.wall_ms = due
    assert kv.get(driver.connection, "a") is not None
    assert driver.do("kv.expire", due - 1) == 0, "the proposer said how far"
    assert driver.do("kv.expire", due) == 1
    assert kv.get(driver.connection, "a") is None
    assert kv.next_expiry(driver.connection) is None
    expired = driver.events()[-1]
    assert (expired.topic, expired.key) == ("hooks.kv.ttl_expired", "a")
    assert expired.data == (1, 1, due)


def test_a_put_without_ttl_ends_the_expiry() -> None:
    """The last put alone decides how long a key lives."""
    driver = Driver()
    driver.do("put", "a", b"1", 1_000)
    driver.do("put", "a", b"2")
    driver.wall_ms += 5_000
    assert driver.do("kv.expire", driver.wall_ms) == 0
    driver.do("put", "a", b"3", 10)
    driver.wall_ms += 10
    assert driver.do("kv.expire", driver.wall_ms) == 1


def test_expiry_goes_in_slices_oldest_first() -> None:
    """A bounded number per command, in the order of their times."""
    driver = Driver()
    for position in range(5):
        driver.do("put", f"k{position}", b"", 500 - position)
    driver.wall_ms += 1_000
    assert driver.do("kv.expire", driver.wall_ms, 2) == 2
    assert [event.key for event in driver.events(6)] == ["k4", "k3"]
    assert driver.do("kv.expire", driver.wall_ms, 100) == 3


def test_a_batch_is_one_operation_with_an_event_for_each_change() -> None:
    """It answers the first revision and how many followed."""
    driver = Driver()
    driver.do("put", "gone", b"")
    result = driver.do(
        "batch", [["put", "a", b"1"], ["delete", "gone"], ["delete", "never"], ["put", "a", b"2"]]
    )
    assert result == [2, 3]
    assert kv.get(driver.connection, "a") == kv.Row("a", b"2", 2, 4, 2, None)
    assert [event.revision for event in driver.events()] == [1, 2, 3, 4]


def test_a_batch_whose_condition_fails_leaves_nothing() -> None:
    """Rows, events and revisions are as before, although the first writes were done."""
    driver = Driver()
    driver.do("put", "a", b"1")
    batch = [["put", "b", b""], ["put", "a", b"2", None, 1], ["put", "a", b"3", None, 1]]
    assert unchanged(driver, "batch", batch) == "revision_mismatch"
    assert driver.do("put", "c", b"") == 2, "no revision was lost"
    assert driver.do("batch", batch[:2]) == [3, 2]


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        (["a", "value", "=", b"m"], True),
        (["a", "value", "!=", b"m"], False),
        (["a", "value", "<", b"n"], True),
        (["a", "value", ">=", b"m"], True),
        (["missing", "value", "!=", b"m"], False),
        (["missing", "value", "=", b""], False),
        (["a", "version", "=", 2], True),
        (["a", "create_revision", "=", 1], True),
        (["a", "mod_revision", ">", 1], True),
        (["a", "mod_revision", "<=", 1], False),
        (["missing", "mod_revision", "=", 0], True),
        (["missing", "version", "<", 1], True),
        (["a", "exists", "=", True], True),
        (["missing", "exists", "=", True], False),
        (["missing", "exists", "!=", True], True),
    ],
)
def test_a_transaction_takes_the_branch_of_its_compares(compare: list[Any], expected: bool) -> None:
    """All compares must hold for `then`; a missing key has revision 0 and no value."""
    driver = Driver()
    driver.do("put", "a", b"l")
    driver.do("put", "a", b"m")
    result = driver.do("txn", [compare], [["put", "then", b""]], [["put", "else", b""]])
    assert result == [expected, [3]]
    assert driver.events()[-1].key == ("then" if expected else "else")


def test_a_transaction_sees_its_own_writes() -> None:
    """Items run in order; results stand at the place of their item."""
    driver = Driver()
    driver.do("put", "a/1", b"old")
    driver.do("put", "a/2", b"old")
    result = driver.do(
        "txn",
        [["a/1", "exists", "=", True]],
        [
            ["put", "a/1", b"new"],
            ["delete", "a/2"],
            ["publish", "orders.created", "k", b"payload"],
            ["get", "a/1"],
            ["get", "a/2"],
            ["range", "a/", "a0"],
            ["delete", "never"],
        ],
    )
    row = ["a/1", b"new", 1, 3, 2, None]
    assert result == [True, [3, 4, 5, row, None, [[row], False], 0]]


def test_a_transaction_that_is_refused_late_leaves_nothing() -> None:
    """A failed expectation, or reads that return too much, take the writes back."""
    driver = Driver()
    for number in range(6):
        driver.do("put", f"big/{number}", bytes(VALUE_BYTES_MAX - KEY_BYTES_MAX))
    put = ["put", "a", b""]
    refused = [put, ["put", "b", b"", None, 9]]
    assert unchanged(driver, "txn", [], refused) == "revision_mismatch"
    pages = [put, *(["get", f"big/{number}"] for number in range(6))]
    assert 6 * VALUE_BYTES_MAX > TXN_RESULT_BYTES_MAX
    assert unchanged(driver, "txn", [], pages) == "limit_exceeded"
    assert driver.do("txn", [["a", "exists", "=", True]], [], None) == [False, []]


def test_publishing_makes_events_of_users() -> None:
    """Topic, key, payload, content type, headers and who did it."""
    driver = Driver()
    revision = driver.do(
        "publish", "orders.created", "k", b"{}", "application/json", {"h": "v"}, actor="alice"
    )
    (event,) = driver.events()
    assert event.revision == revision == 1
    assert (event.topic, event.key, event.actor) == ("orders.created", "k", "alice")
    assert event.data == (b"{}", "application/json", {"h": "v"})
    assert driver.do("publish_batch", [["a", None, b"1"], ["b", "k", b"2", "text/plain"]]) == [2, 2]
    assert [event.topic for event in driver.events(2)] == ["a", "b"]


def test_a_range_is_paged_in_the_order_of_keys() -> None:
    """Pages join without a gap or an overlap, whatever the bound was."""
    driver = Driver()
    keys = [f"k/{number:02}" for number in range(10)]
    for key in reversed(keys):
        driver.do("put", key, key.encode())
    driver.do("put", "other", b"")
    seen: list[str] = []
    after, more = None, True
    while more:
        rows, more = kv.range_(driver.connection, "k/", "k0", 3, after)
        seen += [row.key for row in rows]
        after = seen[-1]
    assert seen == keys
    rows, more = kv.range_(driver.connection, "k/", "k0", 10)
    assert (len(rows), more) == (10, False)


def test_a_range_ends_as_its_end_says() -> None:
    """A single key, an open end, an exclusive end; keys only leaves the values out."""
    driver = Driver()
    for key in ("a", "b", "c"):
        driver.do("put", key, b"v")

    def keys(*args: Any, **more: Any) -> list[str]:
        return [row.key for row in kv.range_(driver.connection, *args, **more)[0]]

    assert keys("b", None) == ["b"]
    assert keys("x", None) == []
    assert keys("b", "") == ["b", "c"]
    assert keys("a", "c") == ["a", "b"]
    assert keys("", "", after="b") == ["c"]
    rows, _ = kv.range_(driver.connection, "a", "", keys_only=True)
    assert [row.value for row in rows] == [None, None, None]
    assert kv.count(driver.connection, "a", "c") == 2
    assert kv.count(driver.connection, "", "") == 3


def test_a_page_is_bounded_in_bytes() -> None:
    """The row that would exceed the bound starts the next page; a first row is always there."""
    driver = Driver()
    for key in ("a", "b", "c"):
        driver.do("put", key, bytes(100))
    rows, more = kv.range_(driver.connection, "", "", bytes_max=250)
    assert ([row.key for row in rows], more) == (["a", "b"], True)
    rows, more = kv.range_(driver.connection, "", "", bytes_max=10)
    assert ([row.key for row in rows], more) == (["a"], True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "")),
        ("a", ("a", "b")),
        ("a/", ("a/", "a0")),
        ("\ud7ff", ("\ud7ff", "\ue000")),
        ("a\U0010ffff", ("a\U0010ffff", "b")),
        ("\U0010ffff", ("\U0010ffff", "")),
    ],
)
def test_a_prefix_is_a_range(text: str, expected: tuple[str, str]) -> None:
    """The end is the first text that does not begin with the prefix any more."""
    assert kv.prefix(text) == expected


def test_keys_are_ordered_by_code_point() -> None:
    """Binary order of UTF-8, which is that of code points: no collation, no locale."""
    driver = Driver()
    keys = ["A", "a", "\xe4", "\ufffd", "\U0001f600", "Z"]
    for key in keys:
        driver.do("put", key, b"")
    rows, _ = kv.range_(driver.connection, "", "")
    assert [row.key for row in rows] == sorted(keys)
