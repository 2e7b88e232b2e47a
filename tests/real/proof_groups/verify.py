"""What must hold at the end, checked against the nodes' logs and what the consumers wrote down.

Decisions only: it is given events and handlings, and answers with checks. A million of each passes
through; what is kept of one is a few bytes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pubsub.events import Event
from tests.real.proof.verify import Check
from tests.real.proof_groups.consumer import Handling
from tests.real.proof_groups.lines import TOPIC, Chain

SHOWN: Final = 3  # examples in the words of a check that fails
NOBODY: Final = 0


@dataclass(slots=True, kw_only=True)
class Log:
    """The whole event log of one node."""

    chains: dict[str, Chain] = field(default_factory=dict)
    # Of the event at each revision, the number of its key from 1 on; 0 for other events.
    keys: array[int] = field(default_factory=lambda: array("l", [NOBODY]))
    numbers: dict[str, int] = field(default_factory=dict)
    events: int = 0
    gaps: int = 0  # revisions that are not one more than the one before
    elected: list[int] = field(default_factory=list)  # the term of each election

    @property
    def last_revision(self) -> int:
        return len(self.keys) - 1

    def add(self, event: Event) -> None:
        """The next event of the log. HOT."""
        self.gaps += event.revision != len(self.keys)
        if event.topic != TOPIC or event.key is None:
            self.keys.append(NOBODY)
            if event.topic == "hooks.cluster.leader_elected":
                self.elected.append(event.data[2])
            return
        key = event.key
        self.keys.append(self.numbers.setdefault(key, len(self.numbers) + 1))
        self.chains[key] = self.chains.get(key, Chain()).then(event.data[0])
        self.events += 1


def check_log(node: str, log: Log, expected: Mapping[str, Chain]) -> Check:
    """Every line is one event, in the order of its key; nothing else is there."""
    wrong = [
        key
        for key in expected.keys() | log.chains.keys()
        if expected.get(key) != log.chains.get(key)
    ]
    terms_twice = len(log.elected) - len(set(log.elected))
    detail = (
        f"{log.events:,} events of {len(log.chains):,} keys, {len(log.elected)} elections,"
        f" no gap in {log.last_revision:,} revisions"
    )
    if wrong:
        key = min(wrong)
        there = log.chains.get(key, Chain()).length
        wanted = expected.get(key, Chain()).length
        detail = f"{len(wrong)} keys differ; {key}: {there} events, {wanted} published"
    elif log.gaps or terms_twice:
        detail = f"{log.gaps} gaps in the revisions, {terms_twice} terms elected twice"
    passed = not (wrong or log.gaps or terms_twice)
    return Check(f"log of {node}: each event once, in order", passed, detail)


class Handlings:
    """What a group has handled, in the order of time."""

    def __init__(self, log: Log, *, by_partition: bool) -> None:
        """`by_partition`: a token holds for all events of its partition."""
        self.count = 0
        self.first_moment = self.last_moment = 0
        self.strange: list[int] = []  # revisions that are no event of the group
        self.early: list[int] = []  # handled for the first time after a later one of their key
        self.stale: Counter[int] = Counter()  # by process: under a token older than another's
        self.repeats: Counter[int] = Counter()  # by the process that is the reason
        self.attempts_max = 0
        self._log = log
        self._by_partition = by_partition
        self._handled_by = array("l", [NOBODY]) * len(log.keys)
        self._handled_under = array("l", [0]) * len(log.keys)
        self._newest_of_key = array("l", [0]) * (len(log.numbers) + 1)
        self._tokens: dict[int, int] = {}

    def add(self, handling: Handling) -> None:
        """The next one. HOT."""
        if not self.count:
            self.first_moment = handling.moment
        self.count += 1
        self.last_moment = handling.moment
        revision = handling.revision
        number = self._log.keys[revision] if revision <= self._log.last_revision else NOBODY
        if number == NOBODY or self._log.numbers.get(handling.key) != number:
            self.strange.append(revision)
            return
        if handling.attempt > self.attempts_max:
            self.attempts_max = handling.attempt
        is_stale = self._is_stale(handling)
        before = self._handled_by[revision]
        self._handled_by[revision] = handling.pid
        self._handled_under[revision] = handling.token
        if before != NOBODY:
            # Whoever had it before did not ack it, or this one does not know that it lost it.
            self.repeats[handling.pid if is_stale else before] += 1
        elif revision < self._newest_of_key[number]:
            self.early.append(revision)
        else:
            self._newest_of_key[number] = revision

    def _is_stale(self, handling: Handling) -> bool:
        """Whether somebody else has begun under a newer token."""
        newest = self._handled_under[handling.revision]
        if self._by_partition:
            newest = self._tokens.get(handling.partition, 0)
            self._tokens[handling.partition] = max(newest, handling.token)
        is_stale = handling.token < newest
        self.stale[handling.pid] += is_stale
        return is_stale

    @property
    def missing(self) -> list[int]:
        """Revisions that nobody has handled."""
        return [
            revision
            for revision, number in enumerate(self._log.keys)
            if number != NOBODY and self._handled_by[revision] == NOBODY
        ]

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return (self.last_moment - self.first_moment) / 1e9


def handle_all(log: Log, handlings: Iterable[Handling], by_partition: bool) -> Handlings:
    """Go through what was written down."""
    found = Handlings(log, by_partition=by_partition)
    for handling in handlings:
        found.add(handling)
    return found


def check_all(group: str, found: Handlings, log: Log) -> Check:
    """Every event at least once."""
    detail = f"{log.events:,} events, {found.count:,} handlings"
    missing = found.missing
    if missing or found.strange:
        detail = (
            f"{len(missing):,} never handled: {missing[:SHOWN]};"
            f" {len(found.strange):,} not the group's: {found.strange[:SHOWN]}"
        )
    return Check(f"{group}: each event at least once", not (missing or found.strange), detail)


def check_repeats(group: str, found: Handlings, excused: Mapping[int, str], each_max: int) -> Check:
    """What was handled again had been handled by a process that was killed or stopped before its
    ack was written down, or is handled by a stopped one that has just woken; of each of these at
    most as many events as it may have in hand."""
    unexplained = {pid: n for pid, n in found.repeats.items() if pid not in excused}
    above = {excused[pid]: n for pid, n in found.repeats.items() if n > each_max and pid in excused}
    parts = [f"{excused[pid]} {found.repeats[pid]:,}" for pid in excused]
    detail = (
        f"{found.repeats.total():,} again ({', '.join(parts)}), each at most {each_max:,};"
        f" of others 0"
    )
    if unexplained:
        detail = (
            f"{sum(unexplained.values()):,} of processes that nothing was done to: {unexplained}"
        )
    elif above:
        detail = f"more than {each_max:,}: {above}"
    return Check(f"{group}: repeats are explained", not (unexplained or above), detail)


def check_order(group: str, found: Handlings, log: Log) -> Check:
    """The events of a key are handled for the first time in their order."""
    detail = f"{len(log.numbers):,} keys"
    if found.early:
        detail = f"{len(found.early):,} too late, like revision {found.early[0]}"
    return Check(f"{group}: in order per key", not found.early, detail)


def check_alone(group: str, found: Handlings, stopped: Collection[int]) -> Check:
    """Once another member has begun under a newer token (with the partition, or with the event of a
    competing group) nobody handles under the older one, but for a process that was stopped, and
    that only what it was handling at that moment."""
    wrong = {pid: n for pid, n in found.stale.items() if n > (pid in stopped)}
    detail = f"{found.stale.total()} under an older token, by a member amid its stop"
    if wrong:
        detail = f"handled under an older token: {wrong} (by process)"
    return Check(f"{group}: one member at a time", not wrong, detail)
