"""`cluster event ...` against one real node: its index, its queries, files of events."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cli_node import Ran, run, running_node


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The client port of a node with some events."""
    with running_node(tmp_path_factory.mktemp("node")) as address:
        for number in range(30):
            done = run(
                "pub", f"orders.kind-{number % 3}", json.dumps({"n": number}),
                "--key", f"order-{number}", "--correlation-id", f"chain-{number // 10}",
                "--endpoints", address,
            )  # fmt: skip
            assert done.code == 0, done.err
        yield address


def on(endpoint: str, *arguments: str, stdin: str = "") -> Ran:
    """Run a command against the node."""
    return run(*arguments, "--endpoints", endpoint, stdin=stdin)


def found(endpoint: str, *options: str) -> list[str]:
    """The keys of the events that a query prints."""
    ran = on(endpoint, "event", "query", "--json", *options)
    assert ran.code == 0, ran.err
    return [json.loads(line).get("subject", "") for line in ran.out.splitlines()]


def test_events_are_found_by_what_they_have(endpoint: str) -> None:
    """By key, topic, correlation; the newest first unless asked otherwise."""
    assert found(endpoint, "--key", "order-7") == ["order-7"]
    kind = ["--pattern", "orders.kind-1", "--correlation-id", "chain-1"]
    assert found(endpoint, *kind) == ["order-19", "order-16", "order-13", "order-10"]
    assert found(endpoint, *kind, "--oldest-first", "--limit", "2") == ["order-10", "order-13"]
    assert len(found(endpoint, "--pattern", "orders.*", "--all")) == 30
    assert found(endpoint, "--key", "nobody") == []
    assert found(endpoint, "--since", "1h", "--pattern", "orders.>", "--limit", "1") == ["order-29"]
    assert found(endpoint, "--until", "1h", "--pattern", "orders.>") == []


def test_a_limit_that_cuts_says_so(endpoint: str) -> None:
    """Nobody takes a page for the whole."""
    ran = on(endpoint, "event", "query", "--pattern", "orders.>", "--limit", "3")
    assert len(ran.out.splitlines()) == 3
    assert "--all" in ran.err


def test_an_event_is_shown_whole(endpoint: str) -> None:
    """By its revision; one that is not there is a failure."""
    ran = on(endpoint, "event", "query", "--key", "order-7", "--json")
    revision = int(json.loads(ran.out)["sequence"])
    shown = on(endpoint, "event", "get", str(revision))
    assert "order-7" in shown.out
    assert json.loads(on(endpoint, "event", "get", str(revision), "--json").out)["data"] == {"n": 7}
    missing = on(endpoint, "event", "get", "1000000")
    assert missing.code == 1
    assert "there is no event 1000000" in missing.err


def test_a_trace_shows_all_events_of_a_correlation(endpoint: str) -> None:
    """By the id, or by any event of it."""
    by_id = on(endpoint, "event", "trace", "chain-2")
    assert [f"order-{n}" in by_id.out for n in (19, 20, 29)] == [False, True, True]
    ran = on(endpoint, "event", "query", "--key", "order-25", "--json")
    revision = str(int(json.loads(ran.out)["sequence"]))
    assert on(endpoint, "event", "trace", revision).out == by_id.out
    assert on(endpoint, "event", "trace", "no-such").code == 1


def test_wrong_options_are_refused(endpoint: str) -> None:
    """A time that is none, a pattern that can match nothing."""
    assert on(endpoint, "event", "query", "--since", "soon").code == 2
    assert on(endpoint, "event", "query", "--pattern", "a..b").code == 2


def test_an_export_that_cannot_be_written_is_told(endpoint: str, tmp_path: Path) -> None:
    """A folder that is not there, and a file that is: neither is written to."""
    there = tmp_path / "there"
    there.write_text("kept")
    for file in (tmp_path / "no" / "such", there):
        for verb in ("event", "kv"):
            refused = on(endpoint, verb, "export", "--file", str(file), "--json")
            assert (refused.code, json.loads(refused.err)["code"]) == (2, "usage")
    assert there.read_text() == "kept"


def test_an_export_is_imported_once(endpoint: str, tmp_path: Path) -> None:
    """The user's events come again as they were, the cluster's own do not, nothing comes twice."""
    file = tmp_path / "events.ndjson"
    done = on(endpoint, "event", "export", "--file", str(file), "--pattern", ">")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len([line for line in lines if line["type"].startswith("orders.")]) == 30
    own = [line for line in lines if line["type"].startswith("hooks.")]
    assert own
    (tmp_path / "other").mkdir()
    with running_node(tmp_path / "other") as other:
        ran = on(other, "event", "import", str(file), "--batch", "7", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["published"] == 30
        assert ran.json["skipped"] == len(own)
        again = on(other, "event", "import", str(file))
        assert "was imported before" in again.out
        anew = on(other, "event", "import", str(file), "--restart", "--json")
        assert (anew.json["published"], anew.json["known"]) == (0, 30)
        assert found(other, "--key", "order-7") == ["order-7"]
        chain = on(other, "event", "query", "--correlation-id", "chain-1", "--json")
        assert len(chain.out.splitlines()) == 10


def test_a_bad_line_stops_an_import_with_its_number(endpoint: str) -> None:
    """What stands before it is published."""
    good = {"specversion": "1.0", "id": "1", "source": "test", "type": "import.bad", "data": 1}
    ran = on(endpoint, "event", "import", "-", stdin=json.dumps(good) + "\nnonsense\n")
    assert ran.code == 1
    assert "line 2: is not JSON" in ran.err
    assert len(on(endpoint, "event", "query", "--pattern", "import.bad").out.splitlines()) == 1
