"""Handlers that do harm, on a real node: each ends as reported, nothing of it stays, others go on.

One node of its own leads alone all the time: whoever held up its loop for long would end its term.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.client import Client
from cluster.errors import Rejected
from pubsub.limits import EFFECT_HOPS_MAX
from tests.hooks.waiting import is_alive
from tests.real.contained import GIANT_BYTES
from tests.real.processes import ROOT, RealCluster, eventually

DAEMON = Path(__file__).with_name("daemon.py")
SETTINGS = """
[limits.hooks]
member_ttl_ms = 3000
keepalive_ms = 500
lease_margin_ms = 500
shell_grace_ms = 500

[hooks]
modules = ["tests.real.contained"]
"""
SHELL = """
[[hooks.handlers]]
name = "{name}"
pattern = "harm.shell-{topic}"
type = "shell"
start = "earliest"
retry_count = 0
timeout_ms = 3000
env = ["RUNS_FOLDER"]
{keys}
"""
ALLOCATE = (
    "import sys\\ntry:\\n    x = bytearray(900 << 20)\\nexcept MemoryError:"
    "\\n    sys.exit('no memory left')"
)
SEGFAULT = "import ctypes; ctypes.string_at(0)"
COMMANDS = {
    "shell-prints": "command = \"head -c 104857600 /dev/zero | tr '\\\\0' x\"\nshell = true",
    "ignores": (
        "command = \"trap '' TERM; echo $$ > FOLDER/ignores; while :; do sleep 1; done\"\n"
        "shell = true"
    ),
    "daemon": f'command = ["{sys.executable}", "{DAEMON}", "FOLDER/shell"]',
    "shell-exits": 'command = ["false"]',
    "shell-segfaults": f'command = ["{sys.executable}", "-c", "{SEGFAULT}"]',
    "allocates": (
        f'command = ["{sys.executable}", "-c", "{ALLOCATE}"]\nmemory_bytes_max = 268435456'
    ),
}
FILES = """
[[hooks.handlers]]
name = "hosts"
type = "file"
path = "FOLDER/hosts"
source = "hosts/"

[[hooks.handlers]]
name = "members"
type = "file"
path = "FOLDER/members.json"
renderer = "file_sd"
port = 9100
"""


def opened(folder: Path, *, tls: bool = False) -> RealCluster:
    handlers = "".join(
        SHELL.format(
            name=name, topic=name.removeprefix("shell-"), keys=keys.replace("FOLDER", str(folder))
        )
        for name, keys in COMMANDS.items()
    )
    handlers += FILES.replace("FOLDER", str(folder))
    environment = {"RUNS_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    settings = SETTINGS + handlers
    return RealCluster(folder, ("a",), tls=tls, settings=settings, environment=environment)


async def letter_of(client: Client, handler: str) -> str:
    """The error of the one event that the handler has given up."""

    async def ask() -> list[dict[str, Any]]:
        try:
            return await client.group(f"hook.{handler}").dead_letters()
        except Rejected:  # the node has only just started: its handlers have no groups yet
            return []

    (letter,) = await eventually(ask, f"{handler} gives up")
    return str(letter["error"])


async def others_go_on(client: Client, key: str) -> None:
    """An event of a good handler is handled, from now on."""
    await client.publish("harm.good", b"", key=key)

    async def ask() -> object:
        return await client.get(f"good/{key}")

    await eventually(ask, "the good handler handles its event")


def children(pid: int) -> list[int]:
    """The processes below a node, at any depth."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent and child not in found]
    return found[1:]


HARM = {  # topic: handler, what its dead letter says
    "harm.aborts": ("aborts", "SIGABRT"),
    "harm.segfaults": ("segfaults", "SIGSEGV"),
    "harm.exits": ("exits", "the handler host died: exit status 0"),
    "harm.blocks": ("blocks", "timeout"),
    "harm.object": ("returns_an_object", "returned object"),
    "harm.huge": ("returns_huge_effects", "effects of 67108"),
    "harm.types": ("returns_wrong_types", "can not serialize"),
    "harm.shell-ignores": ("ignores", "stopped at its timeout of 3000 ms (killed by SIGKILL)"),
    "harm.shell-exits": ("shell-exits", "exit status 1"),
    "harm.shell-segfaults": ("shell-segfaults", "killed by SIGSEGV"),
    "harm.shell-allocates": ("allocates", "exit status 1: no memory left"),
}


async def test_every_harm_ends_as_reported_and_hurts_nobody_else(tmp_path: Path) -> None:
    """Crash, exit, hang, rubbish, too much memory, a deaf command: the event becomes a dead letter
    that says so, the node leads on, good handlers handle on, and no process is left."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        before = await cluster.status("a")
        assert before is not None
        for topic in HARM:
            await client.publish(topic, b"", key="k")
        await others_go_on(client, "while")
        for handler, report in HARM.values():
            assert report in await letter_of(client, handler), handler
        await others_go_on(client, "after")
        after = await cluster.status("a")
        assert after is not None
        assert (after["role"], after["term"]) == ("leader", before["term"])
        deaf = number_in(tmp_path / "ignores")
        assert deaf is not None
        assert not is_alive(deaf)
        await only_hosts_are_left(cluster)


async def test_a_flood_of_output_is_drained_and_kept_short(tmp_path: Path) -> None:
    """100 MB from a function and from a command: both succeed, the node's log stays small."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        for topic in ("harm.prints", "harm.shell-prints"):
            await client.publish(topic, b"", key="k")
        await others_go_on(client, "while")
        await completed(client, "shell-prints")
        await ended(client, "prints")
        assert f"stdout_bytes={GIANT_BYTES}" in cluster.nodes["a"].log()
        await others_go_on(client, "after")


async def test_a_daemon_is_found_and_killed(tmp_path: Path) -> None:
    """Of a command and of a function: it left its group and its session, and dies all the same."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        for topic in ("harm.shell-daemon", "harm.daemon"):
            await client.publish(topic, b"", key="k")
        await completed(client, "daemon")
        await completed(client, "starts_a_daemon")
        for name in ("shell", "python"):
            note = tmp_path / name

            async def gone(note: Path = note) -> bool:
                pid = number_in(note)
                return pid is not None and not is_alive(pid)

            await eventually(gone, f"the daemon of {name} is gone")
        log = cluster.nodes["a"].log()
        assert log.count("a process that a handler left behind is killed") >= 2
        assert "handler=daemon" in log
        await others_go_on(client, "after")
        await only_hosts_are_left(cluster)


async def test_files_follow_the_state(tmp_path: Path) -> None:
    """Rendered at the start, and anew when a key below the prefix changes."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        hosts, members = tmp_path / "hosts", tmp_path / "members.json"
        await shows(members, "127.0.0.1:9100")
        await shows(hosts, "Made by the handler hosts")
        for number in range(3):
            await client.put(f"hosts/web-{number}", b"10.0.0.%d" % number)
        await client.put("hosts/bad", b"no address")
        await shows(hosts, "10.0.0.2\tweb-2\n")
        await client.delete("hosts/web-1")
        await shows(hosts, "10.0.0.0\tweb-0\n10.0.0.2\tweb-2\n")
        await cluster.logged("a", "left out of a rendered file handler=hosts count=1")


async def shows(path: Path, text: str) -> None:
    """Wait until a file is there and has the text in it."""

    async def ask() -> bool:
        return text in text_of(path)

    await eventually(ask, f"{path.name} shows {text!r}")


def text_of(path: Path) -> str:
    """What stands in a file, if it is there."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(("tls", "actor"), [(False, "anonymous"), (True, "a")])
async def test_handlers_reach_their_node(tmp_path: Path, tls: bool, actor: str) -> None:
    """`context.client` of an async and of a sync handler writes, and says which event caused it."""
    async with opened(tmp_path, tls=tls) as cluster, cluster.client() as client:
        revision = await client.publish("harm.client", b"", key="k", correlation_id="order-1")
        await completed(client, "writes")
        await completed(client, "writes_sync")
        events, _, _ = await client.read_events(revision, pattern="hooks.kv.write_committed")
        caused = [(e.key, e.actor, e.correlation_id, e.causation_id, e.hops) for e in events]
        assert sorted(caused) == [
            ("client-sync/k", actor, "order-1", revision, 1),
            ("client/k", actor, "order-1", revision, 1),
        ]


async def test_a_handler_that_feeds_itself_through_its_client_is_stopped(tmp_path: Path) -> None:
    """The hops of requests count like those of effects."""
    async with opened(tmp_path) as cluster, cluster.client() as client:
        first = await client.publish("harm.feeds", b"", key="k")
        assert "hops_exceeded" in await letter_of(client, "feeds_itself")
        events, _, _ = await client.read_events(first, pattern="harm.feeds")
        assert [event.hops for event in events] == list(range(EFFECT_HOPS_MAX + 1))


async def completed(client: Client, handler: str) -> None:
    """Wait until a handler has completed its one event."""
    row = await ended(client, handler)
    assert row["completed"] == 1, row


async def ended(client: Client, handler: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        rows = await client.request("hooks.metrics")
        (row,) = [row for row in rows if row["handler"] == handler]
        return row if row["completed"] + row["dead_letters"] == 1 else None

    return await eventually(ask, f"{handler} ends its event")


async def only_hosts_are_left(cluster: RealCluster) -> None:
    """Wait until every process below the node is a handler host."""

    async def ask() -> bool:
        below = [command_of(pid) for pid in children(cluster.nodes["a"].pid)]
        return all("hooks.handlers.host_main" in command for command in below)

    await eventually(ask, "only handler hosts are left")


def number_in(note: Path) -> int | None:
    """The process id that somebody wrote down, if he has."""
    text = note.read_text() if note.exists() else ""
    return int(text) if text.strip() else None


def command_of(pid: int) -> str:
    """What a process was started as, for messages and comparisons."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended"
    return b" ".join(words).decode(errors="replace")
