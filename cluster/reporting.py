"""What a node reports into the log: its own start and stop, its snapshots, reloads, and, while it
leads, members that it cannot reach.

Nothing waits for a report: they are sent one after the other by a task of their own, each under its
number until its answer is definite (`hooks/replicated/reports.py` makes no event of a repeat). The
time of such an event is when the log took it: a node that starts without a quorum is heard of when
there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from cluster import operations
from cluster.errors import TremulaError
from cluster.logs import NodeLog
from cluster.machine import Machine
from cluster.raft.core import Core
from cluster.reachability import Reachability
from hooks.replicated import capture, reports
from pubsub.events import (
    SYSTEM_CONFIG_RELOADED,
    SYSTEM_NODE_STARTED,
    SYSTEM_NODE_STOPPED,
    SYSTEM_SNAPSHOT_CREATED,
    SYSTEM_SNAPSHOT_INSTALLED,
)
from pubsub.limits import REPORT_TEXT_BYTES_MAX, REPORT_TEXTS_MAX
from pubsub.rejection import Rejection

LOOK_EVERY_S: Final = 0.5
ATTEMPT_S: Final = 2.0
PAUSE_S: Final = 0.1  # between two attempts
STOP_S: Final = 1.0
"""So long a node that stops tries to say so."""
SNAPSHOT_EVERY_S: Final = 10.0
"""Under load the log is cut every few seconds. Of what comes sooner the newest is reported: a
report is an entry itself, and handlers of it may write more."""
WAITING_MAX: Final = 64
"""Reports that wait for a leader; of more the oldest are dropped."""
ENTRY_VERSION_MIN: Final = 2
"""Entries that an older release must apply cannot carry reports."""
ACTOR: Final = "system"

Propose = Callable[[bytes, Callable[[object], None]], None]
Report = tuple[int, Sequence[object]]


class Reporting:
    """`run` sends what the other methods leave; they return at once."""

    def __init__(
        self,
        name: str,
        start: int,
        *,
        core: Callable[[], Core | None],
        machine: Callable[[], Machine],
        propose: Propose,
        log: NodeLog,
    ) -> None:
        """`start` is a number that no earlier start of this node has had."""
        self._name = name
        self._start = start
        self._number = 0
        self._core = core
        self._machine = machine
        self._propose = propose
        self._log = log
        self._waiting: list[Report] = []
        self._rules: Sequence[capture.Rule] = ()  # of a file that was just read
        self._snapshot: tuple[int, int, int] | None = None
        self._snapshot_at = float("-inf")  # when the next one may be reported
        self._sending = trio.Lock()
        self._wake = trio.Event()
        self._reachability = Reachability()

    # --- what the node says ---

    def node_started(self, version: str, uid: str) -> None:
        """This node serves."""
        self._say(SYSTEM_NODE_STARTED, (version, uid))

    def seed_capture(self, rules: Sequence[capture.Rule]) -> None:
        """What this node's file says of capture, as it was just read."""
        self._rules = rules
        self._wake.set()

    def leader_changed(self) -> None:
        """Whoever waited for a leader need not wait for the next look."""
        self._wake.set()

    def snapshot_created(self, index: int, term: int, size_bytes: int) -> None:
        """The Raft log was cut: the state alone has what stood before `index`."""
        self._snapshot = index, term, size_bytes

    def snapshot_installed(
        self, index: int, term: int, size_bytes: int, sender: str | None
    ) -> None:
        """Another node's state became this node's."""
        self._say(SYSTEM_SNAPSHOT_INSTALLED, (index, term, size_bytes, sender))

    def config_reloaded(
        self, accepted: bool, changes: Sequence[str], problems: Sequence[str]
    ) -> None:
        """The configuration was read again; a bad one changes nothing."""
        self._say(SYSTEM_CONFIG_RELOADED, (accepted, _texts(changes), _texts(problems)))

    async def node_stopped(self, reason: str) -> None:
        """Say so now, if there is somebody to say it to; takes a second at most."""
        if not self._can_speak():
            return
        with trio.move_on_after(STOP_S):
            async with self._sending:
                await self._send((SYSTEM_NODE_STOPPED, (_short(reason),)))

    def _say(self, code: int, data: Sequence[object]) -> None:
        if len(self._waiting) >= WAITING_MAX:
            del self._waiting[0]
        self._waiting.append((code, data))
        self._wake.set()

    # --- sending ---

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            rules, self._rules = self._rules, ()
            if rules:
                await self._seed(rules)
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wake.wait()
            self._wake = trio.Event()
            if not self._can_speak():
                self._reachability.forget()
                continue
            self._take_snapshot()
            while self._waiting:
                async with self._sending:
                    await self._send(self._waiting.pop(0))
            await self._look_after_members()

    def _can_speak(self) -> bool:
        core = self._core()
        return (
            core is not None
            and core.leader is not None
            and core.role != "outsider"
            and self._machine().entry_version >= ENTRY_VERSION_MIN
        )

    def _take_snapshot(self) -> None:
        now = trio.current_time()
        if self._snapshot is not None and now >= self._snapshot_at:
            self._say(SYSTEM_SNAPSHOT_CREATED, self._snapshot)
            self._snapshot, self._snapshot_at = None, now + SNAPSHOT_EVERY_S

    async def _send(self, report: Report) -> None:
        """Under one number, until the answer is definite."""
        self._number += 1
        code, data = report
        arguments = [code, self._name, self._start, self._number, list(data)]
        while True:
            result = None
            if self._can_speak():
                result = await self._once("system.report", arguments)
            if isinstance(result, Rejection):
                self._log.warning("a report was refused", code=code, reason=str(result))
            if not isinstance(result, TremulaError | None):
                return
            await trio.sleep(PAUSE_S)

    async def _once(self, name: str, arguments: list[object]) -> object:
        """What came of it; None when no answer came."""
        answered = trio.Event()
        answer: list[object] = []

        def done(result: object) -> None:
            answer.append(result)
            answered.set()

        self._propose(operations.pack(0, 0, name, arguments, ACTOR, None), done)
        with trio.move_on_after(ATTEMPT_S):
            await answered.wait()
        return answer[0] if answer else None

    # --- of others ---

    async def _look_after_members(self) -> None:
        """One attempt for each change: what is still so at the next look is tried again."""
        core = self._core()
        if core is None or not core.ready_to_lead:
            self._reachability.forget()
            return
        connected = {name: peer.connected for name, peer in core.progress().items()}
        known = reports.unhealthy(self._machine().connection)
        for change in self._reachability.due(trio.current_time(), self._name, connected, known):
            self._log.info("health", member=change.node, state=change.state)
            await self._once("health.report", list(change))

    async def _seed(self, rules: Sequence[capture.Rule]) -> None:
        """What the log keeps of values is what the first node says; others hear of differences."""
        while not capture.is_told(self._machine().connection):
            result: object = None
            if self._can_speak():
                result = await self._once("capture.seed", [[list(rule) for rule in rules]])
            if isinstance(result, Rejection):
                self._log.warning("the rules of capture were refused", reason=str(result))
                return
            await trio.sleep(PAUSE_S)
        if differing := capture.differing(self._machine().connection, rules):
            self._log.warning(
                "this node's file has other rules of capture than are in force:"
                " `cluster hook capture list` shows those",
                prefixes=differing,
            )


def _short(text: str) -> str:
    return text.encode()[:REPORT_TEXT_BYTES_MAX].decode(errors="ignore")


def _texts(texts: Sequence[str]) -> list[str]:
    return [_short(text) for text in texts[:REPORT_TEXTS_MAX]]
