"""A shortened form of `./dev proof`, and the proof's own checks against what they must find."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from pubsub.events import Event
from tests.real.proof.bars import Bars
from tests.real.proof.packages import History, NoIndex, digest, index_lines, stanzas, write_records
from tests.real.proof.run import Options, prove
from tests.real.proof.sample import sample_index
from tests.real.proof.verify import (
    DELETE,
    WRITE,
    Change,
    Run,
    Scanned,
    check_log,
    check_runs,
    check_values,
)

RECORDS = 1_500
# A dead member's partitions are taken over sooner than by default: the test waits for that.
QUICK = """
[limits.hooks]
member_ttl_ms = 3000
keepalive_ms = 500
lease_margin_ms = 500
"""


async def test_the_proof_in_short(tmp_path: Path) -> None:
    """An import through kill -9 of the leader and of another node loses and doubles nothing."""
    console = Console()
    options = Options(records_max=RECORDS, churn_rounds=4, settings=QUICK)
    outcome = await prove(tmp_path, some_index(), options, Bars(console, None))
    failed = [f"{check.name}: {check.detail}" for check in outcome.checks if not check.passed]
    assert not failed
    assert len(outcome.checks) == 14


def some_index() -> Iterator[str]:
    """The real index where there is one."""
    if shutil.which("apt-cache"):
        try:
            yield from index_lines(None)
            return
        except NoIndex:
            pass
    yield from sample_index(RECORDS)


def test_stanzas_become_records(tmp_path: Path) -> None:
    """A record has the key that its stanza says; continued lines and doubled packages are kept."""
    fields = list(stanzas(sample_index(3)))
    assert fields[0]["Tag"] == "role::program, interface::commandline,\nworks-with::text"
    written = write_records(sample_index(3), tmp_path / "packages.ndjson", None)
    assert (written.records, written.doubled) == (3, 1)
    assert [len(values) for values in written.values.values()] == [1, 2]


def test_checks_find_what_is_wrong_in_a_log() -> None:
    """A lost, a doubled, a reordered and a phantom event, and a gap, each fail the log's check."""
    expected = {"k": [digest(b"1"), digest(b"2"), None]}
    good = [_put(1, "k", b"1"), _put(2, "k", b"2"), _delete(3, "k")]
    assert check_log("a", _scanned(good), expected).passed
    doubled = [good[0], _put(2, "k", b"1"), _put(3, "k", b"2"), _delete(4, "k")]
    reordered = [_put(1, "k", b"2"), _put(2, "k", b"1"), _delete(3, "k")]
    phantom = [*good, _put(4, "other", b"1")]
    gap = [*good[:2], _delete(4, "k")]
    for events in (good[:2], doubled, reordered, phantom, gap):
        assert not check_log("a", _scanned(events), expected).passed


def test_checks_find_what_is_wrong_in_a_state() -> None:
    """A missing, an old and a resurrected value fail the check of the values."""
    expected: History = {"k": [digest(b"1"), digest(b"2")], "gone": [digest(b"1"), None]}
    assert check_values("a", {"k": digest(b"2")}, expected).passed
    for found in ({}, {"k": digest(b"1")}, {"k": digest(b"2"), "gone": digest(b"1")}):
        assert not check_values("a", found, expected).passed


def test_checks_find_what_is_wrong_in_a_handlers_runs() -> None:
    """Repeats are allowed up to the bound; an event that never ran or ran too early is not."""
    changes = [Change(1, WRITE, "k"), Change(2, WRITE, "other"), Change(3, DELETE, "k")]

    def passed(*revisions: int) -> list[bool]:
        keys = {1: "k", 2: "other", 3: "k"}
        runs = [Run(n, revision, keys.get(revision, "?")) for n, revision in enumerate(revisions)]
        return [check.passed for check in check_runs("handler", changes, runs, 1)]

    assert passed(2, 1, 3) == [True, True]  # keys have no order among each other
    assert passed(1, 2, 1, 3) == [True, True]
    assert passed(1, 2) == [False, True]
    assert passed(3, 1, 2) == [True, False]
    assert passed(1, 2, 3, 9) == [False, False]
    assert passed(1, 1, 1, 2, 3) == [False, True]


def _scanned(events: list[Event]) -> Scanned:
    scanned = Scanned()
    for event in events:
        scanned.add(event)
    return scanned


def _put(revision: int, key: str, value: bytes) -> Event:
    return _event(revision, WRITE, key, (value, revision, 1, 0, None))


def _delete(revision: int, key: str) -> Event:
    return _event(revision, DELETE, key, (revision - 1, 1))


def _event(revision: int, topic: str, key: str, data: tuple[object, ...]) -> Event:
    return Event(revision, topic, key, data, None, None, None, 0, None, 0, 0, 0, 0)
