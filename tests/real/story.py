"""Everything that the cluster has a type of event for, made to happen on real nodes.

    async with Story.told(folder) as story:
        await story.everything()

What happened is read out of the log, what handlers made of it out of their deeds (`deeds.py`), and
of rendered files out of the history of the nodes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from cluster.client import Client
from hooks.events.catalogue import CATALOGUE, TRIGGERED, TRIGGERED_TOPIC_HEADER
from hooks.events.publisher import payload
from pubsub.events import Event
from tests.real import membership
from tests.real.processes import NAMES, RealCluster, RealNode, eventually

Facts = Mapping[str, Any]

COMMAND_FILE: Final = Path(__file__).with_name("deed_command.py")
COMMAND: Final = (
    r"""printf '%s %s %s %s\n' "$TREMULA_HOOK_REVISION" "$TREMULA_HOOK_TOPIC" """
    r""""${TREMULA_HOOK_TRIGGERED:--}" "$NODE" >> "$DEEDS/$TREMULA_HOOK_HANDLER" """
)
SETTINGS: Final = """
[raft]
election_timeout_min_ms = 600
election_timeout_max_ms = 1200
log_bytes_max = 4194304

[limits.hooks]
member_ttl_ms = 3000
keepalive_ms = 500
lease_margin_ms = 500
floor_checkpoint_ms = 200
history_attempts_max = 10000
partition_events_max = 256
handler_events_max = 1024

[hooks]
watch_files = false
modules = ["{module}"]
"""
HANDLER: Final = """
[[hooks.handlers]]
name = "{name}"
pattern = "hooks.>"
start = "earliest"
version = {version}
timeout_ms = 20000
{keys}
"""
FAILS: Final = """
[[hooks.handlers]]
name = "fails"
pattern = "deeds.fail"
start = "earliest"
type = "shell"
command = ["false"]
retry_count = 0
"""
REPORTS: Final = """
[[hooks.handlers]]
name = "reports"
pattern = "deeds.report"
start = "earliest"
type = "shell"
command = ["true"]
report_executions = true
"""
ADDED: Final = """
[[hooks.handlers]]
name = "added"
pattern = "deeds.nothing"
type = "shell"
command = ["true"]
"""
IN_PROCESS: Final = 'type = "in_process"\nhandler_id = "note"'
SHELL: Final = 'type = "shell"\nenv = ["DEEDS", "NODE"]'
LEADING: Final = 'scope = "leader"'
FILL_BYTES: Final = 900_000  # of one publish; so many of them that the Raft log is cut
FILL_COUNT: Final = 9
CAPPED: Final = 5  # of the oldest events
TTL_MS: Final = 300


class Deed(NamedTuple):
    """A handler has had an event, on a node."""

    revision: int
    topic: str
    triggered: bool
    node: str


def settings(folder: Path, node: str, version: int, hold_ms: int | None, more: str = "") -> str:
    """A node's file. `hold_ms` None: every event alone and at once, and no scope but cluster and
    node; else batches (and, of files, what else waits) that are held for so long."""
    command = f"command = '''{COMMAND}'''\nshell = true"
    held, gathered, after = "", "debounce_ms = 0", "debounce_ms = 0"
    if hold_ms is not None:
        held = f"batch_max = 256\nbatch_wait_ms = {hold_ms}"
        command = f'command = ["{sys.executable}", "-I", "{COMMAND_FILE}"]'
    if hold_ms:
        gathered = f"debounce_ms = {hold_ms}"
        after = 'debounce_ms = 0\nafter = "python"'
    hosts = f'type = "file"\npath = "{folder}/hosts-{node}"\nsource = "hosts/"\n{after}'
    members = f'type = "file"\npath = "{folder}/members-{node}"\n{gathered}'
    handlers = {
        "python": f"{IN_PROCESS}\n{held}",
        "command": f"{SHELL}\n{command}\n{held}",
        "hosts": hosts,
        "members": members,
    }
    if hold_ms is not None:
        handlers["python-leading"] = f"{LEADING}\n{handlers['python']}"
        handlers["command-leading"] = f"{LEADING}\n{handlers['command']}"
    text = SETTINGS.format(module="tests.real.deeds") + FAILS + REPORTS + more
    return text + "".join(
        HANDLER.format(name=name, version=version, keys=keys) for name, keys in handlers.items()
    )


class Story:
    """A cluster in which everything happens, and what its log says of it."""

    def __init__(self, cluster: RealCluster, client: Client, *, files_follow: bool) -> None:
        """`files_follow`: rendered files are not held back, and are looked at meanwhile."""
        self.cluster = cluster
        self.client = client
        self.events: dict[int, Event] = {}  # those of the cluster itself, by revision
        self.newest = 0
        self._files_follow = files_follow

    @classmethod
    @asynccontextmanager
    async def told(cls, folder: Path, hold_ms: int | None = None) -> AsyncIterator[Story]:
        """Three nodes with the handlers of `settings`, which have dealt with what there is."""
        cluster = RealCluster(folder)
        (folder / "deeds").mkdir()
        for name, node in cluster.nodes.items():
            node.settings = settings(folder, name, 1, hold_ms)
            node.environment = {"DEEDS": str(folder / "deeds"), "NODE": name}
        async with cluster, cluster.client() as client:
            story = cls(cluster, client, files_follow=hold_ms is None)
            await story.until("hooks.system.node_started", count=len(NAMES))
            yield story

    # --- what the log says ---

    async def read(self) -> None:
        """Everything that is in the log by now."""
        following = self.newest + 1
        while True:
            page, following, newest = await self.client.read_events(following, pattern="hooks.>")
            self.events |= {event.revision: event for event in page}
            if following > newest:
                self.newest = newest
                return

    async def until(
        self,
        topic: str,
        is_it: Callable[[Facts], object] = lambda facts: True,
        *,
        after: int = 0,
        count: int = 1,
    ) -> Event:
        """Wait until the log has so many events of a type with such payloads; the last of them."""
        assert topic in CATALOGUE, topic

        async def ask() -> Event | None:
            await self.read()
            found = [
                event
                for event in self.events.values()
                if event.revision > after and event.topic == topic and is_it(payload(event))
            ]
            return found[-1] if len(found) >= count else None

        return await eventually(ask, f"{topic} is in the log")

    async def reloaded(self, node: RealNode, after: int) -> None:
        """Wait until a node says that it runs what its file says."""
        told = await self.until(
            "hooks.system.config_reloaded", lambda facts: facts["node"] == node.name, after=after
        )
        assert payload(told)["accepted"], payload(told)

    def expected(self) -> dict[int, tuple[str, bool]]:
        """What handlers are to get: the topic by revision, and whether it was triggered."""
        return {revision: _as_delivered(event) for revision, event in self.events.items()}

    def keys(self) -> dict[int, str]:
        """What the order of each event is counted by."""
        return {
            revision: e.topic if e.key is None else e.key for revision, e in self.events.items()
        }

    async def dealt_with(self, handlers: Iterable[str], revisions: Iterable[int]) -> None:
        """Wait until the cluster says that handlers are done with events, all of them."""
        for handler in handlers:
            for revision in sorted(revisions):
                handled = await self.client.wait_handled(handler, revision, timeout_ms=30_000)
                assert handled.is_done, f"{handled}: {self.events[revision]}"

    async def no_lag(self, handlers: Iterable[str]) -> None:
        """Wait until the handlers have nothing before them that the log has."""

        async def ask() -> bool:
            rows = {row["handler"]: row for row in await self.client.hooks.metrics()}
            return all(rows[handler]["lag"] == 0 for handler in handlers)

        await eventually(ask, "nothing is left to do")

    # --- what happens ---

    async def everything(self) -> str:
        """An event of each type, one way or another; returns the node that leads at the end. It
        was up all the time; of the others one was killed and one was stopped."""
        before = await self.cluster.leader()
        leader, victim = (name for name in NAMES if name != before)
        await self.client.request("leader.transfer", [leader])
        await self.until("hooks.cluster.leader_elected", lambda f: f["new_leader"] == leader)
        await self._retention()
        await self._handlers()
        await self._reloads(self.cluster.nodes[leader])
        await self.cluster.kill(victim)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._snapshots, leader)
            nursery.start_soon(self._members)
            nursery.start_soon(self._keys)
            nursery.start_soon(self._health, victim, "unreachable")
        await self.cluster.start(victim)
        await self.until("hooks.system.snapshot_installed", lambda f: f["node"] == victim)
        await self._health(victim, "healthy")
        await self.cluster.stop(before)
        await self.until("hooks.system.node_stopped", lambda f: f["node"] == before)
        await self.cluster.start(before)
        await self.until("hooks.system.node_started", lambda f: f["node"] == before, count=2)
        await self.client.put("hosts/kept", b"10.0.0.9")
        await self.read()
        return leader

    async def _retention(self) -> None:
        """The oldest events go, which a group has not read; no handler had them before it."""
        await self.client.group("stalled").create(">", start="earliest")
        await self.read()
        await self.client.request("retention.cap", [self.newest - CAPPED])
        told = await self.until("hooks.system.retention_capped")
        await self.client.request("retention.cap", [None])
        assert payload(told)["groups"] == ["stalled"]
        last = self.newest
        await self.client.request("replay.start", ["stalled", last, last])
        await self.until("hooks.group.event_replayed")

    async def _handlers(self) -> None:
        """One fails, and its event comes again; it is disabled and enabled; one is triggered."""
        hooks, client = self.client.hooks, self.client
        await hooks.set_publish_topics(["hooks.>"])
        await self.until("hooks.system.settings_changed")
        revision = await client.publish("deeds.fail", b"", key="k")
        await self.until("hooks.hook.failed", lambda f: f["revision"] == revision)
        assert await hooks.disable("fails", "for a while")
        await self.until("hooks.hook.disabled")
        await client.group("hook.fails").redrive([revision])
        await self.until("hooks.group.event_redriven")
        assert await hooks.enable("fails")
        await self.until("hooks.hook.enabled")
        await self.until("hooks.hook.failed", count=2)
        await hooks.trigger("hooks.kv.write_committed", {"by": "hand"}, key="hosts/never")
        await self.until(TRIGGERED)
        revision = await client.publish("deeds.report", b"", key="k")
        await self.until("hooks.hook.executed", lambda f: f["revision"] == revision)

    async def _reloads(self, node: RealNode) -> None:
        """A node gets one handler more by a signal, and then has it no more."""
        before = node.settings
        for text, topic in (
            (before + ADDED, "hooks.hook.registered"),
            (before, "hooks.hook.removed"),
        ):
            after, node.settings = self.newest, text
            reload(node)
            await self.until(topic, lambda f: f["handler"] == "added")
            await self.reloaded(node, after)

    async def _snapshots(self, leader: str) -> None:
        """So much is written that the leader cuts its Raft log behind what a lost node has."""
        async with trio.open_nursery() as nursery:
            for _ in range(FILL_COUNT):
                nursery.start_soon(self.client.publish, "deeds.fill", os.urandom(FILL_BYTES))
        await self.until("hooks.system.snapshot_created", lambda f: f["node"] == leader)

    async def _members(self) -> None:
        """A fourth node learns, votes and goes; it has a module that cannot be loaded."""
        name = "d"
        node = self.cluster.add(name, joins=True)
        node.settings = SETTINGS.format(module="tests.real.nowhere")
        await node.start()
        await membership.add_learner(self.cluster, self.client, name)
        await self.until("hooks.cluster.node_added")
        await self.until("hooks.hook.load_failed", lambda f: f["node"] == name)
        await self._files_show("members", name)
        await membership.promote(self.client, name)
        await membership.remove(self.client, name)
        await self.until("hooks.cluster.node_removed")
        changed = "hooks.cluster.membership_changed"
        for change in ("added_learner", "promoted", "removed"):
            await self.until(changed, lambda f, change=change: f["change_type"] == change)  # type: ignore[misc]
        await self._files_show("members", name, is_there=False)
        await self.cluster.kill(name)
        del self.cluster.nodes[name]

    async def _keys(self) -> None:
        """One key is put and deleted, another expires."""
        client = self.client
        await client.put("hosts/web", b"10.0.0.1")
        await self._files_show("hosts", "web")
        await client.delete("hosts/web")
        await self.until("hooks.kv.delete_committed")
        await self._files_show("hosts", "web", is_there=False)
        await client.put("hosts/brief", b"10.0.0.2", ttl_ms=TTL_MS)
        await self.until("hooks.kv.ttl_expired")
        await self._files_show("hosts", "brief", is_there=False)

    async def _health(self, name: str, state: str) -> None:
        await self.until(
            "hooks.system.health_changed", lambda f: (f["node"], f["current"]) == (name, state)
        )

    async def _files_show(self, file: str, text: str, *, is_there: bool = True) -> None:
        if self._files_follow:
            up = [name for name in NAMES if self.cluster.nodes[name].running]
            await self.files_show(file, text, up, is_there=is_there)

    async def files_show(
        self, file: str, text: str, names: Iterable[str] = NAMES, *, is_there: bool = True
    ) -> None:
        """Wait until the files of all these nodes have a name in them, or have it no more."""

        async def ask() -> bool:
            return all(self.file_shows(file, name, text) == is_there for name in names)

        await eventually(ask, f"{file} {'shows' if is_there else 'does not show'} {text}")

    def file_shows(self, file: str, node: str, text: str) -> bool:
        """Whether a node's file has a name in it."""
        path = self.cluster.folder / f"{file}-{node}"
        return path.exists() and text in path.read_text().split()

    # --- what handlers made of it ---

    def deeds(self, handler: str) -> list[Deed]:
        """What a handler wrote down on all nodes, in the order of time."""
        path = self.cluster.folder / "deeds" / handler
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Deed(int(revision), topic, mark == "1", by) for revision, topic, mark, by in lines]

    async def attempts(self, handler: str, node: str) -> list[int]:
        """The events that a handler was done with on a node, in the order of time."""
        async with self.cluster.client(node) as client:
            past = (await client.hooks.history(handler, 10_000))["attempts"]
        return [each["revision"] for each in reversed(past) if each["outcome"] == "done"]


def reload(node: RealNode) -> None:
    """Write the file of a node that runs as it is now, and let it read that."""
    node.file.write_text(node.text())
    node.send(signal.SIGHUP)


def _as_delivered(event: Event) -> tuple[str, bool]:
    """The topic that handlers know an event by, and whether somebody triggered it."""
    if event.topic != TRIGGERED:
        return event.topic, False
    return event.data[2][TRIGGERED_TOPIC_HEADER], True
