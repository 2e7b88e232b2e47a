"""The course: publish a large text, handle it in two groups, hurt everybody, check everything."""

from __future__ import annotations

import heapq
import json
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import trio

from cluster.cli.groups import summary
from cluster.client import Client
from cluster.client.consumer import MEMBER_TTL_MS
from cluster.client.partitioned import UNCONFIRMED_MAX
from cluster.errors import TremulaError
from tests.real.processes import RealCluster, eventually
from tests.real.proof.bars import Bars
from tests.real.proof.faults import Progress
from tests.real.proof.run import Outcome
from tests.real.proof.verify import Check
from tests.real.proof_groups.consumer import Handling
from tests.real.proof_groups.faults import Faults
from tests.real.proof_groups.lines import TOPIC, Written, write_lines
from tests.real.proof_groups.memory import MIB, Memory
from tests.real.proof_groups.programs import Program, reaching
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

PARTITIONED: Final = "partitioned"
COMPETING: Final = "competing"
MEMBERS: Final = 3
PUBLISHERS: Final = 2
FILES: Final = 8
PARTITIONS: Final = 16
BATCH: Final = 200
SHORT_BATCH: Final = 20
SHORT: Final = 50_000
# A shorter run is published no faster than this takes: it must last until everybody was hurt.
PUBLISHING_S: Final = 60.0
UNHURRIED: Final = 500_000
IN_FLIGHT_MAX: Final = 1_000
ASK_MS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of it is done."""

    events_max: int | None = 1_000_000
    publishing_s: float = PUBLISHING_S
    short: bool = False  # only the leader and one consumer of each group are killed
    tls: bool = False
    ttl_ms: int = MEMBER_TTL_MS
    lease_ms: int = 10_000
    node_bytes_max: int = 250 * MIB
    settings: str = ""  # further TOML for the nodes


async def prove(folder: Path, lines: Iterable[str], options: Options, bars: Bars) -> Outcome:
    """Everything, in an empty folder. Raises AssertionError when it cannot come to its checks."""
    outcome = Outcome()
    with bars.phase("read the text"):
        written = write_lines(lines, folder, FILES, options.events_max)
    outcome.facts.append(
        (
            "events",
            f"{written.lines:,} lines, {written.size_bytes / 1e6:.1f} MB,"
            f" {len(written.chains):,} keys",
        )
    )
    async with (
        RealCluster(folder, tls=options.tls, settings=options.settings) as cluster,
        cluster.client(timeout_ms=60_000) as client,
    ):
        proof = _Proof(cluster, client, folder, options, bars, outcome, written)
        try:
            await proof.run()
        finally:
            await proof.end()
    return outcome


class _Proof:
    def __init__(
        self,
        cluster: RealCluster,
        client: Client,
        folder: Path,
        options: Options,
        bars: Bars,
        outcome: Outcome,
        written: Written,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._folder = folder
        self._options = options
        self._bars = bars
        self._outcome = outcome
        self._written = written
        self._bound_s = 120.0 + written.lines / 500
        self._memory = Memory(folder)
        self._publishers = [self._publisher(number) for number in range(PUBLISHERS)]
        self._members = {
            mode: [self._member(mode, number) for number in range(MEMBERS)]
            for mode in (PARTITIONED, COMPETING)
        }
        self._faults = Faults(
            cluster=cluster,
            client=client,
            publishers=self._publishers,
            partitioned=self._members[PARTITIONED],
            competing=self._members[COMPETING],
            progress=Progress(written.lines),
            bound_s=self._bound_s,
            say=bars.say,
        )

    def _publisher(self, number: int) -> Program:
        lines = self._written.lines
        is_paced = lines < UNHURRIED
        settings = {
            **reaching(self._cluster, number),
            "files": [str(file) for file in self._written.files[number::PUBLISHERS]],
            "batch": SHORT_BATCH if lines < SHORT else BATCH,
            "per_second": lines / self._options.publishing_s / PUBLISHERS if is_paced else None,
        }
        module = "tests.real.proof_groups.publisher"
        return Program(f"publisher-{number}", module, settings, self._folder)

    def _member(self, mode: str, number: int) -> Program:
        name = f"{mode}-{number}"
        settings = {
            **reaching(self._cluster, number),
            "group": mode,
            "member": name,
            "folder": str(self._folder),
            "ttl_ms": self._options.ttl_ms,
        }
        return Program(name, "tests.real.proof_groups.consumer", settings, self._folder)

    @property
    def _programs(self) -> list[Program]:
        return [*self._publishers, *chain.from_iterable(self._members.values())]

    async def end(self) -> None:
        """No process outlives this."""
        with trio.CancelScope(shield=True):
            for program in self._programs:
                if program.running:
                    await program.kill()

    async def run(self) -> None:
        """All phases, then the checks."""
        await self._client.group(PARTITIONED).create(TOPIC, start="earliest", partitions=PARTITIONS)
        await self._client.group(COMPETING).create(
            TOPIC,
            start="earliest",
            mode="competing",
            lease_ms=self._options.lease_ms,
            max_in_flight=IN_FLIGHT_MAX,
        )
        async with trio.open_nursery() as helpers:
            helpers.start_soon(self._memory.watch, self._cluster, lambda: self._programs)
            helpers.start_soon(self._faults.progress.follow, self._client)
            for program in self._programs:
                await program.start()
            with (
                self._bars.phase("publish, kill, stop, leave", self._written.lines) as published,
                self._bars.phase("handle: partitioned", self._written.lines) as partitioned,
                self._bars.phase("handle: competing", self._written.lines) as competing,
            ):
                helpers.start_soon(self._show, published, partitioned, competing)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._publish)
                    nursery.start_soon(
                        self._faults.run_short if self._options.short else self._faults.run
                    )
                await self._drained()
            helpers.cancel_scope.cancel()
        await self._check_groups()
        await self._leave()
        self._check_publishing()
        await self._check_state()
        self._check_memory()

    async def _publish(self) -> None:
        for program in self._publishers:
            code = await program.ended(self._bound_s)
            assert code == 0, f"{program.name} ended with {code}: {program.said()}"

    async def _show(self, published: Any, partitioned: Any, competing: Any) -> None:
        while True:
            published.show(self._faults.progress.revision)
            for mode, bar in ((PARTITIONED, partitioned), (COMPETING, competing)):
                try:
                    found = await self._client.group(mode).describe(
                        level="local", timeout_ms=ASK_MS
                    )
                    bar.show(found["completed"])
                except TremulaError:
                    pass
            await trio.sleep(0.5)

    async def _drained(self) -> None:
        """Wait until both groups have completed as many events as were published. That they were
        the right ones, and that the lag is 0, the checks say."""

        async def ask() -> bool:
            for mode, members in self._members.items():
                for program in members:
                    assert program.running, f"{program.name} ended by itself: {program.said()}"
                found = await self._client.group(mode).describe()
                # what was given up into the dead letters is seen by the checks, not waited for
                if found["completed"] + found["dead"] < self._written.lines:
                    return False
            return True

        await eventually(ask, "both groups have completed every event", self._bound_s)

    # --- checks ---

    async def _check_groups(self) -> None:
        """What `cluster group list` says, when the floors have come after."""
        rows: dict[str, dict[str, Any]] = {}

        async def ask() -> bool:
            found = {group["name"]: group for group in await self._client.groups()}
            revision = int((await self._client.status())["revision"])
            return all(summary(row, revision)["lag"] == 0 for row in found.values())

        try:
            await eventually(ask, "no group lags", 30.0)
        except AssertionError:
            pass  # the check says it
        done = await self._cluster.cli("group", "list", "--json")
        assert done.returncode == 0, done.stderr
        rows = {row["group"]: row for row in json.loads(done.stdout)["groups"]}
        for mode in self._members:
            row = rows[mode]
            self._check(
                f"{mode}: cluster group list",
                row["lag"] == 0
                and row["dead_letters"] == 0
                and not row["in_hand"]
                and row["members"] == MEMBERS
                and row["completed"] == self._written.lines,
                f"lag {row['lag']}, dead letters {row['dead_letters']}, members"
                f" {row['members']}, in hand {row['in_hand'] or 0},"
                f" completed {row['completed']:,}",
            )

    async def _leave(self) -> None:
        """End the consumers; none may have ended by itself."""
        codes: dict[str, int] = {}
        members = list(chain.from_iterable(self._members.values()))
        unasked = [program.name for program in members if not program.running]
        for program in members:
            program.send(signal.SIGTERM)
        for program in members:
            codes[program.name] = await program.ended()
        stumbled = [program.name for program in members if "Traceback" in program.said()]
        in_order = [*codes.values(), *self._faults.left_with]
        lives = sum(len(program.lives) for program in members)
        self._check(
            "no consumer ended unasked",
            not unasked and not stumbled and not any(in_order),
            f"{len(in_order)} of {lives} processes left in order, the others were killed"
            if not (unasked or stumbled)
            else f"ended: {unasked}; with a traceback: {stumbled}",
        )

    def _check_publishing(self) -> None:
        said = [json.loads(program.said().splitlines()[-1]) for program in self._publishers]
        seconds = max(row["ended"] for row in said) - min(row["began"] for row in said)
        events, batches = (sum(row[name] for row in said) for name in ("events", "batches"))
        longest_s = max(row["longest_wait_s"] for row in said)
        faults = self._faults
        hurt = f"{', '.join(faults.nodes_killed)} (the leader first)"
        self._outcome.facts += [
            (
                "published",
                f"in {seconds:.1f} s, {events / seconds:,.0f} events/s with all faults"
                + (" (paced)" if events < UNHURRIED else ""),
            ),
            (
                "longest wait",
                f"{longest_s:.2f} s for a batch of a publisher; publishers were held for"
                f" {faults.held_s:.2f} s, until a fault was over",
            ),
            ("nodes killed", f"{hurt}; each started again at once"),
            (
                "consumers",
                f"{len(faults.killed)} killed, {len(faults.stopped)} stopped,"
                f" {len(faults.left)} left; each came back",
            ),
        ]
        self._check(
            "published through all faults",
            events == self._written.lines and max(faults.published_at) < 1.0,
            f"{events:,} events in {batches:,} batches; the last fault at"
            f" {max(faults.published_at):.0%}",
        )

    async def _check_state(self) -> None:
        state = await self._cluster.same_state()
        self._check(
            "identical digests",
            True,  # same_state raises when they differ
            f"{state['digest'][:16]}… on {len(self._cluster.nodes)} nodes at index "
            f"{state['applied_index']:,}",
        )
        log = Log()
        for node in self._cluster.nodes:
            with self._bars.phase(f"read everything on {node}", self._written.lines) as bar:
                async with self._cluster.client(node) as client:
                    log = await _scan(client, bar)
            self._outcome.checks.append(check_log(node, log, self._written.chains))
        for mode in self._members:
            with self._bars.phase(f"read what the {mode} group handled"):
                found = await trio.to_thread.run_sync(
                    handle_all, log, self._handlings(mode), mode == PARTITIONED
                )
            self._check_handlings(mode, found, log)

    def _handlings(self, mode: str) -> Iterable[Handling]:
        """What all processes of a group wrote down, in the order of time."""
        return heapq.merge(*map(Handling.read, sorted(self._folder.glob(f"{mode}-*-*.log"))))

    def _check_handlings(self, mode: str, found: Handlings, log: Log) -> None:
        faults = self._faults
        excused: dict[int, str] = {}
        for program in self._members[mode]:
            excused |= {
                pid: f"{program.name} killed" for pid in program.lives if pid in faults.killed
            }
            excused |= {
                pid: f"{program.name} stopped" for pid in program.lives if pid in faults.stopped
            }
        self._outcome.checks += [
            check_all(mode, found, log),
            check_repeats(mode, found, excused, IN_HAND_MAX[mode]),
            check_alone(mode, found, faults.stopped),
        ]
        if mode == PARTITIONED:
            self._outcome.checks.append(check_order(mode, found, log))
        self._outcome.facts.append(
            (
                f"handled by the {mode} group",
                f"in {found.seconds:.1f} s, {found.count / found.seconds:,.0f} events/s with all"
                f" faults; at most attempt {found.attempts_max}",
            )
        )

    def _check_memory(self) -> None:
        nodes = self._memory.of("node ")
        shown = ", ".join(f"{name} {peak / MIB:.0f}" for name, peak in sorted(nodes.items()))
        self._check(
            "memory of every node is bounded",
            max(nodes.values()) <= self._options.node_bytes_max,
            f"MiB at most: {shown}; bound {self._options.node_bytes_max / MIB:.0f};"
            f" {self._memory.samples:,} samples",
        )
        for kind in (PARTITIONED, COMPETING, "publisher"):
            peak = max(self._memory.of(kind).values()) / MIB
            self._outcome.facts.append((f"memory of a {kind} process", f"at most {peak:.0f} MiB"))

    def _check(self, name: str, passed: bool, detail: str) -> None:
        self._outcome.checks.append(Check(name, passed, detail))


async def _scan(client: Client, bar: Any) -> Log:
    """The node's own log, from its beginning to its end."""
    log = Log()
    following = 1
    while True:
        events, following, newest = await client.read_events(following, level="local")
        for event in events:
            log.add(event)
        bar.show(log.last_revision)
        if following > newest:
            return log


# What a member can have handled without an ack that is written down.
IN_HAND_MAX: Final = {PARTITIONED: UNCONFIRMED_MAX + 1, COMPETING: IN_FLIGHT_MAX}
