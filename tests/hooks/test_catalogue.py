"""The catalogue is closed and versioned: what changes in it is noticed here."""

import json
from pathlib import Path
from typing import Any

from hooks.events import catalogue
from hooks.events.catalogue import CATALOGUE
from pubsub.events import SYSTEM_TOPICS
from tests.hooks.test_publisher import SYSTEM_DATA

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

# Version and fields of each type as they were released. Fields are only ever appended, and then
# the version of the type rises, and that of the catalogue: change all of it here together.
RELEASED_VERSION = 3
RELEASED: dict[str, tuple[int, str]] = {
    "hooks.kv.write_committed": (
        2,
        "key value value_encoding value_size_bytes is_create version create_revision"
        " previous_revision expires_ms value_capture value_sha256",
    ),
    "hooks.kv.delete_committed": (1, "key existed previous_revision version"),
    "hooks.kv.ttl_expired": (1, "key previous_revision version expires_ms"),
    "hooks.cluster.leader_elected": (1, "new_leader previous_leader term voters learners"),
    "hooks.cluster.membership_changed": (1, "voters learners affected_node change_type"),
    "hooks.cluster.node_added": (1, "node address role"),
    "hooks.cluster.node_removed": (1, "node"),
    "hooks.system.retention_capped": (1, "first_revision groups"),
    "hooks.system.snapshot_created": (1, "node index term size_bytes"),
    "hooks.system.snapshot_installed": (1, "node index term size_bytes from"),
    "hooks.system.health_changed": (1, "node previous current reason"),
    "hooks.system.node_started": (1, "node version uid"),
    "hooks.system.node_stopped": (1, "node reason"),
    "hooks.system.config_reloaded": (1, "node accepted changes problems"),
    "hooks.system.settings_changed": (1, "name value actor"),
    "hooks.hook.triggered": (1, "topic key payload"),
    "hooks.hook.registered": (1, "handler version node change"),
    "hooks.hook.failed": (1, "handler revision topic key attempts error node verdict"),
    "hooks.hook.executed": (1, "handler revision topic key attempts events node duration_ms"),
    "hooks.hook.disabled": (1, "handler reason"),
    "hooks.hook.enabled": (1, "handler"),
    "hooks.hook.removed": (1, "handler node"),
    "hooks.hook.load_failed": (1, "handler node problem"),
    "hooks.group.event_replayed": (1, "group revision"),
    "hooks.group.event_redriven": (1, "group revision topic data redrives"),
}


def test_the_catalogue_is_closed() -> None:
    """Every topic of the cluster has a documented event type, and there is none beside them."""
    assert set(SYSTEM_DATA) == set(CATALOGUE) == {*SYSTEM_TOPICS.values(), catalogue.TRIGGERED}
    assert all(event_type.summary for event_type in CATALOGUE.values())
    assert all(field.meaning for kind in CATALOGUE.values() for field in kind.fields.values())


def test_the_catalogue_is_as_released() -> None:
    """Nobody changes a type and forgets that others rely on its version."""
    found = {
        topic: (event_type.version, " ".join(event_type.fields))
        for topic, event_type in CATALOGUE.items()
    }

    assert (catalogue.VERSION, found) == (RELEASED_VERSION, RELEASED)


def test_the_document_has_every_schema() -> None:
    """What `cluster hook events --json` prints is JSON, whole, and names each schema once."""
    document: dict[str, Any] = json.loads(json.dumps(catalogue.document()))

    assert [entry["topic"] for entry in document["events"]] == list(CATALOGUE)
    identifiers = [entry["schema"]["$id"] for entry in document["events"]]
    assert len(identifiers) == len(set(identifiers))
    for entry in document["events"]:
        assert entry["schema"]["$id"].endswith(f":{entry['topic']}:{entry['version']}")


def test_the_page_is_the_catalogue() -> None:
    """docs/events.md has a table for each type, with exactly its fields and what they mean."""
    text = PAGE.read_text()

    for event_type in CATALOGUE.values():
        assert table_of(event_type.topic) in text
    assert text.count("\n### `") == len(CATALOGUE)


def table_of(topic: str) -> str:
    """How the page shows a type: run this module to print all of them."""
    event_type = CATALOGUE[topic]
    lines = [
        f"### `{topic}`",
        "",
        f"{event_type.summary} Schema version {event_type.version}.",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    for name, field in event_type.fields.items():
        kind = field.kind.replace("|", " or ").replace("any", "any JSON")
        if field.items:
            kind += f" of {field.items}s"
        choices = f" One of {', '.join(f'`{text}`' for text in field.choices)}."
        lines.append(f"| `{name}` | {kind} | {field.meaning}{choices if field.choices else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join(map(table_of, CATALOGUE)))
