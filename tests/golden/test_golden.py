"""Data directories that earlier releases wrote are opened for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster import kv
from cluster.datadir import DataDir
from cluster.machine import Machine
from cluster.raft.sqlite_log import SqliteLog
from cluster.storage import Storage
from hooks.events.publisher import payload
from hooks.replicated import registrations, settings
from pubsub import groups, log, retention
from pubsub.publishing import delayed
from tests.cluster.entries import Driver

CLUSTER_IDS = {
    "format-1": "2a9f373ae3dddb50f94af873279e6d89",
    "format-2": "fe698cf7324f94e403aa3e8876b72934",
    "format-3": "ce5216f19c2345a2a11fd0d8c39fa498",
}
FORMATS = sorted(path for path in Path(__file__).parent.glob("format-*") if path.is_dir())


@pytest.mark.parametrize("golden", FORMATS, ids=lambda path: path.name)
def test_a_golden_directory_opens_with_everything_in_it(golden: Path, tmp_path: Path) -> None:
    """The identity, the Raft log and the state are what was written, and nothing was forgotten."""
    shutil.copytree(golden, tmp_path / "data")
    directory = DataDir.open(tmp_path / "data", "a", lambda: "another uid")
    assert directory.forgot is None
    assert directory.identity.cluster_id == CLUSTER_IDS[golden.name]
    raft_log = SqliteLog.open(directory.log_path)
    storage = Storage(directory, lambda applied: None, applied_index_min=raft_log.first.index)
    machine = storage.machine
    assert machine.entry_version == int(golden.name.removeprefix("format-"))
    assert raft_log.last.index >= machine.applied_index > 30
    rows, more = kv.range_(machine.connection, "key/", "key0", 100)
    assert not more
    expected = {f"key/{n:02}": b"second" if n < 10 else b"first" for n in range(5, 20)}
    assert {row.key: row.value for row in rows} == expected
    lasting = machine.get("with/ttl")
    assert lasting is not None
    assert lasting.expires_ms is not None
    events = log.read(machine.connection, 1, 1000, 1 << 20)
    assert isinstance(events, list)
    assert len(events) == machine.revision
    topics = [event.topic for event in events]
    assert topics.count("hooks.kv.write_committed") == 31
    assert topics.count("hooks.kv.delete_committed") == 5
    assert topics.count("orders.created") == 1
    assert all(isinstance(payload(event), dict) for event in events)
    if golden.name != "format-1":
        check_groups(machine)
    if golden.name == "format-3":
        check_switches(machine)
    storage.close()
    raft_log.close()
    directory.close()


def check_groups(machine: Machine) -> None:
    """What format 2 brought."""
    connection = machine.connection
    workers, readers = (groups.describe(connection, name) for name in ("workers", "readers"))
    assert workers is not None
    assert readers is not None
    assert (workers["mode"], readers["mode"]) == ("competing", "partitioned")
    assert (workers["completed"], workers["dead_held"]) == (1, 1)
    assert workers["competing"]["in_flight"] == 1
    (letter,) = groups.dead_letters(connection, "workers")
    assert letter["error"] == "too heavy"
    (delayed_event,), _ = delayed.page(connection, 0, 10)
    assert delayed_event.topic == "jobs.later"
    assert [rule["pattern"] for rule in retention.listing(connection)] == ["jobs.>"]


def check_switches(machine: Machine) -> None:
    """What format 3 brought."""
    connection = machine.connection
    handler = registrations.load(connection)["trials"]
    assert (handler.enabled, handler.disabled_reason) == (False, "for now")
    group = groups.describe(connection, "hook.trials")
    assert group is not None
    assert (group["paused"], group["held"], group["completed"]) == (
        True,
        True,
        2,
    )  # the order, the trigger


@pytest.mark.parametrize("golden", FORMATS, ids=lambda path: path.name)
def test_a_golden_state_goes_on_with_what_came_later(golden: Path, tmp_path: Path) -> None:
    """The tables that it lacks are there: handlers are registered, and found after a restart."""
    path = tmp_path / "state.db"
    shutil.copy(golden / "state.db", path)
    driver = Driver(path)
    driver.wall_ms, driver.elapsed_ms = driver.machine.wall_ms, driver.machine.elapsed_ms
    before = driver.machine.revision + len(registrations.load(driver.connection))  # removed soon
    policy = {
        "name": "audit", "pattern": "jobs.>", "version": 1, "type": "shell", "scope": "cluster",
        "partitions": 1,
    }  # fmt: skip
    assert driver.do("hook.register", "a", [[policy, True, None]])[0][2] == "registered"
    assert driver.do("hook.disable", "audit", "for now") is True
    driver.do("hook.settings", {"publish_topics": ["jobs.>"]})
    assert driver.machine.revision == before + 3
    driver.reopen()
    assert not registrations.load(driver.connection)["audit"].enabled
    assert settings.publish_topics(driver.connection) == ("jobs.>",)
    driver.connection.close()


def test_there_is_a_golden_directory() -> None:
    """The test above would pass with none."""
    assert FORMATS
