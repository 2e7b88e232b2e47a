"""Rules of capture from the command line, against a real node, and what readers see then."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cli_node import Ran, run, running_node

SEED = '[[hooks.capture]]\nprefix = "seeded/"\nmode = "none"\n'


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running cluster of one, whose file has a rule."""
    with running_node(tmp_path_factory.mktemp("node"), SEED) as address:
        yield address


def on(endpoint: str, *arguments: str) -> Ran:
    return run(*arguments, "--endpoints", endpoint)


def test_rules_are_set_listed_and_deleted(endpoint: str) -> None:
    """A rule is there from the moment that the command has ended."""
    ran = on(endpoint, "hook", "capture", "set", "a/", "truncated", "--bytes", "2KiB", "--json")
    assert ran.json == {"prefix": "a/", "mode": "truncated", "changed": True}
    again = on(endpoint, "hook", "capture", "set", "a/", "truncated", "--bytes", "2048")
    assert "was so already" in again.out
    rules = on(endpoint, "hook", "capture", "list", "--json").json["rules"]
    assert {"prefix": "a/", "mode": "truncated", "bytes": 2048} in rules
    assert "2KiB" in on(endpoint, "hook", "capture", "list").out
    assert on(endpoint, "hook", "capture", "delete", "a/").code == 0
    rules = on(endpoint, "hook", "capture", "list", "--json").json["rules"]
    assert "a/" not in [rule["prefix"] for rule in rules]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("set", "a/", "hsah"), 'did you mean "hash"?'),
        (("set", "a/", "hash", "--bytes", "1KiB"), "--bytes is for mode truncated"),
        (("delete", "nothing/"), 'there is no rule of capture for "nothing/"'),
    ],
)
def test_what_makes_no_sense_is_refused(
    endpoint: str, arguments: tuple[str, ...], complaint: str
) -> None:
    """With what is wrong with it."""
    ran = on(endpoint, "hook", "capture", *arguments)
    assert ran.code != 0
    assert complaint in " ".join(ran.err.replace("│", " ").split())


def test_everything_that_shows_events_shows_one_without_its_value(
    endpoint: str, tmp_path: Path
) -> None:
    """Read, query, watch and export: the size and the mode in place of the value, and no
    stumbling; the store has the value."""
    assert on(endpoint, "hook", "capture", "set", "s/", "hash").code == 0
    assert on(endpoint, "kv", "put", "s/k", "geheim").code == 0
    assert on(endpoint, "kv", "get", "s/k").out.strip() == "geheim"
    reads = (
        ("event", "query", "--pattern", "hooks.kv.>", "--json"),
        ("event", "query", "--pattern", "hooks.kv.>"),
        ("kv", "watch", "s/", "--from", "earliest", "--count", "1"),
        ("kv", "watch", "s/", "--from", "earliest", "--count", "1", "--json"),
        ("event", "export", "--file", str(tmp_path / "events.ndjson")),
    )
    for arguments in reads:
        ran = on(endpoint, *arguments)
        assert ran.code == 0, ran.err
        assert "geheim" not in ran.out
    exported = [json.loads(line) for line in (tmp_path / "events.ndjson").read_text().splitlines()]
    (event,) = [event for event in exported if event.get("subject") == "s/k"]
    assert event["data"]["value"] is None
    assert (event["data"]["value_capture"], event["data"]["value_size_bytes"]) == ("hash", 6)
