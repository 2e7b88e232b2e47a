"""The examples under configs/examples, all of them on three real nodes: something changes, and what
each of them is for has happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cluster.client import Client
from tests.real.processes import ROOT, RealCluster, eventually

EXAMPLES = ROOT / "configs" / "examples"
NAMES = (
    "cache-invalidation",
    "leader-notification",
    "audit-log",
    "hosts-file",
    "prometheus-discovery",
    "debounced-export",
)
ORDERS = 40


def test_every_example_is_run_here() -> None:
    """No example stands there untried."""
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(NAMES)


async def test_the_examples_do_what_they_are_for(tmp_path: Path) -> None:
    """Each node has a hooks.d with all of them, and a place of its own for what they write."""
    cluster = RealCluster(tmp_path)
    places = {name: prepare(cluster, name) for name in cluster.founders}
    async with cluster, cluster.client() as client:
        await leader_notified(cluster, places)
        await pages_forgotten(client, places)
        await hosts_written(client, places)
        await targets_written(client, places)
        await orders_exported(client, places)
        await everything_audited(client, places)


def prepare(cluster: RealCluster, name: str) -> Path:
    """A node's own copy of all examples; returns the place for what they write."""
    place = cluster.folder / f"place-{name}"
    (place / "cache").mkdir(parents=True)
    folder = cluster.folder / f"hooks.d-{name}"
    folder.mkdir()
    for example in NAMES:
        shutil.copytree(
            EXAMPLES / example,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    node = cluster.nodes[name]
    node.settings = f'[hooks]\ndirectory = "{folder}"\nrequired = true\n'
    node.environment = {"TREMULA_EXAMPLES": str(place)}
    return place


async def leader_notified(cluster: RealCluster, places: dict[str, Path]) -> None:
    """Another leader after the handler is there: one line about it, on one node."""
    await cluster.stop(first := await cluster.leader())
    leader = await cluster.leader(other_than=first)
    await cluster.start(first)

    async def ask() -> list[str]:
        found = [path / "leaders.log" for path in places.values()]
        lines = [line for path in found if path.exists() for line in path.read_text().splitlines()]
        return [line for line in lines if f'"new_leader": "{leader}"' in line]

    assert len(await eventually(ask, "the election of the new leader is told")) == 1


async def pages_forgotten(client: Client, places: dict[str, Path]) -> None:
    """Every node forgets the page that changed, and keeps the other one."""
    for place in places.values():
        for page in ("about", "news"):
            (place / "cache" / page).write_text("old")
    await client.put("pages/about", b"new")

    async def ask() -> bool:
        return not any((place / "cache" / "about").exists() for place in places.values())

    await eventually(ask, "the cached page is gone on every node")
    assert all((place / "cache" / "news").exists() for place in places.values())


async def hosts_written(client: Client, places: dict[str, Path]) -> None:
    """A key makes a line on every node, and takes it away again."""
    await client.put("hosts/db1", b"10.0.0.5")
    await on_every_node(places, "hosts", "10.0.0.5\tdb1.internal\n", True)
    await client.delete("hosts/db1")
    await on_every_node(places, "hosts", "db1", False)


async def targets_written(client: Client, places: dict[str, Path]) -> None:
    """The members stand in one file, what registered itself in the other."""
    await on_every_node(places, "members.json", ":9100", True)
    await client.put("targets/shop", b'{"targets": ["10.0.0.9:8080"], "labels": {"job": "shop"}}')
    await on_every_node(places, "targets.json", "10.0.0.9:8080", True)
    (name, place) = next(iter(places.items()))
    groups = json.loads((place.parent / f"hooks.d-{name}" / "members.json").read_text())
    assert all(group["labels"]["job"] == "node" for group in groups)


async def orders_exported(client: Client, places: dict[str, Path]) -> None:
    """Many writes in a row, few exports, and the newest has everything."""
    for number in range(ORDERS):
        await client.put(f"orders/{number}", b'{"item": "tea"}')

    async def ask() -> bool:
        found = [place / "orders.json" for place in places.values()]
        sizes = [len(json.loads(path.read_text())) for path in found if path.exists()]
        return max(sizes, default=0) == ORDERS

    await eventually(ask, "all orders are exported")
    rows = {row["handler"]: row for row in await client.request("hooks.metrics")}
    assert rows["export_orders"]["completed"] >= 1


async def everything_audited(client: Client, places: dict[str, Path]) -> None:
    """Each node's file has every event since its handler began, in order and once."""
    newest = await client.put("last", b"")

    async def ask() -> bool:
        return all(audited(place)[-1:] >= [newest] for place in places.values())

    await eventually(ask, "the last write is audited everywhere")
    for place in places.values():
        revisions = audited(place)
        assert revisions == list(range(revisions[0], revisions[-1] + 1))


def audited(place: Path) -> list[int]:
    path = place / "audit.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line)["revision"] for line in whole.splitlines()]


async def on_every_node(places: dict[str, Path], file: str, text: str, there: bool) -> None:
    """Wait until a rendered file of every node has `text`, or has it no more."""
    files = [place.parent / f"hooks.d-{name}" / file for name, place in places.items()]

    async def ask() -> bool:
        return all((path.exists() and text in path.read_text()) == there for path in files)

    await eventually(ask, f"{file} {'has' if there else 'has no'} {text!r} on every node")
