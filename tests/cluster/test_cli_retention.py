"""Retention rules, dead letters and replays from the command line, against a real node."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import typer

from cluster.cli.quantities import parse_duration, parse_size, show_duration, show_size
from cluster.client import open_client
from cluster.config import parse_address
from tests.cluster.cli_node import Ran, run, running_node
from tests.cluster.trimmed import wait_until_trimmed


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running cluster of one."""
    with running_node(tmp_path_factory.mktemp("node")) as address:
        yield address


def _on(endpoint: str, *arguments: str, stdin: str = "") -> Ran:
    return run(*arguments, "--endpoints", endpoint, stdin=stdin)


def _request(endpoint: str, name: str, *arguments: Any) -> Any:
    async def ask() -> Any:
        async with open_client([parse_address(endpoint)]) as client:
            return await client.request(name, arguments)

    return trio.run(ask)


def _give_up(endpoint: str, group: str, payloads: list[str]) -> list[int]:
    """Publish to a topic of the group's own, and let a member give every event up."""
    _request(endpoint, "group.define", group, f"{group}.>", 1, "latest", 1)
    _request(endpoint, "group.join", group, "m", 60_000)
    revisions = [
        _on(endpoint, "pub", f"{group}.x", text, "--key", "k", "--json").json["revision"]
        for text in payloads
    ]
    described = _request(endpoint, "group.describe", group)
    token = described["partitions"][0]["token"]
    letters = [[revision, 2, f"no {revision}\nat all"] for revision in revisions]
    item = [0, token, revisions[-1], [], False, 0, letters]
    assert _request(endpoint, "group.checkpoint", group, "m", [item], []) == []
    return revisions


def test_a_rule_is_set_shown_at_work_and_deleted(endpoint: str) -> None:
    """The newest events stay, readers from before are told, and the table says what went."""
    revisions = [
        _on(endpoint, "pub", "kept.few", str(number), "--json").json["revision"]
        for number in range(5)
    ]
    set_ = _on(endpoint, "retention", "set", "kept.*", "--max-age", "7d", "--max-events", "2")
    assert (set_.code, set_.out) == (0, "set: kept.*\n")
    rule = wait_until_trimmed(endpoint, "kept.*", revisions[2])
    assert (rule["max_age_ms"], rule["max_events"], rule["events"]) == (604_800_000, 2, 2)
    table = _on(endpoint, "retention", "list").out.splitlines()
    assert table[0].split("\t")[:3] == ["pattern", "max_age", "max_events"]
    assert any(line.startswith("kept.*\t7d\t2\t-\t2\t") for line in table)

    late = _on(endpoint, "sub", "kept.few", "--from", str(revisions[0]), "--count", "1", "--json")
    assert (late.code, json.loads(late.err)["code"]) == (1, "compacted")
    left = _on(endpoint, "sub", "kept.few", "--from", "earliest", "--count", "2", "--json").out
    assert [json.loads(line)["data"] for line in left.splitlines()] == [3, 4]

    assert _on(endpoint, "retention", "set", "kept.*", "--forever").out == "changed: kept.*\n"
    assert _on(endpoint, "retention", "delete", "kept.*").code == 0
    gone = _on(endpoint, "retention", "delete", "kept.*", "--json")
    assert (gone.code, json.loads(gone.err)["code"]) == (1, "unknown_rule")


def test_the_cap_is_set_and_taken_away(endpoint: str) -> None:
    """It stands last in the list."""
    assert _on(endpoint, "retention", "cap", "--max-bytes", "10GiB").code == 0
    assert "(whole log)\t-\t-\t10GiB" in _on(endpoint, "retention", "list").out
    assert _on(endpoint, "retention", "cap", "--off").out == "the whole log has no cap\n"
    assert _on(endpoint, "retention", "list", "--json").json == {"rules": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ("retention", "set", "a..b", "--max-age", "1d"),
        ("retention", "set", "a"),
        ("retention", "set", "a", "--forever", "--max-events", "5"),
        ("retention", "set", "a", "--max-age", "soon"),
        ("retention", "set", "a", "--max-bytes", "5 MB"),
        ("retention", "cap"),
        ("retention", "cap", "--off", "--max-events", "5"),
        ("dlq", "redrive", "g"),
        ("dlq", "purge", "g", "5", "--all"),
        ("event", "replay", "g", "--from", "sometime"),
        ("event", "replay", "g", "--from", "1", "--pattern", "a..b"),
    ],
)
def test_nonsense_is_wrong_usage(endpoint: str, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and nothing was done."""
    assert _on(endpoint, *arguments).code == 2


def test_a_letter_is_looked_at_edited_and_given_back(endpoint: str, tmp_path: Path) -> None:
    """From the list to the redrive, for people and for programs."""
    first, second, third = _give_up(endpoint, "mend", ["one", '{"a": 1}', "three"])
    table = _on(endpoint, "dlq", "list", "mend").out.splitlines()
    assert table[0].startswith("revision\ttopic\tkey")
    assert table[1].startswith(f"{first}\tmend.x\tk\t-\t2\t0\t")
    assert table[1].endswith(f"\tno {first}\\nat all")
    listed = _on(endpoint, "dlq", "list", "mend", "--limit", "2", "--json").json
    assert ([letter["revision"] for letter in listed["letters"]], listed["more"]) == (
        [first, second],
        True,
    )

    shown = _on(endpoint, "dlq", "show", "mend", str(second), "--json").json
    assert (shown["event"]["data"], shown["error"]) == ({"a": 1}, f"no {second}\nat all")
    assert _on(endpoint, "dlq", "show", "mend", str(first), "--raw").out == "one"
    assert "mend.x" in _on(endpoint, "dlq", "show", "mend", str(first)).out
    assert _on(endpoint, "dlq", "show", "mend", "999999").code == 1

    exported = _on(endpoint, "dlq", "export", "mend").out.splitlines()
    assert [json.loads(line)["event"]["data"] for line in exported] == ["one", {"a": 1}, "three"]
    file = tmp_path / "letters.ndjson"
    assert _on(endpoint, "dlq", "export", "mend", "--file", str(file)).code == 0
    assert file.read_text().splitlines() == exported
    assert _on(endpoint, "dlq", "export", "nobody").code == 1

    edit = ("dlq", "edit", "mend")
    assert _on(endpoint, *edit, str(first), "-", stdin="from input").code == 0
    (tmp_path / "payload").write_bytes(b"\xff\x00")
    from_file = (str(third), "--file", str(tmp_path / "payload"), "--header", "by=me")
    assert _on(endpoint, *edit, *from_file).code == 0
    assert _on(endpoint, *edit, str(second), '{"a": 2}').code == 0
    mended = _on(endpoint, "dlq", "show", "mend", str(second), "--json").json
    assert (mended["edited"], mended["event"]["data"]) == (True, {"a": 2})

    redriven = _on(endpoint, "dlq", "redrive", "mend", str(second), "--json").json
    assert redriven["redriven"][0][0] == second
    missing = _on(endpoint, "dlq", "redrive", "mend", str(second))
    assert (missing.code, "not redriven" in missing.err) == (1, True)
    everything = _on(endpoint, "dlq", "redrive", "mend", "--all", "--json").json
    assert [revision for revision, _ in everything["redriven"]] == [first, third]
    assert _on(endpoint, "dlq", "list", "mend", "--json").json == {"letters": [], "more": False}


def test_letters_are_thrown_away(endpoint: str) -> None:
    """Some by revision, the rest with --all."""
    first, *_ = _give_up(endpoint, "waste", ["1", "2", "3"])
    assert _on(endpoint, "dlq", "purge", "waste", str(first)).out == "1 purged\n"
    assert _on(endpoint, "dlq", "purge", "waste", str(first)).code == 1
    assert _on(endpoint, "dlq", "purge", "waste", "--all", "--json").json["purged"] == 2
    assert _on(endpoint, "dlq", "purge", "waste", "--all").out == "0 purged\n"


def test_a_replay_is_started_watched_and_cancelled(endpoint: str) -> None:
    """Events come again, marked; one that is slow can be stopped."""
    _request(endpoint, "group.define", "again", "again.>", 1, "latest", 1)
    revisions = [
        _on(endpoint, "pub", "again.x", str(number), "--json").json["revision"]
        for number in range(3)
    ]
    start = str(revisions[1])
    done = _on(endpoint, "event", "replay", "again", "--from", start, "--wait", "--json").json
    assert (done["state"], done["emitted"]) == ("done", 2)
    by_time = _on(endpoint, "event", "replay", "again", "--from", "1h", "--wait", "--json").json
    assert by_time["emitted"] == 3

    slow = _on(
        endpoint, "event", "replay", "again", "--from", "earliest", "--rate", "1", "--json"
    ).json
    cancel = ("event", "replay-cancel", str(slow["id"]))
    assert _on(endpoint, *cancel).out == "cancelled\n"
    assert _on(endpoint, *cancel, "--json").json["cancelled"] is False
    table = _on(endpoint, "event", "replays").out.splitlines()
    assert table[0].startswith("id\tgroup\tstate")
    assert table[-1].startswith(f"{slow['id']}\tagain\tcancelled\t1\t")
    assert _on(endpoint, "event", "replay", "nobody", "--from", "1").code == 1
    assert _on(endpoint, "event", "replay", "again", "--from", "5", "--to", "2").code == 1


def test_quantities_are_read_and_shown() -> None:
    """Durations and sizes with their units, and the largest unit that fits without a rest."""
    assert [parse_duration(text, "-") for text in ("5ms", "90s", "10m", "12h", "7d", None)] == [
        5, 90_000, 600_000, 43_200_000, 604_800_000, None,
    ]  # fmt: skip
    assert [parse_size(text, "-") for text in ("7", "7B", "2KiB", "3MB")] == [7, 7, 2048, 3 * 10**6]
    assert [show_duration(ms) for ms in (1, 90_000, 604_800_000, None)] == [
        "1ms",
        "90s",
        "7d",
        None,
    ]
    assert [show_size(size) for size in (7, 2048, 3 << 20, 0)] == ["7B", "2KiB", "3MiB", "0B"]
    for text in ("", "0d", "-5s", "5", "1.5h"):
        with pytest.raises(typer.BadParameter):
            parse_duration(text, "-")
