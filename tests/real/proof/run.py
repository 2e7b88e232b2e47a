"""The proof's course: import the index, kill nodes meanwhile, then check everything everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from cluster.client import Client
from hooks.limits import DEFAULT_LIMITS
from tests.real.processes import RealCluster, eventually
from tests.real.proof import recorder
from tests.real.proof.bars import Bars
from tests.real.proof.churn import KEYS, Churn
from tests.real.proof.faults import Faults, Import, Progress
from tests.real.proof.packages import History, digest, write_records
from tests.real.proof.verify import (
    DELETE,
    Check,
    Scanned,
    check_log,
    check_runs,
    check_values,
    read_runs,
)

SHELL: Final = "deletes"
SETTINGS: Final = f"""\
[hooks]
modules = ["tests.real.proof.recorder"]

[[hooks.handlers]]
name = "{SHELL}"
pattern = "{DELETE}"
type = "shell"
shell = true
start = "earliest"
env = ["PROOF_FOLDER"]
command = '''echo "$(date +%s%N) $TREMULA_HOOK_REVISION $TREMULA_HOOK_KEY" \\
  >> "$PROOF_FOLDER/{SHELL}-$PPID.log"'''
"""
REPEATS_PER_KILL: Final = (
    DEFAULT_LIMITS.unsettled_events_max + DEFAULT_LIMITS.attempts_in_flight_max
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of it is done."""

    records_max: int | None = None
    churn_rounds: int = 15  # each deletes every churn key once
    settings: str = ""  # further TOML for the nodes


@dataclass(slots=True)
class Outcome:
    """What came of it: facts for people, checks for the exit code."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


async def prove(folder: Path, lines: Iterable[str], options: Options, bars: Bars) -> Outcome:
    """Everything, in an empty folder. Raises AssertionError when it cannot come to its checks."""
    outcome = Outcome()
    file = folder / "packages.ndjson"
    with bars.phase("read the package index"):
        written = write_records(lines, file, options.records_max)
    outcome.facts += [
        ("records", f"{written.records:,}, {written.size_bytes / 1e6:.1f} MB as NDJSON"),
        (
            "duplicates",
            f"{written.doubled} (a package and version that two archives offer: each record is an "
            "event, the later one is the value)",
        ),
        ("without a key", f"{written.nameless} (no package name or version; not imported)"),
    ]
    environment = {"PROOF_FOLDER": str(folder)}
    settings = SETTINGS + options.settings
    async with RealCluster(folder, tls=True, settings=settings, environment=environment) as cluster:
        proof = _Proof(cluster, folder, options, bars, outcome)
        changes = await proof.write(file, written.records)
        await proof.check({**written.values, **changes})
    return outcome


class _Proof:
    def __init__(
        self, cluster: RealCluster, folder: Path, options: Options, bars: Bars, outcome: Outcome
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._options = options
        self._bars = bars
        self._outcome = outcome
        self._deletes = options.churn_rounds * KEYS
        self._events = 0
        self._bound_s = 60.0

    async def write(self, file: Path, records: int) -> History:
        """Import and churn, with the faults; returns what the churn was told is written."""
        self._events = records + 3 * self._deletes
        self._bound_s = 60.0 + records / 200
        importing = Import(self._cluster, file, records)
        progress = Progress(records)
        faults = Faults(self._cluster, importing, progress, self._bound_s)
        async with self._cluster.client(timeout_ms=60_000) as client:
            churn = Churn(client, self._options.churn_rounds, progress)
            with self._bars.phase("import, kill -9, start again") as bar:
                async with trio.open_nursery() as helpers:
                    helpers.start_soon(progress.follow, client)
                    helpers.start_soon(self._show, bar.show, progress)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(churn.run)
                        nursery.start_soon(faults.run)
                        nursery.start_soon(importing.run, self._bound_s)
                    helpers.cancel_scope.cancel()
        leader, other = faults.killed
        self._outcome.facts += [
            ("import", f"{importing.seconds:.1f} s, {records / importing.seconds:,.0f} records/s"),
            ("killed", f"the leader {leader}, then {other}; each started again at once"),
            ("longest wait", f"{churn.longest_wait_s:.2f} s for one write beside the import"),
        ]
        said = importing.result()
        in_time = all(faults.importing_at_kills)
        self._check(
            "the import went on through both kills",
            in_time and said["written"] == said["records"] == records,
            f"{said['written']:,} written, each once",
        )
        return churn.history

    async def check(self, expected: History) -> None:
        """Wait until the handlers are done, then look at every node and at what they left."""
        async with self._cluster.client() as client:
            await self._handlers_done(client)
        state = await self._cluster.same_state()
        self._check(
            "identical digests",
            True,  # same_state raises when they differ
            f"{state['digest'][:16]}… on {len(self._cluster.nodes)} nodes at index "
            f"{state['applied_index']:,}",
        )
        logs: list[Scanned] = []
        for node in self._cluster.nodes:
            with self._bars.phase(f"read everything on {node}", 2.0 * self._events) as bar:
                async with self._cluster.client(node) as client:
                    assert client is not None
                    log = await _scan(client, bar.show)
                    values = await _values(client, lambda done: bar.show(self._events + done))
            self._outcome.checks += [
                check_log(node, log, expected),
                check_values(node, values, expected),
            ]
            logs.append(log)
        changes = logs[0].changes
        deletes = [change for change in changes if change.topic == DELETE]
        repeats = 2 * REPEATS_PER_KILL
        for name, of_pattern in ((recorder.NAME, changes), (SHELL, deletes)):
            runs = read_runs(self._folder, name)
            self._outcome.checks += check_runs(name, of_pattern, runs, repeats)
        await self._check_metrics({recorder.NAME: len(changes), SHELL: len(deletes)})

    async def _handlers_done(self, client: Client) -> None:
        wanted = {recorder.NAME: self._events, SHELL: self._deletes}
        with self._bars.phase("handlers catch up", float(sum(wanted.values()))) as bar:

            async def ask() -> bool:
                rows = {row["handler"]: row for row in await client.request("hooks.metrics")}
                bar.show(sum(row["completed"] for row in rows.values()))
                # what was given up into the dead letters is seen by the checks, not waited for
                ended = {name: row["completed"] + row["dead_letters"] for name, row in rows.items()}
                return all(ended.get(name, 0) >= number for name, number in wanted.items())

            await eventually(ask, "the handlers have completed every event", self._bound_s)

    async def _check_metrics(self, wanted: dict[str, int]) -> None:
        done = await self._cluster.cli("hook", "metrics", "--json")
        assert done.returncode == 0, done.stderr
        rows: dict[str, dict[str, Any]] = {
            row["handler"]: row for row in json.loads(done.stdout)["handlers"]
        }
        for name, events in wanted.items():
            row = rows[name]
            self._check(
                f"{name}: cluster hook metrics",
                row["completed"] == events and row["dead_letters"] == 0,
                f"completed {row['completed']:,} of {events:,}, dead letters {row['dead_letters']}",
            )

    def _check(self, name: str, passed: bool, detail: str) -> None:
        self._outcome.checks.append(Check(name, passed, detail))

    async def _show(self, show: Any, progress: Progress) -> None:
        while True:
            show(progress())
            await trio.sleep(0.1)


async def _scan(client: Client, show: Any) -> Scanned:
    """The node's own log, from its beginning to its end."""
    scanned = Scanned()
    following = 1
    while True:
        events, following, newest = await client.read_events(following, level="local")
        for event in events:
            scanned.add(event)
        show(scanned.last_revision)
        if following > newest:
            return scanned


async def _values(client: Client, show: Any) -> dict[str, bytes]:
    """Digests of all values of the node's own state."""
    found: dict[str, bytes] = {}
    after: str | None = None
    while True:
        page = await client.range("", after=after, level="local")
        for entry in page.entries:
            assert entry.value is not None
            found[entry.key] = digest(entry.value)
        show(len(found))
        if not page.more:
            return found
        after = page.entries[-1].key
