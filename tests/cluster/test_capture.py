"""What the log keeps of values: rules per prefix, applied as the put is."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import operations
from cluster.operations import REGULAR
from hooks.events.publisher import payload
from hooks.replicated import capture
from hooks.replicated.capture import Rule, Rules, cut
from pubsub.limits import CAPTURE_BYTES_DEFAULT, CAPTURE_BYTES_MAX, CAPTURE_RULES_MAX
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver, put

VALUE = b"0123456789"
DIGEST = sha256(VALUE).hexdigest()


def written(driver: Driver, key: str, value: bytes = VALUE) -> tuple[Any, ...]:
    """The data of the event that a put of the key makes."""
    driver.do("put", key, value)
    return driver.events()[-1].data


def test_without_rules_the_event_has_the_value_and_nothing_more() -> None:
    """The stored form is that of every release before."""
    assert written(Driver(), "k") == (VALUE, 1, 1, 0, None)


@pytest.mark.parametrize(
    ("mode", "size", "kept", "captured"),
    [
        ("none", None, None, ("none", 10, None)),
        ("hash", None, None, ("hash", 10, DIGEST)),
        ("truncated", 4, b"0123", ("truncated", 10, DIGEST)),
    ],
)
def test_a_rule_keeps_less(mode: str, size: int | None, kept: Any, captured: Any) -> None:
    """The event has what the rule leaves and says so; the store has the value whole."""
    driver = Driver()
    assert driver.do("capture.set", "secrets/", mode, size) is True
    data = written(driver, "secrets/a")
    assert data == (kept, 2, 1, 0, None, captured)
    found = driver.machine.get("secrets/a")
    assert found is not None
    assert found.value == VALUE
    assert written(driver, "others") == (VALUE, 3, 1, 0, None)


def test_what_fits_is_there_whole() -> None:
    """A rule for truncated values changes nothing of one that is not longer."""
    driver = Driver()
    driver.do("capture.set", "", "truncated", len(VALUE))
    assert written(driver, "k") == (VALUE, 2, 1, 0, None)
    driver.do("capture.set", "", "truncated")
    long = b"x" * (CAPTURE_BYTES_DEFAULT + 1)
    assert written(driver, "k", long)[0] == long[:-1]


def test_the_longest_prefix_wins() -> None:
    """Also where it says that everything is kept, below one that keeps nothing."""
    driver = Driver()
    for prefix, mode in (("", "hash"), ("a/", "none"), ("a/public/", "full")):
        driver.do("capture.set", prefix, mode)
    assert written(driver, "a/public/k")[0] == VALUE
    assert written(driver, "a/k")[5][0] == "none"
    assert written(driver, "a")[5][0] == "hash"
    assert driver.do("capture.delete", "a/") is True
    assert written(driver, "a/k")[5][0] == "hash"


def test_every_way_of_writing_goes_by_the_rules() -> None:
    """Batches, transactions, and puts of the very entry that sets a rule."""
    driver = Driver()
    rule = operations.pack(0, 0, "capture.set", ["s/", "none"])
    driver.entry(put("s/0"), rule, put("s/1"))
    driver.do("batch", [["put", "s/2", VALUE]])
    driver.do("txn", [], [["put", "s/3", VALUE]])
    writes = [event for event in driver.events() if event.topic == "hooks.kv.write_committed"]
    assert [event.data[0] for event in writes] == [b"v", None, None, None]


def test_rules_are_still_there_after_a_restart(tmp_path: Path) -> None:
    """They are part of the state, not of a process."""
    driver = Driver(tmp_path / "state.db")
    driver.do("capture.set", "s/", "none")
    driver.reopen()
    assert written(driver, "s/k")[0] is None
    driver.do("capture.delete", "s/")
    driver.reopen()
    assert written(driver, "s/k")[0] == VALUE


def test_a_change_is_an_event_and_what_was_so_is_none() -> None:
    """The settings' event names rule and actor; saying it again says nothing."""
    driver = Driver()
    assert driver.do("capture.set", "s/", "truncated", 3, actor="ann") is True
    assert driver.do("capture.set", "s/", "truncated", 3) is False
    assert driver.do("capture.delete", "s/") is True
    first, second = driver.events()
    assert payload(first) == {
        "name": "capture",
        "value": {"prefix": "s/", "mode": "truncated", "bytes": 3},
        "actor": "ann",
    }
    assert payload(second)["value"] == {"prefix": "s/", "mode": "full", "bytes": None}


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (("s/", "hsah"), 'did you mean "hash"?'),
        (("s/", 3), "mode: full, truncated, hash, none are known"),
        ((3, "hash"), "prefix: a text"),
        (("x" * 1025, "hash"), "prefix: a text of at most 1024 bytes"),
        (("s/", "hash", 10), 'only mode "truncated"'),
        (("s/", "truncated", 0), "a whole number from 1"),
        (("s/", "truncated", True), "a whole number from 1"),
        (("s/", "truncated", CAPTURE_BYTES_MAX + 1), "a whole number from 1"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments: tuple[Any, ...], detail: str) -> None:
    """With what is wrong, and without any effect."""
    driver = Driver()
    driver.do("put", "k", VALUE)
    before = driver.rows()
    result = driver.do("capture.set", *arguments)
    assert isinstance(result, Rejection)
    assert result.code == "malformed"
    assert detail in result.detail
    assert driver.rows() == before


def test_an_unknown_rule_cannot_be_deleted() -> None:
    """The nearest prefix is named."""
    driver = Driver()
    driver.do("capture.set", "secrets/", "none")
    result = driver.do("capture.delete", "secret/")
    assert isinstance(result, Rejection)
    assert (result.code, 'did you mean "secrets/"?' in result.detail) == ("unknown_rule", True)
    assert driver.do("capture.delete", 3) == Rejection("malformed", "prefix: a text is needed")


def test_there_is_a_most_of_rules() -> None:
    """A cluster has a bounded number; one that is there can still be changed."""
    driver = Driver()
    for number in range(CAPTURE_RULES_MAX):
        assert driver.do("capture.set", f"{number}/", "none") is True
    result = driver.do("capture.set", "more/", "none")
    assert isinstance(result, Rejection)
    assert result.code == "limit_exceeded"
    assert driver.do("capture.set", "0/", "hash") is True


def test_the_first_file_counts_and_no_later_one() -> None:
    """What a file says holds while nobody has said anything; then its node hears what differs."""
    driver = Driver()
    assert driver.do("capture.seed", []) == []
    assert not capture.is_told(driver.connection)
    assert driver.do("capture.seed", [["s/", "none", None], ["t/", "truncated", None]]) == []
    assert capture.listing(driver.connection) == [
        Rule("s/", "none"),
        Rule("t/", "truncated", CAPTURE_BYTES_DEFAULT),
    ]
    assert driver.do("capture.seed", [["s/", "hash", None], ["u/", "none", None]]) == [
        "s/",
        "t/",
        "u/",
    ]
    assert len(capture.listing(driver.connection)) == 2


def test_what_an_operator_deleted_does_not_come_back_with_a_file() -> None:
    """A node that starts again must not undo a decision."""
    driver = Driver()
    driver.do("capture.set", "s/", "none")
    driver.do("capture.delete", "s/")
    assert driver.do("capture.seed", [["s/", "none", None]]) == ["s/"]
    assert written(driver, "s/k")[0] == VALUE


@pytest.mark.parametrize(
    "rules", [3, [3], [["s/"]], [["s/", "x", None]], [["a", "none", None]] * 65]
)
def test_a_file_that_makes_no_sense_seeds_nothing(rules: Any) -> None:
    """Neither a part of it, nor the right of a later one to be the first."""
    driver = Driver()
    assert isinstance(driver.do("capture.seed", rules), Rejection)
    assert not capture.is_told(driver.connection)


def test_entries_of_an_older_release_know_no_rules() -> None:
    """An operation that it would not know is refused in its entries."""
    driver = Driver()
    packed = operations.pack(0, 0, "capture.set", ["s/", "none"])
    (result,) = driver.apply(bytes((REGULAR,)) + operations.seal([packed], 1, 1, 1)).results
    assert isinstance(result, Rejection)
    assert result.code == "unknown_operation"


@given(st.text(max_size=40), st.integers(0, 60))
def test_text_is_cut_between_characters(text: str, bytes_max: int) -> None:
    """What is left is text, its beginning, and as long as it can be."""
    value = text.encode()
    kept = cut(value, bytes_max)
    assert text.startswith(kept.decode())
    assert min(bytes_max, len(value)) - 3 <= len(kept) <= bytes_max


@given(st.binary(max_size=40), st.integers(0, 60))
def test_other_bytes_are_cut_where_they_must(value: bytes, bytes_max: int) -> None:
    """Never longer than allowed, always the beginning, and at most three bytes shorter."""
    kept = cut(value, bytes_max)
    assert value.startswith(kept)
    assert min(bytes_max, len(value)) - 3 <= len(kept) <= bytes_max


@given(
    st.dictionaries(st.text("ab/", max_size=4), st.sampled_from(capture.MODES), max_size=6),
    st.text("ab/", min_size=1, max_size=6),
)
def test_the_rule_of_a_key_is_the_one_with_the_longest_prefix(
    rules: dict[str, str], key: str
) -> None:
    """As by trying all of them."""
    matching = [prefix for prefix in rules if key.startswith(prefix)]
    expected = max(matching, key=len) if matching else None
    found = Rules(Rule(*item) for item in rules.items()).of(key)
    assert expected == (None if found is None else found.prefix)
