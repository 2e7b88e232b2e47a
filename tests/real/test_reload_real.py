"""Reloading hooks in real processes: by a signal and by a changed file, and nothing runs twice."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import trio

from cluster.client import Client
from tests.real.processes import RealCluster, eventually

SETTINGS = """
[limits.hooks]
watch_poll_ms = 100

[hooks]
modules = ["mine"]
watch_files = {watch}
"""
MODULE = """
import os
import trio
from hooks.registry import HookContext, hook

@hook("work.>", name="worker", start="earliest", timeout_ms=5000)
async def worker(context: HookContext) -> None:
    await trio.sleep({takes})
    line = f"{{context.revision}} {edition}\\n".encode()
    runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(runs, line)
    os.close(runs)
"""
ADDED = """
[[hooks.handlers]]
name = "added"
pattern = "work.>"
type = "shell"
shell = true
command = "echo $TREMULA_HOOK_REVISION >> {path}"
start = "latest"
"""


def opened(folder: Path, *, watch: bool) -> RealCluster:
    settings = SETTINGS.format(watch=str(watch).lower())
    return RealCluster(folder, settings=settings, environment={"RUNS": str(folder / "runs")})


def write_module(folder: Path, edition: str, takes: float = 0.002) -> None:
    """As an editor does it: a new file in the place of the old one."""
    fresh = folder / "mine.py.new"
    fresh.write_text(MODULE.format(edition=edition, takes=takes))
    fresh.rename(folder / "mine.py")


def runs(folder: Path) -> list[tuple[int, str]]:
    """The revision of each event that ended, and by which edition of the code."""
    file = folder / "runs"
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(int(revision), edition) for revision, edition in lines]


async def publishing(client: Client, published: list[int], stop: trio.Event) -> None:
    """Events of some keys in a steady stream, until told to stop."""
    while not stop.is_set():
        key = f"k{len(published) % 40}"
        published.append(await client.publish("work.done", b"", key=key))
        await trio.sleep(0.002)


async def logged(cluster: RealCluster, label: str, what: str, times: int = 1) -> None:
    """Wait until a node has logged something so many times."""

    async def ask() -> bool:
        return cluster.nodes[label].log().count(what) >= times

    await eventually(ask, f'{label} logs "{what}" {times} times')


async def test_a_changed_module_reloads_under_load_and_nothing_runs_twice(tmp_path: Path) -> None:
    """Three nodes that notice the change by themselves go on with the new code."""
    write_module(tmp_path, "first")
    async with opened(tmp_path, watch=True) as cluster, cluster.client() as client:
        published: list[int] = []
        stop = trio.Event()

        async def seen(edition: str) -> None:
            async def ask() -> bool:
                return any(by == edition for _, by in runs(tmp_path))

            await eventually(ask, f"an event is handled by the {edition} edition")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publishing, client, published, stop)
            await seen("first")
            for number, edition in enumerate(("second", "third"), start=1):
                write_module(tmp_path, edition)
                for label in cluster.nodes:
                    await logged(cluster, label, "reloaded changes", number)
                await seen(edition)
            stop.set()

        async def all_done() -> bool:
            return {revision for revision, _ in runs(tmp_path)} >= set(published)

        await eventually(all_done, "every event is handled")
        times = Counter(revision for revision, _ in runs(tmp_path))
        assert set(times) == set(published)
        assert [revision for revision, count in times.items() if count > 1] == []


async def test_a_signal_reloads_the_file_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    """SIGHUP: nothing for what is the same, a refusal that names the line for what is wrong, and
    the handlers that the file has now for the rest; other sections wait for a restart."""
    write_module(tmp_path, "first")
    async with opened(tmp_path, watch=False) as cluster, cluster.client() as client:
        for label in cluster.nodes:
            await logged(cluster, label, " serving ")  # ready is sooner than that
        node = cluster.nodes["a"]
        pid = node.pid
        node.send(signal.SIGHUP)
        await logged(cluster, "a", "nothing has changed")

        good = node.file.read_text()
        node.file.write_text(good + '\n[[hooks.handlers]]\nname = "bad"\npatern = "x"\n')
        node.send(signal.SIGHUP)
        await logged(cluster, "a", "reload refused")
        assert "patern: no such key; did you mean" in node.log()
        (tmp_path / "mine.py").write_text("this is no Python")
        node.file.write_text(good)
        node.send(signal.SIGHUP)
        await logged(cluster, "a", "reload refused", 2)
        first = await client.publish("work.done", b"", key="k")

        async def handled() -> bool:
            return (first, "first") in runs(tmp_path)

        await eventually(handled, "the old code goes on")

        write_module(tmp_path, "second")
        added = tmp_path / "added"
        raft = "\n[raft]\nheartbeat_ms = 60\n"
        node.file.write_text(good + ADDED.format(path=added) + raft)
        node.send(signal.SIGHUP)
        await logged(cluster, "a", "reloaded changes")
        assert "[raft] has changed and needs a restart" in node.log()

        async def is_member() -> bool:
            rows = {row["handler"]: row for row in await client.request("hooks.list")}
            return bool(rows.get("added", {}).get("members") == 1)

        await eventually(is_member, "the new handler is there")
        second = await client.publish("work.done", b"", key="k")

        async def by_both() -> bool:
            told = added.read_text().split() if added.exists() else []
            return str(second) in told and second in {revision for revision, _ in runs(tmp_path)}

        await eventually(by_both, "old and new handler have the event")
        assert added.read_text().split() == [str(second)], "it starts at the latest event"
        assert node.pid == pid
        told = [event async for event in reloads(client)]
        assert [accepted for accepted, _ in told] == [False, False, True]
        assert told[2][1] == ["handler added added"]


async def reloads(client: Client):  # type: ignore[no-untyped-def]
    """What the log says of reloads: whether accepted, and what changed."""
    from hooks.events.publisher import payload

    with trio.move_on_after(3):
        async with client.subscribe("hooks.system.config_reloaded", start="earliest") as found:
            async for event in found:
                data = payload(event)
                yield data["accepted"], data["changes"]
