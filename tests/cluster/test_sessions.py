"""The retry window: a request applies once, however often and in whatever order it arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import operations, sessions, state
from cluster.limits import (
    SESSION_BYTES_MAX,
    SESSION_HOLES_MAX,
    SESSION_IDLE_MS,
    SESSION_RESULT_BYTES_MAX,
    SESSION_RESULTS_MIN,
    SESSION_RESULTS_SLACK,
    SESSION_TOUCH_MS,
)
from cluster.sessions import NEW, Sessions
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver, put

LIFETIME_MS = SESSION_IDLE_MS + SESSION_TOUCH_MS


def code(result: Any) -> str | None:
    """The code of a rejection; None for a result."""
    return result.code if isinstance(result, Rejection) else None


def test_a_retry_answers_the_same_and_applies_nothing() -> None:
    """The remembered result again, in a later entry, after many others, in the same entry."""
    driver = Driver()
    client = driver.do("session.open")
    first = driver.do("put", "a", b"1", client=client, seq=1)
    driver.do("put", "a", b"2", client=client, seq=2)
    assert driver.do("put", "a", b"1", client=client, seq=1) == first
    applied = driver.entry(
        put("b", client=client, seq=3), put("b", client=client, seq=3), put("b", b"other")
    )
    assert applied.results == [3, 3, 4]
    assert driver.machine.revision == 4
    assert driver.machine.duplicates == 2


def test_a_refusal_is_remembered_too() -> None:
    """The retry of a refused request does not become a success because the state moved on."""
    driver = Driver()
    client = driver.do("session.open")
    refused = driver.do("put", "a", b"", None, 1, client=client, seq=1)
    assert code(refused) == "revision_mismatch"
    driver.do("put", "a", b"")
    assert driver.do("put", "a", b"", None, 1, client=client, seq=1) == refused


def test_the_memory_survives_a_restart(tmp_path: Path) -> None:
    """Results of every kind are the same after the state was opened again."""
    driver = Driver(tmp_path / "state.db")
    client = driver.do("session.open")
    requests: list[tuple[str, list[Any]]] = [
        ("put", ["a", b"1"]),
        ("delete", ["missing"]),
        ("batch", [[["put", "b", b""], ["put", "c", b""]]]),
        ("txn", [[], [["get", "a"], ["range", "a", "c"]], []]),
        ("put", ["a", b"", None, 99]),
        ("no such thing", []),
    ]
    answers = [
        driver.do(name, *args, client=client, seq=seq)
        for seq, (name, args) in enumerate(requests, 1)
    ]
    before = driver.rows()
    driver.reopen()
    again = [
        driver.do(name, *args, client=client, seq=seq)
        for seq, (name, args) in enumerate(requests, 1)
    ]
    assert again == answers
    assert [type(answer) for answer in again] == [type(answer) for answer in answers]
    assert driver.rows() == before


def test_numbers_may_arrive_in_any_order() -> None:
    """A number that was skipped is new when it comes, once."""
    driver = Driver()
    client = driver.do("session.open")
    for seq in (5, 2, 9, 1, 3):
        assert code(driver.do("put", f"k{seq}", b"", client=client, seq=seq)) is None
    revision = driver.machine.revision
    for seq in (1, 2, 3, 5, 9):
        driver.do("put", f"k{seq}", b"", client=client, seq=seq)
    assert driver.machine.revision == revision == 5
    for seq in (4, 6, 7, 8, 10):
        driver.do("put", f"k{seq}", b"", client=client, seq=seq)
    assert driver.machine.revision == 10


@pytest.mark.parametrize("restart", [False, True])
def test_an_old_request_is_refused_and_never_applied_again(tmp_path: Path, restart: bool) -> None:
    """What fell out of the window is refused; the newest are all remembered."""
    driver = Driver(tmp_path / "state.db")
    client = driver.do("session.open")
    total = 2 * (SESSION_RESULTS_MIN + SESSION_RESULTS_SLACK)
    for seq in range(1, total + 1):
        driver.do("put", "k", b"", client=client, seq=seq)
    if restart:
        driver.reopen()
    outcomes = [
        code(driver.do("put", "k", b"", client=client, seq=seq)) for seq in range(1, total + 1)
    ]
    assert driver.machine.revision == total
    refused = outcomes.count("request_too_old")
    assert outcomes == ["request_too_old"] * refused + [None] * (total - refused)
    assert SESSION_RESULTS_MIN <= total - refused < SESSION_RESULTS_MIN + SESSION_RESULTS_SLACK


def test_a_large_entry_is_remembered_whole() -> None:
    """An entry with more requests than the window holds stays until the next ones fill it."""
    driver = Driver()
    client = driver.do("session.open")
    many = SESSION_RESULTS_MIN * 2
    driver.entry(*[put("k", client=client, seq=seq) for seq in range(1, many + 1)])
    driver.do("put", "k", b"", client=client, seq=many + 1)
    assert driver.do("put", "k", b"", client=client, seq=1) == 1
    rest = range(many + 2, many + 2 + SESSION_RESULTS_MIN + SESSION_RESULTS_SLACK)
    driver.entry(*[put("k", client=client, seq=seq) for seq in rest])
    assert code(driver.do("put", "k", b"", client=client, seq=1)) == "request_too_old"


def test_an_unknown_session_is_refused() -> None:
    """Nothing is applied for a session that there is not."""
    driver = Driver()
    assert code(driver.do("put", "a", b"", client=7, seq=1)) == "session_expired"
    assert driver.machine.revision == 0


def test_a_session_expires_after_silence_and_not_before() -> None:
    """Requests prolong it; the clock of the cluster decides, whatever the proposer says."""
    driver = Driver()
    client = driver.do("session.open")
    assert sessions.next_expiry(driver.connection) == driver.elapsed_ms + LIFETIME_MS
    driver.elapsed_ms += SESSION_IDLE_MS
    driver.do("put", "a", b"", client=client, seq=1)
    driver.elapsed_ms += SESSION_IDLE_MS
    assert driver.do("session.expire", driver.elapsed_ms + 2 * LIFETIME_MS) == 0
    driver.do("put", "a", b"", client=client, seq=1)  # a retry is a sign of life too
    driver.elapsed_ms += LIFETIME_MS
    assert driver.do("session.expire", driver.elapsed_ms - 1) == 0, "the proposer said how far"
    assert driver.do("session.expire", driver.elapsed_ms) == 1
    assert code(driver.do("put", "a", b"", client=client, seq=2)) == "session_expired"
    assert driver.machine.sessions_count == 0
    assert driver.rows()["session_results"] == []


def test_a_session_never_expires_in_the_entry_that_uses_it() -> None:
    """A request before the expiry in one entry counts, although it is stored only at the end."""
    driver = Driver()
    client = driver.do("session.open")
    driver.elapsed_ms += 2 * LIFETIME_MS
    applied = driver.entry(
        put("a", client=client, seq=1),
        operations.pack(0, 0, "session.expire", [driver.elapsed_ms]),
        put("b", client=client, seq=2),
    )
    assert applied.results == [1, 0, 2]


def test_numbers_of_sessions_are_never_used_twice(tmp_path: Path) -> None:
    """Also not after a session was closed and the state was opened again."""
    driver = Driver(tmp_path / "state.db")
    first, second = driver.do("session.open"), driver.do("session.open")
    assert driver.do("session.close", second) is True
    assert driver.do("session.close", second) is False
    driver.reopen()
    assert driver.do("session.open") not in (0, first, second)


def test_a_session_can_close_itself() -> None:
    """The request that closes it is answered, and the next one finds no session."""
    driver = Driver()
    client = driver.do("session.open")
    applied = driver.entry(
        put("a", client=client, seq=1),
        operations.pack(client, 2, "session.close", [client]),
        put("b", client=client, seq=3),
    )
    assert applied.results[:2] == [1, True]
    assert code(applied.results[2]) == "session_expired"
    assert driver.rows()["session_results"] == []


def test_a_result_too_large_is_forgotten_and_not_applied_again() -> None:
    """Its retry is told that it was applied."""
    driver = Driver()
    driver.do("put", "big", bytes(SESSION_RESULT_BYTES_MAX))
    client = driver.do("session.open")
    request: tuple[str, list[Any], list[Any]] = ("txn", [], [["put", "a", b""], ["get", "big"]])
    assert driver.do(*request, client=client, seq=1)[0] is True
    assert code(driver.do(*request, client=client, seq=1)) == "result_forgotten"
    assert driver.machine.revision == 2


def test_the_memory_of_a_session_is_bounded_in_bytes() -> None:
    """Large results push out older ones before their number does."""
    driver = Driver()
    driver.do("put", "big", bytes(SESSION_RESULT_BYTES_MAX - 100))
    client = driver.do("session.open")
    many = 4 * SESSION_BYTES_MAX // SESSION_RESULT_BYTES_MAX
    for seq in range(1, many + 1):
        driver.do("txn", [], [["get", "big"]], client=client, seq=seq)
    kept = sum(len(row[-1]) for row in driver.rows()["session_results"])
    assert SESSION_BYTES_MAX // 2 < kept <= SESSION_BYTES_MAX
    assert code(driver.do("txn", [], [["get", "big"]], client=client, seq=1)) == "request_too_old"
    assert code(driver.do("txn", [], [["get", "big"]], client=client, seq=many)) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), max_size=20),
    st.sets(st.integers(0, 20)),
    st.integers(1, 3),
)
def test_no_order_of_requests_applies_one_twice(
    script: list[list[int]], reloads: set[int], clients: int
) -> None:
    """Against a set: new exactly once, then the same result, also from a reloaded window."""
    connection = state.open_state(":memory:")
    kept = Sessions(connection, windows_max=1)  # every other session is reloaded all the time
    applied: dict[tuple[int, int], int] = {}
    for client in range(1, clients + 1):
        kept.open(client, 0)
    for index, requests in enumerate(script):
        if index in reloads:
            kept = Sessions(connection)
        for position, number in enumerate(requests):
            client, seq = 1 + number % clients, number
            answer = kept.recall(client, seq)
            assert (answer is NEW) == ((client, seq) not in applied)
            if answer is NEW:
                result = index * 100 + position
                applied[client, seq] = result
                kept.remember(client, seq, result)
            else:
                assert answer == applied[client, seq]
        kept.flush(index, 0)
    connection.close()


def test_skipped_numbers_are_given_up_when_there_are_too_many(tmp_path: Path) -> None:
    """The memory for gaps is bounded: the oldest are refused then, the same after a restart."""
    driver = Driver(tmp_path / "state.db")
    client = driver.do("session.open")
    numbers = range(2, 2 * SESSION_HOLES_MAX + 20, 2)
    for seq in numbers:
        driver.do("put", "k", b"", client=client, seq=seq)
    for restart in (False, True):
        if restart:
            driver.reopen()
        assert code(driver.do("put", "k", b"", client=client, seq=5)) == "request_too_old"
        assert driver.do("put", "k", b"", client=client, seq=4) == 2
        assert (
            code(driver.do("put", "k", b"", client=client, seq=numbers[-2 - restart] + 1)) is None
        )
    assert driver.machine.revision == len(numbers) + 2


def test_a_window_decides_the_same_after_a_restart(tmp_path: Path) -> None:
    """What is forgotten depends on what is stored, never on how long the node has been running."""
    steady, restarting = Driver(tmp_path / "steady.db"), Driver(tmp_path / "restarting.db")
    client = steady.do("session.open")
    assert restarting.do("session.open") == client
    seq = 1
    for size in [300, 1, 1, 700, 1, 2, 3, 640, *[9] * 150, 1200, *[9] * 150, *[1] * 20]:
        payloads = [put("k", client=client, seq=seq + offset) for offset in range(size)]
        seq += size
        assert steady.digest_after(*payloads) == restarting.digest_after(*payloads)
        restarting.reopen()
    assert steady.rows() == restarting.rows()


@pytest.mark.parametrize("argument", [-1, "x", None, 1.5, 2**63])
def test_session_operations_refuse_garbage(argument: Any) -> None:
    """As every operation does."""
    driver = Driver()
    assert code(driver.do("session.expire", argument)) == "malformed"
    assert code(driver.do("session.close", argument)) == "malformed"
