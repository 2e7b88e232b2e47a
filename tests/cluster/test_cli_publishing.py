"""`cluster pub | topic | delayed` and patterns that can never match, against a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.cli.output import Output
from cluster.cli.patterns import note_silent, note_unpublished
from cluster.client import open_client
from cluster.config.address import parse_address
from pubsub.topics import Pattern
from tests.cluster.cli_node import Ran, run, running_node
from tests.cluster.client_cluster import client_of, cluster_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running cluster of one."""
    with running_node(tmp_path_factory.mktemp("node")) as address:
        yield address


def _on(endpoint: str, *arguments: str) -> Ran:
    return run(*arguments, "--endpoints", endpoint)


def test_a_message_id_is_one_event(endpoint: str) -> None:
    """The same command twice has one revision."""
    once = _on(endpoint, "pub", "m.t", "1", "--message-id", "a", "--json").json
    assert _on(endpoint, "pub", "m.t", "1", "--message-id", "a", "--json").json == once


def test_an_expectation_that_fails_says_what_to_do(endpoint: str) -> None:
    """A definite error with a hint."""
    assert _on(endpoint, "pub", "e.t", "1", "--expected-last-revision", "0").code == 0
    refused = _on(endpoint, "pub", "e.t", "1", "--expected-last-revision", "0")
    assert (refused.code, "read it and decide again" in refused.err) == (1, True)


def test_what_an_event_belongs_to_is_in_its_cloud_event(endpoint: str) -> None:
    """Schema version, correlation id and traceparent come out as they went in."""
    revision = _on(
        endpoint, "pub", "c.t", "{}", "--schema-version", "2", "--correlation-id", "c",
        "--traceparent", TRACEPARENT, "--json",
    ).json["revision"]  # fmt: skip
    shown = _on(endpoint, "sub", "c.t", "--from", str(revision), "--count", "1", "--json").json
    assert (shown["schemaversion"], shown["correlationid"]) == ("2", "c")
    assert (shown["traceparent"], shown["data"]) == (TRACEPARENT, {})
    line = _on(endpoint, "sub", "c.t", "--from", str(revision), "--count", "1").out
    assert "schema_version=2" in line


def test_a_delayed_event_comes_out(endpoint: str) -> None:
    """A subscriber sees it, and the list does not have it any more."""
    first = _on(endpoint, "pub", "d.t", "x", "--json").json["revision"]
    identity = _on(endpoint, "pub", "d.t", "late", "--delay-ms", "1", "--json").json["id"]
    seen = _on(endpoint, "sub", "d.t", "--from", str(first + 1), "--count", "1", "--json").json
    assert seen["data"] == "late"
    waiting = _on(endpoint, "delayed", "list", "--json").json["delayed"]
    assert identity not in [event["id"] for event in waiting]


def test_a_delayed_event_is_cancelled(endpoint: str) -> None:
    """Once; a second time nothing is there."""
    said = _on(endpoint, "pub", "d.never", "x", "--at", "2999-01-01T00:00Z", "--json")
    assert said.code == 1, "that is more than ten years away"
    assert _on(endpoint, "pub", "d.never", "x", "--delay-ms", "86400000").out.startswith("delayed ")
    rows = [line.split("\t") for line in _on(endpoint, "delayed", "list").out.splitlines()]
    assert rows[0] == ["id", "due", "topic", "key", "bytes"]
    ids = [row[0] for row in rows[1:] if row[2] == "d.never"]
    assert len(ids) == 1
    assert _on(endpoint, "delayed", "cancel", ids[0]).out == f"cancelled {ids[0]}\n"
    gone = _on(endpoint, "delayed", "cancel", ids[0])
    assert (gone.code, "no event waits" in gone.err) == (1, True)


def test_topics_are_listed(endpoint: str) -> None:
    """Those that match, with the revision of the newest event; a limit is said."""
    for topic in ("l.a", "l.b", "l.c"):
        revision = _on(endpoint, "pub", topic, "x", "--json").json["revision"]
    listed = _on(endpoint, "topic", "list", "l.*", "--json").json
    assert [row["topic"] for row in listed["topics"]] == ["l.a", "l.b", "l.c"]
    assert listed["topics"][-1]["last_revision"] == revision
    short = _on(endpoint, "topic", "list", "l.*", "--limit", "2")
    assert [line.split("\t")[0] for line in short.out.splitlines()] == [
        "topic",
        "l.a",
        "l.b",
    ]
    assert "only the first 2" in short.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "t", "x", "--traceparent", "00-ab-cd-01"),
        ("pub", "t", "x", "--delay-ms", "5", "--at", "2026-01-31T12:00"),
        ("pub", "t", "x", "--at", "10m"),
        ("pub", "t", "x", "--delay-ms", "5", "--expected-last-revision", "0"),
        ("topic", "list", "a.>.b"),
        ("delayed", "cancel", "x"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(endpoint: str, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and nothing is sent."""
    assert _on(endpoint, *arguments).code == 2


def test_a_pattern_that_can_never_match_is_refused(endpoint: str) -> None:
    """Nobody but the cluster publishes below hooks: the nearest right one is named."""
    refused = _on(endpoint, "sub", "hooks.kv.write_commited", "--count", "1")
    assert refused.code == 2
    assert "hooks.kv.write_committed" in refused.err


@pytest.mark.parametrize(
    ("pattern", "note"),
    [
        ("invoices.craeted", 'did you mean "invoices.created"?'),
        ("invoice.*", 'did you mean "invoices.*"?'),
        ("weather", 'matches "weather"\n'),
        ("invoices.>", ""),
        (">", ""),
        ("*.kv.*", ""),
    ],
)
async def test_a_topic_that_nobody_published_to_is_noted(
    capsys: pytest.CaptureFixture[str], pattern: str, note: str
) -> None:
    """It may be published to later, so this is no error; people are told what is near."""
    async with cluster_of(1) as cluster, client_of(cluster) as client:
        await client.publish("invoices.created", b"")
        await client.publish("orders.created", b"")
        await note_silent(Output(as_json=False), client, Pattern(pattern))
        told = capsys.readouterr()
        assert told.out == ""
        assert note in told.err
        assert bool(told.err) == bool(note)
        await note_silent(Output(as_json=True), client, Pattern(pattern))
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("pattern", "is_noted"),
    [
        ("hooks.kv.*", True),
        ("hooks.>", False),
        (">", False),
        ("orders.*", False),
        ("*.kv.>", False),
    ],
)
async def test_who_asks_for_what_the_setting_keeps_is_told(
    endpoint: str, capsys: pytest.CaptureFixture[str], pattern: str, is_noted: bool
) -> None:
    """Of a pattern that it silences wholly people are told by what, and where the events are."""
    note = f'publish_topics keeps every event that matches "{pattern}" from subscribers'
    async with open_client([parse_address(endpoint)]) as client:
        await note_unpublished(Output(as_json=False), client, Pattern(pattern))
        assert capsys.readouterr().err == ""
        await client.hooks.set_publish_topics(["hooks.cluster.*"])
        await note_unpublished(Output(as_json=False), client, Pattern(pattern))
        await client.hooks.set_publish_topics([])
    told = capsys.readouterr().err
    assert (note in told, "it lets through hooks.cluster.*." in told) == (is_noted, is_noted)
    assert bool(told) == is_noted
