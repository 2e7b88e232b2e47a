"""What must hold after the proof's import, checked against what the nodes and handlers left.

Decisions only: it is given keys, events and runs, and answers with checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from pubsub.events import Event
from tests.real.proof.packages import History, digest

WRITE: Final = "hooks.kv.write_committed"
DELETE: Final = "hooks.kv.delete_committed"
SHOWN: Final = 3  # examples in the words of a check that fails


class Check(NamedTuple):
    """One line of the table at the end."""

    name: str
    passed: bool
    detail: str


class Change(NamedTuple):
    """One event of the key-value store, without its bytes."""

    revision: int
    topic: str
    key: str


@dataclass(slots=True, kw_only=True)
class Scanned:
    """The whole event log of one node."""

    history: History = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    last_revision: int = 0
    gaps: int = 0  # revisions that are not one more than the one before
    elected: list[int] = field(default_factory=list)  # the term of each election

    def add(self, event: Event) -> None:
        """The next event of the log."""
        self.gaps += event.revision != self.last_revision + 1
        self.last_revision = event.revision
        if event.topic == "hooks.cluster.leader_elected":
            self.elected.append(event.data[2])
        if event.topic not in (WRITE, DELETE):
            return
        assert event.key is not None
        change = digest(event.data[0]) if event.topic == WRITE else None
        self.history.setdefault(event.key, []).append(change)
        self.changes.append(Change(event.revision, event.topic, event.key))


class Run(NamedTuple):
    """A handler was called for an event, at some moment."""

    moment: int
    revision: int
    key: str


def read_runs(folder: Path, handler: str) -> list[Run]:
    """What every process of a handler wrote down, in the order of time."""
    runs: list[Run] = []
    for file in sorted(folder.glob(f"{handler}-*.log")):
        for line in file.read_text().splitlines():
            moment, revision, key = line.split(" ", 2)
            runs.append(Run(int(moment), int(revision), key))
    return sorted(runs)


def check_log(node: str, scanned: Scanned, expected: Mapping[str, Sequence[bytes | None]]) -> Check:
    """Every acknowledged change is exactly one event, in its key's order; nothing else is there."""
    wrong = [
        key
        for key in expected.keys() | scanned.history.keys()
        if list(expected.get(key, ())) != scanned.history.get(key, [])
    ]
    terms_twice = len(scanned.elected) - len(set(scanned.elected))
    detail = (
        f"{len(scanned.changes):,} changes of {len(scanned.history):,} keys, "
        f"{len(scanned.elected)} elections, no gap in {scanned.last_revision:,} revisions"
    )
    if wrong:
        key = min(wrong)
        there, wanted = len(scanned.history.get(key, ())), len(expected.get(key, ()))
        detail = f"{len(wrong)} keys differ; {key}: {there} events, {wanted} acknowledged"
    elif scanned.gaps or terms_twice:
        detail = f"{scanned.gaps} gaps in the revisions, {terms_twice} terms elected twice"
    passed = not (wrong or scanned.gaps or terms_twice)
    return Check(f"log of {node}: one event per change", passed, detail)


def check_values(
    node: str, found: Mapping[str, bytes], expected: Mapping[str, Sequence[bytes | None]]
) -> Check:
    """Every key has the value that was written last; deleted keys are gone."""
    wanted = {key: changes[-1] for key, changes in expected.items() if changes[-1] is not None}
    wrong = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    detail = f"{len(found):,} keys, each with its last value"
    if wrong:
        detail = f"{len(wrong)} keys differ: {', '.join(sorted(wrong)[:SHOWN])}"
    return Check(f"state of {node}: every record", not wrong, detail)


def check_runs(
    handler: str, changes: Sequence[Change], runs: Sequence[Run], repeats_max: int
) -> list[Check]:
    """A handler has run for every event of its pattern, and for the first time in order per key.

    What had completed since the last checkpoint of a node that was killed may run again: those are
    counted, and must stay below the bound that is promised.
    """
    ordered: dict[str, list[int]] = {}
    for change in changes:
        ordered.setdefault(change.key, []).append(change.revision)
    place = dict.fromkeys(ordered, 0)
    seen: set[int] = set()
    early: list[Run] = []
    for run in runs:
        if run.revision in seen:
            continue
        seen.add(run.revision)
        revisions = ordered.get(run.key, [])
        position = place.get(run.key, 0)
        if position >= len(revisions) or revisions[position] != run.revision:
            early.append(run)
        place[run.key] = position + 1
    events = {change.revision for change in changes}
    missing, strange = events - seen, seen - events
    repeats = len(runs) - len(seen)
    counted = f"{len(events):,} events; {repeats:,} again after a kill, at most {repeats_max:,}"
    if missing or strange:
        counted = (
            f"{len(missing)} never ran: {sorted(missing)[:SHOWN]}; {len(strange)} not in the log"
        )
    keys = sum(len(revisions) > 1 for revisions in ordered.values())
    order = f"{keys:,} keys with more than one event"
    if early:
        order = f"{len(early)} too early, like revision {early[0].revision} of {early[0].key}"
    return [
        Check(
            f"{handler}: each event at least once",
            not (missing or strange) and repeats <= repeats_max,
            counted,
        ),
        Check(f"{handler}: in order per key", not early, order),
    ]
