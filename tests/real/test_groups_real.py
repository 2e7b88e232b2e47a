"""A shortened form of `./dev proof-groups`, and its checks against what they must find."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from pubsub.events import Event
from tests.real.proof.bars import Bars
from tests.real.proof.sample import sample_index
from tests.real.proof_groups.consumer import Handling
from tests.real.proof_groups.lines import TOPIC, Chain, keyed_lines, write_lines
from tests.real.proof_groups.run import Options, prove
from tests.real.proof_groups.verify import (
    Handlings,
    Log,
    check_all,
    check_alone,
    check_log,
    check_order,
    check_repeats,
    handle_all,
)

EVENTS = 5_000
KEYS = {1: "k", 2: "other", 3: "k", 4: "k"}


async def test_groups_in_short(tmp_path: Path) -> None:
    """Through kill -9 of the leader and of a consumer of each mode no event is lost, none is
    doubled in the log, keys stay in order, and what is handled again is explained."""
    options = Options(
        events_max=EVENTS, publishing_s=10.0, short=True, ttl_ms=6_000, lease_ms=6_000
    )
    outcome = await prove(tmp_path, sample_index(EVENTS), options, Bars(Console(), None))
    failed = [f"{check.name}: {check.detail}" for check in outcome.checks if not check.passed]
    assert not failed
    assert len(outcome.checks) == 16


def test_lines_become_events(tmp_path: Path) -> None:
    """Every line has its package's key; all lines of a key stand in one file, in their order."""
    index = ["Package: a\n", "Tag: x\n", " y\n", "\n", "Package: b\n", "\n", "Package: a\n"]
    assert [key for key, _ in keyed_lines(index)] == ["a", "a", "a", "b", "a"]
    written = write_lines(index, tmp_path, 2, None)
    assert (written.lines, written.chains["a"].length) == (5, 4)
    (rows,) = [text for file in written.files if "a\t" in (text := file.read_text())]
    assert [row for row in rows.splitlines() if row[0] == "a"] == [
        "a\tPackage: a", "a\tTag: x", "a\t y", "a\tPackage: a",
    ]  # fmt: skip


def test_checks_find_what_is_wrong_in_a_log() -> None:
    """A lost, a doubled, a reordered and a phantom event, and a gap, each fail the check."""
    expected = {"k": Chain().then(b"1").then(b"2")}
    assert check_log("a", _log("k1", "k2"), expected).passed
    for events in (["k1"], ["k1", "k1", "k2"], ["k2", "k1"], ["k1", "k2", "x1"]):
        assert not check_log("a", _log(*events), expected).passed
    gap = _log("k1")
    gap.add(_event(3, "k2"))
    assert not check_log("a", gap, expected).passed


def test_checks_find_what_is_wrong_in_handlings() -> None:
    """Only what a process that was hurt had in hand may be handled again."""
    killed = {7: "killed"}

    def passed(*handlings: Handling) -> list[bool]:
        found, log = _handled(handlings), _keyed_log()
        return [
            check_all("g", found, log).passed,
            check_repeats("g", found, killed, 1).passed,
            check_order("g", found, log).passed,
        ]

    assert passed(_did(1), _did(2), _did(3), _did(4)) == [True, True, True]
    assert passed(_did(2), _did(1), _did(3), _did(4)) == [True, True, True]
    assert passed(_did(1), _did(2), _did(3)) == [False, True, True]
    assert passed(_did(1), _did(2), _did(4), _did(3)) == [True, True, False]
    assert passed(*(_did(n) for n in (1, 2, 3, 4, 9))) == [False, True, True]
    rest = [_did(2), _did(3), _did(4)]
    assert passed(_did(1, pid=7), _did(1), *rest) == [True, True, True]
    assert passed(_did(1, pid=6), _did(1), *rest) == [True, False, True]
    assert passed(_did(1, pid=7), _did(2, pid=7), _did(1), *rest) == [True, False, True]


def test_checks_find_two_members_at_one_key() -> None:
    """An older token after a newer one is for a stopped process alone, and once."""

    def passed(*handlings: Handling) -> bool:
        return check_alone("g", _handled(handlings), [7]).passed

    taken_over = (_did(1, token=1, pid=7), _did(3, token=2, pid=8))
    assert passed(*taken_over)
    assert passed(*taken_over, _did(4, token=1, pid=7))
    assert not passed(*taken_over, _did(4, token=1, pid=7), _did(4, token=1, pid=7))
    assert not passed(*taken_over, _did(4, token=1, pid=9))


def test_checks_find_two_members_at_one_event_of_a_competing_group() -> None:
    """There a token holds for the events that were leased with it, and says nothing of others."""

    def passed(*handlings: Handling) -> list[bool]:
        found = _handled(handlings, by_partition=False)
        stopped = {7: "stopped"}
        return [
            check_alone("g", found, stopped).passed,
            check_repeats("g", found, stopped, 9).passed,
        ]

    both = (_did(1, token=2, pid=8), _did(3, token=1, pid=9))
    assert passed(*both) == [True, True]
    assert passed(*both, _did(1, token=1, pid=7)) == [True, True]
    assert passed(*both, _did(1, token=1, pid=7), _did(3, token=0, pid=7)) == [False, True]
    assert passed(*both, _did(1, token=1, pid=9)) == [False, False]


def _keyed_log() -> Log:
    return _log("k1", "other1", "k2", "k3")


def _log(*events: str) -> Log:
    log = Log()
    for revision, text in enumerate(events, 1):
        log.add(_event(revision, text))
    return log


def _event(revision: int, text: str) -> Event:
    """`text` is the key and one digit, the payload."""
    data = (text[-1].encode(), None, None)
    return Event(revision, TOPIC, text[:-1], data, None, None, None, 0, None, 0, 0, 0, 0)


def _handled(handlings: Iterable[Handling], *, by_partition: bool = True) -> Handlings:
    timed = (each._replace(moment=moment) for moment, each in enumerate(handlings))
    return handle_all(_keyed_log(), timed, by_partition)


def _did(revision: int, *, token: int = 1, pid: int = 1) -> Handling:
    return Handling(0, revision, token, 0, 1, KEYS.get(revision, "?"), pid)
